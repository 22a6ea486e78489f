// Texts held to a structure token by token, over vocabularies of all kinds, with any token that is allowed.

import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, test } from 'vitest';
import { Constraint } from '../../../src/generate/structure/constraint.ts';
import { Matcher, type Place } from '../../../src/generate/structure/matcher.ts';
import { automatonOf, type Structure, StructureReader } from '../../../src/generate/structure/structure.ts';
import { StructureError } from '../../../src/generate/structure/structure-error.ts';
import { toEnd } from '../../../src/generate/structure/token-trie.ts';
import { loadTokenizer } from '../../../src/tokenizer/load-tokenizer.ts';
import { drawFrom } from './random-schemas.ts';

const ajv = new Ajv2020({ strict: false, validateFormats: false });
const golden = new URL('../../golden/', import.meta.url).pathname;

const VOCABULARIES: readonly [name: string, folder: string][] = [
  ['byte-level, 4,096 tokens', new URL('../../../models/default', import.meta.url).pathname],
  ['byte-level of Qwen3', `${golden}tokenizer-2026/qwen3`],
  ['byte fallback of Llama 2', `${golden}tokenizer/llama2`],
  ['byte-level of Llama 3', `${golden}tokenizer/llama3`],
  ['sentencepiece', `${golden}tokenizer/sentencepiece`],
];

const SCHEMAS = [
  { type: 'string', pattern: '^[é-ü€-₿😀-😄颜色]{2,5}$' },
  {
    type: 'object',
    properties: { ключ: { type: 'string', maxLength: 6 }, n: { type: 'integer', minimum: 0 } },
    required: ['ключ'],
  },
  { type: 'array', items: { enum: ['grün', '紅', 1.5, null] }, minItems: 1, maxItems: 4 },
  {},
];

const schemaOf = (schema: unknown): Structure => ({ kind: 'schema', text: JSON.stringify(schema) });

async function readerOf(folder: string) {
  const tokenizer = await loadTokenizer(folder);
  return { tokenizer, reader: toEnd(StructureReader.reading(tokenizer, tokenizer.vocabSize)) };
}

/** Writes with any allowed token; what it wrote. */
function wander(
  reader: StructureReader,
  structure: Structure,
  room: number,
  seed: number,
): { tokens: number[]; forced: number } {
  const draw = drawFrom(seed);
  const constraint = new Constraint(reader, structure);
  constraint.checkFits(room);
  const tokens: number[] = [];
  for (let left = room; left > 0 && !constraint.isOver; left--) {
    let token = constraint.mustTake(left);
    if (token === undefined) {
      const { mask, mayEnd } = constraint.allowed()!;
      if (mayEnd && draw.chance(0.3)) break;
      const allowed: number[] = [];
      for (let id = 0; id < reader.trie.vocabSize; id++)
        if ((mask[id >> 5]! & (1 << (id & 31))) !== 0) allowed.push(id);
      for (let tries = 0; tries < 50 && allowed.length > 0; tries++) {
        const [candidate] = allowed.splice(draw.below(allowed.length), 1);
        if (!constraint.leavesRoom(candidate!, left - 1)) continue;
        token = candidate;
        break;
      }
      token ??= constraint.end();
      if (token === undefined) break;
    }
    constraint.take(token);
    tokens.push(token);
  }
  expect(constraint.isWhole).toBe(true);
  return { tokens, forced: constraint.forced };
}

describe.each(VOCABULARIES)('%s', (_, folder) => {
  test('any allowed tokens make a text that fits, within the room there is', async () => {
    const { tokenizer, reader } = await readerOf(folder);
    let forced = 0;
    for (const schema of SCHEMAS) {
      for (const room of [24, 60]) {
        for (let seed = 1; seed <= 6; seed++) {
          const written = wander(reader, schemaOf(schema), room, seed);
          const text = tokenizer.decode(written.tokens, { skipSpecial: true });
          expect(written.tokens.length).toBeLessThanOrEqual(room);
          expect(ajv.validate(schema, JSON.parse(text)), text).toBe(true);
          forced += written.forced;
        }
      }
    }
    expect(forced).toBeGreaterThan(0);
  });
});

test('the shortest text of a structure, and what is said where it does not fit', async () => {
  const { tokenizer, reader } = await readerOf(VOCABULARIES[0]![1]);
  const schema = schemaOf({
    type: 'object',
    properties: { pet: { enum: ['cat', 'a very long animal'] } },
    required: ['pet'],
  });
  const constraint = new Constraint(reader, schema);
  const { fewest } = constraint;
  expect(() => new Constraint(reader, schema).checkFits(fewest - 1)).toThrow(
    `the shortest text of this structure has ${fewest} tokens, and ${fewest - 1} are left for it; give max_tokens ${fewest} or more`,
  );
  const { tokens, forced } = wander(reader, schema, fewest, 1);
  expect(tokenizer.decode(tokens)).toBe('{"pet":"cat"}');
  expect(forced).toBe(fewest);
});

test('a character that is cut between tokens stays a character', async () => {
  const { tokenizer, reader } = await readerOf(VOCABULARIES[0]![1]);
  const constraint = new Constraint(reader, { kind: 'grammar', text: 'root ::= [😀-😄] "!"' });
  const [first, ...rest] = Buffer.from('😀!');
  const single = (byte: number) => reader.trie.spell(Uint8Array.of(byte))![0]!;
  constraint.take(single(first!));
  const { mask, count, mayEnd } = constraint.allowed()!;
  expect([count, mayEnd]).toEqual([1, false]);
  expect(mask[single(0x9f) >> 5]! & (1 << (single(0x9f) & 31))).not.toBe(0);
  for (const byte of rest) constraint.take(single(byte));
  expect(constraint.isOver).toBe(true);
  expect(tokenizer.decode([...Buffer.from('😀!')].map(single))).toBe('😀!');
});

