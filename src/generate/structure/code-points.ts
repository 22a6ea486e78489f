// Sets of code points, as ascending ranges.

/** Ranges of code points, ascending, without overlap. */
export type CodePoints = readonly (readonly [low: number, high: number])[];

const LAST = 0x10ffff;

/** Every character that a text may hold: all but the halves of pairs. */
export const ALL: CodePoints = [
  [0, 0xd7ff],
  [0xe000, LAST],
];

/** Ranges in any order, overlapping or not, as a set. */
export function setOf(ranges: readonly (readonly [number, number])[]): CodePoints {
  const out: [number, number][] = [];
  for (const [low, high] of [...ranges].sort(([a], [b]) => a - b)) {
    const last = out.at(-1);
    if (last !== undefined && low <= last[1] + 1) last[1] = Math.max(last[1], high);
    else out.push([low, high]);
  }
  return out;
}

export function common(a: CodePoints, b: CodePoints): CodePoints {
  if (a === ALL) return b;
  if (b === ALL) return a;
  const out: [number, number][] = [];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const low = Math.max(a[i]![0], b[j]![0]);
    const high = Math.min(a[i]![1], b[j]![1]);
    if (low <= high) out.push([low, high]);
    if (a[i]![1] < b[j]![1]) i++;
    else j++;
  }
  return out;
}

/** All characters that are not in the set. */
export function allBut(set: CodePoints): CodePoints {
  const out: [number, number][] = [];
  let from = 0;
  for (const [low, high] of set) {
    if (low > from) out.push([from, low - 1]);
    from = high + 1;
  }
  if (from <= LAST) out.push([from, LAST]);
  return common(out, ALL);
}

export function has(set: CodePoints, point: number): boolean {
  let [low, high] = [0, set.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (set[middle]![1] < point) low = middle + 1;
    else high = middle;
  }
  return low < set.length && set[low]![0] <= point;
}

const known = new Map<string, CodePoints>();

let everything: string | undefined;

/** What an expression for one character (`\\p{L}`, `\\s`) matches, by trying all: some ten milliseconds, kept. */
export function matching(expression: string): CodePoints {
  let set = known.get(expression);
  if (set === undefined) {
    everything ??= allCharacters();
    const out: [number, number][] = [];
    for (const { 0: run, index } of everything.matchAll(new RegExp(`(?:${expression})+`, 'gu'))) {
      out.push([everything.codePointAt(index)!, run.codePointAt(run.length - (isPair(run.at(-1)!) ? 2 : 1))!]);
    }
    set = common(out, ALL);
    if (known.size < 64) known.set(expression, set);
  }
  return set;
}

function isPair(last: string): boolean {
  return last >= '\udc00' && last <= '\udfff';
}

/** In order, so that those next to each other are a run. */
function allCharacters(): string {
  const parts: string[] = [];
  for (const [low, high] of ALL) {
    for (let from = low; from <= high; from += 4096) {
      const points = Array.from({ length: Math.min(4096, high - from + 1) }, (_, i) => from + i);
      parts.push(String.fromCodePoint(...points));
    }
  }
  return parts.join('');
}
