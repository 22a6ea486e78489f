// The addresses of OpenAI's API: /v1/models, /v1/chat/completions, /v1/completions. Who may call, how often and how many at
// once is the server's business, as for /mcp; what a request means is in src/openai.

import type { IncomingMessage, ServerResponse } from 'node:http';
import { BitnetError, CancelledError } from '../../errors.ts';
import { listModels } from '../../hub/resolve-model.ts';
import { complete, type Kind } from '../../openai/complete.ts';
import { errorBody, statusOf } from '../../openai/openai-error.ts';
import { localErrorText } from '../error-text.ts';
import type { ToolEnvironment } from '../tool-registration.ts';
import { goneSignal, Refusal, sendJson } from './answers.ts';
import type { BodyReader } from './body.ts';
import type { SessionOwner } from './sessions.ts';

export const OPENAI_PREFIX = '/v1/';

export type OpenAiOptions = {
  readonly environmentOf: (owner: SessionOwner) => ToolEnvironment;
};

export class OpenAiEndpoint {
  readonly #options: OpenAiOptions;
  readonly #bodies: BodyReader;

  constructor(options: OpenAiOptions, bodies: BodyReader) {
    this.#options = options;
    this.#bodies = bodies;
  }

  async models(req: IncomingMessage, res: ServerResponse): Promise<void> {
    onlyMethod(req, 'GET');
    sendJson(res, 200, { object: 'list', data: (await listModels()).map(({ name }) => describe(name)) });
  }

  /** A model by its name, which may have slashes, in the address. */
  async model(req: IncomingMessage, res: ServerResponse, name: string): Promise<void> {
    onlyMethod(req, 'GET');
    const known = (await listModels()).find((model) => model.name === name);
    if (known !== undefined) return sendJson(res, 200, describe(known.name));
    const message = `there is no model ${JSON.stringify(name.slice(0, 200))} here; /v1/models lists those that are`;
    const body = errorBody(message, 404);
    sendJson(res, 404, { error: { ...body.error, param: 'model', code: 'model_not_found' } });
  }

  async complete(kind: Kind, req: IncomingMessage, res: ServerResponse, owner: SessionOwner): Promise<void> {
    onlyMethod(req, 'POST');
    const { services, onCall, errorText = localErrorText, logger } = this.#options.environmentOf(owner);
    const signal = goneSignal(res);
    const body = await this.#bodies.read(req);
    const begun = performance.now();
    const ended = (outcome: 'ok' | 'error' | 'cancelled' | 'failed') =>
      onCall?.({ tool: `openai_${kind}`, outcome, seconds: (performance.now() - begun) / 1000 });
    try {
      const answer = await complete(kind, body, { services, signal, onEvent: (event) => sendEvent(res, event) });
      if (answer !== undefined) sendJson(res, 200, answer);
      else endEvents(res, '[DONE]');
      ended('ok');
    } catch (error) {
      if (signal.aborted || error instanceof CancelledError) {
        ended('cancelled');
        res.destroy();
        return;
      }
      const isOurs = !(error instanceof BitnetError);
      ended(isOurs ? 'failed' : 'error');
      if (isOurs) logger.error('an OpenAI request failed', { err: error });
      const status = statusOf(error);
      const model = (body as { readonly model?: unknown } | null)?.model;
      const told = errorBody(errorText(error, new Set([model])), status, error);
      // The status has gone out with the first event: the error is one.
      if (res.headersSent) endEvents(res, JSON.stringify(told));
      else sendJson(res, status, told, status === 429 ? { 'retry-after': '1' } : {});
    }
  }
}

/** A refusal of the server's own, in the words of this API. */
export function sendOpenAiRefusal(res: ServerResponse, { status, message, headers }: Refusal): void {
  if (res.headersSent) res.destroy();
  else sendJson(res, status, errorBody(message, status), headers);
}

function describe(name: string) {
  return { id: name, object: 'model', created: 0, owned_by: 'bitnet-gf3' };
}

function onlyMethod({ method }: IncomingMessage, allowed: string): void {
  if (method !== allowed) throw new Refusal(405, `use ${allowed} here`, { headers: { allow: allowed } });
}

function sendEvent(res: ServerResponse, event: object): void {
  if (!res.headersSent) {
    res.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
    });
  }
  if (!res.destroyed) res.write(`data: ${JSON.stringify(event)}\n\n`);
}

function endEvents(res: ServerResponse, data: string): void {
  res.end(`data: ${data}\n\n`);
}
