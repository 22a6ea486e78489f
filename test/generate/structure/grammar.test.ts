// The matcher beside another one, xgrammar's (Apache-2.0, @mlc-ai/web-xgrammar), on drawn grammars; and what EBNF may say.

import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { automatonOfGrammar } from '../../../src/generate/structure/ebnf.ts';
import { Matcher } from '../../../src/generate/structure/matcher.ts';
import { StructureError, StructureLimitError } from '../../../src/generate/structure/structure-error.ts';
import { type Draw, drawFrom } from './random-schemas.ts';

type Oracle = {
  Grammar: { fromEBNF(text: string): Promise<object> };
  Testings: { isGrammarAcceptString(grammar: object, text: string): Promise<boolean> };
};

const folder = mkdtempSync(join(tmpdir(), 'bitnet-xgrammar-'));
let oracle: Oracle;
beforeAll(() => {
  // Its file is CommonJS under "type": "module", so that neither import nor require finds what it exports.
  const require = createRequire(import.meta.url);
  copyFileSync(require.resolve('@mlc-ai/web-xgrammar'), join(folder, 'xgrammar.cjs'));
  oracle = require(join(folder, 'xgrammar.cjs')) as Oracle;
});
afterAll(() => rmSync(folder, { recursive: true }));

const accepts = (grammar: string, text: string): boolean => {
  const matcher = new Matcher(automatonOfGrammar(grammar));
  return matcher.walk(matcher.start, Buffer.from(text))?.accepts ?? false;
};

const LETTERS = ['a', 'b', 'c', 'é'];

/** Rules call only later ones, or themselves behind a letter: neither side takes a rule that begins with itself. */
function randomGrammar(draw: Draw): string {
  const names = ['root', 'r1', 'r2'];
  const part = (rule: number, depth: number): string => {
    const kinds = depth > 2 ? 2 : 6;
    switch (draw.below(kinds)) {
      case 0:
        return JSON.stringify(Array.from({ length: draw.below(3) }, () => LETTERS[draw.below(4)]).join(''));
      case 1:
        return ['[a-b]', '[^a]', '[cb]'][draw.below(3)]!;
      case 2:
        return `(${either(rule, depth + 1)})${['', '*', '+', '?', '{1,2}', '{2}'][draw.below(6)]}`;
      case 3:
        return `[abc]${['*', '+', '?'][draw.below(3)]}`;
      case 4:
        return rule + 1 < names.length ? names[rule + 1 + draw.below(names.length - rule - 1)]! : '"b"';
      default:
        return `"a" ${names[rule]} "b"`;
    }
  };
  const sequence = (rule: number, depth: number) =>
    Array.from({ length: 1 + draw.below(3) }, () => part(rule, depth)).join(' ');
  // The empty way out keeps every rule finite.
  const either = (rule: number, depth: number): string =>
    [...Array.from({ length: 1 + draw.below(2) }, () => sequence(rule, depth)), ...(depth === 0 ? ['"c"'] : [])].join(
      ' | ',
    );
  return names.map((name, rule) => `${name} ::= ${either(rule, 0)}`).join('\n');
}

const COUNT = Number(process.env.STRUCTURE_GRAMMARS ?? 150);

test(`${COUNT} drawn grammars accept what xgrammar accepts`, { timeout: 300_000 }, async () => {
  const different: string[] = [];
  let accepted = 0;
  let compared = 0;
  for (let seed = 1; seed <= COUNT; seed++) {
    const draw = drawFrom(seed);
    const grammar = randomGrammar(draw);
    const matcher = new Matcher(automatonOfGrammar(grammar));
    const theirs = await oracle.Grammar.fromEBNF(grammar);
    for (let i = 0; i < 30; i++) {
      let text = Array.from({ length: draw.below(8) }, () => LETTERS[draw.below(4)]).join('');
      // Random texts rarely fit: half of them walk along the grammar.
      if (i % 2 === 0) {
        let place = matcher.start;
        const bytes: number[] = [];
        while (bytes.length < 12) {
          const next = [0x61, 0x62, 0x63, 0xc3, 0xa9].filter((byte) => matcher.step(place, byte) !== null);
          if (next.length === 0 || (place.accepts && draw.chance(0.3))) break;
          const byte = next[draw.below(next.length)]!;
          bytes.push(byte);
          place = matcher.step(place, byte)!;
        }
        const end = matcher.shortestEnding(place);
        text = Buffer.from([...bytes, ...end]).toString();
      }
      const ours = matcher.walk(matcher.start, Buffer.from(text))?.accepts ?? false;
      compared += 1;
      accepted += ours ? 1 : 0;
      if (ours !== (await oracle.Testings.isGrammarAcceptString(theirs, text)))
        different.push(`${grammar}\n  ${text}: ours ${ours}`);
    }
  }
  expect(different).toEqual([]);
  expect(accepted).toBeGreaterThan(compared / 4);
});

