// Schemas and grammars made to take time, memory or a text that does not fit.

import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, test } from 'vitest';
import { Constraint } from '../../../src/generate/structure/constraint.ts';
import { Matcher } from '../../../src/generate/structure/matcher.ts';
import { automatonOf, type Structure, StructureReader } from '../../../src/generate/structure/structure.ts';
import { toEnd } from '../../../src/generate/structure/token-trie.ts';
import { drawFrom } from './random-schemas.ts';

type Json = { [keyword: string]: unknown };

const schema = (value: unknown): Structure => ({ kind: 'schema', text: JSON.stringify(value) });
const range = <T>(count: number, of: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => of(i));
const nest = (count: number, of: (inner: Json) => Json, leaf: Json = {}): Json =>
  range(count, () => 0).reduce((inner: Json) => of(inner), leaf);

/** Nodes of what a schema becomes: the measure of its time and memory that does not depend on the machine. */
const nodesOf = (value: unknown): number => automatonOf(schema(value)).edges.length;

const TOKENS = [
  ...range(256, (byte) => Uint8Array.of(byte)),
  ...['": "', '","', 'name', '{"', '"}', ' the', 'aaaa', 'a"}', '00', '\\"', 'true', '":', '\\u', '中', '文"'].map(
    (text) => Uint8Array.from(Buffer.from(text)),
  ),
];
const reader = toEnd(
  StructureReader.reading(
    { bytes: { of: (id) => TOKENS[id], stripsStart: false }, tokenId: () => undefined },
    TOKENS.length,
  ),
);

/** Any allowed tokens, to the end. */
function wander(structure: Structure, room: number, seed: number): string {
  const draw = drawFrom(seed);
  const constraint = new Constraint(reader, structure);
  constraint.checkFits(room);
  const bytes: number[] = [];
  for (let left = room; left > 0 && !constraint.isOver; left--) {
    let token = constraint.mustTake(left);
    if (token === undefined) {
      const found = constraint.allowed();
      if (found?.mayEnd && draw.chance(0.2)) break;
      const fitting = range(TOKENS.length, (id) => id).filter(
        (id) =>
          found !== undefined && (found.mask[id >> 5]! & (1 << (id & 31))) !== 0 && constraint.leavesRoom(id, left - 1),
      );
      token = fitting.length === 0 ? constraint.end() : fitting[draw.below(fitting.length)];
      if (token === undefined) break;
    }
    constraint.take(token);
    bytes.push(...TOKENS[token]!);
  }
  expect(constraint.isWhole).toBe(true);
  return Buffer.from(bytes).toString();
}

describe('what is large is written once', () => {
  test('values of an enum share what they begin with, and are read in one way', () => {
    const values = range(12_000, (i) => `value-${i}`);
    expect(nodesOf({ enum: values })).toBeLessThan(12_100);
    const matcher = new Matcher(automatonOf(schema({ enum: values })));
    expect(matcher.start.ways.length).toBe(1);
    const fits = (text: string) => matcher.walk(matcher.start, Buffer.from(text))?.accepts === true;
    expect(['"value-1"', '"value-11999"', '"value-12000"', '"value-"', '"value-01"'].map(fits)).toEqual([
      true,
      true,
      false,
      false,
      false,
    ]);
    // Texts that begin others.
    const numbers = new Matcher(automatonOf(schema({ enum: [1, 12, 123, 1.5, 'a', 'ab', '', null, [], [1]] })));
    const isNumber = (text: string) => numbers.walk(numbers.start, Buffer.from(text))?.accepts === true;
    expect(['1', '12', '123', '1.5', '"a"', '"ab"', '""', 'null', '[]', '[1]'].every(isNumber)).toBe(true);
    expect(['1.', '13', '"abc"', '[1', '[12]'].some(isNumber)).toBe(false);
  });

  test('long lists of values are told apart by more than their text', () => {
    const [left, right] = [range(3000, (i) => ({ i, of: [1] })), range(3000, (i) => ({ of: [1], i: 2999 - i }))];
    const both = automatonOf(schema({ allOf: [{ enum: left }, { enum: right }, { required: ['of'] }] }));
    const matcher = new Matcher(both);
    expect(matcher.walk(matcher.start, Buffer.from('{"i":7,"of":[1]}'))?.accepts).toBe(true);
    expect(() =>
      automatonOf(schema({ allOf: [{ enum: left }, { enum: range(20, (i) => ({ i, of: [2] })) }] })),
    ).toThrow('no text of finite length fits');
  });

  test('alternatives that say the same are one', () => {
    const same = { allOf: range(10, () => ({ anyOf: [{ minLength: 1 }, { maxLength: 3 }, { minLength: 1 }] })) };
    expect(nodesOf(same)).toBeLessThan(60_000);
    expect(JSON.parse(wander(schema(same), 40, 1))).toEqual(expect.any(String));
  });

  test('a pattern that is looked for anywhere has few places at once', () => {
    for (const pattern of ['[a-z]{1,900}', '(a|b)*a(a|b){900}', '(a|a)*(a|aa)*b', '(x+x+)+y', '\\d{3}']) {
      const matcher = new Matcher(automatonOf(schema({ type: 'string', pattern })));
      let place = matcher.walk(matcher.start, Buffer.from('"'))!;
      for (const byte of Buffer.from('aab7'.repeat(40))) {
        place = matcher.step(place, byte)!;
        expect(place.ways.length).toBeLessThan(200);
      }
    }
  });
});

