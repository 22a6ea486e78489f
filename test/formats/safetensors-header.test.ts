// Two readers of one header: the quick one takes the form that writers give, and leaves everything else to the strict one.

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseSafetensorsHeader, readPlainHeader } from '../../src/formats/safetensors-header.ts';

const SIZES = { U8: 1, BF16: 2, F32: 4, I64: 8 } as const;

/** A sound header, its tensors one after the other, and the size of its data. */
const header = fc
  .tuple(
    fc.uniqueArray(
      fc.tuple(
        fc.oneof(fc.string(), fc.constantFrom('__proto__', 'constructor', '1', '-0', 'ü', '💡', 'a"b', '\\', ' ')),
        fc.constantFrom(...(['U8', 'BF16', 'F32', 'I64'] as const)),
        fc.array(fc.nat(3), { maxLength: 3 }),
      ),
      { selector: ([name]) => name, maxLength: 6 },
    ),
    fc.option(fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 })),
  )
  .filter(([tensors]) => tensors.every(([name]) => name !== '__metadata__'))
  .map(([tensors, metadata]) => {
    let at = 0;
    const entries: [string, unknown][] = metadata === null ? [] : [['__metadata__', metadata]];
    for (const [name, dtype, shape] of tensors) {
      const begin = at;
      at += shape.reduce((product, size) => product * size, SIZES[dtype]);
      entries.push([name, { dtype, shape, data_offsets: [begin, at] }]);
    }
    return { json: Object.fromEntries(entries), dataBytes: at };
  });

function read(text: string, dataBytes: number) {
  const json = Buffer.from(text);
  const { tensors, metadata } = parseSafetensorsHeader(json, { path: 'file', size: 8 + json.length + dataBytes });
  const places = [...tensors.values()].map(({ offset, ...rest }) => ({ ...rest, offset: offset - json.length }));
  return { places, metadata: [...metadata] };
}

test('both read the same', () => {
  fc.assert(
    fc.property(header, ({ json, dataBytes }) => {
      // White space inside is valid and not what a writer gives.
      const spaced = JSON.stringify(json, undefined, 1);
      expect(readPlainHeader(spaced) === undefined || spaced === JSON.stringify(json)).toBe(true);
      expect(read(JSON.stringify(json), dataBytes)).toEqual(read(spaced, dataBytes));
      expect(read(`${JSON.stringify(json)}   `, dataBytes)).toEqual(read(spaced, dataBytes));
    }),
  );
});

test('the quick one reads the embedded model', () => {
  const file = readFileSync(new URL('../../models/default/model.safetensors', import.meta.url));
  const text = file.toString('utf8', 8, 8 + Number(file.readBigUInt64LE(0)));
  expect(readPlainHeader(text)!.entries.length).toBeGreaterThan(100);
});

describe('the quick one leaves alone', () => {
  const entry = '{"dtype":"U8","shape":[1],"data_offsets":[0,1]}';
  test.each<[string, string]>([
    ['a name that comes twice', `{"a":${entry},"a":${entry}}`],
    ['a field that comes twice', '{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}'],
    ['a number that a double cannot hold', '{"a":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,1]}}'],
    ['a number above 2^53', '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,9007199254740992]}}'],
    ['a fraction', '{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}'],
    ['an exponent', '{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}'],
    ['a minus', '{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}'],
    ['zero with a minus', '{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'],
    ['an unknown dtype', '{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,1]}}'],
    ['a dtype of every object', '{"a":{"dtype":"constructor","shape":[1],"data_offsets":[0,1]}}'],
    ['three offsets', '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}'],
    ['an unknown field', '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":1}}'],
    ['an escape', `{"\\u0061":${entry}}`],
    ['half a surrogate pair', `{"\\ud800":${entry}}`],
    ['names that are numbers, out of order', `{"10":${entry},"9":${entry}}`],
    ['metadata that is no text', '{"__metadata__":{"a":1}}'],
    ['a list of metadata', '{"__metadata__":["a"]}'],
    ['something else than JSON', '{"a":'],
    ['an entry that is none', '{"a":null}'],
    ['deep nesting', `{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}}`],
    ['a megabyte', `{"a":${entry},"${'b'.repeat(1 << 20)}":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`],
  ])('%s', (_, text) => {
    expect(readPlainHeader(text)).toBeUndefined();
  });
});
