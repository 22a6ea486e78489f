// Continuation handles short enough for a model to copy. An engine's handle carries the whole state of a generation in
// a thousand characters and more; a model that must repeat those letter by letter wastes tokens and makes mistakes.
// Servers whose client stays with them keep the long one and give out a short name for it.

import { createHash } from 'node:crypto';
import { ArgumentError } from '../errors.ts';

/** More than any agent goes back to. */
const MAX_HANDLES = 256;
/** Of all of them together: those of long contexts have a megabyte each. */
const MAX_CHARACTERS = 16 << 20;
const SHORT = /^h-[0-9a-f]{12}$/;

export class ShortHandles {
  readonly #long = new Map<string, string>();
  #characters = 0;

  /** The same long handle always has the same short one. */
  shorten(long: string): string {
    const short = `h-${createHash('sha256').update(long).digest('hex').slice(0, 12)}`;
    this.#forget(short);
    this.#long.set(short, long);
    this.#characters += long.length;
    while (this.#long.size > 1 && (this.#long.size > MAX_HANDLES || this.#characters > MAX_CHARACTERS)) {
      this.#forget(this.#long.keys().next().value!);
    }
    return short;
  }

  #forget(short: string): void {
    this.#characters -= this.#long.get(short)?.length ?? 0;
    this.#long.delete(short);
  }

  /** Long handles pass. Throws ArgumentError for a short one that this server did not give or no longer has. */
  expand(handle: string): string {
    if (!SHORT.test(handle)) return handle;
    const long = this.#long.get(handle);
    if (long !== undefined) return long;
    throw new ArgumentError({
      what: `the continuation handle ${handle} is unknown`,
      where: `this server keeps its last ${MAX_HANDLES}, and only until it ends`,
      fix: 'start again: pass the output so far as the prompt',
    });
  }
}