describe('schemas that are refused say why and where', () => {
  test.each([
    [{ type: 'foo' }, 'the type "foo" is unknown'],
    [
      { type: 'object', properties: { a: { type: 'array', contains: { type: 'string' } } } },
      'contains cannot be enforced (#/properties/a)',
    ],
    [{ if: { type: 'string' }, else: false }, 'if cannot be enforced'],
    [
      { type: 'array', items: { type: 'string' }, uniqueItems: true },
      'uniqueItems can be enforced for items of an enum',
    ],
    [{ $ref: 'https://example.com/schema' }, 'is outside this schema'],
    [{ $ref: '#/$defs/no' }, 'leads nowhere'],
    [{ $ref: '#' }, 'the $ref leads to itself'],
    [{ anyOf: [{ $ref: '#' }] }, 'contains itself'],
    [{ type: 'string', pattern: '(?=a)b' }, 'cannot be enforced'],
    [{ type: 'string', pattern: '(a)\\1' }, 'cannot be enforced'],
    [{ type: 'string', pattern: '[' }, 'is no regular expression'],
    [{ type: 'string', minLength: 5, maxLength: 3 }, 'no text of finite length fits'],
    [{ type: 'integer', minimum: 5, maximum: 3 }, 'no text of finite length fits'],
    [false, 'no text of finite length fits'],
    [{ type: 'object', properties: { a: { $ref: '#' } }, required: ['a'] }, 'no text of finite length fits'],
    [{ oneOf: [{ type: 'integer' }, { type: 'number' }] }, 'the alternatives 1 and 2 of oneOf may both fit'],
    [{ type: 'string', not: { pattern: 'a' } }, 'this "not" cannot be enforced'],
    [{ minLength: -1 }, 'minLength is -1'],
    [{ required: 'a' }, 'required is "a"'],
    [{ properties: [] }, 'properties is []'],
    [{ enum: 3 }, 'enum is 3'],
    [{ anyOf: [] }, 'anyOf is empty'],
    [[], 'is no schema'],
    ['x', 'is no schema'],
  ])('%j', (schema, message) => {
    expect(() => automatonOf(schemaOf(schema))).toThrow(StructureError);
    expect(() => automatonOf(schemaOf(schema))).toThrow(message);
  });

  test.each([
    [
      'nested',
      JSON.stringify(Array.from({ length: 500 }).reduce((inner: object) => ({ type: 'array', items: inner }), {})),
    ],
    [
      'alternatives',
      JSON.stringify({
        allOf: Array.from({ length: 12 }, (_, i) => ({
          anyOf: [{ minLength: 2 * i }, { maxLength: 90 + i }, { minimum: i }],
        })),
      }),
    ],
    ['repeated pattern', JSON.stringify({ type: 'string', pattern: '^((a{1,100}){1,100}){1,100}$' })],
    ['items', JSON.stringify({ type: 'array', minItems: 1e9 })],
    ['long', JSON.stringify({ description: 'x'.repeat(1 << 19) })],
    ['wide', JSON.stringify({ enum: Array.from({ length: 30_000 }, (_, i) => ({ i })) })],
  ])('%s: more than a text is worth', (_, text) => {
    expect(() => automatonOf({ kind: 'schema', text })).toThrow('the structure needs more than');
  });
});

test('what keywords mean, one by one', () => {
  const { start, walk } = matcherFor({ type: 'integer', exclusiveMinimum: 1, maximum: 12, multipleOf: 3 });
  const fits = (text: string) => walk(start, text);
  expect(['0', '3', '6', '9', '12', '15', '-3', '03', '1'].filter(fits)).toEqual(['3', '6', '9', '12']);
  const number = matcherFor({ type: 'number', minimum: -1.5, exclusiveMaximum: 2 });
  const texts = ['-1.5', '-1.6', '-1.0', '-1.50', '0', '1.999999', '2', '2.0', '-0.5', '1e1', '1'];
  expect(texts.filter((text) => number.walk(number.start, text))).toEqual([
    '-1.5',
    '-1.0',
    '0',
    '1.999999',
    '-0.5',
    '1',
  ]);
  const object = matcherFor({
    type: 'object',
    properties: { a: { const: 1 }, b: {} },
    required: ['b'],
    additionalProperties: { type: 'null' },
  });
  const objects = [
    '{"a":1,"b":2}',
    '{"b":{"x":[]}}',
    '{"a":1}',
    '{"b":1,"c":null}',
    '{"b":1,"a":null}',
    '{"b":1,"\\u0061":null}',
    '{ "a": 1,\n  "b": 2\n}',
  ];
  expect(objects.filter((text) => object.walk(object.start, text))).toEqual([
    objects[0],
    objects[1],
    objects[3],
    objects[6],
  ]);
});

function matcherFor(schema: unknown) {
  const automaton = automatonOf(schemaOf(schema));
  const matcher = new Matcher(automaton);
  return {
    start: matcher.start,
    walk: (place: Place, text: string) => matcher.walk(place, Buffer.from(text))?.accepts ?? false,
  };
}
