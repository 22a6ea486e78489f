// Where a text stands in a grammar, after some of its bytes. A `Place` holds every way to read them: nodes, each with the
// calls it has to return from. Equal places are one object and remember where their bytes lead, so that what is walked
// often (the inside of a string, with 150,000 tokens to try) becomes a table.
//
// Calls to return from are a `Calls`: all stacks that lead here, as a graph that shares what they have in common, so that
// an ambiguous grammar costs no more than there are places in it. What follows: A. Salomaa would call it a nondeterministic
// pushdown automaton; xgrammar (arXiv:2411.15100) walks one with the same idea of sharing.

import type { Automaton, NodeId } from './automaton.ts';
import { overLimit } from './structure-error.ts';

/** Nodes that a text may be at, at once. JSON schemas of real tools are at 60 at most. */
const MAX_WAYS = 4000;
/** Calls within calls that are compared when two stacks are joined. */
const MAX_JOIN_DEPTH = 400;
/** Places kept; then all are forgotten but those in use, and found again. */
const MAX_KEPT = 30_000;

/** Stacks of calls. `atRoot`: one of them is empty. */
type Calls = {
  readonly id: number;
  readonly atRoot: boolean;
  /** Node to go on at, and the stacks below, ascending by node. */
  readonly frames: readonly { readonly back: NodeId; readonly below: Calls }[];
  /** Fewest bytes from here to the end of the text. */
  readonly least: number;
};

export type Place = {
  readonly ways: readonly { readonly node: NodeId; readonly calls: Calls }[];
  /** The text may end here. */
  readonly accepts: boolean;
  /** Fewest bytes to a place that accepts. */
  readonly least: number;
  /** By byte: undefined not asked yet, null nothing fits. */
  readonly next: (Place | null | undefined)[];
};

export class Matcher {
  readonly #automaton: Automaton;
  #calls = new Map<string, Calls>();
  #places = new Map<string, Place>();
  #joined = new Map<string, Calls>();
  #nextId = 1;
  readonly #root: Calls = { id: 0, atRoot: true, frames: [], least: 0 };
  readonly start: Place;
  /** Work done so far, in ways visited: for limits of time that do not depend on the machine. */
  work = 0;

  constructor(automaton: Automaton) {
    this.#automaton = automaton;
    // A root with a finite text has a way.
    this.start = this.#close([automaton.root.start], [this.#root])!;
  }

  /** The place after one more byte; null when the grammar does not allow it. */
  step(place: Place, byte: number): Place | null {
    const known = place.next[byte];
    if (known !== undefined) return known;
    const nodes: NodeId[] = [];
    const calls: Calls[] = [];
    for (const way of place.ways) {
      const edges = this.#automaton.edges[way.node]!;
      for (let i = 0; i < edges.length; i += 3) {
        if (byte < edges[i]! || byte > edges[i + 1]!) continue;
        nodes.push(edges[i + 2]!);
        calls.push(way.calls);
      }
    }
    this.work += place.ways.length;
    const next = nodes.length === 0 ? null : this.#close(nodes, calls);
    place.next[byte] = next;
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

  /** The shortest bytes that end the text; of equally short ones, letters and digits before others. */
  shortestEnding(place: Place): Uint8Array {
    const bytes: number[] = [];
    let at = place;
    while (at.least > 0) {
      let found: Place | undefined;
      for (const byte of this.#firstBytes(at)) {
        const next = this.step(at, byte);
        if (next === null || next.least >= at.least) continue;
        bytes.push(byte);
        found = next;
        break;
      }
      // `least` is exact: there is always one.
      at = found!;
    }
    return Uint8Array.from(bytes);
  }

  *#firstBytes({ ways }: Place): Generator<number> {
    const ranges: [number, number][] = [];
    for (const { node } of ways) {
      const edges = this.#automaton.edges[node]!;
      for (let i = 0; i < edges.length; i += 3) ranges.push([edges[i]!, edges[i + 1]!]);
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

const READABLE = [
  [0x30, 0x39],
  [0x61, 0x7a],
  [0x41, 0x5a],
  [0x20, 0x7e],
] as const;
