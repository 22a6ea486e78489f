// Where a text stands in a grammar, after some of its bytes. A `Place` holds every way to read them: nodes, each with the
// calls it has to return from. Equal places are one object and remember where their bytes lead, so that what is walked
// often (the inside of a string, with 150,000 tokens to try) becomes a table.
//
// Calls to return from are a `Calls`: all stacks that lead here, as a graph that shares what they have in common, so that
// an ambiguous grammar costs no more than there are places in it. What follows: A. Salomaa would call it a nondeterministic
// pushdown automaton; xgrammar (arXiv:2411.15100) walks one with the same idea of sharing.

import { type Automaton, type CharacterSet, EDGE, type NodeId, utf8Sequences } from './automaton.ts';
import { overLimit } from './structure-error.ts';

/** Nodes that a text may be at, at once. JSON schemas of real tools are at 60 at most. */
const MAX_WAYS = 4000;
/** Calls within calls that are compared when two stacks are joined. */
const MAX_JOIN_DEPTH = 400;
/** Places kept; then all are forgotten but those in use, and found again. */
const MAX_KEPT = 30_000;

/** Ways among which a common set of characters is looked for. */
const MAX_WAYS_OF_RUN = 64;

/** Stacks of calls. `atRoot`: one of them is empty. */
type Stacks = {
  readonly atRoot: boolean;
  /** Node to go on at, and the stacks below, ascending by node. */
  readonly frames: readonly { readonly back: NodeId; readonly below: Stacks }[];
  /** Fewest bytes from here to the end of the text. */
  readonly least: number;
};
type Calls = Omit<Stacks, 'frames'> & {
  readonly id: number;
  readonly frames: readonly { readonly back: NodeId; readonly below: Calls }[];
};

export type Place = {
  readonly ways: readonly { readonly node: NodeId; readonly calls: Calls }[];
  /** The text may end here. */
  readonly accepts: boolean;
  /** Fewest bytes to a place that accepts. */
  readonly least: number;
  /** By byte: undefined not asked yet, null nothing fits. */
  readonly next: (Place | null | undefined)[];
  /** Of the automaton, as `run` needs it; -1 for none. */
  set?: number;
  /** What is known of `run`. */
  run?: Run | null;
  /** The first byte of the shortest ending. */
  ending?: { readonly byte: number; readonly place: Place };
};

/** So many characters of a set may come next, whichever they are. */
export type Run = {
  readonly set: CharacterSet;
  readonly length: number;
  /** No text of the set with more of them fits. */
  readonly isMost: boolean;
};

export class Matcher {
  readonly #automaton: Automaton;
  #calls = new Map<string, Calls>();
  #places = new Map<string, Place>();
  #joined = new Map<string, Calls>();
  #nextId = 1;
  readonly #root: Calls = { id: 0, atRoot: true, frames: [], least: 0 };
  readonly start: Place;
  /** By set of the automaton: the first bytes of its characters, and the bytes of one of them. */
  readonly #firstBytesOf: { readonly first: Uint8Array; readonly example: Uint8Array }[] = [];
  /** By node and set. */
  readonly #alike = new Map<number, boolean>();
  /** Work done so far, in ways visited: for limits of time that do not depend on the machine. */
  work = 0;

  constructor(automaton: Automaton) {
    this.#automaton = automaton;
    // A root with a finite text has a way.
    this.start = this.#close([automaton.root.start], [this.#root])!;
  }

  /** Sets of characters that edges are of. */
  get sets(): readonly CharacterSet[] {
    return this.#automaton.sets;
  }

  /** The place after one more byte; null when the grammar does not allow it. */
  step(place: Place, byte: number): Place | null {
    const known = place.next[byte];
    if (known !== undefined) return known;
    const nodes: NodeId[] = [];
    const calls: Calls[] = [];
    // Bytes around this one that lead to the same.
    let [first, last] = [0, 255];
    for (const way of place.ways) {
      const edges = this.#automaton.edges[way.node]!;
      for (let i = 0; i < edges.length; i += EDGE) {
        const [low, high] = [edges[i]!, edges[i + 1]!];
        if (byte < low) last = Math.min(last, low - 1);
        else if (byte > high) first = Math.max(first, high + 1);
        else {
          [first, last] = [Math.max(first, low), Math.min(last, high)];
          nodes.push(edges[i + 2]!);
          calls.push(way.calls);
        }
      }
    }
    this.work += place.ways.length;
    const next = nodes.length === 0 ? null : this.#close(nodes, calls);
    place.next.fill(next, first, last + 1);
    return next;
  }

