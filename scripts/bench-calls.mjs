// How many color_at calls a second the built server answers: stateless and in a session over HTTP, and over stdio; and
// how long one takes while a model writes.
//   node scripts/bench-calls.mjs [--connections 8] [--pipeline 8] [--seconds 3]
// The client runs in this process, the server in another, each on a core. `CPU` is the server's own time for a call,
// which holds on a busy machine, too.
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    connections: { type: 'string', default: '8' },
    pipeline: { type: 'string', default: '8' },
    seconds: { type: 'string', default: '3' },
  },
});
const connections = Number(values.connections);
const pipeline = Number(values.pipeline);
const seconds = Number(values.seconds);
const WARM_UP_MS = 1500;

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
const env = { ...process.env, BITNET_LOG: 'silent' };

const CLIENT = { name: 'bench', version: '0' };
const ENVELOPE = {
  'io.modelcontextprotocol/protocolVersion': '2026-07-28',
  'io.modelcontextprotocol/clientInfo': CLIENT,
  'io.modelcontextprotocol/clientCapabilities': {},
};
const INITIALIZE = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: CLIENT };

let id = 0;
const call = (meta = {}) => {
  id += 1;
  const params = { name: 'color_at', arguments: { index: id }, ...meta };
  return JSON.stringify({ jsonrpc: '2.0', id, method: 'tools/call', params });
};

/** Counts answers for the time that is measured; `cpuSeconds` tells what the server has used so far. */
async function measure(name, answers, cpuSeconds) {
  await sleep(WARM_UP_MS);
  const cpu = await cpuSeconds();
  const start = performance.now();
  const before = answers();
  await sleep(1000 * seconds);
  const count = answers() - before;
  const perSecond = count / ((performance.now() - start) / 1000);
  const used = (1e6 * ((await cpuSeconds()) - cpu)) / count;
  process.stdout.write(`${name.padEnd(18)} ${perSecond.toFixed(0).padStart(6)} calls/s, ${used.toFixed(0)} us CPU\n`);
}

async function overHttp() {
  const flags = ['serve', '--http', '--port', '0', '--json', '--rate-limit', '1000000'];
  const server = spawn(process.execPath, [main, ...flags], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  for await (const line of createInterface({ input: server.stdout })) {
    text += line;
    if (line === '}') break;
  }
  const { url, port } = JSON.parse(text);
  const accept = { accept: 'application/json, text/event-stream', 'content-type': 'application/json' };
  const cpuSeconds = async () => {
    const metrics = await (await fetch(new URL('/metrics', url))).text();
    return Number(/^process_cpu_seconds_total (\S+)$/m.exec(metrics)[1]);
  };
  const opened = await fetch(url, {
    method: 'POST',
    headers: accept,
    body: JSON.stringify({ jsonrpc: '2.0', id: 0, method: 'initialize', params: INITIALIZE }),
  });
  await opened.text();
  const session = { 'mcp-session-id': opened.headers.get('mcp-session-id'), 'mcp-protocol-version': '2025-11-25' };
  const stateless = { 'mcp-protocol-version': '2026-07-28', 'mcp-method': 'tools/call', 'mcp-name': 'color_at' };
  for (const [name, headers, meta] of [
    ['HTTP, stateless', stateless, { _meta: ENVELOPE }],
    ['HTTP, in a session', session, {}],
  ]) {
    const head = Object.entries({ host: `127.0.0.1:${port}`, ...accept, ...headers }).map(
      ([key, value]) => `${key}: ${value}`,
    );
    const requests = (count) => {
      let all = '';
      for (let i = 0; i < count; i += 1) {
        const body = call(meta);
        all += `POST /mcp HTTP/1.1\r\n${head.join('\r\n')}\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
      }
      return all;
    };
    let answers = 0;
    const sockets = Array.from({ length: connections }, () => {
      const socket = connect(port, '127.0.0.1', () => socket.write(requests(pipeline)));
      let rest = '';
      socket.setEncoding('latin1').on('data', (chunk) => {
        const parts = `${rest}${chunk}`.split('HTTP/1.1 ');
        // What may be the beginning of the next status line.
        rest = parts.at(-1).slice(-9);
        for (const part of parts.slice(1)) if (!part.startsWith('200')) throw new Error(part);
        answers += parts.length - 1;
        if (parts.length > 1) socket.write(requests(parts.length - 1));
      });
      return socket;
    });
    await measure(name, () => answers, cpuSeconds);
    for (const socket of sockets) socket.destroy();
  }
  server.kill();
}

async function overStdio() {
  const server = spawn(process.execPath, [main, 'serve'], { env, stdio: ['pipe', 'pipe', 'inherit'] });
  let answers = 0;
  createInterface({ input: server.stdout }).on('line', () => {
    answers += 1;
    server.stdin.write(`${call()}\n`);
  });
  server.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', id: 0, method: 'initialize', params: INITIALIZE })}\n`);
  server.stdin.write(`${call()}\n`.repeat(connections * pipeline));
  // In hundredths of a second, from Linux.
  const cpuSeconds = async () => {
    const fields = (await readFile(`/proc/${server.pid}/stat`, 'utf8').catch(() => '')).split(') ').at(-1).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / 100;
  };
  await measure('stdio', () => answers, cpuSeconds);
  server.kill();
}

/** One call after another, 5 ms apart, beside generations that follow each other. */
async function whileWriting(calls = 400) {
  const server = spawn(process.execPath, [main, 'serve'], { env, stdio: ['pipe', 'pipe', 'inherit'] });
  const waiting = new Map();
  createInterface({ input: server.stdout }).on('line', (line) => {
    const answer = JSON.parse(line);
    waiting.get(answer.id)?.(answer);
  });
  const ask = (method, params) => {
    id += 1;
    const answered = new Promise((resolve) => waiting.set(id, resolve));
    server.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', id, method, params })}\n`);
    return answered;
  };
  await ask('initialize', INITIALIZE);
  const write = async (tokens) => {
    const args = { prompt: 'Once upon a time', max_tokens: tokens, temperature: 1 };
    return (await ask('tools/call', { name: 'generate_with_trace', arguments: args })).result.structuredContent.usage;
  };
  await write(1);
  let written = 0;
  let done = false;
  const writing = (async () => {
    while (!done) written += (await write(480)).completion_tokens;
  })();
  const times = [];
  for (let i = 0; i < calls; i += 1) {
    const start = performance.now();
    await ask('tools/call', { name: 'color_at', arguments: { index: i } });
    times.push(performance.now() - start);
    await sleep(5);
  }
  done = true;
  await writing;
  times.sort((a, b) => a - b);
  const [median, late, last] = [0.5, 0.99, 1].map((part) => times[Math.ceil(part * calls) - 1].toFixed(1));
  process.stdout.write(
    `stdio, while a model writes (${written} tokens): p50 ${median} ms, p99 ${late}, slowest ${last}\n`,
  );
  server.kill();
}

await overHttp();
await overStdio();
await whileWriting();
