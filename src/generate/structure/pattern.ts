// Regular expressions of a schema's `pattern` as sets of texts. They are those of ECMAScript with the flag u, as validators
// read them; what no automaton can do (looking around, backreferences, word borders) is refused.

import { ALL, allBut, type CodePoints, matching, setOf } from './code-points.ts';
import { overLimit, StructureError } from './structure-error.ts';
import { deterministic, MAX_STATES, type TextSet } from './text-set.ts';

const MAX_PATTERN = 10_000;
const MAX_DEPTH = 40;
/** A pattern asks for more repetitions than any text has room for. */
const MAX_REPEAT = 10_000;

type Node =
  | { readonly kind: 'set'; readonly points: CodePoints }
  | { readonly kind: 'sequence'; readonly parts: readonly Node[] }
  | { readonly kind: 'either'; readonly parts: readonly Node[] }
  | { readonly kind: 'repeat'; readonly part: Node; readonly least: number; readonly most: number };

const known = new Map<string, TextSet>();
/** States of all that are kept: some tens of megabytes. */
const MAX_KNOWN = 2 * MAX_STATES;
let knownStates = 0;

/** Texts in which the expression finds something. Throws StructureError. `where`: for messages. */
export function textsMatching(pattern: string, where: string): TextSet {
  let texts = known.get(pattern);
  if (texts === undefined) {
    texts = deterministic(read(pattern, where));
    known.set(pattern, texts);
    knownStates += texts.length;
    for (const [oldest, { length }] of known) {
      if (knownStates <= MAX_KNOWN || oldest === pattern) break;
      known.delete(oldest);
      knownStates -= length;
    }
  }
  return texts;
}

function read(pattern: string, where: string): TextSet {
  if (pattern.length > MAX_PATTERN) throw overLimit('characters of a pattern', MAX_PATTERN);
  try {
    new RegExp(pattern, 'u');
  } catch (cause) {
    const what = `the pattern ${JSON.stringify(pattern)} is no regular expression of ECMAScript with the flag u`;
    throw new StructureError({ what, where, fix: 'escape what is meant as text with \\' }, { cause });
  }
  return toTextSet(new Parser(pattern, where).whole());
}

const ANYTHING: Node = { kind: 'repeat', part: { kind: 'set', points: ALL }, least: 0, most: Number.POSITIVE_INFINITY };

const LINE_ENDS = setOf([
  [0x0a, 0x0a],
  [0x0d, 0x0d],
  [0x2028, 0x2029],
]);
const DIGITS = setOf([[0x30, 0x39]]);
const WORD = setOf([
  [0x30, 0x39],
  [0x41, 0x5a],
  [0x5f, 0x5f],
  [0x61, 0x7a],
]);
const CONTROLS: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, v: 11, f: 12, 0: 0 };

class Parser {
  readonly #text: string;
  readonly #where: string;
  #at = 0;

  constructor(text: string, where: string) {
    this.#text = text;
    this.#where = where;
  }

