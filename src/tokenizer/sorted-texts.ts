// Texts in order, in which the ones that a place of another text begins with are found without a tree of nodes: the
// range of candidates narrows with every unit that is read. As much memory as the texts, whatever they have in common.

/** First units in one expression. */
const MAX_FIRSTS = 256;

export class SortedTexts {
  readonly #texts: readonly string[];
  readonly #values: readonly number[];
  /** By first unit, where the range of its texts begins and ends. */
  readonly #ranges = new Map<number, readonly [from: number, to: number]>();
  #firsts: RegExp | null | undefined;

  /** Of equal texts the first one counts. Empty ones are never found. */
  constructor(entries: Iterable<readonly [text: string, value: number]>) {
    const order = [...new Map([...entries].reverse())].filter(([text]) => text !== '');
    order.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    this.#texts = order.map(([text]) => text);
    this.#values = order.map(([, value]) => value);
    for (let from = 0; from < this.#texts.length; ) {
      const unit = this.#texts[from]!.charCodeAt(0);
      let to = from;
      while (to < this.#texts.length && this.#texts[to]!.charCodeAt(0) === unit) to++;
      this.#ranges.set(unit, [from, to]);
      from = to;
    }
  }

  get size(): number {
    return this.#texts.length;
  }

  /** The first place from `start` on where any text may begin; the text's length if there is none. */
  nextPlace(text: string, start: number): number {
    if (this.#firsts !== null) {
      this.#firsts ??= this.#makeFirsts();
      if (this.#firsts !== null) {
        this.#firsts.lastIndex = start;
        return this.#firsts.exec(text)?.index ?? text.length;
      }
    }
    let at = start;
    while (at < text.length && !this.#ranges.has(text.charCodeAt(at))) at++;
    return at;
  }

  /** The class of all first units; null where they are too many. */
  #makeFirsts(): RegExp | null {
    if (this.#ranges.size > MAX_FIRSTS) return null;
    const units = [...this.#ranges.keys()].map((unit) => `\\u${unit.toString(16).padStart(4, '0')}`);
    return new RegExp(`[${units.join('')}]`, 'g');
  }

  /**
   * Calls `found` with every text that stands at a place, the shortest first, by its value and length; returns how many
   * units were read.
   */
  prefixesAt(text: string, start: number, found: (value: number, length: number) => void): number {
    const range = start < text.length ? this.#ranges.get(text.charCodeAt(start)) : undefined;
    if (range === undefined) return 1;
    let [from, to] = range;
    for (let length = 1; ; length++) {
      // The shortest of a range comes first; it is a match when nothing of it is left.
      if (this.#texts[from]!.length === length) {
        found(this.#values[from]!, length);
        from++;
      }
      if (from === to || start + length >= text.length) return length;
      const unit = text.charCodeAt(start + length);
      if (to - from === 1) {
        // One candidate: compared as it is.
        const only = this.#texts[from]!;
        if (text.startsWith(only, start)) found(this.#values[from]!, only.length);
        return length + (only.length >> 4) + 1;
      }
      from = this.#firstFrom(from, to, length, unit);
      to = this.#firstFrom(from, to, length, unit + 1);
      if (from === to) return length + 1;
    }
  }

  /** The first text of a range whose unit at `place` is `unit` or more. */
  #firstFrom(from: number, to: number, place: number, unit: number): number {
    let low = from;
    let high = to;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#texts[middle]!.charCodeAt(place) < unit) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
