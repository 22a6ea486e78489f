// JSON schemas drawn from a seed: every keyword that is enforced, in combinations that nobody would think of.

import { splitmix64 } from '../../../src/random/splitmix64.ts';

export type Draw = { readonly below: (n: number) => number; readonly chance: (p: number) => boolean };

export function drawFrom(seed: number): Draw {
  let state = BigInt(seed) * 0x9e3779b97f4a7c15n;
  const next = () => {
    state = BigInt.asUintN(64, state + 0x9e3779b97f4a7c15n);
    return Number(splitmix64(state) >> 11n) / 2 ** 53;
  };
  return { below: (n) => Math.floor(next() * n), chance: (p) => next() < p };
}

const NAMES = ['id', 'name', 'size', 'kind', 'tags', 'näme', 'a b', 'x"y', 'ключ', '颜色', 'deep', 'z'];
const PATTERNS = [
  '^[a-z]{2,8}$',
  '^(GET|PUT)$',
  '\\d{3}',
  '^[^\\s@]{1,5}@[a-z]+$',
  '^#[0-9A-F]{6}$',
  '^\\p{Lu}\\w*$',
  '^v\\d+(\\.\\d+){0,2}$',
];
const VALUES = ['red', 'grün', 3, -1.5, true, null, { a: [1, 'x'] }, [], 'a"b\\c\n', '', 0];

type Json = { [keyword: string]: unknown };

export function randomSchema(draw: Draw, depth = 0): Json {
  const some = <T>(list: readonly T[], most: number): T[] => {
    const left = [...list];
    return Array.from({ length: 1 + draw.below(most) }, () => left.splice(draw.below(left.length), 1)[0]!);
  };
  const kinds = [
    'string',
    'integer',
    'number',
    'boolean',
    'null',
    'enum',
    'const',
    'object',
    'array',
    'anyOf',
    'allOf',
    'oneOf',
    'types',
  ];
  const kind = kinds[draw.below(depth > 2 ? 7 : kinds.length)]!;
  switch (kind) {
    case 'string': {
      const schema: Json = { type: 'string' };
      if (draw.chance(0.3)) schema.minLength = draw.below(4);
      if (draw.chance(0.5)) schema.maxLength = 4 + draw.below(9);
      else if (draw.chance(0.4)) return { type: 'string', pattern: PATTERNS[draw.below(PATTERNS.length)] };
      else if (draw.chance(0.3))
        return { type: 'string', format: ['date', 'time', 'date-time', 'uuid', 'email', 'ipv4', 'uri'][draw.below(7)] };
      return schema;
    }
    case 'integer':
    case 'number': {
      const schema: Json = { type: kind };
      const low = draw.below(400) / 4 - 50;
      if (draw.chance(0.6)) schema[draw.chance(0.5) ? 'minimum' : 'exclusiveMinimum'] = low;
      if (draw.chance(0.6)) schema[draw.chance(0.5) ? 'maximum' : 'exclusiveMaximum'] = low + 2 + draw.below(50) / 4;
      if (kind === 'number' && draw.chance(0.2)) return { type: kind, minimum: 0, maximum: 1 };
      if (kind === 'integer' && draw.chance(0.2)) schema.multipleOf = 1 + draw.below(2);
      return schema;
    }
    case 'enum':
      return { enum: some(VALUES, 5) };
    case 'const':
      return { const: VALUES[draw.below(VALUES.length)] };
    case 'types':
      return { type: some(['string', 'integer', 'boolean', 'null'], 3) };
    case 'array': {
      const schema: Json = { type: 'array', items: randomSchema(draw, depth + 1) };
      if (draw.chance(0.5)) schema.minItems = draw.below(3);
      if (draw.chance(0.7)) schema.maxItems = 2 + draw.below(3);
      if (draw.chance(0.2)) return { type: 'array', items: { enum: ['a', 'b', 'c'] }, uniqueItems: true, minItems: 1 };
      if (draw.chance(0.2))
        return { type: 'array', prefixItems: [schema.items, { type: 'boolean' }], items: false, minItems: 1 };
      return schema;
    }
    case 'object': {
      if (draw.chance(0.15)) {
        return {
          type: 'object',
          additionalProperties: randomSchema(draw, depth + 1),
          minProperties: draw.below(2),
          maxProperties: 3,
        };
      }
      if (draw.chance(0.1))
        return {
          type: 'object',
          patternProperties: { '^[a-z]{1,4}$': { type: 'integer' } },
          additionalProperties: false,
        };
      const names = some(NAMES, 4);
      const schema: Json = {
        type: 'object',
        properties: Object.fromEntries(names.map((name) => [name, randomSchema(draw, depth + 1)])),
      };
      schema.required = names.filter(() => draw.chance(0.6));
      if (draw.chance(0.5)) schema.additionalProperties = false;
      else if (draw.chance(0.3)) schema.additionalProperties = { type: 'boolean' };
      if (draw.chance(0.15)) schema.maxProperties = Math.max(1, (schema.required as string[]).length);
      return schema;
    }
    case 'anyOf':
      return { anyOf: [randomSchema(draw, depth + 1), randomSchema(draw, depth + 1)] };
    case 'allOf':
      return {
        allOf: [
          { type: 'object', properties: { id: { type: 'integer', minimum: 0 } }, required: ['id'] },
          { properties: { id: { maximum: 9 }, more: randomSchema(draw, depth + 1) } },
        ],
      };
    default:
      return {
        oneOf: ['circle', 'square'].map((shape) => ({
          type: 'object',
          properties: { shape: { const: shape }, value: randomSchema(draw, depth + 1) },
          required: ['shape', 'value'],
        })),
      };
  }
}
