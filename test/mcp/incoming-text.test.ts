// Bodies as they arrive: what is kept of them, and that it does not matter in what pieces they come.

import type { IncomingMessage } from 'node:http';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BodyReader } from '../../src/mcp/http/body.ts';
import { IncomingText, JsonScan, mostBytes } from '../../src/mcp/incoming.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import { colorAtTool } from '../../src/tools/color-at.ts';
import { cutBytes, textIn } from '../../src/tools/cut-text.ts';
import { generateWithTraceTool } from '../../src/tools/generate-with-trace.ts';
import { messagesOf, openSession, send, startServer, statelessCall } from './http-harness.ts';

function take(text: string | Buffer, size: number, maxBytes: number) {
  const bytes = Buffer.from(text);
  const incoming = new IncomingText(maxBytes);
  let problem: string | undefined;
  for (let at = 0; at < bytes.length && problem === undefined; at += size) {
    problem = incoming.take(bytes.subarray(at, at + size));
  }
  const kept = problem === undefined ? incoming.text(() => Buffer.alloc(mostBytes(maxBytes))) : '';
  return { problem, kept, cuts: incoming.cuts, length: incoming.length };
}

/** The scan byte by byte, as a book would have it. */
function depthOutsideStrings(text: string): number {
  let depth = 0;
  let most = 0;
  let inString = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (inString && c === '\\') i += 1;
    else if (c === '"') inString = !inString;
    else if (!inString && (c === '[' || c === '{')) most = Math.max(most, ++depth);
    else if (!inString && (c === ']' || c === '}')) depth -= 1;
  }
  return most;
}

describe('the scan', () => {
  const soup = fc
    .array(fc.constantFrom('"', '\\', '\\\\', '\\"', '[', ']', '{', 'a', ',', 'ä'), { maxLength: 60 })
    .map((parts) => parts.join(''));

  test('sees brackets where strings end, whatever the quotes and backslashes', () => {
    fc.assert(
      fc.property(soup, fc.integer({ min: 1, max: 7 }), (text, size) => {
        const bytes = Buffer.from(`${'['.repeat(60)}${text}`);
        const scan = new JsonScan();
        let problem: string | undefined;
        for (let at = 0; at < bytes.length; at += size) problem ??= scan.take(bytes.subarray(at, at + size));
        expect(problem !== undefined).toBe(depthOutsideStrings(bytes.toString()) > 64);
      }),
    );
  });

  test('a short text is kept to the byte, however it comes', () => {
    fc.assert(
      fc.property(fc.json(), fc.integer({ min: 1, max: 9 }), (text, size) => {
        expect(take(text, size, 1 << 20)).toMatchObject({ kept: text, cuts: 0, problem: undefined });
      }),
    );
    const many = JSON.stringify({ text: 'ä€😀'.repeat(20_000) });
    for (const size of [1, 3, 100, 65_536]) expect(take(many, size, 1 << 20).kept).toBe(many);
  });
});

describe('a long text', () => {
  const message = (text: string) => ({
    jsonrpc: '2.0',
    params: { name: 'x', arguments: { prompt: text, n: 1 } },
    id: 7,
  });

  test.each([1, 7, 1000, 65_536, 1e6])('in pieces of %d bytes is skipped, and the rest kept', (size) => {
    const { kept, cuts, length } = take(JSON.stringify(message('\\"'.repeat(4000))), size, 5000);
    expect(JSON.parse(kept)).toEqual(message('\0text 16000'));
    expect(cuts).toBe(1);
    expect(length).toBeLessThan(200);
  });

  test('only what goes beyond is skipped: the others, and names, stay', () => {
    const text = JSON.stringify({
      a: 'x'.repeat(3000),
      b: 'y'.repeat(3000),
      c: ['z'.repeat(900)],
      ['k'.repeat(2000)]: 1,
    });
    const { kept, cuts } = take(text, 512, 5000);
    expect(JSON.parse(kept)).toEqual({ a: 'x'.repeat(3000), b: '\0text 3000', c: ['z'.repeat(900)], '\0text 2000': 1 });
    expect(cuts).toBe(2);
  });

  test('no more is ever held, byte by byte neither', () => {
    const incoming = new IncomingText(100_000);
    incoming.take(Buffer.from('{"a":"'));
    let most = 0;
    const x = Buffer.from('x');
    for (let i = 0; i < 400_000; i++) {
      if (incoming.take(x) !== undefined) expect.unreachable();
      most = Math.max(most, incoming.length);
    }
    expect(most).toBe(100_000);
    expect(incoming.length).toBe(6);
  });

  test('what is no text is refused', () => {
    expect(take(`[${' '.repeat(200_000)}]`, 1000, 100_000).problem).toContain(
      'more than 100000 bytes beside long texts',
    );
    expect(take(`[${'9'.repeat(200_000)}]`, 1000, 100_000).problem).toContain(
      'more than 100000 bytes beside long texts',
    );
    expect(take(`["${'a'.repeat(200_000)}`, 1000, 100_000)).toMatchObject({ problem: undefined, length: 2 });
  });
});

