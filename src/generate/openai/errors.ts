// What can go wrong between us and a server that speaks OpenAI's API.

import { BitnetError, type Fault } from '../../errors.ts';

/** Nobody answers at the base URL, or the connection ended before the text did. */
export class OpenAiConnectionError extends BitnetError {
  readonly code = 'OPENAI_CONNECTION';
  readonly fault = 'job';
}

/** What came back is not what the API promises: no event stream, no JSON, or more than we take. */
export class OpenAiStreamError extends BitnetError {
  readonly code = 'OPENAI_STREAM';
  readonly fault = 'job';
}

/** The server refused the request; `status` is HTTP's, or 0 for an error inside a stream that had begun well. */
export class OpenAiResponseError extends BitnetError {
  readonly code = 'OPENAI_RESPONSE';
  readonly fault: Fault;
  readonly status: number;

  constructor(answer: {
    readonly status: number;
    readonly url: string;
    readonly message: string;
    readonly fix?: string;
  }) {
    const { status, url, message } = answer;
    const said = message === '' ? '' : `: ${message}`;
    super({
      what: status === 0 ? `the server broke off${said}` : `${meaningOf(status)} (HTTP ${status})${said}`,
      where: url,
      fix: answer.fix ?? fixOf(status),
    });
    this.status = status;
    this.fault = status >= 400 && status < 500 && status !== 429 ? 'call' : 'job';
  }
}

function meaningOf(status: number): string {
  if (status === 401 || status === 403) return 'the server refused the key';
  if (status === 404) return 'the server has no such model or path';
  if (status === 429) return 'the server asks for fewer requests';
  if (status >= 300 && status < 400) return 'the server sends us elsewhere';
  return status >= 500 ? 'the server failed' : 'the server refused the request';
}

function fixOf(status: number): string {
  if (status === 401 || status === 403) return 'set BITNET_OPENAI_API_KEY to a key of this server';
  if (status === 404) return 'check --model and BITNET_OPENAI_BASE_URL (in most cases it ends in /v1)';
  if (status === 429) return 'wait a minute and ask again';
  if (status >= 300 && status < 400) return 'set BITNET_OPENAI_BASE_URL to where it leads';
  return status >= 400 && status < 500 ? 'change what it names' : "look into the server's log, then ask again";
}
