import fc from 'fast-check';
import { expect, test } from 'vitest';
import { readEvents, StreamLimitError } from '../../../src/generate/openai/event-stream.ts';

const LIMITS = { eventLength: 1000, totalBytes: 100_000 };

async function* chunks(parts: readonly Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* parts;
}

async function read(text: string, sizes: readonly number[] = [], limits = LIMITS) {
  const bytes = Buffer.from(text);
  const parts: Uint8Array[] = [];
  let from = 0;
  for (const size of sizes) {
    parts.push(bytes.subarray(from, from + size));
    from += size;
  }
  parts.push(bytes.subarray(from));
  const events = [];
  for await (const event of readEvents(chunks(parts), limits)) events.push(event);
  return events;
}

test.each<[string, string, readonly string[]]>([
  ['one event', 'data: a\n\n', ['a']],
  ['no space after the colon, and two of them', 'data:a\n\ndata:  b\n\n', ['a', ' b']],
  ['several lines of data', 'data: a\ndata: b\n\n', ['a\nb']],
  ['comments, ids and unknown fields', ': hello\nid: 1\nretry: 5\ndata: a\nfoo\n\n', ['a']],
  ['CRLF and CR', 'data: a\r\n\r\ndata: b\r\rdata: c\n\n', ['a', 'b', 'c']],
  ['events without data', '\n\nevent: x\n\ndata: a\n\n', ['a']],
  ['no blank line at the end', 'data: a\n\ndata: b', ['a', 'b']],
  ['empty data', 'data\n\ndata:\n\n', ['', '']],
  ['a byte order mark', '\ufeffdata: a\n\n', ['a']],
])('%s', async (_, text, expected) => {
  expect((await read(text)).map(({ data }) => data)).toEqual(expected);
});

test('the type is that of the event, and does not last', async () => {
  expect(await read('event: error\ndata: a\n\ndata: b\n\n')).toEqual([
    { type: 'error', data: 'a' },
    { type: 'message', data: 'b' },
  ]);
});

test('however the bytes are cut, the events are the same', async () => {
  const line = fc.array(fc.constantFrom('data: é🦊', 'data: x', ': c', 'event: e', '', '東京'), { maxLength: 12 });
  const separator = fc.constantFrom('\n', '\r\n', '\r');
  await fc.assert(
    fc.asyncProperty(line, separator, fc.array(fc.nat(7), { maxLength: 40 }), async (lines, end, sizes) => {
      const text = lines.map((one) => one + end).join('');
      expect(await read(text, sizes)).toEqual(await read(text));
    }),
  );
});

test.each([
  ['a line', `data: ${'x'.repeat(1001)}`],
  ['an event of many lines', 'data: 0123456789\n'.repeat(101)],
  ['a stream', ': wait\n'.repeat(20_000)],
])('%s beyond its limit is refused', async (_, text) => {
  await expect(read(text)).rejects.toBeInstanceOf(StreamLimitError);
});
