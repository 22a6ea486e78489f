// A grammar as nodes and edges over bytes: what schemas and EBNF are compiled to, and what the matcher walks. Each rule is a
// small automaton from `start` to `end`; an edge takes a byte, nothing, or a whole other rule (a call).
//
// Bytes, not characters, since tokens are bytes: a token may begin or end within a character.

import { ALL, type CodePoints, common } from './code-points.ts';
import { overLimit, StructureError } from './structure-error.ts';

export type NodeId = number;
export type RuleId = number;

/** Some 100 bytes each. The schema of a tool with 40 fields takes 2,000. */
const MAX_NODES = 300_000;
/** Four numbers each; a set of all letters has 500. */
const MAX_EDGES = 3_000_000;
/** What must be written at least; a longer text is not looked for. */
const MAX_LEAST = 1 << 17;
/** Steps of the searches over a whole grammar. */
const MAX_SEARCH = 20_000_000;

export type Rule = { readonly name: string; readonly start: NodeId; readonly end: NodeId };

export type Automaton = {
  readonly root: Rule;
  readonly rules: readonly Rule[];
  /** Per node: fours lowest byte, highest byte, target, and the set of characters that it is of, or NO_SET. */
  readonly edges: readonly (readonly number[])[];
  /** What edges may be of: a character of such a set leads where any other of it does. */
  readonly sets: readonly CharacterSet[];
  /** Per node: pairs rule, node behind the call. */
  readonly calls: readonly (readonly number[])[];
  /** Per node: targets that take nothing. */
  readonly empty: readonly (readonly NodeId[])[];
  /** Per node: whether it is the end of its rule. */
  readonly isEnd: Uint8Array;
  /** Per node: whether nothing but the end of its rule can follow. */
  readonly isTail: Uint8Array;
  /** Per node: the fewest bytes to the end of its rule; Infinity where there is no way. */
  readonly least: Float64Array;
};

/** Numbers of an edge. */
export const EDGE = 4;
export const NO_SET = -1;

export type CharacterSet = {
  /** The same for equal sets of all automata. */
  readonly key: string;
  readonly points: CodePoints;
  /** How many characters. */
  readonly size: number;
};

/** Sets told apart; of a schema with more, the later ones are not known as sets. */
const MAX_SETS = 1000;
/** Smaller ones lead to few tokens. */
const LEAST_SET = 10;

export class AutomatonBuilder {
  readonly #edges: number[][] = [];
  readonly #sets: CharacterSet[] = [];
  readonly #setIds = new Map<string, number>();
  /** By the list itself: writing its key takes longer than finding it. */
  readonly #known = new Map<CodePoints, Known>();
  #edgeCount = 0;
  readonly #calls: number[][] = [];
  readonly #empty: NodeId[][] = [];
  readonly #rules: Rule[] = [];
  /** Nodes within characters, by what follows them. */
  readonly #suffixes = new Map<string, NodeId>();

