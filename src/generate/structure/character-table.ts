// What a set of characters means for a vocabulary: the tokens that have no others, and what is left beside them. The inside
// of every string of a length, in any schema, is one such table; a walk has only the tokens left that it does not know.

import { ALL, type CodePoints, common } from './code-points.ts';
import { type TokenTree, type Vocabulary, WITHIN } from './token-tree.ts';

/** Characters of a token, or on the way down to the longest below a node; more are not counted. */
export const MOST_COUNTED = 254;
const NOT_ONLY = 255;

export type CharacterTable = {
  /** Tokens of nothing but these characters, those with fewer first. */
  readonly ids: Int32Array;
  /** By count: how many of `ids` have no more. */
  readonly upTo: Int32Array;
  /** All of `ids` as bits. */
  readonly all: Uint32Array;
  /** The tree of the other tokens. */
  readonly rest: TokenTree;
  /** Per node of the whole tree: characters on the longest way down; 255 where others are on one. */
  readonly below: Uint8Array;
};

/** Nodes or tokens of one pass between two pauses. */
const STEP = 1 << 16;

export function* readTable(vocabulary: Vocabulary, points: CodePoints): Generator<void, CharacterTable> {
  const { tree, size, deepest } = vocabulary;
  const nodes = tree.byte.length;
  const isIn = new Uint8Array(0x110000);
  for (const [low, high] of common(points, ALL)) isIn.fill(1, low, high + 1);
  const reading: Reading = {
    vocabulary,
    isIn,
    below: new Uint8Array(nodes),
    longest: new Uint16Array(deepest + 2),
    counts: new Uint8Array(size),
    tokens: new Int32Array(MOST_COUNTED + 1),
    isWhole: new Uint8Array(nodes),
    soFar: new Int32Array(deepest + 1),
    isKept: new Uint8Array(nodes),
    keeps: new Uint8Array(deepest + 2),
  };
  for (let end = nodes; end > 0; end -= STEP) {
    yield;
    countBelow(reading, end, Math.max(0, end - STEP));
  }
  for (let node = 0; node < nodes; ) {
    yield;
    node = findWhole(reading, node, Math.min(nodes, node + STEP));
  }
  yield;
  const found = byCount(reading);
  let kept = 0;
  for (let end = nodes; end > 0; end -= STEP) {
    yield;
    kept += findKept(reading, end, Math.max(0, end - STEP));
  }
  yield;
  return { ...found, rest: others(reading, kept), below: reading.below };
}

// What is resumed where it stopped is in a `Reading`; the passes are plain functions, which a compiler makes more of than of
// a generator.
type Reading = {
  readonly vocabulary: Vocabulary;
  readonly isIn: Uint8Array;
  readonly below: Uint8Array;
  /** By depth: what the nodes of one parent say so far. */
  readonly longest: Uint16Array;
  /** By id: characters of a token that has no others; 0 for the rest. */
  readonly counts: Uint8Array;
  /** How many tokens have so many. */
  readonly tokens: Int32Array;
  /** By node: a token ends here that has no others. */
  readonly isWhole: Uint8Array;
  /** By depth: characters down to here. */
  readonly soFar: Int32Array;
  /** By node: on the way to a token with others. */
  readonly isKept: Uint8Array;
  readonly keeps: Uint8Array;
};

/** Backwards, so that what is below a node is known before it. */
function countBelow({ vocabulary, isIn, below, longest }: Reading, end: number, start: number): void {
  const { tree, character } = vocabulary;
  const { depth, token } = tree;
  for (let node = end - 1; node >= start; node--) {
    const level = depth[node]!;
    const own = longest[level + 1]!;
    longest[level + 1] = 0;
    below[node] = own;
    const point = character[node]!;
    const isOnly = own <= MOST_COUNTED && (point === WITHIN ? token[node]! < 0 : point >= 0 && isIn[point] === 1);
    const all = isOnly ? own + (point === WITHIN ? 0 : 1) : NOT_ONLY;
    if (all > longest[level]!) longest[level] = all;
  }
}

/** Returns where to go on. */
function findWhole({ vocabulary, isIn, counts, tokens, isWhole, soFar }: Reading, start: number, end: number): number {
  const { tree, character, same } = vocabulary;
  const { depth, after, token } = tree;
  let node = start;
  while (node < end) {
    const level = depth[node]!;
    const point = character[node]!;
    const isOnly = point === WITHIN || (point >= 0 && isIn[point] === 1);
    const count = soFar[level]! + (point === WITHIN ? 0 : 1);
    if (!isOnly || count > MOST_COUNTED) {
      node = after[node]!;
      continue;
    }
    soFar[level + 1] = count;
    if (point !== WITHIN && token[node]! >= 0) {
      isWhole[node] = 1;
      for (let id = token[node]!; id >= 0; id = same[id]!) {
        counts[id] = count;
        tokens[count]! += 1;
      }
    }
    node++;
  }
  return node;
}

function byCount({ counts, tokens }: Reading): Pick<CharacterTable, 'ids' | 'upTo' | 'all'> {
  const size = counts.length;
  const upTo = tokens.slice();
  for (let count = 1; count <= MOST_COUNTED; count++) upTo[count]! += upTo[count - 1]!;
  const ids = new Int32Array(upTo[MOST_COUNTED]!);
  const all = new Uint32Array(Math.ceil(size / 32));
  const next = upTo.slice();
  for (let token = size - 1; token >= 0; token--) {
    const count = counts[token]!;
    if (count === 0) continue;
    ids[--next[count]!] = token;
    all[token >> 5]! |= 1 << (token & 31);
  }
  return { ids, upTo, all };
}

function findKept({ vocabulary: { tree }, isWhole, isKept, keeps }: Reading, end: number, start: number): number {
  const { depth, token } = tree;
  let kept = 0;
  for (let node = end - 1; node >= start; node--) {
    const level = depth[node]!;
    const isOne = keeps[level + 1] === 1 || (token[node]! >= 0 && isWhole[node] === 0);
    keeps[level + 1] = 0;
    if (!isOne) continue;
    isKept[node] = 1;
    keeps[level] = 1;
    kept++;
  }
  return kept;
}

/** The tree of what is kept. */
function others({ vocabulary: { tree }, isWhole, isKept }: Reading, kept: number): TokenTree {
  const nodes = tree.byte.length;
  const places = new Int32Array(nodes + 1);
  for (let node = 0; node < nodes; node++) places[node + 1] = places[node]! + isKept[node]!;
  const rest = {
    byte: new Uint8Array(kept),
    depth: new Uint16Array(kept),
    after: new Int32Array(kept),
    token: new Int32Array(kept),
  };
  for (let node = 0; node < nodes; node++) {
    if (isKept[node] === 0) continue;
    const place = places[node]!;
    rest.byte[place] = tree.byte[node]!;
    rest.depth[place] = tree.depth[node]!;
    rest.after[place] = places[tree.after[node]!]!;
    rest.token[place] = isWhole[node] === 1 ? -1 : tree.token[node]!;
  }
  return rest;
}

/** Sets the bits of tokens with up to `most` characters. */
export function addUpTo({ ids, upTo, all }: CharacterTable, most: number, mask: Uint32Array): void {
  const count = upTo[Math.min(most, MOST_COUNTED)]!;
  if (2 * count < ids.length) {
    for (let i = 0; i < count; i++) mask[ids[i]! >> 5]! |= 1 << (ids[i]! & 31);
    return;
  }
  mask.set(all);
  for (let i = count; i < ids.length; i++) mask[ids[i]! >> 5]! &= ~(1 << (ids[i]! & 31));
}
