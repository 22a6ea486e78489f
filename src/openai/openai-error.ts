// Errors as clients of OpenAI's API read them.

import { BitnetError } from '../errors.ts';

/** What of a request cannot be used. */
export class OpenAiRequestError extends BitnetError {
  readonly code = 'BAD_OPENAI_REQUEST';
  readonly fault = 'call';
  /** The field at fault. */
  readonly param: string | undefined;

  constructor(what: string, fix: string, param?: string) {
    super({ what, ...(param !== undefined && { where: param }), fix });
    this.param = param;
  }
}

/** The body of an error's answer. */
export type ErrorBody = {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
};

/** `message`: what may leave this machine. */
export function errorBody(message: string, status: number, error?: unknown): ErrorBody {
  const { param = null } = error instanceof OpenAiRequestError ? { param: error.param ?? null } : {};
  return { error: { message, type: typeOf(status), param, code: codeOf(error, status) } };
}

export function statusOf(error: unknown): number {
  if (!(error instanceof BitnetError)) return 500;
  // The names that clients act on; whatever else the caller did is a bad request.
  if (error.code === 'BUSY') return 429;
  if (error.code === 'MODEL_NOT_FOUND') return 404;
  return error.fault === 'call' ? 400 : 500;
}

function typeOf(status: number): string {
  if (status === 401) return 'authentication_error';
  if (status === 403) return 'permission_error';
  if (status === 429) return 'rate_limit_error';
  return status >= 500 ? 'server_error' : 'invalid_request_error';
}

function codeOf(error: unknown, status: number): string | null {
  if (status === 404) return error instanceof BitnetError ? 'model_not_found' : 'not_found';
  if (status === 401) return 'invalid_api_key';
  return error instanceof BitnetError ? error.code.toLowerCase() : null;
}
