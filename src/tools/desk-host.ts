// The desk in a child process: pictures, long palettes and the counting of layers take tens of milliseconds in one piece,
// during which a server would answer nobody.

import { setImmediate as otherEvents } from 'node:timers/promises';
import { ChildHost } from '../child/child-host.ts';
import { BitnetError } from '../errors.ts';
import type { AsideContext, AsideResult, Desk } from './services.ts';
import type { TraceColorsRequest } from './trace-colors.ts';
import type { TritWindowRequest } from './trit-window.ts';

export type DeskOptions = { readonly allowedRoots?: readonly string[] };

/** What crosses to the child. */
export type DeskCall = { readonly tool: string; readonly args: unknown; readonly resultBudget?: number };
/** What it tells while it works. */
export type DeskEvent = { readonly done: number; readonly total: number | undefined; readonly message: string };

/** The process that computes results ended during a request. */
export class DeskDiedError extends BitnetError {
  readonly code = 'DESK_DIED';
  readonly fault = 'job';

  constructor(how: string) {
    super({
      what: `the process that computes this ended (${how}) during the request`,
      fix: 'ask again: a new one is started',
    });
  }
}

/** Results of more characters are handed out one in each round of the event loop: to send one takes milliseconds. */
const LARGE = 65_536;

export class DeskHost implements Desk {
  readonly #host: ChildHost;
  #lane: Promise<unknown> = Promise.resolve();

  constructor(options: DeskOptions = {}) {
    this.#host = new ChildHost({
      beside: import.meta.url,
      file: 'desk-process',
      inBackground: true,
      options,
      died: (how) => new DeskDiedError(how),
    });
  }

  /** Process id of the running child, for tests and diagnostics. */
  get pid(): number | undefined {
    return this.#host.pid;
  }

  async call(tool: string, args: unknown, { signal, progress, resultBudget }: AsideContext): Promise<AsideResult> {
    const call: DeskCall = { tool, args, ...(resultBudget !== undefined && { resultBudget }) };
    const onEvent = (event: unknown) => {
      const { done, total, message } = event as DeskEvent;
      progress?.(done, total, message);
    };
    const result = (await this.#host.call('call', call, { onEvent, ...(signal && { signal }) })) as AsideResult;
    const size = result.images.reduce((sum, { png }) => sum + png.byteLength, result.json.length);
    if (size > LARGE) await this.#nextRound();
    return result;
  }

  async tritWindow(request: TritWindowRequest, signal?: AbortSignal): Promise<string> {
    return (await this.#host.call('tritWindow', request, signal && { signal })) as string;
  }

  async traceColors(request: TraceColorsRequest): Promise<Uint8Array> {
    const png = (await this.#host.call('traceColors', request)) as Uint8Array;
    await this.#nextRound();
    return png;
  }

  /** Ends the child. Resolves when the process is gone. */
  close(): Promise<void> {
    return this.#host.close();
  }

  async #nextRound(): Promise<void> {
    this.#lane = this.#lane.then(() => otherEvents());
    await this.#lane;
  }
}
