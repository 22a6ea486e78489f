// The server's process: what is on stdout, how it ends, and that it answers while a model writes.

import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import { cpuBackend } from '../../src/engine/cpu/backend.ts';
import { childrenOf, isAlive, RawClient, ROOT } from './server-process.ts';

const LONG = { prompt: 'Once upon a time', max_tokens: 900, temperature: 1, max_seconds: 60 };

/** A generation then takes many seconds on any machine: what happens in its middle does happen there. */
const SLOW = { BITNET_BACKEND: 'js' };

const clients: RawClient[] = [];

async function connect(env: Record<string, string> = {}): Promise<RawClient> {
  const client = new RawClient(env);
  clients.push(client);
  await client.initialize();
  return client;
}

afterEach(() => {
  for (const { child } of clients.splice(0)) child.kill('SIGKILL');
});

/** Starts a generation and waits until it writes. */
async function startWriting(client: RawClient): Promise<{ id: number; steps: () => number }> {
  let progress = 0;
  const writing = new Promise<void>((resolve) => {
    client.onNotification(({ method, params }) => {
      if (method !== 'notifications/progress' || !String(params?.message).startsWith('token')) return;
      progress = Number(params?.progress);
      resolve();
    });
  });
  const { id, answer } = client.request('tools/call', {
    name: 'generate_with_trace',
    arguments: LONG,
    _meta: { progressToken: 'p' },
  });
  const early = answer.then(({ result }) => expect.fail(`it ended early: ${JSON.stringify(result).slice(0, 500)}`));
  early.catch(() => {});
  await Promise.race([writing, early]);
  return { id, steps: () => progress };
}

const isAnswered = (client: RawClient, id: number) => client.lines.some((line) => JSON.parse(line).id === id);

async function within(milliseconds: number, condition: () => boolean): Promise<boolean> {
  const end = performance.now() + milliseconds;
  while (!condition()) {
    if (performance.now() > end) return false;
    await sleep(10);
  }
  return true;
}

test('stdout carries protocol only, whatever happens', async () => {
  const client = await connect({ BITNET_LOG: 'debug' });
  await client.call('color_at', { index: 1 });
  await client.call('color_at', { index: 'x' });
  await client.call('generate_with_trace', { prompt: 'Once', max_tokens: 3 });
  client.child.stdin!.write('this is no JSON\n{"jsonrpc":"2.0"}\n[]\n{"jsonrpc":"2.0","id":99,"method":"no/such"}\n');
  await client.call('no_such_tool', {});
  await client.call('color_at', { index: 2 });
  for (const line of client.lines) expect(JSON.parse(line)).toMatchObject({ jsonrpc: '2.0' });
  const answered = client.lines.map((line) => JSON.parse(line)).filter(({ id }) => id === 99);
  expect(answered[0]?.error?.code).toBe(-32601);
});

const noNative = (await cpuBackend.unavailable()) !== undefined;
test.skipIf(noNative)('the log says once how many threads help a model', async () => {
  const client = await connect({ BITNET_BACKEND: 'cpu' });
  const told = () => {
    const lines = client.stderr
      .join('')
      .split('\n')
      .filter((line) => line.includes('threads found'));
    return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  };
  const prompt = 'Once upon a time there was a girl who had a red ball and a blue ball and a green ball.';
  // Guesses make steps of several rows, which are not those of a generation.
  for (let i = 0; i < 20 && told().length === 0; i += 1) {
    await client.call('generate_with_trace', { prompt: `${i}. ${prompt}`, max_tokens: 100, temperature: 1 });
  }
  await client.call('generate_with_trace', { prompt, max_tokens: 20 });
  expect(told()).toEqual([expect.objectContaining({ level: 30, name: 'bitnet-gf3', model: 'default' })]);
  const { generation, prompts, of, reason } = told()[0]!;
  expect(generation).toBeGreaterThan(0);
  expect(of).toBeGreaterThanOrEqual(generation as number);
  expect(prompts === null || (prompts as number) > 0).toBe(true);
  expect(reason).toMatch(/processor/);
});

test('color_at answers while a model writes', async () => {
  const client = await connect(SLOW);
  await client.call('color_at', { index: 1 });
  const { id, steps } = await startWriting(client);
  for (let index = 1; index <= 50; index++) {
    const { result } = await client.call('color_at', { index });
    expect(result.structuredContent.index).toBe(index);
  }
  // How long an answer takes meanwhile: `npm run bench:calls`.
  const before = steps();
  expect(await within(20_000, () => steps() > before), 'it went on').toBe(true);
  expect(isAnswered(client, id), 'it is still writing').toBe(false);
});

test('many calls at once are all answered, with no warning about it', async () => {
  const client = await connect();
  // More than the pipe holds, so that answers wait for their reader.
  const answers = await Promise.all(Array.from({ length: 1500 }, (_, i) => client.call('palette', { n: 3, start: i })));
  expect(answers.map(({ result }) => result.structuredContent.start)).toEqual(answers.map((_, i) => i));
  expect(client.stderr.join('')).not.toContain('Warning');
});