describe('EBNF', () => {
  test.each([
    ['root ::= "a" b*\nb ::= [x-z] # a comment\n', 'axyz', true],
    ['root ::= "a" b*\nb ::= [x-z]', 'aw', false],
    ['root ::= (\n  "yes"\n  | "no"\n)', 'no', true],
    ["root ::= 'it''s'", "it's", false],
    ['root ::= "\\u00e9\\x21\\n"', 'é!\n', true],
    ['root ::= [^"\\\\]{2,3}', 'é€', true],
    ['root ::= [^"\\\\]{2,3}', 'é€xy', false],
    ['root ::= . .', '😀a', true],
    ['root ::= a-b\na-b ::= "q"', 'q', true],
    ['root ::= "" | "a" root', 'aaa', true],
    ['root ::= "a"{0}"b"', 'b', true],
    ['root ::= "(" root ")" | "x"', '((x))', true],
    ['root ::= "(" root ")" | "x"', '((x)', false],
  ])('%j on %j: %s', (grammar, text, expected) => {
    expect(accepts(grammar, text)).toBe(expected);
  });

  test.each([
    ['', 'no rule "root"'],
    ['root ::= "a', 'not closed'],
    ['root ::= [a', 'not closed'],
    ['root ::= ("a"', 'a ( is not closed (line 1, column 10)'],
    ['root ::= b', 'the rule "b" is not defined (line 1, column 10)'],
    ['root ::= "a"\nroot ::= "b"', 'defined twice (line 2, column 1)'],
    ['root ::= root "a" | "b"', 'the rule "root" can begin with itself'],
    ['root ::= a "x" | "y"\na ::= ""? root', 'can begin with itself'],
    ['root ::= "a" root', 'no text of finite length'],
    ['root ::= [z-a]', 'the wrong way round'],
    ['root ::= "\\q"', '\\q is no escape'],
    ['root ::= "\\ud800"', 'needs 4 hexadecimal digits'],
    ['root = "a"', 'a rule was expected (line 1, column 1)'],
    ['root ::= "a" )', '")" was not expected'],
  ])('%j is refused', (grammar, message) => {
    expect(() => automatonOfGrammar(grammar)).toThrow(StructureError);
    expect(() => automatonOfGrammar(grammar)).toThrow(message);
  });

  test.each([
    'root ::= ((("a"{1,1000}){1,1000}){1,1000}){1,1000}',
    `root ::= ${'('.repeat(10_000)}"a"${')'.repeat(10_000)}`,
    `root ::= "${'a'.repeat(300_000)}"`,
    'root ::= "a"{1,1000000}',
  ])('%#: what would grow without end is refused', (grammar) => {
    expect(() => automatonOfGrammar(grammar)).toThrow(StructureLimitError);
  });

  test('a comment of many # is read once', () => {
    expect(accepts(`root ::= "a" ${'# '.repeat(2000)}\n"b" #${'#x'.repeat(2000)}`, 'ab')).toBe(true);
  });

  test('an ambiguous grammar costs what its size says, not what its readings are', () => {
    const matcher = new Matcher(automatonOfGrammar('root ::= a a a a a a\na ::= "x" a "y" | "x" a "z" | "x"*'));
    expect(matcher.walk(matcher.start, Buffer.from('x'.repeat(300)))?.accepts).toBe(true);
    expect(matcher.work).toBeLessThan(2_000_000);
  });
});