  /** Each alternative with what may stand around it. */
  whole(): Node {
    const parts: Node[] = [];
    do {
      const fromStart = this.#take('^');
      const body = this.#sequence(0);
      const toEnd = this.#take('$');
      if (this.#at < this.#text.length && this.#text[this.#at] !== '|') throw this.#refuse(this.#here());
      const around = [...(fromStart ? [] : [ANYTHING]), body, ...(toEnd ? [] : [ANYTHING])];
      parts.push({ kind: 'sequence', parts: around });
    } while (this.#take('|'));
    return { kind: 'either', parts };
  }

  #either(depth: number): Node {
    if (depth > MAX_DEPTH) throw overLimit('groups within groups of a pattern', MAX_DEPTH);
    const parts = [this.#sequence(depth)];
    while (this.#take('|')) parts.push(this.#sequence(depth));
    return { kind: 'either', parts };
  }

  #sequence(depth: number): Node {
    const parts: Node[] = [];
    for (;;) {
      const next = this.#text[this.#at];
      if (next === undefined || next === '|' || next === ')') break;
      // Behind the whole of an alternative; anywhere else it is refused by whoever goes on there.
      if (next === '$') break;
      parts.push(this.#repeated(this.#atom(depth)));
    }
    return { kind: 'sequence', parts };
  }

  #repeated(part: Node): Node {
    const [whole, bounds] = /^(?:[*+?]|\{(\d+(?:,\d*)?)\})\??/.exec(this.#text.slice(this.#at, this.#at + 40)) ?? [];
    if (whole === undefined) return part;
    this.#at += whole.length;
    const [low, high] = bounds?.split(',') ?? [];
    const least = low === undefined ? (whole[0] === '+' ? 1 : 0) : Number(low);
    const endless = high === '' || whole[0] === '*' || whole[0] === '+';
    const most = endless ? Number.POSITIVE_INFINITY : low === undefined ? 1 : Number(high ?? low);
    if (least > MAX_REPEAT) throw overLimit('repetitions in a pattern', MAX_REPEAT);
    return {
      kind: 'repeat',
      part,
      least,
      most: most > MAX_REPEAT ? Math.max(MAX_REPEAT, least) : most,
      ...(endless && { most }),
    };
  }

  #atom(depth: number): Node {
    const from = this.#at;
    const character = this.#character();
    if (character === '(') {
      const [head] = /^\?(?::|<[^=!>][^>]*>)/.exec(this.#text.slice(this.#at, this.#at + 200)) ?? [];
      if (head === undefined && this.#text[this.#at] === '?') throw this.#refuse(this.#text.slice(from, from + 4));
      this.#at += head?.length ?? 0;
      const inner = this.#either(depth + 1);
      if (!this.#take(')')) throw this.#refuse(this.#here());
      return inner;
    }
    if (character === '^') throw this.#refuse('^');
    if (character === '.') return { kind: 'set', points: allBut(LINE_ENDS) };
    if (character === '[') return { kind: 'set', points: this.#class() };
    if (character === '\\') return { kind: 'set', points: this.#escape() };
    const point = character.codePointAt(0)!;
    return { kind: 'set', points: [[point, point]] };
  }

  #class(): CodePoints {
    const isInverted = this.#take('^');
    const ranges: (readonly [number, number])[] = [];
    while (!this.#take(']')) {
      const first = this.#classPart();
      const single = first.length === 1 && first[0]![0] === first[0]![1];
      if (single && this.#text[this.#at] === '-' && this.#text[this.#at + 1] !== ']') {
        this.#at += 1;
        ranges.push([first[0]![0], this.#classPart()[0]![0]]);
      } else ranges.push(...first);
    }
    const set = setOf(ranges);
    return isInverted ? allBut(set) : set;
  }

  #classPart(): CodePoints {
    const character = this.#character();
    if (character !== '\\') return [[character.codePointAt(0)!, character.codePointAt(0)!]];
    return this.#take('b') ? [[8, 8]] : this.#escape();
  }

  /** What stands behind a backslash. */
  #escape(): CodePoints {
    const character = this.#character();
    const one = (point: number): CodePoints => [[point, point]];
    if (character === 'd') return DIGITS;
    if (character === 'D') return allBut(DIGITS);
    if (character === 'w') return WORD;
    if (character === 'W') return allBut(WORD);
    if (character === 's') return matching('\\s');
    if (character === 'S') return allBut(matching('\\s'));
    if (character === 'p' || character === 'P') {
      const end = this.#text.indexOf('}', this.#at) + 1;
      const name = this.#text.slice(this.#at, end);
      this.#at = end;
      return matching(`\\${character}${name}`);
    }
    if (character === 'x') return one(this.#hexadecimal(2));
    if (character === 'u') return one(this.#unicode());
    if (character === 'c') return one(this.#character().charCodeAt(0) % 32);
    const control = CONTROLS[character];
    if (control !== undefined) return one(control);
    if (/[\dkbB]/.test(character)) throw this.#refuse(`\\${character}`);
    return one(character.codePointAt(0)!);
  }

  #unicode(): number {
    if (this.#take('{')) {
      const end = this.#text.indexOf('}', this.#at);
      const point = Number.parseInt(this.#text.slice(this.#at, end), 16);
      this.#at = end + 1;
      return point;
    }
    const first = this.#hexadecimal(4);
    const second = /^\\u(d[c-f][0-9a-f]{2})/i.exec(this.#text.slice(this.#at, this.#at + 6))?.[1];
    if (first < 0xd800 || first > 0xdbff || second === undefined) return first;
    this.#at += 6;
    return 0x10000 + (first - 0xd800) * 0x400 + (Number.parseInt(second, 16) - 0xdc00);
  }

  #hexadecimal(digits: number): number {
    const point = Number.parseInt(this.#text.slice(this.#at, this.#at + digits), 16);
    this.#at += digits;
    return point;
  }

  /** The next character, which there is: the expression has been compiled. */
  #character(): string {
    const character = String.fromCodePoint(this.#text.codePointAt(this.#at)!);
    this.#at += character.length;
    return character;
  }

  #take(character: string): boolean {
    if (this.#text[this.#at] !== character) return false;
    this.#at += 1;
    return true;
  }

  #here(): string {
    return this.#text.slice(this.#at, this.#at + 4);
  }

  #refuse(part: string): StructureError {
    return new StructureError({
      what: `the pattern ${JSON.stringify(this.#text)} has ${JSON.stringify(part)}, which cannot be enforced`,
      where: this.#where,
      fix: 'write it without looking around, backreferences and \\b, with ^ and $ only at the ends of alternatives',
    });
  }
}

/** Thompson's construction, and then without the edges that take nothing. */
function toTextSet(root: Node): TextSet {
  const edges: [CodePoints, number][][] = [];
  const empty: number[][] = [];
  const state = (): number => {
    if (edges.length === MAX_STATES) throw overLimit('states of a pattern', MAX_STATES);
    empty.push([]);
    return edges.push([]) - 1;
  };
  const write = (node: Node, from: number, to: number): void => {
    if (node.kind === 'set') {
      edges[from]!.push([node.points, to]);
    } else if (node.kind === 'either') {
      for (const part of node.parts) {
        const start = state();
        empty[from]!.push(start);
        write(part, start, to);
      }
    } else if (node.kind === 'sequence') {
      let at = from;
      for (const part of node.parts) {
        const next = state();
        write(part, at, next);
        at = next;
      }
      empty[at]!.push(to);
    } else {
      let at = from;
      for (let i = 0; i < node.least; i++) {
        const next = state();
        write(node.part, at, next);
        at = next;
      }
      if (node.most === Number.POSITIVE_INFINITY) {
        const loop = state();
        empty[at]!.push(loop);
        write(node.part, loop, loop);
        empty[loop]!.push(to);
        return;
      }
      for (let i = node.least; i < node.most; i++) {
        empty[at]!.push(to);
        const next = state();
        write(node.part, at, next);
        at = next;
      }
      empty[at]!.push(to);
    }
  };
  const start = state();
  const end = state();
  write(root, start, end);

  let steps = 0;
  const closure = (from: number): Set<number> => {
    const seen = new Set([from]);
    for (const at of seen) {
      for (const to of empty[at]!) {
        seen.add(to);
        if (++steps > 20 * MAX_STATES) throw overLimit('steps of a pattern', 20 * MAX_STATES);
      }
    }
    return seen;
  };
  const states: { edges: [CodePoints, number][]; accepts: boolean }[] = [];
  const ids = new Map<number, number>();
  const order: number[] = [];
  const id = (of: number): number => {
    let found = ids.get(of);
    if (found === undefined) {
      found = order.push(of) - 1;
      ids.set(of, found);
    }
    return found;
  };
  id(start);
  for (let i = 0; i < order.length; i++) {
    const reached = closure(order[i]!);
    const own: [CodePoints, number][] = [];
    for (const at of reached) for (const [points, to] of edges[at]!) if (points.length > 0) own.push([points, id(to)]);
    states.push({ edges: own, accepts: reached.has(end) });
  }
  return states;
}