describe('what is too large is refused before it is written', () => {
  test.each<[string, unknown, string]>([
    ['a shortest text that never ends', nest(5, (items) => ({ type: 'array', minItems: 1000, items })), '131072 bytes'],
    ['letters of all languages', { type: 'string', pattern: '^\\p{L}{1,10000}$' }, '300000 places'],
    ['digits and rests', { type: 'integer', multipleOf: 997, minimum: 0, maximum: 1e300 }, '200000 places of a number'],
    ['schemas that join each other', joined(), '4000 schemas joined'],
    ['patterns with a long common period', periods(101, 103, 107), '50000 states'],
    ['levels of a value', { const: nest(3000, (inner) => ({ inner })) }, '64 levels'],
  ])('%s', (_, value, limit) => {
    expect(() => automatonOf(schema(value))).toThrow(`the structure needs more than ${limit}`);
  });

  test('a text that is far too long for its room is not spelled out', () => {
    const items = { type: 'object', properties: { a: { type: 'string', minLength: 20 } }, required: ['a'] };
    const constraint = new Constraint(reader, schema({ type: 'array', minItems: 1000, items }));
    expect(() => constraint.checkFits(500)).toThrow(/has \d+ or more tokens, and 500 are left for it; give a smaller/);
    // Beside a short way it is no way, and costs nothing.
    const either = schema({ anyOf: [{ type: 'null' }, { type: 'array', minItems: 900, items }] });
    expect(wander(either, 20, 3)).toBe('null');
  });
});

function joined(): Json {
  const [a, b] = [{ $ref: '#/$defs/a' }, { $ref: '#/$defs/b' }];
  const x = (...allOf: Json[]) => ({ properties: { x: { allOf } } });
  return { $defs: { a: x(a, b), b: x(b, a, { maxProperties: 3 }) }, $ref: '#/$defs/a' };
}

function periods(...lengths: number[]): Json {
  return { type: 'string', allOf: lengths.map((length) => ({ pattern: `^(a{${length}})*$` })) };
}

const ODD: readonly Json[] = [
  { enum: ['\ud800', '\u2028', 'a"\\', -0, 1e21, 5e-324, { '': [] }] },
  { type: 'object', properties: { a: false, b: true }, required: ['b'] },
  { type: 'number', multipleOf: 0.01, minimum: -2, maximum: 2 },
  { type: 'number', exclusiveMinimum: 0.1, exclusiveMaximum: 0.10000001 },
  { type: 'integer', minimum: -5, maximum: -5 },
  { type: 'array', items: { enum: [1, '1', true, null] }, uniqueItems: true, minItems: 2 },
  { type: 'array', prefixItems: [{ const: 1 }, { const: 2 }], items: false, minItems: 2 },
  { type: 'string', minLength: 2, maxLength: 3, pattern: '^[中文😀]+$' },
  { type: 'string', pattern: '[A-Z]{2}', maxLength: 6 },
  { allOf: [{ type: ['string', 'integer'] }, { minimum: 3, maxLength: 2 }, { type: ['integer', 'null'] }] },
  { type: 'object', propertyNames: { maxLength: 2 }, additionalProperties: { type: 'boolean' }, maxProperties: 2 },
  {
    $defs: { tree: { type: 'object', properties: { kids: { type: 'array', items: { $ref: '#/$defs/tree' } } } } },
    $ref: '#/$defs/tree',
  },
];

