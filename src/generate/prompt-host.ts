// Long prompts are read in a process of their own. To render and tokenize a megabyte takes a second in one go, during
// which the engine's process would write for nobody; and what an expression of a tokenizer.json or a chat template does
// to a text that was made for it, nobody knows before.

import { setTimeout as sleep } from 'node:timers/promises';
import { ChildHost } from '../child/child-host.ts';
import { BitnetError, CancelledError } from '../errors.ts';
import type { PromptOptions, PromptRequest } from './prompt.ts';
import type { Prompt } from './token-source.ts';

/** The longest prompts that fit a model of today take 5 s. */
const READ_MS = 20_000;
/** A process that nobody has needed for so long ends: it holds a tokenizer. */
const IDLE_MS = 10_000;

/** What crosses to the child. */
export type ReadRequest = PromptRequest & PromptOptions & { readonly home: string };
export type ReadResult = { readonly text: string; readonly tokens: Int32Array };

/** The process that reads prompts ended, or did not come to an end. */
export class PromptReadError extends BitnetError {
  readonly code = 'PROMPT_NOT_READ';
  readonly fault = 'job';
}

export type PromptHostOptions = { readonly readMs?: number; readonly idleMs?: number };

export class PromptHost {
  readonly #readMs: number;
  readonly #idleMs: number;
  #host: ChildHost | undefined;
  #last: Promise<unknown> = Promise.resolve();
  #idle: NodeJS.Timeout | undefined;

  constructor({ readMs = READ_MS, idleMs = IDLE_MS }: PromptHostOptions = {}) {
    this.#readMs = readMs;
    this.#idleMs = idleMs;
  }

  /** One after the other. Throws what reading throws, CancelledError when the signal fires, PromptReadError. */
  read(request: ReadRequest, signal?: AbortSignal): Promise<Prompt> {
    const read = this.#last.then(() => this.#read(request, signal));
    this.#last = read.catch(() => {});
    return read;
  }

  async #read(request: ReadRequest, signal: AbortSignal | undefined): Promise<Prompt> {
    if (signal?.aborted) throw new CancelledError('the generation was cancelled');
    clearTimeout(this.#idle);
    this.#host ??= new ChildHost({
      beside: import.meta.url,
      file: 'prompt-process',
      inBackground: true,
      options: undefined,
      died: (how) =>
        new PromptReadError({
          what: `the process that reads long prompts ended (${how})`,
          fix: 'ask again, with a shorter prompt if it happens every time',
        }),
    });
    const done = new AbortController();
    // It computes in one go: nothing but its end stops it.
    const stopped = new Promise<never>((_, reject) => {
      const cancel = () => reject(new CancelledError('the generation was cancelled'));
      signal?.addEventListener('abort', cancel, { once: true });
      done.signal.addEventListener('abort', () => signal?.removeEventListener('abort', cancel), { once: true });
      sleep(this.#readMs, undefined, { signal: done.signal, ref: false }).then(
        () =>
          reject(
            new PromptReadError({
              what: `the prompt was not read within ${this.#readMs / 1000} s`,
              fix: 'give a shorter prompt; some tokenizers take very long for texts without spaces',
            }),
          ),
        () => {},
      );
    });
    try {
      const { text, tokens } = (await Promise.race([this.#host.call('read', request), stopped])) as ReadResult;
      return { text, tokens: Array.from(tokens) };
    } catch (error) {
      if (signal?.aborted || (error instanceof PromptReadError && this.#host !== undefined)) this.close();
      throw error;
    } finally {
      done.abort();
      this.#idle = setTimeout(() => this.close(), this.#idleMs).unref();
    }
  }

  /** Ends the process; the next prompt starts another. */
  close(): void {
    clearTimeout(this.#idle);
    const host = this.#host;
    this.#host = undefined;
    void host?.close();
  }
}