  /** Follows a text; null as soon as it does not fit. */
  walk(place: Place, bytes: Iterable<number>): Place | null {
    let at: Place | null = place;
    for (const byte of bytes) {
      at = this.step(at, byte);
      if (at === null) return null;
    }
    return at;
  }

  /**
   * Where all characters of a set lead to one place, and from there to one again: how many of them may come, up to `most`
   * (Infinity: more). Null where there is no such set.
   */
  run(place: Place, most: number): Run | null {
    if (place.run !== undefined) return place.run;
    const set = this.#commonSet(place);
    if (set < 0) {
      place.run = null;
      return null;
    }
    const path: Place[] = [place];
    let isMost = true;
    /** Of the last of the path. */
    let length = 0;
    for (;;) {
      const at = path.at(-1)!;
      const next = this.walk(at, this.#bytesOfSet(set).example);
      if (next === null) break;
      if (next === at) length = Number.POSITIVE_INFINITY;
      else if (next.run?.set === this.#automaton.sets[set]) {
        length = 1 + next.run!.length;
        isMost = next.run!.isMost;
      } else if (this.#commonSet(next) !== set) {
        length = 1;
        isMost = this.#hasNoneOf(next, set);
      } else if (path.length <= most) {
        path.push(next);
        continue;
      } else {
        // Of those behind it too little has been seen.
        path.length = 1;
        length = Number.POSITIVE_INFINITY;
      }
      break;
    }
    path.forEach((one, i) => {
      one.run = { set: this.#automaton.sets[set]!, length: length + path.length - 1 - i, isMost };
    });
    return place.run!;
  }

  /** The largest set whose characters lead to the same nodes, by themselves; -1 for none. */
  #commonSet(place: Place): number {
    place.set ??= this.#findCommonSet(place);
    return place.set;
  }

  #findCommonSet({ ways }: Place): number {
    if (ways.length > MAX_WAYS_OF_RUN) return -1;
    const { edges, sets } = this.#automaton;
    let best = -1;
    for (const { node } of ways) {
      const own = edges[node]!;
      for (let i = 3; i < own.length; i += EDGE) {
        const set = own[i]!;
        if (set >= 0 && set !== best && (best < 0 || sets[set]!.size > sets[best]!.size)) best = set;
      }
    }
    return best >= 0 && ways.every(({ node }) => this.#isAlike(node, best)) ? best : -1;
  }

  /** No character of the set can come. */
  #hasNoneOf({ ways }: Place, set: number): boolean {
    const { edges } = this.#automaton;
    return ways.every(({ node }) => {
      const own = edges[node]!;
      for (let i = 3; i < own.length; i += EDGE) if (own[i] === set) return false;
      return this.#isAlike(node, set);
    });
  }

