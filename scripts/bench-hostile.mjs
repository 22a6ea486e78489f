// Eight clients that each do the worst they can to `serve --http`, while a ninth asks for colors and short texts: how long
// the ninth waits, and how much memory the server takes.
//   node scripts/bench-hostile.mjs [--seconds 60] [--connections 2] [--only NAME,NAME] [--none]
// Everything stays on this machine: the server is one that this script starts, on a loopback address. The eight run in a
// process of their own, each with a few connections, and stop with it. Targets: color_at p99 below 50 ms, three tokens
// within a second, memory that does not grow.
import { fork, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { Agent, request } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { deflateRawSync } from 'node:zlib';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    connections: { type: 'string', default: '2' },
    only: { type: 'string' },
    none: { type: 'boolean', default: false },
    port: { type: 'string' },
  },
});
const MAX_SECONDS = 900;
const seconds = Math.min(Number(values.seconds), MAX_SECONDS);
const connections = Math.min(Number(values.connections), 16);
/** Of a hostile request: one that waits longer is given up, as a client would. */
const GIVE_UP_MS = 60_000;
const COLOR_EVERY_MS = 20;
const TEXT_EVERY_MS = 1000;
const SAMPLE_EVERY_MS = 500;

const ENVELOPE = {
  'io.modelcontextprotocol/protocolVersion': '2026-07-28',
  'io.modelcontextprotocol/clientInfo': { name: 'bench', version: '0' },
  'io.modelcontextprotocol/clientCapabilities': {},
};
const TYPES = { accept: 'application/json, text/event-stream', 'content-type': 'application/json' };

let nextId = 1;

/** One POST; resolves to its status and text when the answer has ended. */
function post(port, agent, { headers = {}, body }) {
  return new Promise((resolve, reject) => {
    const sent = request(
      {
        host: '127.0.0.1',
        port,
        path: '/mcp',
        method: 'POST',
        agent,
        headers: { ...TYPES, ...headers, 'content-length': Buffer.byteLength(body) },
        timeout: GIVE_UP_MS,
      },
      (answer) => {
        let text = '';
        answer.setEncoding('utf8').on('data', (chunk) => {
          if (text.length < 4096) text += chunk;
        });
        answer.on('end', () => resolve({ status: answer.statusCode, text }));
        answer.on('error', reject);
      },
    );
    sent.on('timeout', () => sent.destroy(new Error('given up')));
    sent.on('error', reject);
    sent.end(body);
  });
}

function call(port, agent, name, args, envelope = ENVELOPE) {
  const headers = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/call', 'mcp-name': name };
  const params = { name, arguments: args, _meta: envelope };
  return post(port, agent, {
    headers,
    body: JSON.stringify({ jsonrpc: '2.0', id: nextId++, method: 'tools/call', params }),
  });
}

// The eight. Each makes what one request sends; `i` counts its requests.

const STORY = 'Once upon a time there was a little fox who ran home. ';
const HUGE = STORY.repeat(Math.floor(3.9e6 / STORY.length));
const FULL = STORY.repeat(70);

function forged(text) {
  return `c2.${'A'.repeat(22)}.${deflateRawSync(text).toString('base64url')}`;
}
const BOMB = forged(
  JSON.stringify({ model: 'default', tokens: [1], promptTokens: 1, steps: 0, output: 'y'.repeat(7_900_000) }),
);
const NEST = forged('['.repeat(1_000_000));
const OBJECTS = `[${'{},'.repeat(1_300_000)}0]`;

const HOSTILE = {
  prompts: (port, agent, i) =>
    i % 2 === 0
      ? call(port, agent, 'generate_with_trace', { prompt: `${i} ${HUGE}` })
      : call(port, agent, 'generate_with_trace', { messages: [{ role: 'user', content: `${i} ${HUGE}` }] }),
  palettes: (port, agent, i) => call(port, agent, 'palette', { n: 4096, seed: i }),
  pictures: (port, agent, i) =>
    i % 2 === 0
      ? call(port, agent, 'palette', { n: 4096, seed: i, image: true })
      : call(port, agent, 'analyze_layer', { seed: i, image: true }),
  steps: (port, agent, i) =>
    call(port, agent, 'morphism_step', i % 4 === 3 ? { text: [STORY], steps: 1 } : { text: [`${i} ${HUGE}`] }),
  handles: (port, agent, i) => call(port, agent, 'generate_with_trace', { continuation: i % 2 === 0 ? BOMB : NEST }),
  bodies: (port, agent, i) =>
    [
      () => post(port, agent, { body: OBJECTS }),
      () => call(port, agent, 'balance_triad', { trits: Array(4096).fill('x') }),
      () => call(port, agent, 'morphism_step', { tokens: [Array(16_000).fill('x')] }),
      () => post(port, agent, { body: `{"x":"${'\\u0041'.repeat(690_000)}"}` }),
      () => post(port, agent, { body: '['.repeat(4_000_000) }),
    ][i % 5](),
  texts: (port, agent, i) =>
    call(port, agent, 'generate_with_trace', {
      prompt: `${i} ${FULL}`,
      max_tokens: 1000,
      max_seconds: 1e6,
      temperature: 1,
      sample_seed: i,
      activations: true,
    }),
  sessions: async (port, agent, i) => {
    // Another client each time, so that nothing about it is known; a session left open; a body that never ends.
    const clientInfo = { name: `bench ${i}`, version: '0' };
    await call(
      port,
      agent,
      'color_at',
      { index: 1e6 - i, scheme: 'gay-mcp' },
      { ...ENVELOPE, 'io.modelcontextprotocol/clientInfo': clientInfo },
    );
    const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo };
    await post(port, agent, { body: JSON.stringify({ jsonrpc: '2.0', id: 0, method: 'initialize', params }) });
    if (i % 20 !== 0) return { status: 200 };
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => {});
    socket.write(
      `POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:${port}\r\naccept: ${TYPES.accept}\r\ncontent-type: application/json\r\ncontent-length: 4000000\r\n\r\n{"x":"`,
    );
    const timer = setInterval(() => socket.write('x'.repeat(1000)), 1000);
    socket.once('close', () => clearInterval(timer));
    return { status: 200 };
  },
};

