// The expressions of tokenizer files, run step by step under a budget. They are written for Oniguruma in Ruby's dialect,
// may be anybody's, and may take time without end in an engine that backtracks; JavaScript's cannot be stopped. So those
// that are not known to be harmless are matched here: parsed to a tree, compiled to a small program, and every step of
// its run is counted.
//
//     SCAN set min max   a run of characters of a set, given back one by one unless it is possessive
//     SPLIT a b          go on at a; if that fails, at b
//     LOOK, ATOMIC       a program of its own, from the next instruction to its MATCH
//
// Where Ruby's dialect differs from Perl's and JavaScript's: $ and ^ are ends of lines, x{1,3}+ is (x{1,3})+ and not
// possessive, x{2}? is (x{2})? and not lazy. What is not here (references, conditions, absent groups, folding beyond
// ASCII) is refused by name.

import { CharacterSet, setOf, WHITE_SPACE } from './character-set.ts';
import type { WorkBudget } from './work-budget.ts';

/** The expression cannot be used; `message` says why. */
export class ExpressionError extends Error {}

/** UTF-16 units. GPT-4o's, the longest in public use, has 280. */
const MAX_LENGTH = 4096;
const MAX_DEPTH = 32;
const MAX_INSTRUCTIONS = 8192;
/** Repetitions that are written out in the program. Oniguruma takes up to 100,000; nobody has been seen to use ten. */
const MAX_COPIES = 1000;

type Mode = 'greedy' | 'lazy' | 'possessive';
type Assertion = 'lineStart' | 'lineEnd' | 'start' | 'end' | 'lastLine' | 'border' | 'inside';

export type Node =
  | { readonly kind: 'set'; readonly set: CharacterSet }
  | { readonly kind: 'all' | 'any'; readonly items: readonly Node[] }
  | { readonly kind: 'repeat'; readonly item: Node; readonly min: number; readonly max: number; readonly mode: Mode }
  | { readonly kind: 'look'; readonly behind: boolean; readonly negative: boolean; readonly item: Node }
  | { readonly kind: 'atomic'; readonly item: Node }
  | { readonly kind: 'assert'; readonly what: Assertion };

// ---- parsing

type Flags = { readonly ignoreCase: boolean; readonly dotAll: boolean };

const single = (codePoint: number): CharacterSet => new CharacterSet((other) => other === codePoint);
const not = (set: CharacterSet): CharacterSet => new CharacterSet((codePoint) => !set.has(codePoint));

const DIGIT = setOf('\\p{Nd}');
const ONIGURUMA_WORD = setOf('[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]');
/** Outside of a class, Oniguruma asks a table of Latin-1 first, in which superscript digits and fractions are words. */
const WORD_ALONE = setOf('[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\xb2\\xb3\\xb9\\xbc-\\xbe]');
const NOT_WORD_ALONE = not(WORD_ALONE);
const HEX = setOf('[0-9A-Fa-f]');
const SHORTHANDS: Readonly<Record<string, CharacterSet>> = {
  s: WHITE_SPACE,
  S: not(WHITE_SPACE),
  d: DIGIT,
  D: not(DIGIT),
  w: ONIGURUMA_WORD,
  W: not(ONIGURUMA_WORD),
  h: HEX,
  H: not(HEX),
};
const CONTROLS: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, v: 11, f: 12, a: 7, e: 27 };
const ASSERTIONS: Readonly<Record<string, Assertion>> = {
  A: 'start',
  z: 'end',
  Z: 'lastLine',
  b: 'border',
  B: 'inside',
};
/** Bracket names whose meaning does not change between versions. */
const POSIX: Readonly<Record<string, CharacterSet>> = {
  alpha: setOf('\\p{Alphabetic}'),
  digit: DIGIT,
  alnum: setOf('[\\p{Alphabetic}\\p{Nd}]'),
  upper: setOf('\\p{Uppercase}'),
  lower: setOf('\\p{Lowercase}'),
  space: WHITE_SPACE,
  xdigit: HEX,
  word: ONIGURUMA_WORD,
};
/** Two letters that Oniguruma also finds in one (ß, ﬀ, ﬁ, ﬂ, ﬆ) where case is ignored. */
const FOLDED_PAIRS = ['ss', 'ff', 'fi', 'fl', 'st'];

