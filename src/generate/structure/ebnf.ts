// Grammars as people write them for llama.cpp and xgrammar: `name ::= "text" other [a-z]+ ( a | b )? c{2,4}`, one rule after
// the other, `#` before a comment, `root` is the whole. Characters are code points.

import { type Automaton, AutomatonBuilder, type NodeId, type RuleId } from './automaton.ts';
import { ALL, allBut, type CodePoints, setOf } from './code-points.ts';
import { overLimit, StructureError } from './structure-error.ts';

const MAX_GRAMMAR = 1 << 18;
const MAX_RULES = 5000;
const MAX_DEPTH = 64;
const MAX_REPEAT = 10_000;

/** Throws StructureError, which says in which line, and StructureLimitError. */
export function automatonOfGrammar(grammar: string): Automaton {
  return new GrammarReader(grammar).automaton();
}

const NAME = /[A-Za-z_][\w.-]*/y;
/** Each comment ends its line: there is one way to read it. */
const SPACE = /\s*(?:#[^\n]*(?:\n\s*|$))*/y;
const DEFINES = /::=/y;
const REPEAT = /\{\s*(\d+)\s*(?:(,)\s*(\d+)?\s*)?\}/y;

class GrammarReader {
  readonly #text: string;
  readonly #builder = new AutomatonBuilder();
  readonly #rules = new Map<string, { readonly id: RuleId; readonly usedAt: number; isDefined: boolean }>();
  #at = 0;

  constructor(text: string) {
    if (text.length > MAX_GRAMMAR) throw overLimit('characters of a grammar', MAX_GRAMMAR);
    this.#text = text;
  }

  automaton(): Automaton {
    this.#match(SPACE);
    while (this.#at < this.#text.length) this.#rule();
    for (const [name, { isDefined, usedAt }] of this.#rules) {
      if (!isDefined) throw this.#error(`the rule "${name}" is not defined`, `write ${name} ::= ...`, usedAt);
    }
    const root = this.#rules.get('root');
    if (root === undefined) throw this.#error('there is no rule "root"', 'call the rule of the whole text root');
    return this.#builder.finish(root.id);
  }

  #rule(): void {
    const from = this.#at;
    const name = this.#match(NAME)?.[0];
    if (name !== undefined) this.#match(SPACE);
    if (name === undefined || this.#match(DEFINES) === undefined) {
      throw this.#error('a rule was expected', 'write name ::= what it is', from);
    }
    const rule = this.#ruleOf(name, from);
    if (rule.isDefined) throw this.#error(`the rule "${name}" is defined twice`, 'join them with |', from);
    rule.isDefined = true;
    this.#match(SPACE);
    this.#either(this.#builder.start(rule.id), this.#builder.end(rule.id), 0);
    if (this.#at < this.#text.length && !this.#isRuleNext()) throw this.#unexpected();
  }

  #ruleOf(name: string, usedAt: number) {
    let rule = this.#rules.get(name);
    if (rule === undefined) {
      if (this.#rules.size === MAX_RULES) throw overLimit('rules of a grammar', MAX_RULES);
      rule = { id: this.#builder.rule(name), usedAt, isDefined: false };
      this.#rules.set(name, rule);
    }
    return rule;
  }

  #either(from: NodeId, to: NodeId, depth: number): void {
    if (depth > MAX_DEPTH) throw overLimit('groups within groups', MAX_DEPTH);
    do {
      this.#match(SPACE);
      // A way of its own, so that a repetition at its beginning does not catch the others.
      const start = this.#builder.node();
      this.#builder.nothing(from, start);
      this.#sequence(start, to, depth);
    } while (this.#take('|'));
  }

  #sequence(from: NodeId, to: NodeId, depth: number): void {
    let at = from;
    for (;;) {
      this.#match(SPACE);
      const next = this.#text[this.#at];
      if (next === undefined || next === '|' || next === ')' || this.#isRuleNext()) break;
      at = this.#repeated(at, depth);
    }
    this.#builder.nothing(at, to);
  }

  /** One element with what is said of how often; returns the node behind it. */
  #repeated(from: NodeId, depth: number): NodeId {
    const begin = this.#at;
    const skeleton = { least: 1, most: 1 };
    // Written once to see where it ends, and again for each further time.
    const first = this.#builder.node();
    this.#element(from, first, depth);
    const end = this.#at;
    this.#match(SPACE);
    const mark = this.#text[this.#at] ?? '';
    const bounds = this.#match(REPEAT);
    if (bounds !== undefined) {
      skeleton.least = Number(bounds[1]);
      skeleton.most = bounds[2] === undefined ? skeleton.least : bounds[3] === undefined ? Infinity : Number(bounds[3]);
      if (skeleton.least > skeleton.most)
        throw this.#error('a repetition has its bounds the wrong way round', 'write {least,most}');
      if (skeleton.least > MAX_REPEAT) throw overLimit('repetitions', MAX_REPEAT);
      if (skeleton.most > MAX_REPEAT && skeleton.most < Infinity) throw overLimit('repetitions', MAX_REPEAT);
    } else if (mark !== '' && '*+?'.includes(mark)) {
      this.#at += 1;
      skeleton.least = mark === '+' ? 1 : 0;
      skeleton.most = mark === '?' ? 1 : Infinity;
    } else {
      this.#at = end;
      return first;
    }
    const after = this.#at;
    const again = (start: NodeId, to: NodeId) => {
      this.#at = begin;
      this.#element(start, to, depth);
    };
    const out = this.#builder.node();
    const { least, most } = skeleton;
    if (least === 0) this.#builder.nothing(from, out);
    let at = from;
    let written = 0;
    const step = (): NodeId => {
      written += 1;
      if (written === 1) return first;
      const next = this.#builder.node();
      again(at, next);
      return next;
    };
    if (most === 0) {
      this.#at = after;
      // What was written leads nowhere.
      const skip = this.#builder.node();
      this.#builder.nothing(from, skip);
      return skip;
    }
    const single = most === Infinity ? Math.max(least, 1) : most;
    for (let i = 1; i <= single; i++) {
      at = step();
      if (i >= least) this.#builder.nothing(at, out);
    }
    if (most === Infinity) again(at, at);
    this.#at = after;
    return out;
  }

  #element(from: NodeId, to: NodeId, depth: number): void {
    const quote = this.#text[this.#at];
    if (quote === '"' || quote === "'") this.#builder.text(from, this.#quoted(quote), to);
    else if (this.#take('[')) this.#builder.character(from, this.#class(), to);
    else if (this.#take('.')) this.#builder.character(from, ALL, to);
    else if (this.#take('(')) {
      const begin = this.#at - 1;
      this.#either(from, to, depth + 1);
      this.#match(SPACE);
      if (!this.#take(')')) throw this.#error('a ( is not closed', 'write )', begin);
    } else {
      const at = this.#at;
      const name = this.#match(NAME)?.[0];
      if (name === undefined) throw this.#unexpected();
      this.#builder.call(from, this.#ruleOf(name, at).id, to);
    }
  }

  #quoted(quote: string): string {
    const begin = this.#at++;
    let text = '';
    for (;;) {
      const character = this.#character(begin, `a text in ${quote}`);
      if (character === quote) return text;
      text += character === '\\' ? String.fromCodePoint(this.#escape()) : character;
    }
  }

  #class(): CodePoints {
    const begin = this.#at - 1;
    const isInverted = this.#take('^');
    const ranges: [number, number][] = [];
    const point = (): number | undefined => {
      const character = this.#character(begin, 'a [');
      if (character === ']') return undefined;
      return character === '\\' ? this.#escape() : character.codePointAt(0)!;
    };
    for (let low = point(); low !== undefined; low = point()) {
      if (this.#text[this.#at] !== '-' || this.#text[this.#at + 1] === ']') {
        ranges.push([low, low]);
        continue;
      }
      this.#at += 1;
      const high = point()!;
      if (high < low) throw this.#error('a range has its ends the wrong way round', 'write the lower one first');
      ranges.push([low, high]);
    }
    const set = setOf(ranges);
    return isInverted ? allBut(set) : set;
  }

  #escape(): number {
    const begin = this.#at - 1;
    const character = this.#character(begin, 'an escape');
    const digits = { x: 2, u: 4, U: 8 }[character];
    if (digits !== undefined) {
      const text = this.#text.slice(this.#at, this.#at + digits);
      const point = /^[0-9A-Fa-f]+$/.test(text) && text.length === digits ? Number.parseInt(text, 16) : Number.NaN;
      if (!(point <= 0x10ffff) || (point >= 0xd800 && point <= 0xdfff)) {
        throw this.#error(`\\${character} needs ${digits} hexadecimal digits of a character`, 'write \\u00e9', begin);
      }
      this.#at += digits;
      return point;
    }
    const control = { n: 10, r: 13, t: 9, 0: 0, b: 8, f: 12, v: 11 }[character];
    if (control !== undefined) return control;
    if (/[A-Za-z0-9]/.test(character))
      throw this.#error(`\\${character} is no escape`, 'use \\n \\r \\t \\xHH \\uHHHH', begin);
    return character.codePointAt(0)!;
  }

  #character(begin: number, what: string): string {
    const point = this.#text.codePointAt(this.#at);
    if (point === undefined) throw this.#error(`${what} is not closed`, 'close it', begin);
    const character = String.fromCodePoint(point);
    this.#at += character.length;
    return character;
  }

  #isRuleNext(): boolean {
    const from = this.#at;
    const isName = this.#match(NAME) !== undefined;
    if (isName) this.#match(SPACE);
    const isRule = isName && this.#match(DEFINES) !== undefined;
    this.#at = from;
    return isRule;
  }

  #take(text: string): boolean {
    if (this.#text[this.#at] !== text) return false;
    this.#at += 1;
    return true;
  }

  #match(expression: RegExp): RegExpExecArray | undefined {
    expression.lastIndex = this.#at;
    const found = expression.exec(this.#text);
    if (found === null) return undefined;
    this.#at += found[0].length;
    return found;
  }

  #unexpected(): StructureError {
    const found = this.#at < this.#text.length ? JSON.stringify(this.#text[this.#at]) : 'the end';
    return this.#error(`${found} was not expected`, 'write "text", [characters], a rule\'s name or ( )');
  }

  #error(what: string, fix: string, at = this.#at): StructureError {
    const before = this.#text.slice(0, at).split('\n');
    const where = `line ${before.length}, column ${before.at(-1)!.length + 1}`;
    return new StructureError({ what: `grammar: ${what}`, where, fix });
  }
}