test('more heavy calls at once than an HTTP server would let wait are all answered', async () => {
  const client = await connect();
  const far = { index: 30_000, scheme: 'gay-mcp' };
  const answers = await Promise.all(Array.from({ length: 400 }, () => client.call('color_at', far)));
  expect(new Set(answers.map(({ result }) => result.content[0].text)).size).toBe(1);
  expect(answers[0]!.result.isError).toBeUndefined();
});

test('a cancelled generation stops writing', async () => {
  const client = await connect(SLOW);
  const { id, steps } = await startWriting(client);
  client.send({ method: 'notifications/cancelled', params: { requestId: id, reason: 'test' } });
  // The engine is free again at once: a short generation is not behind the long one.
  const { result } = await client.call('generate_with_trace', { prompt: 'Once', max_tokens: 2 });
  expect(result.structuredContent.usage.completion_tokens).toBe(2);
  expect(steps()).toBeLessThan(LONG.max_tokens / 2);
  expect(isAnswered(client, id), 'no answer to what was cancelled').toBe(false);
});

test('a generation that is out of time gives what it has and a way to go on', async () => {
  const client = await connect();
  const { result } = await client.call('generate_with_trace', { ...LONG, max_seconds: 0.02 });
  expect(result.structuredContent.finish_reason).toBe('time');
  expect(result.structuredContent.usage.completion_tokens).toBeGreaterThan(0);
  const { continuation } = result.structuredContent;
  const next = await client.call('generate_with_trace', { continuation, max_tokens: 3 });
  expect(next.result.structuredContent.trace[0].step).toBe(result.structuredContent.trace.length);
  expect(next.result.structuredContent.output.startsWith(result.structuredContent.output)).toBe(true);
});

const ENDS: Record<string, (client: RawClient) => void> = {
  'stdin ends': ({ child }) => child.stdin!.end(),
  SIGTERM: ({ child }) => child.kill('SIGTERM'),
  SIGINT: ({ child }) => child.kill('SIGINT'),
  SIGHUP: ({ child }) => child.kill('SIGHUP'),
  'stdout closes': (client) => {
    client.child.stdout!.destroy();
    client.send({ id: 1000, method: 'tools/list' });
  },
};

test.skipIf(process.platform !== 'linux').each(Object.keys(ENDS))(
  'no process survives when %s in the middle of a generation',
  async (how) => {
    const client = await connect(SLOW);
    await startWriting(client);
    const family = [client.child.pid!, ...childrenOf(client.child.pid!)];
    expect(family.length, 'the engine runs in a process of its own').toBe(2);
    ENDS[how]!(client);
    expect(await within(20_000, () => !family.some(isAlive)), 'all gone').toBe(true);
    expect(await client.exit()).toBe(0);
  },
);

test.skipIf(process.platform !== 'linux')('the engine ends with a server that is killed', async () => {
  const client = await connect(SLOW);
  await startWriting(client);
  const family = [client.child.pid!, ...childrenOf(client.child.pid!)];
  client.child.kill('SIGKILL');
  expect(await within(20_000, () => !family.some(isAlive)), 'all gone').toBe(true);
});

test.skipIf(process.platform !== 'linux')(
  'an engine that dies ends its request with an error, not the server',
  async () => {
    const client = await connect(SLOW);
    const { id } = await startWriting(client);
    process.kill(childrenOf(client.child.pid!)[0]!, 'SIGKILL');
    await within(20_000, () => isAnswered(client, id));
    const answer = client.lines.map((line) => JSON.parse(line)).find((message) => message.id === id);
    expect(answer.result.isError).toBe(true);
    expect(answer.result.content[0].text).toContain('ask again');
    const next = await client.call('generate_with_trace', { prompt: 'Once', max_tokens: 2 });
    expect(next.result.structuredContent.usage.completion_tokens).toBe(2);
  },
);

test('a message that is too long is refused by its id, and the connection goes on', async () => {
  const client = await connect();
  const { id, answer } = client.request('ping', { x: 'a'.repeat(12 << 20) });
  expect(await answer).toMatchObject({ id, error: { code: -32600 } });
  const { result } = await client.call('color_at', { index: 1 });
  expect(result.structuredContent.index).toBe(1);
});

test('logs are on stderr only, as JSON lines', async () => {
  const client = await connect({ BITNET_LOG: 'info' });
  client.child.stdin!.end();
  await client.exit();
  const lines = client.stderr.join('').trimEnd().split('\n');
  expect(lines.map((line) => JSON.parse(line).msg)).toEqual(['closing']);
});

test('BITNET_MODEL_ROOTS keeps callers out of other folders', async () => {
  const client = await connect({ BITNET_MODEL_ROOTS: '' });
  for (const [name, args] of [
    ['analyze_layer', {}],
    ['generate_with_trace', { prompt: 'Once', max_tokens: 1 }],
  ] as const) {
    const outside = await client.call(name, { ...args, model: `${ROOT}models/default` });
    expect(outside.result.isError, name).toBe(true);
    expect(outside.result.content[0].text).toContain('outside the folders that may be read');
    const embedded = await client.call(name, args);
    expect(embedded.result.isError ?? false, name).toBe(false);
  }
});