describe('what stands in its place', () => {
  test.each([
    ['\0text 16000', 16_000],
    ['\0text', undefined],
    ['\0text 1x', undefined],
    ['text 16000', undefined],
    ['', undefined],
    [16_000, undefined],
  ])('%j', (value, bytes) => {
    expect(cutBytes(value)).toBe(bytes);
  });

  test('is found as deep as arguments have texts', () => {
    const cut = '\0text 2000000';
    expect(textIn({ a: 'abc', b: [cut], messages: [{ content: cut }] })).toEqual({ characters: 3, cut: [2e6, 2e6] });
    expect(textIn([[[[cut]]]]).cut).toEqual([]);
  });

  test.each([
    [generateWithTraceTool, { prompt: '\0text 3900000' }],
    [generateWithTraceTool, { messages: [{ role: 'user', content: '\0text 3900000' }] }],
    [colorAtTool, { index: 1, seed: '\0text 3900000' }],
  ])('is refused by every tool: %#', async (tool, args) => {
    const services = { generate: () => Promise.reject(new Error('it must not come here')) };
    await expect(callTool(tool as never, args, { services } as never)).rejects.toThrow(
      'the arguments have a text of 3900000 bytes, more than any call takes (1048576 characters)',
    );
  });
});

describe('over HTTP', () => {
  const LONG = 'Once upon a time. '.repeat(220_000);

  test('a text that is too long is told to the call, in every protocol', async () => {
    await using server = await disposable(startServer());
    const told = `the arguments have a text of ${LONG.length} bytes, more than any call takes`;
    const args = { prompt: LONG };
    const stateless = await send(server, statelessCall(1, 'generate_with_trace', args));
    expect(stateless.status).toBe(200);
    expect(messagesOf(stateless)[0]).toMatchObject({ id: 1, result: { isError: true } });
    expect(stateless.text).toContain(told);

    const { headers } = await openSession(server);
    const params = { name: 'generate_with_trace', arguments: args };
    const inSession = await send(server, { headers, body: { jsonrpc: '2.0', method: 'tools/call', params, id: 2 } });
    expect(messagesOf(inSession).at(-1)).toMatchObject({ id: 2, result: { isError: true } });
    expect(inSession.text).toContain(told);
    // On the same connection or another, the next one is answered as ever.
    expect((await send(server, statelessCall(3, 'color_at', { index: 1 }))).text).toContain('"hex"');
  });

  test.each([
    ['a field of its own', { ...(statelessCall(1, 'color_at', { index: 1 }).body as object), more: LONG }],
    ['the method', { jsonrpc: '2.0', id: 1, method: LONG }],
    ['the name of an argument', statelessCall(1, 'color_at', { [LONG]: 1 }).body],
    ['deep in an argument', statelessCall(1, 'color_at', { index: [[[[LONG]]]] }).body],
    [
      'what is not called',
      { jsonrpc: '2.0', id: 1, method: 'prompts/get', params: { name: 'a', arguments: { a: LONG } } },
    ],
    ['all there is', JSON.stringify(LONG)],
  ])('anywhere else the request is refused: %s', async (_, body) => {
    await using server = await disposable(startServer());
    const answer = await send(server, { headers: statelessCall(1, 'color_at', {}).headers ?? {}, body });
    expect(answer.status).toBe(413);
    expect(answer.text).toContain('a text that goes beyond 1572864 bytes');
  });
});

describe('bodies that never end', () => {
  /** A request that has sent so many bytes and sends no more until it is told to. */
  function unfinished(bytes: number) {
    let end = () => {};
    const ended = new Promise<void>((resolve) => {
      end = resolve;
    });
    const req = Object.assign(
      (async function* () {
        for (let left = bytes; left > 0; left -= 65_536) yield Buffer.alloc(Math.min(left, 65_536), ' ');
        await ended;
        yield Buffer.from('1');
      })(),
      { headers: {} },
    );
    return { req: req as unknown as IncomingMessage, end };
  }

  test('fill what is held of all; small ones come through', async () => {
    const reader = new BodyReader();
    // 22 of 1.5 MB each fit in 32 MiB.
    const slow = Array.from({ length: 22 }, () => unfinished(1_500_000));
    const reading = slow.map(({ req }) => reader.read(req));
    await new Promise((resolve) => setTimeout(resolve, 0));
    await expect.poll(() => reader.pending).toBe(22 * 1_500_000);

    const large = unfinished(1_500_000);
    large.end();
    const refused = reader.read(large.req);
    await expect(refused).rejects.toMatchObject({ status: 503 });
    const small = unfinished(30_000);
    small.end();
    expect(await reader.read(small.req)).toBe(1);

    for (const { end } of slow) end();
    expect(await Promise.all(reading)).toEqual(Array(22).fill(1));
    expect(reader.pending).toBe(0);
  });
});

async function disposable<T extends { close(): Promise<void> }>(starting: Promise<T>): Promise<T & AsyncDisposable> {
  const started = await starting;
  return Object.assign(started, { [Symbol.asyncDispose]: () => started.close() });
}
