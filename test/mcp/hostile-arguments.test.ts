// Every argument of every tool with values that nobody should send, over stdio and HTTP: each call is answered, with a
// result that fits the declared schema or an error that says what was wrong, and the server serves on.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ALL_TOOLS } from '../../src/tools/all-tools.ts';
import { messagesOf, openSession, type RunningServer, send, startProcess, statelessCall } from './http-harness.ts';
import { RawClient } from './server-process.ts';

const STRINGS = [
  '',
  '\0',
  'a\0b',
  'x'.repeat(1_000_000),
  '../../../etc/passwd',
  '/etc/passwd',
  '/dev/zero',
  '/proc/self/environ',
  '~root',
  'default/../default',
  'org/name@../../x',
  'é☕\u{1f600}',
  '\ud800',
  '１２３',
  'NaN',
  '1e309',
  '0xFFFFFFFFFFFFFFFFF',
  '__proto__',
  'constructor',
  '%2e%2e%2f',
  '*?'.repeat(128),
  '(a+)+$',
  'f'.repeat(64),
];
const NUMBERS = [-1, 0.5, 2 ** 31, 2 ** 53 - 1, 2 ** 53, 1e308, -1e308, 5e-324];
const OTHERS: readonly unknown[] = [
  null,
  true,
  [],
  {},
  [[]],
  [null],
  ['x'],
  Array(1000).fill('x'),
  { a: 1 },
  { toString: 1 },
];
const VALUES: readonly unknown[] = [...STRINGS, ...NUMBERS, ...OTHERS];

/** Calls to spoil. None trains: the world does not exist, and a step takes a second. */
const SOUND: readonly [string, Record<string, unknown>][] = [
  [
    'generate_with_trace',
    {
      prompt: 'Once',
      model: 'default',
      max_tokens: 1,
      seed: 1,
      scheme: 'trace',
      temperature: 1,
      top_k: 2,
      top_p: 0.5,
      sample_seed: 1,
      stop: ['x'],
      activations: true,
      max_seconds: 1,
    },
  ],
  ['generate_with_trace', { messages: [{ role: 'user', content: 'Hi' }], max_tokens: 1, max_seconds: 1 }],
  ['generate_with_trace', { continuation: 'x', max_seconds: 1 }],
  ['analyze_layer', { model: 'default', layer: '*layers.0.*', offset: 0, seed: 1, image: false }],
  ['color_at', { index: 1, seed: 1, scheme: 'trace' }],
  ['palette', { n: 2, seed: 1, start: 1, scheme: 'trace', image: false }],
  ['balance_triad', { trits: [1] }],
  ['balance_triad', { skills: ['geb'] }],
  [
    'morphism_step',
    {
      world: 'ffffffffff',
      text: ['The fox ran.'],
      lr: 0.001,
      optimizer: 'sgd',
      steps: 1,
      conserve: true,
      seed: 1,
    },
  ],
  ['morphism_step', { world: 'ffffffffff', tokens: [[1, 2, 3]] }],
  ['morphism_invert', { world: 'ffffffffff' }],
];

type Call = { readonly name: string; readonly args: unknown };

const CALLS: readonly Call[] = [
  ...SOUND.flatMap(([name, args]) =>
    Object.keys(args).flatMap((key) => VALUES.map((value) => ({ name, args: { ...args, [key]: value } }))),
  ),
  ...ALL_TOOLS.flatMap(({ name }) => [...VALUES, { ['n'.repeat(100_000)]: 1 }].map((args) => ({ name, args }))),
  ...VALUES.flatMap((value) => [
    { name: 'generate_with_trace', args: { messages: [{ role: 'user', content: value }], max_tokens: 1 } },
    { name: 'generate_with_trace', args: { messages: [{ role: value, content: 'Hi' }], max_tokens: 1 } },
    { name: 'morphism_step', args: { world: 'ffffffffff', tokens: [[value, 1]] } },
  ]),
];

type Answer = {
  readonly result?: {
    readonly isError?: boolean;
    readonly content: { readonly text?: string }[];
    readonly structuredContent?: unknown;
  };
  readonly error?: { readonly code: number; readonly message: string };
};

const INTERNAL_ERROR = -32_603;

/** A URI cannot hold half a character. */
const wellFormed = (text: string) => Buffer.from(text).toString();

function check({ name, args }: Call, { result, error }: Answer): void {
  const call = `${name} ${JSON.stringify(args)?.slice(0, 300)}`;
  const text = error?.message ?? result?.content[0]?.text ?? '';
  expect(error?.code, call).not.toBe(INTERNAL_ERROR);
  expect(text, call).not.toMatch(/internal error|\bat .*\.[jt]s:\d/);
  if (error !== undefined || result?.isError) {
    expect(text.length, call).toBeGreaterThan(10);
    expect(text.length, call).toBeLessThan(2000);
    return;
  }
  // What a client does with it.
  const declared = ALL_TOOLS.find((tool) => tool.name === name)!;
  expect(declared.output.safeParse(JSON.parse(JSON.stringify(result!.structuredContent))).error, call).toBeUndefined();
}