  /** Whether no other edge of the node takes a byte that a character of the set begins with. */
  #isAlike(node: NodeId, set: number): boolean {
    const key = node * this.#automaton.sets.length + set;
    let alike = this.#alike.get(key);
    if (alike === undefined) {
      const { first } = this.#bytesOfSet(set);
      const own = this.#automaton.edges[node]!;
      alike = true;
      for (let i = 0; i < own.length && alike; i += EDGE) {
        if (own[i + 3] === set) continue;
        for (let byte = own[i]!; byte <= own[i + 1]! && alike; byte++) alike = first[byte] === 0;
      }
      this.#alike.set(key, alike);
    }
    return alike;
  }

  #bytesOfSet(set: number): { readonly first: Uint8Array; readonly example: Uint8Array } {
    let found = this.#firstBytesOf[set];
    if (found === undefined) {
      const { points } = this.#automaton.sets[set]!;
      const first = new Uint8Array(256);
      for (const [low, high] of points) {
        for (const [bytes] of utf8Sequences(low, high)) first.fill(1, bytes![0], bytes![1] + 1);
      }
      found = { first, example: Buffer.from(String.fromCodePoint(points[0]![0])) };
      this.#firstBytesOf[set] = found;
    }
    return found;
  }

  /** The shortest bytes that end the text; of equally short ones, letters and digits before others. */
  shortestEnding(place: Place): Uint8Array {
    const bytes: number[] = [];
    for (let at = place; at.least > 0; ) {
      at.ending ??= this.#towardsEnd(at);
      bytes.push(at.ending.byte);
      at = at.ending.place;
    }
    return Uint8Array.from(bytes);
  }

  /**
   * One of the shortest endings along a single way, for a place from which following all ways takes more than the limits
   * allow.
   */
  endingOfOneWay({ ways, accepts }: Place): Uint8Array {
    const bytes: number[] = [];
    if (accepts) return new Uint8Array();
    const { least } = this.#automaton;
    const lengthOf = ({ node, calls }: OneWay) => least[node]! + calls.least;
    let at: OneWay = ways.reduce((best: OneWay, way) => (lengthOf(way) < lengthOf(best) ? way : best), ways[0]!);
    for (;;) {
      const next = this.#nextByte(at);
      if (next === undefined) return Uint8Array.from(bytes);
      bytes.push(next.byte);
      at = next.to;
    }
  }

  /** The next byte of a shortest ending, found by moves that take none; undefined at the end of the text. */
  #nextByte(from: OneWay): { readonly byte: number; readonly to: OneWay } | undefined {
    const { edges, calls: callsOf, empty, isEnd, least, rules } = this.#automaton;
    const open: (OneWay & { readonly depth: number })[] = [{ ...from, depth: 0 }];
    // No rule begins with itself, so that calls within calls come to an end, and what comes back to a node at the same depth
    // has gone in a circle.
    const seen = new Set<string>();
    for (let at = open.pop(); at !== undefined; at = open.pop()) {
      const { node, calls, depth } = at;
      if (seen.has(`${node} ${depth}`)) continue;
      seen.add(`${node} ${depth}`);
      const own = edges[node]!;
      for (let i = 0; i < own.length; i += EDGE) {
        const target = own[i + 2]!;
        if (1 + least[target]! === least[node])
          return { byte: readable(own[i]!, own[i + 1]!), to: { node: target, calls } };
      }
      if (isEnd[node] === 1) {
        if (calls.atRoot) return undefined;
        for (const { back, below } of calls.frames) {
          if (least[back]! + below.least === calls.least) open.push({ node: back, calls: below, depth: depth - 1 });
        }
      }
      for (const to of empty[node]!) if (least[to] === least[node]) open.push({ node: to, calls, depth });
      const called = callsOf[node]!;
      for (let i = 0; i < called.length; i += 2) {
        const [start, back] = [rules[called[i]!]!.start, called[i + 1]!];
        if (least[start]! + least[back]! !== least[node]) continue;
        const inner = { atRoot: false, frames: [{ back, below: calls }], least: least[back]! + calls.least };
        open.push({ node: start, calls: inner, depth: depth + 1 });
      }
    }
    // `least` is exact: there is always one.
    throw new Error('a place has no way to its end');
  }

  #towardsEnd(at: Place): { readonly byte: number; readonly place: Place } {
    for (const byte of this.#firstBytes(at)) {
      const next = this.step(at, byte);
      if (next !== null && next.least < at.least) return { byte, place: next };
    }
    // `least` is exact: there is always one.
    throw new Error('a place has no way to its end');
  }

  *#firstBytes({ ways }: Place): Generator<number> {
    const ranges: [number, number][] = [];
    for (const { node } of ways) {
      const edges = this.#automaton.edges[node]!;
      for (let i = 0; i < edges.length; i += EDGE) ranges.push([edges[i]!, edges[i + 1]!]);
    }
    for (const [low, high] of [...READABLE, [0, 255]] as const) {
      for (let byte = low; byte <= high; byte++) {
        if (ranges.some(([from, to]) => byte >= from && byte <= to)) yield byte;
      }
    }
  }

  /** The nodes with all that can be reached from them without a byte. Null where none comes to an end. */
  #close(nodes: NodeId[], calls: Calls[]): Place | null {
    const { edges, calls: callsOf, empty, isEnd, isTail, least, rules } = this.#automaton;
    const reached = new Map<NodeId, Calls>();
    let accepts = false;
    const visit = (node: NodeId, stack: Calls) => {
      if (least[node]! + stack.least === Number.POSITIVE_INFINITY) return;
      nodes.push(node);
      calls.push(stack);
    };
    while (nodes.length > 0) {
      const node = nodes.pop()!;
      const stack = calls.pop()!;
      if (least[node]! + stack.least === Number.POSITIVE_INFINITY) continue;
      const before = reached.get(node);
      const all = before === undefined ? stack : this.#join(before, stack, 0);
      if (all === before) continue;
      this.work += 1;
      if (before === undefined && reached.size === MAX_WAYS) throw overLimit('ways to read a text', MAX_WAYS);
      reached.set(node, all);
      if (isEnd[node] === 1) {
        accepts ||= all.atRoot;
        for (const { back, below } of all.frames) visit(back, below);
      }
      for (const to of empty[node]!) visit(to, all);
      const called = callsOf[node]!;
      for (let i = 0; i < called.length; i += 2) {
        const back = called[i + 1]!;
        // Behind the last call of a rule there is only the way back: the caller's own will do.
        const inner = isTail[back] === 1 ? all : this.#keep(false, [{ back, below: all }]);
        visit(rules[called[i]!]!.start, inner);
      }
    }
    const ways = [...reached]
      .filter(([node]) => edges[node]!.length > 0)
      .sort(([a], [b]) => a - b)
      .map(([node, stack]) => ({ node, calls: stack }));
    if (ways.length === 0 && !accepts) return null;
    const key = `${accepts}${ways.map(({ node, calls: { id } }) => `,${node}:${id}`).join('')}`;
    const known = this.#places.get(key);
    if (known !== undefined) return known;
    if (this.#places.size >= MAX_KEPT || this.#calls.size + this.#joined.size >= 10 * MAX_KEPT) {
      this.#joined = new Map();
      this.#places = new Map();
      this.#calls = new Map();
    }
    const shortest = Math.min(...ways.map(({ node, calls: stack }) => least[node]! + stack.least));
    const place: Place = { ways, accepts, least: accepts ? 0 : shortest, next: new Array(256) };
    this.#places.set(key, place);
    return place;
  }

  /** All stacks of both. */
  #join(a: Calls, b: Calls, depth: number): Calls {
    if (a === b) return a;
    // Stacks that share what is below them would be joined there once for every way down.
    const pair = a.id < b.id ? `${a.id} ${b.id}` : `${b.id} ${a.id}`;
    const joined = this.#joined.get(pair);
    if (joined !== undefined) return joined;
    if (depth === MAX_JOIN_DEPTH) throw overLimit('calls within calls', MAX_JOIN_DEPTH);
    this.work += a.frames.length + b.frames.length;
    const below = new Map(a.frames.map((frame) => [frame.back, frame.below]));
    for (const frame of b.frames) {
      const other = below.get(frame.back);
      below.set(frame.back, other === undefined ? frame.below : this.#join(other, frame.below, depth + 1));
    }
    const frames = [...below].sort(([x], [y]) => x - y).map(([back, calls]) => ({ back, below: calls }));
    const all = this.#keep(a.atRoot || b.atRoot, frames);
    this.#joined.set(pair, all);
    return all;
  }

  #keep(atRoot: boolean, frames: Calls['frames']): Calls {
    const key = `${atRoot}${frames.map(({ back, below }) => `,${back}:${below.id}`).join('')}`;
    const known = this.#calls.get(key);
    if (known !== undefined) return known;
    const { least } = this.#automaton;
    const shortest = Math.min(...frames.map(({ back, below }) => least[back]! + below.least));
    const calls = { id: this.#nextId++, atRoot, frames, least: atRoot ? 0 : shortest };
    this.#calls.set(key, calls);
    return calls;
  }
}

type OneWay = { readonly node: NodeId; readonly calls: Stacks };

/** A byte of a range, letters and digits before others. */
function readable(low: number, high: number): number {
  for (const [from, to] of READABLE) if (low <= to && high >= from) return Math.max(low, from);
  return low;
}

const READABLE = [
  [0x30, 0x39],
  [0x61, 0x7a],
  [0x41, 0x5a],
  [0x20, 0x7e],
] as const;