  node(): NodeId {
    if (this.#edges.length === MAX_NODES) throw overLimit('places', MAX_NODES);
    this.#calls.push([]);
    this.#empty.push([]);
    return this.#edges.push([]) - 1;
  }

  rule(name: string): RuleId {
    return this.#rules.push({ name, start: this.node(), end: this.node() }) - 1;
  }

  start(rule: RuleId): NodeId {
    return this.#rules[rule]!.start;
  }

  end(rule: RuleId): NodeId {
    return this.#rules[rule]!.end;
  }

  bytes(from: NodeId, low: number, high: number, to: NodeId): void {
    this.#edge(from, low, high, to, NO_SET);
  }

  #edge(from: NodeId, low: number, high: number, to: NodeId, set: number): void {
    if (++this.#edgeCount > MAX_EDGES) throw overLimit('ways between places', MAX_EDGES);
    this.#edges[from]!.push(low, high, to, set);
  }

  call(from: NodeId, rule: RuleId, to: NodeId): void {
    this.#calls[from]!.push(rule, to);
  }

  nothing(from: NodeId, to: NodeId): void {
    this.#empty[from]!.push(to);
  }

  /** The bytes of a text, one after the other. */
  text(from: NodeId, text: string, to: NodeId): void {
    const bytes = Buffer.from(text);
    if (bytes.length === 0) this.nothing(from, to);
    let at = from;
    bytes.forEach((byte, i) => {
      const next = i === bytes.length - 1 ? to : this.node();
      this.bytes(at, byte, byte, next);
      at = next;
    });
  }

  /** One of several texts, none empty: what they begin with in common is written once, so that there is one way to read it. */
  texts(from: NodeId, texts: Iterable<string>, to: NodeId): void {
    const below = new Map<NodeId, Map<number, NodeId>>();
    for (const text of new Set(texts)) {
      const bytes = Buffer.from(text);
      let at = from;
      for (let i = 0; i < bytes.length - 1; i++) {
        let children = below.get(at);
        if (children === undefined) {
          children = new Map();
          below.set(at, children);
        }
        let next = children.get(bytes[i]!);
        if (next === undefined) {
          next = this.node();
          children.set(bytes[i]!, next);
          this.bytes(at, bytes[i]!, bytes[i]!, next);
        }
        at = next;
      }
      const last = bytes.at(-1)!;
      this.bytes(at, last, last, to);
    }
  }

  /** Throws where characters of these sets, each with a target of its own, would take far too many places. */
  expect(sets: Iterable<CodePoints>): void {
    let nodes = 0;
    for (const points of sets) {
      nodes += this.#knownOf(points).suffixes;
      // Targets in common are few: twice the limit is beyond it.
      if (nodes > 2 * MAX_NODES) throw overLimit('places', MAX_NODES);
    }
  }

  /** One character of the given code points, as UTF-8. */
  character(from: NodeId, ranges: CodePoints, to: NodeId): void {
    const { sequences, set } = this.#knownOf(ranges);
    for (const [first, ...rest] of sequences) this.#edge(from, first![0], first![1], this.#suffix(rest, to), set);
  }

  #knownOf(ranges: CodePoints): Known {
    let known = this.#known.get(ranges);
    if (known === undefined) {
      const sequences = ranges.flatMap(([low, high]) => [...utf8Sequences(low, high)]);
      const suffixes = new Set(sequences.flatMap((one) => one.slice(1).map((_, i) => one.slice(i + 1).join(' ')))).size;
      known = { set: this.#setOf(ranges), sequences, suffixes };
      this.#known.set(ranges, known);
    }
    return known;
  }

  #setOf(ranges: CodePoints): number {
    const points = common(ranges, ALL);
    let size = 0;
    for (const [low, high] of points) size += high - low + 1;
    if (size < LEAST_SET) return NO_SET;
    const key = points.join(' ');
    let id = this.#setIds.get(key);
    if (id === undefined) {
      if (this.#sets.length === MAX_SETS) return NO_SET;
      id = this.#sets.push({ key, points, size }) - 1;
      this.#setIds.set(key, id);
    }
    return id;
  }

  #suffix(sequence: Sequence, to: NodeId): NodeId {
    if (sequence.length === 0) return to;
    const key = `${to} ${sequence.join(' ')}`;
    let node = this.#suffixes.get(key);
    if (node === undefined) {
      node = this.node();
      this.bytes(node, sequence[0]![0], sequence[0]![1], this.#suffix(sequence.slice(1), to));
      this.#suffixes.set(key, node);
    }
    return node;
  }

  /** Throws StructureError where no text at all fits, or a rule begins with itself. */
  finish(root: RuleId): Automaton {
    const count = this.#edges.length;
    const isEnd = new Uint8Array(count);
    for (const { end } of this.#rules) isEnd[end] = 1;
    const least = this.#leastBytes(count);
    const automaton = {
      root: this.#rules[root]!,
      rules: this.#rules,
      edges: this.#edges,
      sets: this.#sets,
      calls: this.#calls,
      empty: this.#empty,
      isEnd,
      isTail: this.#tails(isEnd),
      least,
    };
    if (least[automaton.root.start] === Number.POSITIVE_INFINITY) {
      throw new StructureError({
        what: 'no text of finite length fits this structure',
        fix: 'look for parts that exclude each other, and for rules or $refs that never come to an end',
      });
    }
    if (least[automaton.root.start]! > MAX_LEAST) throw overLimit('bytes for its shortest text', MAX_LEAST);
    this.#refuseLeftRecursion(least);
    return automaton;
  }

  /** By relaxation from the ends of the rules: a node's count falls until it is right. */
  #leastBytes(count: number): Float64Array {
    const least = new Float64Array(count).fill(Number.POSITIVE_INFINITY);
    const before: number[][] = Array.from({ length: count }, () => []);
    const callers: number[][] = this.#rules.map(() => []);
    const ruleOfStart = new Map(this.#rules.map(({ start }, rule) => [start, rule]));
    for (let node = 0; node < count; node++) {
      const edges = this.#edges[node]!;
      for (let i = 0; i < edges.length; i += EDGE) before[edges[i + 2]!]!.push(node);
      const calls = this.#calls[node]!;
      for (let i = 0; i < calls.length; i += 2) {
        before[calls[i + 1]!]!.push(node);
        callers[calls[i]!]!.push(node);
      }
      for (const to of this.#empty[node]!) before[to]!.push(node);
    }
    let queue: NodeId[] = this.#rules.map(({ end }) => end);
    for (const end of queue) least[end] = 0;
    let steps = 0;
    while (queue.length > 0) {
      const next: NodeId[] = [];
      for (const changed of queue) {
        const rule = ruleOfStart.get(changed);
        for (const node of rule === undefined ? before[changed]! : [...before[changed]!, ...callers[rule]!]) {
          if (++steps > MAX_SEARCH) throw overLimit('steps to understand', MAX_SEARCH);
          const now = this.#leastFrom(node, least);
          if (now >= least[node]!) continue;
          least[node] = now;
          next.push(node);
        }
      }
      queue = [...new Set(next)];
    }
    return least;
  }

  #leastFrom(node: NodeId, least: Float64Array): number {
    let best = least[node]!;
    const edges = this.#edges[node]!;
    for (let i = 2; i < edges.length; i += EDGE) best = Math.min(best, 1 + least[edges[i]!]!);
    const calls = this.#calls[node]!;
    for (let i = 0; i < calls.length; i += 2) {
      best = Math.min(best, least[this.#rules[calls[i]!]!.start]! + least[calls[i + 1]!]!);
    }
    for (const to of this.#empty[node]!) best = Math.min(best, least[to]!);
    return best;
  }

  #tails(isEnd: Uint8Array): Uint8Array {
    const isTail = Uint8Array.from(isEnd);
    // Chains of nothing are short; what is found late only costs a frame.
    for (let round = 0; round < 4; round++) {
      for (let node = 0; node < isTail.length; node++) {
        if (this.#edges[node]!.length + this.#calls[node]!.length > 0 || this.#empty[node]!.length === 0) continue;
        if (this.#empty[node]!.every((to) => isTail[to] === 1)) isTail[node] = 1;
      }
    }
    return isTail;
  }

  /** A rule that can begin with itself would be entered without end. */
  #refuseLeftRecursion(least: Float64Array): void {
    const done = new Set<RuleId>();
    for (let first = 0; first < this.#rules.length; first++) {
      if (done.has(first)) continue;
      const open = new Set<RuleId>([first]);
      const path = [{ rule: first, ahead: this.#beginnings(first, least) }];
      while (path.length > 0) {
        const { rule, ahead } = path.at(-1)!;
        const next = ahead.pop();
        if (next === undefined) {
          path.pop();
          open.delete(rule);
          done.add(rule);
        } else if (open.has(next)) {
          const { name } = this.#rules[next]!;
          throw new StructureError({
            what: `the rule "${name}" can begin with itself`,
            fix: `write the repetition behind it: ${name} ::= first rest*`,
          });
        } else if (!done.has(next)) {
          open.add(next);
          path.push({ rule: next, ahead: this.#beginnings(next, least) });
        }
      }
    }
  }

  /** Rules that a rule can call before its first byte. */
  #beginnings(rule: RuleId, least: Float64Array): RuleId[] {
    const seen = new Set<NodeId>();
    const found = new Set<RuleId>();
    const queue = [this.start(rule)];
    for (let node = queue.pop(); node !== undefined; node = queue.pop()) {
      if (seen.has(node)) continue;
      seen.add(node);
      queue.push(...this.#empty[node]!);
      const calls = this.#calls[node]!;
      for (let i = 0; i < calls.length; i += 2) {
        found.add(calls[i]!);
        if (least[this.start(calls[i]!)] === 0) queue.push(calls[i + 1]!);
      }
    }
    return [...found];
  }
}

type Known = {
  readonly set: number;
  readonly sequences: readonly Sequence[];
  /** Places within its characters. */
  readonly suffixes: number;
};

/** One range of bytes after the other. */
type Sequence = readonly (readonly [low: number, high: number])[];

/** The byte ranges of all UTF-8 sequences of a range of code points; surrogates have none. */
export function* utf8Sequences(low: number, high: number): Generator<[number, number][]> {
  if (low > high) return;
  for (const border of [0x7f, 0x7ff, 0xd7ff, 0xdfff, 0xffff]) {
    if (low <= border && high > border) {
      yield* utf8Sequences(low, border);
      yield* utf8Sequences(border + 1, high);
      return;
    }
  }
  if (low >= 0xd800 && high <= 0xdfff) return;
  for (let bits = 6; bits <= 18; bits += 6) {
    const mask = 2 ** bits - 1;
    if (low <= 0x7f || (low & ~mask) === (high & ~mask)) continue;
    if ((low & mask) !== 0) {
      yield* utf8Sequences(low, low | mask);
      yield* utf8Sequences((low | mask) + 1, high);
      return;
    }
    if ((high & mask) !== mask) {
      yield* utf8Sequences(low, (high & ~mask) - 1);
      yield* utf8Sequences(high & ~mask, high);
      return;
    }
  }
  const first = Buffer.from(String.fromCodePoint(low));
  const last = Buffer.from(String.fromCodePoint(high));
  yield Array.from(first, (byte, i): [number, number] => [byte, last[i]!]);
}