const worlds = mkdtempSync(join(tmpdir(), 'hostile-'));
const ENV = { BITNET_WORLDS: worlds, BITNET_LOG: 'error' };
afterAll(() => rmSync(worlds, { recursive: true, force: true }));

describe('over stdio', () => {
  let client: RawClient;
  beforeAll(async () => {
    client = new RawClient(ENV);
    await client.initialize();
  });
  afterAll(() => client.child.kill('SIGKILL'));

  test(`each of ${CALLS.length} calls is answered`, async () => {
    for (const call of CALLS) check(call, await client.call(call.name, call.args as Record<string, unknown>));
    expect(client.stderr.join('')).toBe('');
    expect((await client.call('color_at', { index: 1 })).result.structuredContent.hex).toBe('#6404C3');
  }, 300_000);

  test('many at once, half of them cancelled: the others are answered, and nothing is left running', async () => {
    const running: { readonly id: number; readonly answer: Promise<Answer>; readonly name: string }[] = [];
    for (let i = 0; i < 120; i++) {
      const [name, args] = SOUND[i % SOUND.length]!;
      const longer = name === 'generate_with_trace' && 'prompt' in args ? { max_tokens: 200, max_seconds: 30 } : {};
      const _meta = i % 3 === 0 ? { progressToken: i } : {};
      const request = client.request('tools/call', { name, arguments: { ...args, ...longer }, _meta });
      running.push({ ...request, name });
    }
    await sleep(100);
    const kept = running.filter((_, i) => i % 2 === 0);
    for (const { id } of running.filter((_, i) => i % 2 === 1)) {
      client.send({ method: 'notifications/cancelled', params: { requestId: id } });
    }
    for (const { answer, name } of kept) check({ name, args: 'many at once' }, await answer);
    // A queue that had lost count would let no more through.
    for (let i = 0; i < 20; i++) {
      check({ name: 'analyze_layer', args: {} }, await client.call('analyze_layer', {}));
      check(
        { name: 'generate_with_trace', args: {} },
        await client.call('generate_with_trace', { prompt: 'a', max_tokens: 1 }),
      );
    }
  }, 120_000);
});

describe('over HTTP', () => {
  let server: RunningServer;
  beforeAll(async () => {
    server = await startProcess([], ENV);
  });
  afterAll(() => server.close());

  test(`each of ${CALLS.length} calls is answered, stateless or in a session`, async () => {
    const { headers } = await openSession(server);
    for (const [i, call] of CALLS.entries()) {
      const stateless = statelessCall(i + 1, call.name, call.args as Record<string, unknown>);
      const inSession = {
        jsonrpc: '2.0',
        id: i + 1,
        method: 'tools/call',
        params: { name: call.name, arguments: call.args },
      };
      const answer = await send(server, i % 2 === 0 ? stateless : { headers, body: inSession });
      expect(
        [200, 400],
        `${call.name} ${JSON.stringify(call.args)?.slice(0, 300)}: ${answer.text.slice(0, 300)}`,
      ).toContain(answer.status);
      check(call, messagesOf(answer).at(-1) as Answer);
    }
  }, 300_000);

  test.each([
    ...STRINGS.filter((text) => text.length < 1000).map(
      (text) => `models/${encodeURIComponent(wellFormed(text))}/trits/${encodeURIComponent('*')}/0/0`,
    ),
    ...STRINGS.filter((text) => text.length < 1000).map(
      (text) => `models/default/trits/${encodeURIComponent(wellFormed(text))}/0/0`,
    ),
    ...STRINGS.filter((text) => text.length < 1000).map((text) => `worlds/${encodeURIComponent(wellFormed(text))}`),
    'models/default/trits/*/-1/0',
    'models/default/trits/*/999999999999999/0',
    'models/default/trits/*/0/1e3',
    'models/default/trits/%ff/0/0',
    'traces/trace/1/99999999999999999999.png',
    'traces/gay-mcp/18446744073709551616/4096.png',
    'traces/%00/1/1.png',
  ])('the resource %s is answered', async (path) => {
    const { headers } = await openSession(server);
    const params = { uri: `bitnet-gf3://${path}` };
    const answer = await send(server, { headers, body: { jsonrpc: '2.0', id: 1, method: 'resources/read', params } });
    const { error } = messagesOf(answer).at(-1) as Answer;
    expect(error?.code, answer.text).not.toBe(INTERNAL_ERROR);
    if (error !== undefined) expect(error.message.length).toBeLessThan(2000);
  });
});
