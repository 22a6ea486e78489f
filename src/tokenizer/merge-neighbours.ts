// The merging loop that byte pair encoding and sentencepiece share: of all neighbours that may be joined, the pair of the
// lowest rank first, the leftmost of equals, until none is left.

/** Rank and place together are one exact number, so places stay below this and ranks below 2^23. */
const MAX_SYMBOLS = 2 ** 30;

/** Work between two rests, a millisecond or so. */
const STEPS = 1 << 12;

/**
 * Symbols are known by their places 0 … count - 1. `rankOf(left, right)` says what joining two neighbours is worth;
 * `join(left, right)` joins them at the place `left`, and `right` is not asked about again. Entries of the heap that no
 * longer describe what stands at their place are dropped when they come up, which keeps the whole at n log n.
 */
export function mergeNeighbours(...of: Parameters<typeof mergeInSteps>): void {
  const steps = mergeInSteps(...of);
  while (steps.next().done !== true);
}

/** The same in many steps, between which others may have their turn. */
export function* mergeInSteps(
  count: number,
  rankOf: (left: number, right: number) => number | undefined,
  join: (left: number, right: number) => void,
): Generator<undefined, void> {
  let steps = 0;
  const next = new Int32Array(count);
  const previous = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    next[i] = i + 1;
    previous[i] = i - 1;
  }
  const heap = new Heap();
  const offer = (left: number): void => {
    const right = next[left]!;
    const rank = right < count ? rankOf(left, right) : undefined;
    if (rank !== undefined) heap.push(rank * MAX_SYMBOLS + left);
  };
  for (let i = 0; i + 1 < count; i++) {
    offer(i);
    if (++steps % STEPS === 0) yield;
  }
  for (let entry = heap.pop(); entry !== undefined; entry = heap.pop()) {
    if (++steps % STEPS === 0) yield;
    const left = entry % MAX_SYMBOLS;
    const right = next[left]!;
    if (right === GONE || right >= count || rankOf(left, right) !== Math.floor(entry / MAX_SYMBOLS)) continue;
    join(left, right);
    const after = next[right]!;
    next[left] = after;
    next[right] = GONE;
    if (after < count) previous[after] = left;
    if (previous[left]! >= 0) offer(previous[left]!);
    offer(left);
  }
}

/** In place of the next symbol: this one was joined to the one before it. */
const GONE = -1;

/** A binary heap of numbers, smallest first. */
class Heap {
  readonly #items: number[] = [];

  push(item: number): void {
    const items = this.#items;
    let at = items.length;
    items.push(item);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (items[parent]! <= item) break;
      items[at] = items[parent]!;
      at = parent;
    }
    items[at] = item;
  }

  /** Takes the smallest number out; undefined when there is none. */
  pop(): number | undefined {
    const items = this.#items;
    const top = items[0];
    const last = items.pop();
    if (last === undefined || items.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && items[child + 1]! < items[child]!) child++;
      if (items[child]! >= last) break;
      items[at] = items[child]!;
      at = child;
    }
    items[at] = last;
    return top;
  }
}
