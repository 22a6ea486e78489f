// Does a server ever stay behind? Ends the built server in every way that clients do, in the middle of a generation, and
// looks for survivors: of the server and of its engine. Linux only (it reads /proc).
//   node scripts/process-exit.mjs [ROUNDS]    default 50 of each way
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const rounds = Number(process.argv[2] ?? 50);
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const main = join(root, 'dist', 'cli', 'main.js');
/** Longer than the two seconds after which a server ends by force. */
const PATIENCE_MS = 8000;

const WAYS = {
  'stdin ends': ({ child }) => child.stdin.end(),
  SIGTERM: ({ child }) => child.kill('SIGTERM'),
  SIGHUP: ({ child }) => child.kill('SIGHUP'),
  SIGKILL: ({ child }) => child.kill('SIGKILL'),
  'the client is killed': ({ client }) => client.kill('SIGKILL'),
};

function isAlive(pid) {
  try {
    // A zombie that nobody has waited for is dead.
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

function childrenOf(pid) {
  const ids = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return ids.trim().split(' ').filter(Boolean).map(Number);
}

/** A client of a few lines that starts the server as its own child, and can be killed. */
const CLIENT = `
  const { spawn } = require('node:child_process');
  const server = spawn(process.execPath, [${JSON.stringify(main)}], { stdio: ['pipe', 'pipe', 'ignore'] });
  process.stdout.write(server.pid + '\\n');
  process.stdin.pipe(server.stdin);
  server.stdout.pipe(process.stdout);
`;

async function start(throughClient) {
  const child = throughClient
    ? spawn(process.execPath, ['-e', CLIENT], { stdio: ['pipe', 'pipe', 'ignore'] })
    : spawn(process.execPath, [main], { stdio: ['pipe', 'pipe', 'ignore'] });
  child.stdin.on('error', () => {});
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const pid = throughClient ? Number((await lines.next()).value) : child.pid;
  const send = (message) => child.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`);
  const clientInfo = { name: 'process-exit', version: '0' };
  send({ id: 1, method: 'initialize', params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo } });
  await lines.next();
  send({ method: 'notifications/initialized' });
  const args = { prompt: 'Once upon a time', max_tokens: 900, temperature: 1 };
  const params = { name: 'generate_with_trace', arguments: args, _meta: { progressToken: 1 } };
  send({ id: 2, method: 'tools/call', params });
  for (;;) {
    const { value, done } = await lines.next();
    if (done) throw new Error('the server ended before it wrote');
    if (JSON.parse(value).method === 'notifications/progress') break;
  }
  return { child, client: child, family: [pid, ...childrenOf(pid)] };
}

let survived = 0;
for (const [way, end] of Object.entries(WAYS)) {
  let slowest = 0;
  let left = 0;
  for (let round = 0; round < rounds; round++) {
    const running = await start(way === 'the client is killed');
    if (running.family.length < 2) throw new Error('the engine does not run in a process of its own');
    const begin = performance.now();
    end(running);
    while (running.family.some(isAlive) && performance.now() - begin < PATIENCE_MS) await sleep(10);
    slowest = Math.max(slowest, performance.now() - begin);
    const survivors = running.family.filter(isAlive);
    left += survivors.length > 0 ? 1 : 0;
    for (const pid of survivors) process.kill(pid, 'SIGKILL');
    running.child.kill('SIGKILL');
  }
  survived += left;
  const text = `${rounds - left} of ${rounds} left nothing behind, the slowest after ${slowest.toFixed(0)} ms`;
  process.stdout.write(`${left === 0 ? 'ok  ' : 'FAIL'} ${way}: ${text}\n`);
}
process.exit(survived === 0 ? 0 : 1);