async function runHostile() {
  const port = Number(values.port);
  const names = values.only?.split(',') ?? Object.keys(HOSTILE);
  const counts = {};
  for (const name of names) {
    counts[name] = {};
    for (let c = 0; c < connections; c++) {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      void (async () => {
        for (let i = c; ; i += connections) {
          const outcome = await HOSTILE[name](port, agent, i).then(
            ({ status }) => status,
            (error) => error.code ?? error.message,
          );
          counts[name][outcome] = (counts[name][outcome] ?? 0) + 1;
          // A server that is gone is not asked as fast as one can.
          if (typeof outcome !== 'number') await sleep(50);
        }
      })();
    }
  }
  process.on('message', () => process.send(counts, () => process.exit(0)));
  process.on('disconnect', () => process.exit(0));
  setTimeout(() => process.exit(1), 1000 * (MAX_SECONDS + 60)).unref();
}

/** Resident bytes of a process and of those that it has started; Linux only. */
function residentBytes(pid) {
  try {
    const own = 1024 * Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0);
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean);
    return children.reduce((sum, child) => sum + residentBytes(child), own);
  } catch {
    return 0;
  }
}

function spread(times) {
  const sorted = [...times].sort((a, b) => a - b);
  const at = (part) => (sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)] ?? Number.NaN).toFixed(1);
  return `${sorted.length} calls, p50 ${at(0.5)} ms, p99 ${at(0.99)}, slowest ${at(1)}`;
}

async function main() {
  const home = await mkdtemp(join(tmpdir(), 'bitnet-hostile-'));
  const program = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
  const server = spawn(process.execPath, [program, 'serve', '--http', '--port', '0', '--json'], {
    env: { ...process.env, BITNET_LOG: 'error', BITNET_WORLDS: home },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  for await (const line of createInterface({ input: server.stdout })) {
    text += line;
    if (line === '}') break;
  }
  const { port } = JSON.parse(text);
  const colors = new Agent({ keepAlive: true, maxSockets: 1 });
  const texts = new Agent({ keepAlive: true, maxSockets: 1 });
  const failed = [];
  const timed = async (work, times) => {
    const start = performance.now();
    const { status, text: answer } = await work().catch((error) => ({ status: error.message, text: '' }));
    times.push(performance.now() - start);
    if (status !== 200 || answer.includes('"isError":true')) failed.push(`${status} ${answer.slice(0, 200)}`);
  };
  const color = (i, times) => timed(() => call(port, colors, 'color_at', { index: i }), times);
  const write = (times) =>
    timed(() => call(port, texts, 'generate_with_trace', { prompt: STORY, max_tokens: 3 }), times);
  await write([]);
  for (let i = 0; i < 200; i++) await color(i, []);

  const hostile = values.none
    ? undefined
    : fork(fileURLToPath(import.meta.url), [...process.argv.slice(2), '--port', String(port)]);
  const end = performance.now() + 1000 * seconds;
  const colorTimes = [];
  const textTimes = [];
  const memory = [];
  await sleep(500);
  await Promise.all([
    (async () => {
      for (let i = 0; performance.now() < end; i++) {
        await color(i, colorTimes);
        await sleep(COLOR_EVERY_MS);
      }
    })(),
    (async () => {
      while (performance.now() < end) {
        await write(textTimes);
        await sleep(TEXT_EVERY_MS);
      }
    })(),
    (async () => {
      while (performance.now() < end) {
        memory.push(residentBytes(server.pid) / 2 ** 20);
        await sleep(SAMPLE_EVERY_MS);
      }
    })(),
  ]);
  const counts =
    hostile &&
    (await new Promise((resolve) => {
      hostile.once('message', resolve);
      hostile.once('exit', () => resolve(undefined));
      hostile.send('stop');
    }));
  const parts = [0, 0.25, 0.5, 0.75, 1].map((part) => memory[Math.round(part * (memory.length - 1))]?.toFixed(0));
  process.stdout.write(
    [
      `color_at: ${spread(colorTimes)} (target: p99 below 50)`,
      `3 tokens: ${spread(textTimes)} (target: below 1000)`,
      `memory: ${parts.join(', ')} MB at each quarter, at most ${Math.max(...memory).toFixed(0)} MB`,
      `failed: ${failed.length}${failed.length > 0 ? `, such as ${failed[0]}` : ''}`,
      ...(counts ? Object.entries(counts).map(([name, of]) => `  ${name}: ${JSON.stringify(of)}`) : []),
      '',
    ].join('\n'),
  );
  server.kill();
  await rm(home, { recursive: true, force: true });
  process.exit(failed.length > 0 ? 1 : 0);
}

await (values.port === undefined ? main() : runHostile());