test.each(ODD.map((value) => [JSON.stringify(value), value] as const))('any text fits %s', (_, value) => {
  const ajv = new Ajv2020({ strict: false });
  const structure = schema(value);
  const { fewest } = new Constraint(reader, structure);
  // From the shortest text that can be, where all is forced.
  for (const room of [fewest, fewest + 1, fewest + 3, fewest + 40]) {
    for (let seed = 1; seed <= 5; seed++) {
      const text = wander(structure, room, seed);
      expect(ajv.validate(value, JSON.parse(text)), text).toBe(true);
    }
  }
});

// The validator leaves __proto__ out, and throws at half a pair in a name.
test.each([
  [
    '{"type":"object","properties":{"__proto__":{"type":"null"},"toString":{"const":1}},"required":["__proto__","toString"],"additionalProperties":false}',
    '{"__proto__":null,"toString":1}',
  ],
  ['{"type":"object","properties":{"\\udfff":{"type":"null"}},"required":["\\udfff"]}', '{"\\udfff":null}'],
])('names that are names of something else: %s', (text, shortest) => {
  const structure: Structure = { kind: 'schema', text };
  expect(wander(structure, new Constraint(reader, structure).fewest, 1)).toBe(shortest);
});

describe('a text that comes to be read in more ways than are followed', () => {
  const grammar = (text: string): Structure => ({ kind: 'grammar', text });
  // After some thirty letters each may be of any repetition and any place within it.
  const repeats = 'root ::= ([a-z]{0,100}){0,100} ("." | "!" [0-9]{2})';

  test.each([20, 60])('is ended where that is, whole and within %i tokens', (room) => {
    for (const seed of [1, 2]) expect(wander(grammar(repeats), room, seed)).toMatch(/^[a-z]*(\.|![0-9]{2})$/);
  });

  test('says so, and only then', () => {
    const begin = (text: string) => {
      const constraint = new Constraint(reader, grammar(text));
      let tokens = 0;
      for (; tokens < 200 && constraint.allowed() !== undefined; tokens++) constraint.take('a'.charCodeAt(0));
      return { constraint, tokens };
    };
    const { constraint, tokens } = begin(repeats);
    expect(tokens).toBeGreaterThan(20);
    expect(tokens).toBeLessThan(200);
    expect(constraint.limit).toBeUndefined();
    expect([constraint.end(), constraint.isOver, constraint.isWhole]).toEqual(['.'.charCodeAt(0), true, true]);
    expect(constraint.limit?.message).toContain('more than 4000 ways to read a text');
    expect(constraint.end()).toBeUndefined();
    const plain = begin('root ::= [a-z]{0,1000} "."').constraint;
    expect([plain.end(), plain.limit]).toEqual(['.'.charCodeAt(0), undefined]);
  });

  test('though its ending leads there, too', () => {
    // The shortest ending needs all ways behind the mark: it is found along one.
    const ending = 'root ::= [a-z]{0,50} "!" "a"{50} ([a-z]{0,100}){0,100} "b"{3}';
    for (const room of [54, 60, 90]) expect(wander(grammar(ending), room, 1)).toMatch(/^[a-z]*!a{50}[a-z]*b{3}$/);
  });

  test('is refused where it is so from the start', () => {
    expect(() => wander(grammar('root ::= ("a"?){5000}'), 20, 1)).toThrow('more than 4000 ways to read a text');
  });

  test.each([
    repeats,
    'root ::= (("a"*)*)* (x | y)\nx ::= "(" x ")" | "[" y "]" | "z"\ny ::= "(" y "]" | x? x',
    'root ::= s s\ns ::= "a" s s | "b" s? | "c"',
    'root ::= ("é" | [^a-z0-9 -~]) ("" | "long" | [A-C]{2})',
  ])('one way to the end is as short as any: %s', (text) => {
    const draw = drawFrom(11);
    const matcher = new Matcher(automatonOf(grammar(text)));
    for (let round = 0; round < 30; round++) {
      let place = matcher.start;
      for (let i = draw.below(12); i > 0; i--) {
        const next = range(256, (byte) => matcher.step(place, byte)).filter((one) => one !== null);
        if (next.length === 0) break;
        place = next[draw.below(next.length)]!;
      }
      const ending = matcher.endingOfOneWay(place);
      expect(ending.length).toBe(place.least);
      expect(matcher.walk(place, ending)?.accepts).toBe(true);
    }
  });
});
