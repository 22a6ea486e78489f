// Sets of texts as automata over characters: what the keywords of a string say, each for itself, joined by intersection and
// then written as the bytes of a JSON string.

import type { AutomatonBuilder, NodeId } from './automaton.ts';
import { ALL, allBut, type CodePoints, common, has } from './code-points.ts';
import { overLimit } from './structure-error.ts';

/** Nondeterministic; state 0 is the start. */
export type TextSet = readonly {
  readonly edges: readonly (readonly [CodePoints, number])[];
  readonly accepts: boolean;
}[];

type State = { edges: [CodePoints, number][]; accepts: boolean };

export const MAX_STATES = 50_000;

export const ANY_TEXT: TextSet = [{ edges: [[ALL, 0]], accepts: true }];

/** Texts of so many characters (code points, as JSON Schema counts). */
export function ofLength(least: number, most: number): TextSet {
  const last = most === Number.POSITIVE_INFINITY ? least : most;
  if (last > MAX_STATES) throw overLimit('characters of a string', MAX_STATES);
  return Array.from({ length: last + 1 }, (_, i) => ({
    edges: i < last ? [[ALL, i + 1] as const] : most === last ? [] : [[ALL, i] as const],
    accepts: i >= least,
  }));
}

/** All texts but these. */
export function otherThan(words: readonly string[]): TextSet {
  const states: State[] = [{ edges: [], accepts: true }];
  const next: Map<number, number>[] = [new Map()];
  const isWord = new Set<number>();
  for (const word of words) {
    let at = 0;
    for (const character of word) {
      const point = character.codePointAt(0)!;
      let to = next[at]!.get(point);
      if (to === undefined) {
        to = states.push({ edges: [], accepts: true }) - 1;
        if (to > MAX_STATES) throw overLimit('characters of names', MAX_STATES);
        next.push(new Map());
        next[at]!.set(point, to);
      }
      at = to;
    }
    isWord.add(at);
  }
  const rest = states.push({ edges: [], accepts: true }) - 1;
  states[rest]!.edges.push([ALL, rest]);
  for (let i = 0; i < rest; i++) {
    const taken = [...next[i]!].sort(([a], [b]) => a - b);
    for (const [point, to] of taken) states[i]!.edges.push([[[point, point]], to]);
    states[i]!.edges.push([allBut(taken.map(([point]) => [point, point] as const)), rest]);
    states[i]!.accepts = !isWord.has(i);
  }
  return states;
}

export function contains(set: TextSet, text: string): boolean {
  let at = new Set([0]);
  for (const character of text) {
    const point = character.codePointAt(0)!;
    const next = new Set<number>();
    for (const state of at) for (const [points, to] of set[state]!.edges) if (has(points, point)) next.add(to);
    at = next;
  }
  return [...at].some((state) => set[state]!.accepts);
}

/** Texts in both. */
export function both(a: TextSet, b: TextSet): TextSet {
  if (a === ANY_TEXT) return b;
  if (b === ANY_TEXT) return a;
  const states: State[] = [];
  const ids = new Map<string, number>();
  const pairs: [number, number][] = [];
  const id = (x: number, y: number): number => {
    const key = `${x},${y}`;
    let found = ids.get(key);
    if (found === undefined) {
      if (states.length === MAX_STATES) throw overLimit('states of a string', MAX_STATES);
      found = states.push({ edges: [], accepts: a[x]!.accepts && b[y]!.accepts }) - 1;
      ids.set(key, found);
      pairs.push([x, y]);
    }
    return found;
  };
  id(0, 0);
  for (let i = 0; i < pairs.length; i++) {
    const [x, y] = pairs[i]!;
    for (const [left, toLeft] of a[x]!.edges) {
      for (const [right, toRight] of b[y]!.edges) {
        const points = common(left, right);
        if (points.length > 0) states[i]!.edges.push([points, id(toLeft, toRight)]);
      }
    }
  }
  return states;
}

/** States and borders between characters that a set of texts may take to be made deterministic. */
const MAX_SUBSETS = 2000;
const MAX_BORDERS = 400_000;

/**
 * The same texts with one way to read each, which makes them cheap to follow: many places of a pattern that is looked for
 * anywhere would else be alive at once. As it is where that takes too many states.
 */
