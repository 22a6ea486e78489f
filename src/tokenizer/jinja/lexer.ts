// Template source to tokens, with trim_blocks and lstrip_blocks on and every line end read as \n, as transformers sets
// Jinja up: a tag that stands alone on its line leaves neither its indentation nor its line end in the prompt.

import { JinjaError, quoted, unsupported } from './jinja-error.ts';
import { isSpaceOnly, SPACE, stripEnd } from './python-text.ts';

export type TokenType =
  | 'data'
  | 'block-begin'
  | 'block-end'
  | 'variable-begin'
  | 'variable-end'
  | 'name'
  | 'string'
  | 'integer'
  | 'float'
  | 'operator'
  | 'end';

export type Token = { readonly type: TokenType; readonly value: string; readonly line: number };

const RAW_BEGIN = new RegExp(`\\{%([-+]?)${SPACE}*raw${SPACE}*(?:-%\\}${SPACE}*|%\\})`, 'y');
const RAW_END = new RegExp(`\\{%([-+]?)${SPACE}*endraw${SPACE}*(?:\\+%\\}|-%\\}${SPACE}*|%\\}\\n?)`, 'g');
const BLOCK_END = new RegExp(`\\+%\\}|-%\\}${SPACE}*|%\\}\\n?`, 'y');
const VARIABLE_END = new RegExp(`-\\}\\}${SPACE}*|\\}\\}`, 'y');
const BLANK = new RegExp(`${SPACE}+`, 'y');

