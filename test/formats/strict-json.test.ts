import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ArgumentError } from '../../src/errors.ts';
import { JsonError, parseJson } from '../../src/formats/strict-json.ts';

const parse = (source: string | Uint8Array) => parseJson(source, { where: 'config.json' });
const bytes = (...values: (number | string)[]) =>
  Buffer.concat(values.map((value) => (typeof value === 'number' ? Buffer.of(value) : Buffer.from(value))));

describe('reads', () => {
  test('what JSON.parse reads, as JSON.parse does', () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 8 }), (text) => {
        expect(parse(text)).toEqual(JSON.parse(text));
        expect(parse(Buffer.from(text))).toEqual(JSON.parse(text));
      }),
    );
  });

  test('the same through the reader that knows NaN', () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 8 }), (text) => {
        expect(parse(`[NaN, ${text}]`)).toEqual([Number.NaN, JSON.parse(text)]);
      }),
    );
  });

  test('what Python writes: NaN, Infinity and -Infinity, outside of strings', () => {
    const text = '{"initializer_range": NaN, "time_step_limit": [0.0, Infinity, -Infinity], "name": "NaN, Infinity"}';
    expect(parse(text)).toEqual({
      initializer_range: Number.NaN,
      time_step_limit: [0, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY],
      name: 'NaN, Infinity',
    });
  });

  test('a byte order mark in front', () => {
    expect(parse('\ufeff{"a": 1}')).toEqual({ a: 1 });
    expect(parse(bytes(0xef, 0xbb, 0xbf, '{"a": NaN}'))).toEqual({ a: Number.NaN });
    expect(() => parse('\ufeff\ufeff{}')).toThrow(JsonError);
  });

  test('the last of two equal keys, and keys that mean something to JavaScript', () => {
    expect(parse('{"a": 1, "a": 2, "n": NaN}')).toMatchObject({ a: 2 });
    for (const text of ['{"__proto__": {"x": 1}}', '{"__proto__": {"x": 1}, "n": NaN}']) {
      const value = parse(text) as Record<string, unknown>;
      expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
      expect(value.x).toBeUndefined();
      expect(Object.keys(value)[0]).toBe('__proto__');
    }
  });

  test('halves of a surrogate pair, with NaN beside them, too', () => {
    expect(parse('["\\ud83e", NaN]')).toEqual(['\ud83e', Number.NaN]);
  });
});

describe('refuses', () => {
  test.each<[string, string | Uint8Array, RegExp]>([
    [
      'what ends early',
      '{"a": [1,\n 2',
      /^not JSON: expected "]", found the end, line 2, column 3 \(config.json\); fetch/,
    ],
    ['nothing', ' \n', /^the text is empty, not JSON \(config.json\)/],
    ['more behind it', '{} {}', /expected the end, found "{", line 1, column 4/],
    ['a comment', '// x\n{}', /expected a value, found "\/", line 1, column 1/],
    ['a comma too many', '[1,]', /expected a value, found "]"/],
    ['words that Python does not write', '[nan]', /expected a value, found "n"/],
    ['a number with a plus', '[+Infinity]', /expected a value/],
    ['a leading zero', '[01]', /expected "]", found "1"/],
    ['a line break inside a string', '["a\nb"]', /a control character inside a string/],
    ['a bad escape', '["\\x"]', /a bad escape/],
    ['a web page', '\n<!DOCTYPE html><html>', /^this is a web page, not JSON/],
    [
      'a Git LFS pointer',
      'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1180000000\n',
      /^this is a Git LFS pointer, .*git lfs pull.*bitnet-gf3 pull/,
    ],
    ['UTF-16', bytes(0xff, 0xfe, 0x7b, 0, 0x7d, 0), /^this is UTF-16, JSON is UTF-8 .*save the file as UTF-8/],
    ['gzip', bytes(0x1f, 0x8b, 8, 0), /packed with gzip/],
    ['bytes that are not UTF-8', bytes('["', 0xe9, '"]'), /the bytes are not UTF-8/],
  ])('%s', (_, source, message) => {
    expect(() => parse(source)).toThrow(message);
    expect(() => parse(source)).toThrow(JsonError);
  });

  test('nesting beyond 128, wherever the brackets stand, but not brackets in strings', () => {
    const nested = (depth: number, open = '[', close = ']') => open.repeat(depth) + close.repeat(depth);
    expect(parse(nested(128))).toHaveLength(1);
    expect(parse(JSON.stringify({ text: `\\"${nested(5000)}` }))).toEqual({ text: `\\"${nested(5000)}` });
    for (const text of [
      nested(129),
      nested(100_000),
      `{"a":${nested(200)}}`,
      nested(5000, '{"a":', '}'),
      '['.repeat(1e6),
    ]) {
      expect(() => parse(text)).toThrow(/^JSON nested deeper than 128, line 1, column/);
    }
  });

  test('in a sentence that ends, however long the text is', () => {
    const error = (() => {
      try {
        parseJson(`{"${'x'.repeat(437_000)}": oops}`, { where: 'y'.repeat(100_000) });
      } catch (thrown) {
        return thrown as JsonError;
      }
    })();
    expect(error?.message.length).toBeLessThan(5000);
    expect(error?.message).toContain('[100000 characters]');
  });
});

test('no error of ours is longer than a page, and the parts that callers take are those of the message', () => {
  const error = new ArgumentError({ what: `bad ${'a'.repeat(437_000)}!`, fix: 'f'.repeat(9000) });
  expect(error.message.length).toBeLessThan(4200);
  expect(error.message).toMatch(/^bad aaa.* \[437005 characters\] .*a!; fff/);
  expect(error.text.what.length).toBeLessThan(2100);
  expect(new ArgumentError({ what: 'short' }).text).toEqual({ what: 'short' });
});