export function deterministic(set: TextSet): TextSet {
  const isEverything = set.map(
    ({ edges, accepts }, i) => accepts && edges.some(([points, to]) => to === i && points === ALL),
  );
  const states: State[] = [];
  const ids = new Map<string, number>();
  const subsets: (readonly number[])[] = [];
  const lists = new Map<string, CodePoints>([[ALL.join(' '), ALL]]);
  const id = (reached: ReadonlySet<number>): number => {
    // Where everything fits, the other ways say nothing.
    const everything = [...reached].find((state) => isEverything[state]);
    const subset = everything === undefined ? [...reached].sort((a, b) => a - b) : [everything];
    const key = subset.join();
    let found = ids.get(key);
    if (found === undefined) {
      found = states.push({ edges: [], accepts: subset.some((state) => set[state]!.accepts) }) - 1;
      ids.set(key, found);
      subsets.push(subset);
    }
    return found;
  };
  id(new Set([0]));
  let work = 0;
  for (let i = 0; i < subsets.length; i++) {
    const borders: [at: number, to: number, change: 1 | -1][] = [];
    for (const state of subsets[i]!) {
      for (const [points, to] of set[state]!.edges) {
        work += points.length;
        if (work > MAX_BORDERS || subsets.length > MAX_SUBSETS) return set;
        for (const [low, high] of points) borders.push([low, to, 1], [high + 1, to, -1]);
      }
    }
    borders.sort(([a], [b]) => a - b);
    const reached = new Map<number, number>();
    const ranges = new Map<number, [number, number][]>();
    for (let j = 0; j < borders.length; ) {
      const from = borders[j]![0];
      for (; j < borders.length && borders[j]![0] === from; j++) {
        const [, to, change] = borders[j]!;
        const count = (reached.get(to) ?? 0) + change;
        if (count === 0) reached.delete(to);
        else reached.set(to, count);
      }
      work += reached.size;
      if (work > MAX_BORDERS) return set;
      if (reached.size === 0) continue;
      const target = id(new Set(reached.keys()));
      const own = ranges.get(target) ?? [];
      ranges.set(target, own);
      const last = own.at(-1);
      const next = borders[j]![0];
      if (last?.[1] === from - 1) last[1] = next - 1;
      else own.push([from, next - 1]);
    }
    for (const [to, own] of ranges) {
      const key = own.join(' ');
      const points = lists.get(key) ?? own;
      lists.set(key, points);
      states[i]!.edges.push([points, to]);
    }
  }
  return states;
}

/** Characters that stand in a JSON string as they are. */
const PLAIN = allBut([
  [0, 0x1f],
  [0x22, 0x22],
  [0x5c, 0x5c],
]);

const ESCAPED: readonly (readonly [number, string])[] = Array.from({ length: 0x20 }, (_, point) => point)
  .concat(0x22, 0x5c)
  .map((point) => [point, JSON.stringify(String.fromCodePoint(point)).slice(1, -1)] as const);

/** The texts as they are. */
export function writeTexts(builder: AutomatonBuilder, set: TextSet, from: NodeId, to: NodeId): void {
  builder.expect(set.flatMap(({ edges }) => edges.map(([points]) => points)));
  const nodes = set.map(() => builder.node());
  builder.nothing(from, nodes[0]!);
  set.forEach(({ edges, accepts }, i) => {
    if (accepts) builder.nothing(nodes[i]!, to);
    for (const [points, target] of edges) builder.character(nodes[i]!, points, nodes[target]!);
  });
}

/** The texts as JSON strings with their quotes, every character in the one spelling that JSON.stringify gives it. */
export function writeStrings(builder: AutomatonBuilder, set: TextSet, from: NodeId, to: NodeId): void {
  builder.expect(set.flatMap(({ edges }) => edges.map(([points]) => points)));
  const nodes = set.map(() => builder.node());
  const close = builder.node();
  builder.text(from, '"', nodes[0]!);
  builder.text(close, '"', to);
  const plain = new Map<CodePoints, CodePoints>();
  const plainOf = (points: CodePoints): CodePoints => {
    const found = plain.get(points) ?? common(points, PLAIN);
    plain.set(points, found);
    return found;
  };
  set.forEach(({ edges, accepts }, i) => {
    if (accepts) builder.nothing(nodes[i]!, close);
    for (const [points, target] of edges) {
      builder.character(nodes[i]!, plainOf(points), nodes[target]!);
      for (const [point, text] of ESCAPED) if (has(points, point)) builder.text(nodes[i]!, text, nodes[target]!);
    }
  });
}