class Parser {
  readonly #source: string;
  #at = 0;
  #depth = 0;

  constructor(source: string) {
    this.#source = source;
  }

  run(): Node {
    const node = this.#alternatives({ ignoreCase: false, dotAll: false });
    if (this.#at < this.#source.length) throw new ExpressionError('a ")" too many');
    return node;
  }

  #alternatives(flags: Flags): Node {
    if (++this.#depth > MAX_DEPTH) throw new ExpressionError(`more than ${MAX_DEPTH} groups in each other`);
    const items: Node[] = [];
    do items.push(this.#sequence(flags));
    while (this.#take('|'));
    this.#depth--;
    return items.length === 1 ? items[0]! : { kind: 'any', items };
  }

  #sequence(flags: Flags): Node {
    const items: Node[] = [];
    let before = '';
    while (this.#at < this.#source.length && !'|)'.includes(this.#source[this.#at]!)) {
      const start = this.#at;
      // (?i) holds until the group ends, and the alternatives that follow are part of what it holds for.
      const rest = /^\(\?([imx-]*)\)/.exec(this.#source.slice(start, start + 16));
      if (rest !== null) {
        this.#at += rest[0].length;
        items.push(this.#alternatives(withFlags(flags, rest[1]!)));
        break;
      }
      if (this.#source.startsWith('(?#', start)) {
        this.#at = this.#source.indexOf(')', start) + 1;
        if (this.#at === 0) throw new ExpressionError('a comment without end');
        continue;
      }
      let node = this.#atom(flags);
      const text = this.#source.slice(start, this.#at);
      if (flags.ignoreCase && FOLDED_PAIRS.includes((before + text).toLowerCase())) {
        throw new ExpressionError(`"${before}${text}" regardless of case`);
      }
      before = text;
      for (;;) {
        const repeated = this.#quantified(node);
        if (repeated === undefined) break;
        node = repeated;
        before = '';
      }
      items.push(node);
    }
    return items.length === 1 ? items[0]! : { kind: 'all', items };
  }

  #quantified(item: Node): Node | undefined {
    const found = /^(?:([*+?])([?+]?)|\{(\d*)(,?)(\d*)\}(\??))/.exec(this.#source.slice(this.#at, this.#at + 40));
    if (found === null) return undefined;
    const [text, sign, suffix, low, comma, high, lazy] = found;
    if (sign !== undefined) {
      this.#at += text.length;
      const mode: Mode = suffix === '?' ? 'lazy' : suffix === '+' ? 'possessive' : 'greedy';
      return repeat(item, sign === '+' ? 1 : 0, sign === '?' ? 1 : Number.POSITIVE_INFINITY, mode);
    }
    // Braces that hold no numbers are themselves.
    if (low === '' && high === '') return undefined;
    this.#at += text.length;
    const min = Number(low);
    if (comma === '') {
      const exact = repeat(item, min, min, 'greedy');
      return lazy === '?' ? repeat(exact, 0, 1, 'greedy') : exact;
    }
    const max = high === '' ? Number.POSITIVE_INFINITY : Number(high);
    if (max < min) throw new ExpressionError(`a repetition from ${min} to ${max}`);
    return repeat(item, min, max, lazy === '?' ? 'lazy' : 'greedy');
  }

  #atom(flags: Flags): Node {
    const character = String.fromCodePoint(this.#source.codePointAt(this.#at)!);
    if (character === '(') return this.#group(flags);
    if (character === '[') {
      this.#at++;
      return { kind: 'set', set: this.#class(flags) };
    }
    if (character === '\\') return this.#escape(flags);
    this.#at += character.length;
    if (character === '.') return { kind: 'set', set: flags.dotAll ? new CharacterSet(() => true) : not(single(10)) };
    if (character === '^') return { kind: 'assert', what: 'lineStart' };
    if (character === '$') return { kind: 'assert', what: 'lineEnd' };
    if ('*+?'.includes(character)) throw new ExpressionError(`a "${character}" with nothing before it`);
    return { kind: 'set', set: this.#folded(single(character.codePointAt(0)!), character, flags) };
  }

  #group(flags: Flags): Node {
    const open = /^\((?:\?(?::|=|!|<=|<!|>|<[A-Za-z_]\w*>|[imx-]+:))?/.exec(
      this.#source.slice(this.#at, this.#at + 80),
    )![0];
    const kind = open.slice(2);
    if (open === '(' && this.#source[this.#at + 1] === '?') {
      throw new ExpressionError(`the group ${JSON.stringify(this.#source.slice(this.#at, this.#at + 4))}`);
    }
    this.#at += open.length;
    const item = this.#alternatives(/^[imx-]+:$/.test(kind) ? withFlags(flags, kind.slice(0, -1)) : flags);
    if (!this.#take(')')) throw new ExpressionError('a group without end');
    if (kind === '=' || kind === '!') return { kind: 'look', behind: false, negative: kind === '!', item };
    if (kind === '<=' || kind === '<!') return { kind: 'look', behind: true, negative: kind === '<!', item };
    return kind === '>' ? { kind: 'atomic', item } : item;
  }

  #escape(flags: Flags): Node {
    const letter = this.#source[this.#at + 1] ?? '';
    const what = Object.hasOwn(ASSERTIONS, letter) ? ASSERTIONS[letter] : undefined;
    if (what === undefined && (letter === 'w' || letter === 'W')) {
      this.#at += 2;
      return { kind: 'set', set: letter === 'w' ? WORD_ALONE : NOT_WORD_ALONE };
    }
    if (what === undefined) return { kind: 'set', set: this.#escapedSet(flags) };
    this.#at += 2;
    return { kind: 'assert', what };
  }

  /** A set, or one character, written with a backslash. */
  #escapedSet(flags: Flags): CharacterSet {
    const rest = this.#source.slice(this.#at, this.#at + 64);
    const letter = rest[1] ?? '';
    if (letter === 'p' || letter === 'P') {
      const found = /^\\[pP]\{(\^?)([A-Za-z_]+)\}/.exec(rest);
      if (found === null) throw new ExpressionError(`the property ${JSON.stringify(rest.slice(0, 12))}`);
      if (flags.ignoreCase) throw new ExpressionError('a property regardless of case');
      this.#at += found[0].length;
      const set = propertyOf(found[2]!);
      return (letter === 'P') !== (found[1] === '^') ? not(set) : set;
    }
    if (Object.hasOwn(SHORTHANDS, letter)) {
      this.#at += 2;
      return SHORTHANDS[letter]!;
    }
    const { codePoint, length } = escapedCharacter(rest);
    this.#at += length;
    return this.#folded(single(codePoint), String.fromCodePoint(codePoint), flags);
  }

  #class(flags: Flags): CharacterSet {
    if (++this.#depth > MAX_DEPTH) throw new ExpressionError(`more than ${MAX_DEPTH} classes in each other`);
    const negative = this.#take('^');
    if (this.#source[this.#at] === ']') throw new ExpressionError('an empty class');
    const all: CharacterSet[] = [];
    let parts: CharacterSet[] = [];
    const union = (): CharacterSet => {
      const sets = parts;
      return new CharacterSet((codePoint) => sets.some((set) => set.has(codePoint)));
    };
    for (;;) {
      const rest = this.#source.slice(this.#at, this.#at + 16);
      if (rest === '') throw new ExpressionError('a class without end');
      if (this.#take(']')) break;
      if (rest.startsWith('&&')) {
        this.#at += 2;
        all.push(union());
        parts = [];
      } else if (rest.startsWith('[:')) parts.push(this.#bracket(flags));
      else if (this.#take('[')) parts.push(this.#class(flags));
      else parts.push(this.#range(flags));
    }
    all.push(union());
    this.#depth--;
    const inAll = new CharacterSet((codePoint) => all.every((set) => set.has(codePoint)));
    return negative ? not(inAll) : inAll;
  }

  #bracket(flags: Flags): CharacterSet {
    const found = /^\[:(\^?)([a-z]+):\]/.exec(this.#source.slice(this.#at, this.#at + 16));
    const set = found !== null && Object.hasOwn(POSIX, found[2]!) ? POSIX[found[2]!] : undefined;
    if (set === undefined) throw new ExpressionError(JSON.stringify(this.#source.slice(this.#at, this.#at + 12)));
    if (flags.ignoreCase) throw new ExpressionError('a property regardless of case');
    this.#at += found![0].length;
    return found![1] === '^' ? not(set) : set;
  }

  #range(flags: Flags): CharacterSet {
    const rest = this.#source.slice(this.#at, this.#at + 64);
    const isSet = rest[0] === '\\' && (Object.hasOwn(SHORTHANDS, rest[1] ?? '') || /[pP]/.test(rest[1] ?? ''));
    if (isSet) return this.#escapedSet(flags);
    const from = this.#classCharacter();
    const after = this.#source.slice(this.#at, this.#at + 3);
    const isRange =
      after[0] === '-' && after[1] !== undefined && !']['.includes(after[1]) && !/^-\\[pPsSdDwWhH]/.test(after);
    if (!isRange) return this.#folded(single(from), String.fromCodePoint(from), flags);
    this.#at++;
    const to = this.#classCharacter();
    if (to < from) throw new ExpressionError('a range that runs backwards');
    const text = to > 0x7f ? '\u{80}' : 'a';
    return this.#folded(new CharacterSet((codePoint) => codePoint >= from && codePoint <= to), text, flags);
  }

  #classCharacter(): number {
    const rest = this.#source.slice(this.#at, this.#at + 16);
    if (rest[0] === '\\') {
      const { codePoint, length } = rest[1] === 'b' ? { codePoint: 8, length: 2 } : escapedCharacter(rest);
      this.#at += length;
      return codePoint;
    }
    const codePoint = rest.codePointAt(0)!;
    this.#at += codePoint > 0xffff ? 2 : 1;
    return codePoint;
  }

  #folded(set: CharacterSet, text: string, { ignoreCase }: Flags): CharacterSet {
    if (!ignoreCase) return set;
    if (text > '\x7f') throw new ExpressionError('characters beyond ASCII regardless of case');
    return new CharacterSet((codePoint) => caseVariants(codePoint).some((variant) => set.has(variant)));
  }

  #take(text: string): boolean {
    if (!this.#source.startsWith(text, this.#at)) return false;
    this.#at += text.length;
    return true;
  }
}

/** A character and the ASCII letters that are it in another case: U+017F is a long s, U+212A the sign of the kelvin. */
function caseVariants(codePoint: number): number[] {
  if (codePoint === 0x17f) return [codePoint, 0x73, 0x53];
  if (codePoint === 0x212a) return [codePoint, 0x6b, 0x4b];
  const letter = codePoint < 0x80 && /[A-Za-z]/.test(String.fromCharCode(codePoint));
  return letter ? [codePoint, codePoint ^ 0x20] : [codePoint];
}

function withFlags(flags: Flags, text: string): Flags {
  let { ignoreCase, dotAll } = flags;
  let on = true;
  for (const letter of text) {
    if (letter === '-') on = false;
    else if (letter === 'i') ignoreCase = on;
    else if (letter === 'm') dotAll = on;
    else if (on) throw new ExpressionError('the flag x');
  }
  return { ignoreCase, dotAll };
}

/** Names that Oniguruma gives another meaning than JavaScript, or a meaning of its own. */
const OTHER_PROPERTIES = /^(?:alnum|blank|cntrl|graph|print|punct|xdigit|word|digit|space|in_?.*)$/i;

function propertyOf(name: string): CharacterSet {
  if (name === 'Any') return new CharacterSet(() => true);
  if (!OTHER_PROPERTIES.test(name)) {
    for (const source of [`\\p{${name}}`, `\\p{Script=${name}}`]) {
      try {
        new RegExp(source, 'u');
        return setOf(source);
      } catch {
        // Not that kind of property.
      }
    }
  }
  throw new ExpressionError(`the property ${JSON.stringify(name)}`);
}

function escapedCharacter(rest: string): { readonly codePoint: number; readonly length: number } {
  const hex = /^\\(?:x\{([0-9A-Fa-f]{1,6})\}|x([0-7][0-9A-Fa-f])|u([0-9A-Fa-f]{4}))/.exec(rest);
  if (hex !== null) {
    const codePoint = Number.parseInt(hex[1] ?? hex[2] ?? hex[3]!, 16);
    if (codePoint <= 0x10ffff && (codePoint < 0xd800 || codePoint > 0xdfff))
      return { codePoint, length: hex[0].length };
  }
  const codePoint = rest.codePointAt(1);
  const letter = codePoint === undefined ? '' : String.fromCodePoint(codePoint);
  if (Object.hasOwn(CONTROLS, letter)) return { codePoint: CONTROLS[letter]!, length: 2 };
  if (codePoint === undefined || /[A-Za-z0-9]/.test(letter)) throw new ExpressionError(`the escape "\\${letter}"`);
  return { codePoint, length: 1 + letter.length };
}

function repeat(item: Node, min: number, max: number, mode: Mode): Node {
  if (max === Number.POSITIVE_INFINITY && canBeEmpty(item)) throw new ExpressionError('endless repetition of nothing');
  return { kind: 'repeat', item, min, max, mode };
}

function canBeEmpty(node: Node): boolean {
  switch (node.kind) {
    case 'set':
      return false;
    case 'all':
      return node.items.every(canBeEmpty);
    case 'any':
      return node.items.some(canBeEmpty);
    case 'repeat':
      return node.min === 0 || canBeEmpty(node.item);
    case 'atomic':
      return canBeEmpty(node.item);
    default:
      return true;
  }
}

/** How many characters every match has; undefined where that is not one number. */
function fixedLength(node: Node): number | undefined {
  switch (node.kind) {
    case 'set':
      return 1;
    case 'all': {
      const lengths = node.items.map(fixedLength);
      return lengths.reduce((sum, length) => (sum === undefined || length === undefined ? undefined : sum + length), 0);
    }
    case 'any': {
      const [first, ...others] = node.items.map(fixedLength);
      return others.every((length) => length === first) ? first : undefined;
    }
    case 'repeat': {
      const length = fixedLength(node.item);
      return length === undefined || node.min !== node.max ? undefined : length * node.min;
    }
    case 'atomic':
      return fixedLength(node.item);
    default:
      return 0;
  }
}

/**
 * Whether JavaScript's engine takes time in proportion to the text: every alternative is characters of a limited number,
 * and after them, at its very end, at most one run of any length. What it takes is then part of the match.
 */
export function isPlain(node: Node): boolean {
  const alternatives = node.kind === 'any' ? node.items : [node];
  return alternatives.every((alternative) => {
    const items = alternative.kind === 'all' ? alternative.items : [alternative];
    return items.every((item, i) => {
      if (item.kind === 'set') return true;
      if (item.kind !== 'repeat' || item.item.kind !== 'set' || item.mode !== 'greedy') return false;
      return item.max <= 16 || i === items.length - 1;
    });
  });
}

/** Throws ExpressionError for what is not supported. */
export function parseExpression(source: string): Node {
  if (source.length > MAX_LENGTH) {
    throw new ExpressionError(`${source.length} characters, more than ${MAX_LENGTH}`);
  }
  return new Parser(source).run();
}

// ---- compiling and running

const CHARACTER = 0;
const SCAN = 1;
const SPLIT = 2;
const JUMP = 3;
const MATCH = 4;
const LOOK = 5;
const ATOMIC = 6;
const ASSERT = 7;

type Instruction = {
  readonly op: number;
  readonly set?: CharacterSet;
  /** SCAN: fewest and most; SPLIT and JUMP: where to; LOOK and ATOMIC: `a` is where to go on. */
  a: number;
  b: number;
  /** SCAN: gives nothing back; LOOK: negative. */
  readonly flag?: boolean;
  /** LOOK: how many characters back each alternative begins; undefined looks ahead. */
  readonly back?: number;
  readonly what?: Assertion;
};

const STAGE = 'the split expression';

export class Expression {
  readonly #program: Instruction[] = [];
  #compiled = 0;

  /** Throws ExpressionError when the tree makes too large a program. */
  constructor(tree: Node) {
    this.#compile(tree);
    this.#add({ op: MATCH, a: 0, b: 0 });
  }

  /** The matches in order, as start and end. An empty one right after another match does not count. */
  *matches(text: string, budget: WorkBudget): Generator<readonly [start: number, end: number]> {
    let lastEnd = -1;
    for (let start = 0; start <= text.length; ) {
      const end = this.#run(0, text, start, budget);
      if (end < 0 || (end === start && end === lastEnd)) {
        start = next(text, start);
        continue;
      }
      yield [start, end];
      lastEnd = end;
      start = end;
    }
  }

  #add(instruction: Instruction): Instruction {
    if (this.#program.length === MAX_INSTRUCTIONS) throw new ExpressionError('repetitions that add up to too much');
    this.#program.push(instruction);
    return instruction;
  }

  #compile(node: Node): void {
    // Repeated nothing adds no instruction.
    if (++this.#compiled > 4 * MAX_INSTRUCTIONS) throw new ExpressionError('repetitions that add up to too much');
    const here = (): number => this.#program.length;
    switch (node.kind) {
      case 'set':
        this.#add({ op: CHARACTER, set: node.set, a: 0, b: 0 });
        break;
      case 'all':
        for (const item of node.items) this.#compile(item);
        break;
      case 'any': {
        const jumps: Instruction[] = [];
        for (const [i, item] of node.items.entries()) {
          if (i === node.items.length - 1) this.#compile(item);
          else {
            const split = this.#add({ op: SPLIT, a: here() + 1, b: 0 });
            this.#compile(item);
            jumps.push(this.#add({ op: JUMP, a: 0, b: 0 }));
            split.b = here();
          }
        }
        for (const jump of jumps) jump.a = here();
        break;
      }
      case 'repeat':
        this.#compileRepeat(node);
        break;
      case 'atomic': {
        const atomic = this.#add({ op: ATOMIC, a: 0, b: 0 });
        this.#compile(node.item);
        this.#add({ op: MATCH, a: 0, b: 0 });
        atomic.a = here();
        break;
      }
      case 'look':
        this.#compileLook(node);
        break;
      case 'assert':
        this.#add({ op: ASSERT, what: node.what, a: 0, b: 0 });
    }
  }

  #compileRepeat({ item, min, max, mode }: Node & { kind: 'repeat' }): void {
    const here = (): number => this.#program.length;
    if (item.kind === 'set' && mode !== 'lazy') {
      this.#add({ op: SCAN, set: item.set, a: min, b: max, flag: mode === 'possessive' });
      return;
    }
    if (mode === 'possessive') {
      this.#compile({ kind: 'atomic', item: { kind: 'repeat', item, min, max, mode: 'greedy' } });
      return;
    }
    if (min > MAX_COPIES || (max !== Number.POSITIVE_INFINITY && max > MAX_COPIES)) {
      throw new ExpressionError(`more than ${MAX_COPIES} repetitions`);
    }
    for (let i = 0; i < min; i++) this.#compile(item);
    /** Into the item, or past it; which is tried first is what lazy means. */
    const fork = (): ((past: number) => void) => {
      const split = this.#add({ op: SPLIT, a: here() + 1, b: here() + 1 });
      return (past) => {
        if (mode === 'lazy') split.a = past;
        else split.b = past;
      };
    };
    if (max === Number.POSITIVE_INFINITY) {
      const loop = here();
      const leave = fork();
      this.#compile(item);
      this.#add({ op: JUMP, a: loop, b: 0 });
      leave(here());
      return;
    }
    const forks: ((past: number) => void)[] = [];
    for (let i = min; i < max; i++) {
      forks.push(fork());
      this.#compile(item);
    }
    for (const leave of forks) leave(here());
  }

  #compileLook({ behind, negative, item }: Node & { kind: 'look' }): void {
    const alternatives = behind && item.kind === 'any' ? item.items : [item];
    if (alternatives.length > 1) {
      // Of several lengths: one look for each; none of them may hold, or one must.
      const looks = alternatives.map((alternative): Node => ({ kind: 'look', behind, negative, item: alternative }));
      this.#compile({ kind: negative ? 'all' : 'any', items: looks });
      return;
    }
    const back = behind ? fixedLength(item) : undefined;
    if (behind && back === undefined) throw new ExpressionError('a look behind of no fixed length');
    const look = this.#add({ op: LOOK, a: 0, b: 0, flag: negative, ...(back === undefined ? {} : { back }) });
    this.#compile(item);
    this.#add({ op: MATCH, a: 0, b: 0 });
    look.a = this.#program.length;
  }

  /** Where a match of the program at `pc` ends that begins at `start`; -1 if there is none. */
  #run(pc: number, text: string, start: number, budget: WorkBudget): number {
    const program = this.#program;
    /** Three numbers each: where to go on, from which place, and for a run that may give back, its least end. */
    const untried: number[] = [];
    let at = pc;
    let place = start;
    for (;;) {
      if (--budget.left < 0) throw budget.exhausted(STAGE);
      const instruction = program[at]!;
      let ok = false;
      switch (instruction.op) {
        case CHARACTER:
          if (place < text.length) {
            const codePoint = text.codePointAt(place)!;
            ok = instruction.set!.has(codePoint);
            place += codePoint > 0xffff ? 2 : 1;
            at++;
          }
          break;
        case SCAN: {
          const { set, a: min, b: max, flag: possessive } = instruction;
          let least = place;
          let count = 0;
          for (; count < max && place < text.length; count++) {
            const codePoint = text.codePointAt(place)!;
            if (!set!.has(codePoint)) break;
            place += codePoint > 0xffff ? 2 : 1;
            if (count + 1 === min) least = place;
          }
          budget.left -= count;
          at++;
          ok = count >= min;
          if (ok && possessive !== true && place > least) untried.push(at, place, least);
          break;
        }
        case SPLIT:
          untried.push(instruction.b, place, -1);
          at = instruction.a;
          ok = true;
          break;
        case JUMP:
          at = instruction.a;
          ok = true;
          break;
        case MATCH:
          return place;
        case ATOMIC: {
          const end = this.#run(at + 1, text, place, budget);
          ok = end >= 0;
          place = end;
          at = instruction.a;
          break;
        }
        case LOOK: {
          const from = instruction.back === undefined ? place : before(text, place, instruction.back);
          const found = from >= 0 && this.#run(at + 1, text, from, budget) >= 0;
          ok = found !== instruction.flag;
          at = instruction.a;
          break;
        }
        default:
          ok = holds(instruction.what!, text, place);
          at++;
      }
      if (ok) continue;
      if (untried.length === 0) return -1;
      const least = untried.pop()!;
      place = untried.pop()!;
      at = untried.pop()!;
      if (least >= 0) {
        place = before(text, place, 1);
        if (place > least) untried.push(at, place, least);
      }
    }
  }
}

function next(text: string, place: number): number {
  return place + ((text.codePointAt(place) ?? 0) > 0xffff ? 2 : 1);
}

/** So many characters before a place; -1 when there are fewer. */
function before(text: string, place: number, count: number): number {
  let at = place;
  for (let i = 0; i < count; i++) {
    if (at === 0) return -1;
    at -= at > 1 && /[\udc00-\udfff]/.test(text[at - 1]!) ? 2 : 1;
  }
  return at;
}

function holds(what: Assertion, text: string, place: number): boolean {
  switch (what) {
    case 'start':
      return place === 0;
    case 'end':
      return place === text.length;
    case 'lineStart':
      return place === 0 || (text[place - 1] === '\n' && place < text.length);
    case 'lineEnd':
      return place === text.length || text[place] === '\n';
    case 'lastLine':
      return place === text.length || (text[place] === '\n' && place === text.length - 1);
    default: {
      const left = place > 0 && WORD_ALONE.has(text.codePointAt(before(text, place, 1))!);
      const right = place < text.length && WORD_ALONE.has(text.codePointAt(place)!);
      return (left !== right) === (what === 'border');
    }
  }
}
