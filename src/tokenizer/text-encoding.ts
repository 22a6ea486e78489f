// The seam between a tokenizer and the ways to turn text into ids.

/** Work that may be left for a while between its steps; what it returns is the result. */
export type InSteps<T> = Generator<undefined, T>;

/** Text (well formed) to ids, nothing added at either end. */
export type TextEncoding = {
  /** With `parseSpecial` false, literals of special tokens are ordinary text and special ids do not come out. */
  encode(text: string, options: { readonly parseSpecial: boolean }): InSteps<number[]>;
  /**
   * What tells how few ids a text can become: the longest text of one id in bytes, by how much a text may shrink before
   * it is cut, and whether white space may vanish. Undefined where any number of characters can become one id or none.
   */
  readonly least: (() => Least) | undefined;
};

export type Least = { readonly bytesPerId: number; readonly spaceVanishes: boolean };

/** The result, in one go. */
export function atOnce<T>(steps: InSteps<T>): T {
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
  }
}

/** Milliseconds that the work may take before others have their turn. */
const SLICE_MS = 8;

/** The result, with turns for whatever else the process has to do. Rejects with the signal's reason when it fires. */
export async function inSlices<T>(steps: InSteps<T>, signal?: AbortSignal): Promise<T> {
  for (;;) {
    signal?.throwIfAborted();
    const start = performance.now();
    do {
      const step = steps.next();
      if (step.done === true) return step.value;
    } while (performance.now() - start < SLICE_MS);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Bytes of the longest text. */
export function longestBytes(texts: Iterable<string>): number {
  let longest = 1;
  // No character has more than 3 bytes a unit.
  for (const text of texts) if (3 * text.length > longest) longest = Math.max(longest, Buffer.byteLength(text));
  return longest;
}