const DIGITS = '(?:\\d+_)*\\d+';
const FLOAT = new RegExp(`(?<!\\.)${DIGITS}(?:(?:\\.${DIGITS})?e[+-]?${DIGITS}|\\.${DIGITS})`, 'iy');
const INTEGER = /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy;
const NAME = /[\p{L}\p{M}\p{N}\p{Pc}]+/uy;
const IDENTIFIER = /^[\p{ID_Start}_][\p{ID_Continue}]*$/u;
const STRING = /'[^'\\]*(?:\\[\s\S][^'\\]*)*'|"[^"\\]*(?:\\[\s\S][^"\\]*)*"/y;
const OPERATOR = /\*\*|\/\/|==|!=|>=|<=|[-+*/%~[\](){}<>=.:|,;]/y;

const CLOSERS: Readonly<Record<string, string>> = { '(': ')', '[': ']', '{': '}' };

export function tokenize(source: string): Token[] {
  return new Lexer(source.replace(/\r\n?/g, '\n').replace(/\n$/, '')).run();
}

class Lexer {
  readonly #source: string;
  readonly #tokens: Token[] = [];
  #at = 0;
  #line = 1;
  /** Up to here, line ends are counted. */
  #counted = 0;

  constructor(source: string) {
    this.#source = source;
  }

  run(): Token[] {
    const opening = /\{[{%#]/g;
    while (this.#at < this.#source.length) {
      opening.lastIndex = this.#at;
      const begin = opening.exec(this.#source);
      if (begin === null) {
        this.#push('data', this.#source.slice(this.#at));
        break;
      }
      const from = this.#at;
      this.#at = begin.index;
      const raw = this.#match(RAW_BEGIN);
      if (raw !== undefined) {
        this.#data(from, begin.index, raw[1]!, true);
        this.#raw();
        continue;
      }
      this.#at = begin.index + 2;
      const next = this.#source[this.#at];
      const sign = next === '-' || next === '+' ? next : '';
      this.#data(from, begin.index, sign, begin[0] !== '{{');
      this.#at += sign.length;
      if (begin[0] === '{#') this.#comment();
      else this.#tag(begin[0] === '{%' ? 'block' : 'variable');
    }
    this.#push('end', '');
    return this.#tokens;
  }

  /** The text before a tag, without what the tag's sign or lstrip_blocks takes. */
  #data(from: number, to: number, sign: string, isBlock: boolean): void {
    let text = this.#source.slice(from, to);
    if (sign === '-') text = stripEnd(text);
    else if (sign === '' && isBlock) {
      const lineStart = text.lastIndexOf('\n') + 1;
      const isLineStart = lineStart > 0 || from === 0 || this.#source[from - 1] === '\n';
      if (isLineStart && isSpaceOnly(text.slice(lineStart))) text = text.slice(0, lineStart);
    }
    if (text !== '') this.#push('data', text);
  }

  #raw(): void {
    const from = this.#at;
    RAW_END.lastIndex = from;
    const end = RAW_END.exec(this.#source);
    if (end === null) throw this.#error('the raw block has no endraw');
    this.#data(from, end.index, end[1]!, true);
    this.#at = end.index + end[0].length;
  }

  #comment(): void {
    const end = this.#source.indexOf('#}', this.#at);
    if (end < 0) throw this.#error('a comment has no end');
    const sign = end > this.#at ? this.#source[end - 1] : '';
    this.#at = end + 2;
    if (sign === '-') this.#match(BLANK);
    else if (sign !== '+' && this.#source[this.#at] === '\n') this.#at++;
  }

  #tag(kind: 'block' | 'variable'): void {
    this.#push(`${kind}-begin`, '');
    const end = kind === 'block' ? BLOCK_END : VARIABLE_END;
    const open: string[] = [];
    for (;;) {
      if (this.#at >= this.#source.length) throw this.#error('the template ends inside a tag');
      if (open.length === 0 && this.#match(end) !== undefined) {
        this.#push(`${kind}-end`, '');
        return;
      }
      if (this.#match(BLANK) !== undefined) continue;
      let found = this.#match(FLOAT);
      if (found !== undefined) {
        this.#push('float', found[0].replaceAll('_', ''));
        continue;
      }
      found = this.#match(INTEGER);
      if (found !== undefined) {
        this.#push('integer', found[0].replaceAll('_', '').toLowerCase());
        continue;
      }
      found = this.#match(NAME);
      if (found !== undefined) {
        if (!IDENTIFIER.test(found[0])) throw this.#error(`${quoted(found[0])} is not a name`);
        this.#push('name', found[0]);
        continue;
      }
      found = this.#match(STRING);
      if (found !== undefined) {
        this.#push('string', this.#unescape(found[0].slice(1, -1)));
        continue;
      }
      found = this.#match(OPERATOR);
      if (found === undefined) throw this.#error(`unexpected ${quoted(this.#source[this.#at]!)}`);
      const operator = found[0];
      if (operator in CLOSERS) open.push(CLOSERS[operator]!);
      else if (operator === ')' || operator === ']' || operator === '}') {
        if (open.pop() !== operator) throw this.#error(`unexpected '${operator}'`);
      }
      this.#push('operator', operator);
    }
  }

  /** Python's escapes; one that it does not know stays as it is written. */
  #unescape(text: string): string {
    if (!text.includes('\\')) return text;
    return text.replace(
      /\\(?:([0-7]{1,3})|x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([\s\S]))/g,
      (whole, octal?: string, x?: string, u?: string, long?: string, other?: string) => {
        if (octal !== undefined) return String.fromCharCode(Number.parseInt(octal, 8));
        const hex = x ?? u ?? long;
        if (hex !== undefined) {
          const code = Number.parseInt(hex, 16);
          if (code > 0x10ffff) throw this.#error(`${whole} is beyond the last character`);
          return String.fromCodePoint(code);
        }
        if (other === 'N') throw unsupported('a character by its name (\\N)');
        if (other === 'x' || other === 'u' || other === 'U') throw this.#error(`the escape ${whole} is cut off`);
        return SIMPLE_ESCAPES[other!] ?? whole;
      },
    );
  }

  #match(pattern: RegExp): RegExpExecArray | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.#source);
    if (found === null) return undefined;
    this.#at += found[0].length;
    return found;
  }

  #push(type: TokenType, value: string): void {
    this.#tokens.push({ type, value, line: this.#currentLine() });
  }

  #currentLine(): number {
    for (;;) {
      const next = this.#source.indexOf('\n', this.#counted);
      if (next < 0 || next >= this.#at) return this.#line;
      this.#line++;
      this.#counted = next + 1;
    }
  }

  #error(message: string): JinjaError {
    return new JinjaError('syntax', message, this.#currentLine());
  }
}

const SIMPLE_ESCAPES: Readonly<Record<string, string>> = {
  n: '\n',
  t: '\t',
  r: '\r',
  a: '\x07',
  b: '\b',
  f: '\f',
  v: '\v',
  '\\': '\\',
  "'": "'",
  '"': '"',
  '\n': '',
};
