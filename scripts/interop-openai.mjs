// Our `openai` backend against a real distributed engine: llama.cpp's server with two RPC workers, each a process of its own, which
// hold the layers of a GGUF that we wrote. llama.cpp is built from the source bundle in npm's node-llama-cpp, in build/;
// that takes some ten minutes of CPU time, once.
//   npm run interop:openai          INTEROP_JOBS=8: compilers at once (default: half of the processors)
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';

const PACKAGE = 'node-llama-cpp@3.22.1';
/** What the server needs and no more; its page in the browser would be fetched from elsewhere. */
const OPTIONS = [
  ...['GGML_RPC=ON', 'GGML_OPENMP=OFF', 'BUILD_SHARED_LIBS=OFF', 'LLAMA_CURL=OFF', 'LLAMA_OPENSSL=OFF'],
  ...['LLAMA_BUILD_TESTS=OFF', 'LLAMA_BUILD_EXAMPLES=OFF', 'LLAMA_BUILD_APP=OFF', 'LLAMA_BUILD_UI=OFF'],
  ...['LLAMA_USE_PREBUILT_UI=OFF', 'CMAKE_BUILD_TYPE=Release'],
];
const START_MS = 60_000;

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folder = join(root, 'build', 'interop-openai');
const source = join(folder, 'llama.cpp');
const out = join(folder, 'out');
const binary = (name) => join(out, 'bin', process.platform === 'win32' ? `${name}.exe` : name);

function run(command, args, cwd = folder) {
  const { status } = spawnSync(command, args, { cwd, stdio: ['ignore', 2, 2], shell: process.platform === 'win32' });
  if (status !== 0) throw new Error(`${command} ${args[0]} ended with ${status}`);
}

function build() {
  mkdirSync(folder, { recursive: true });
  if (!existsSync(source)) {
    if (!readdirSync(folder).some((file) => file.endsWith('.tgz'))) run('npm', ['pack', PACKAGE]);
    const archive = readdirSync(folder).find((file) => file.endsWith('.tgz'));
    run('tar', ['xzf', archive, 'package/llama']);
    run('git', ['clone', '--quiet', join('package', 'llama', 'gitRelease.bundle'), 'llama.cpp']);
  }
  const jobs = process.env.INTEROP_JOBS ?? String(Math.max(1, Math.ceil(availableParallelism() / 2)));
  if (!existsSync(join(out, 'CMakeCache.txt')))
    run('cmake', ['-S', source, '-B', out, ...OPTIONS.map((one) => `-D${one}`)]);
  run('cmake', ['--build', out, '--config', 'Release', '-j', jobs, '--target', 'llama-server', 'ggml-rpc-server']);
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

const children = new Set();
function start(name, args) {
  const child = spawn(binary(name), args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  child.log = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      child.log = (child.log + text).slice(-20_000);
    });
  }
  children.add(child);
  child.once('exit', () => children.delete(child));
  return child;
}

async function serve(model) {
  const ports = [await freePort(), await freePort()];
  const workers = ports.map((port) => start('ggml-rpc-server', ['-H', '127.0.0.1', '-p', String(port)]));
  const port = await freePort();
  const server = start('llama-server', [
    ...['-m', model, '--host', '127.0.0.1', '--port', String(port), '-c', '512', '-ngl', '99', '--no-webui'],
    ...['--rpc', ports.map((one) => `127.0.0.1:${one}`).join(',')],
  ]);
  const url = `http://127.0.0.1:${port}`;
  const deadline = Date.now() + START_MS;
  for (;;) {
    const ok = await fetch(`${url}/health`).then(
      ({ ok }) => ok,
      () => false,
    );
    if (ok) break;
    if (Date.now() > deadline || server.exitCode !== null)
      throw new Error(`llama-server did not start:\n${server.log}`);
    await sleep(200);
  }
  return { url, server, workers };
}

build();
const model = join(folder, 'default.gguf');
if (!existsSync(model))
  run(process.execPath, [join(root, 'dist/cli/main.js'), 'convert', 'default', model, '--to', 'gguf-tq2_0'], root);

const { Engine, generateWith } = await import(pathToFileURL(join(root, 'dist/index.js')).href);
const PROMPT = 'Once upon a time';
let passed = 0;
async function check(label, work) {
  await work();
  passed += 1;
  process.stdout.write(`ok   ${label}\n`);
}

let cluster = await serve(model);
try {
  const engine = new Engine({ env: { BITNET_OPENAI_BASE_URL: `${cluster.url}/v1` } });
  const far = (request, hooks) =>
    generateWith(engine, { model: 'default', backend: 'openai', maxTokens: 24, temperature: 0, ...request }, hooks);
  const chat = [{ role: 'user', content: 'Tell me of a fox.' }];

  await check('both workers hold layers', async () => {
    for (const { log } of cluster.workers) assert.match(log, /Accepted client connection/);
  });
  await check('a text, its log-probabilities and ids are near our own', async () => {
    const local = await generateWith(new Engine(), { model, prompt: PROMPT, maxTokens: 24, temperature: 0 });
    const steps = [];
    const told = await far({ prompt: PROMPT }, { onStep: (step) => steps.push(step) });
    assert.equal(steps.length, told.trace.length);
    assert.equal(told.trace.map(({ token }) => token).join(''), told.completion);
    assert.deepEqual(
      told.trace.map(({ color }) => color),
      local.trace.slice(0, told.trace.length).map(({ color }) => color),
    );
    const first = told.trace[0];
    assert.equal(first.tokenId, local.trace[0].tokenId);
    // Its activations have 8 bits in blocks, ours in rows.
    assert.ok(Math.abs(first.logprob - local.trace[0].logprob) < 0.5, `${first.logprob} and ${local.trace[0].logprob}`);
  });
  await check('a chat, with alternatives', async () => {
    const told = await far({ messages: chat, topLogprobs: 3 });
    assert.ok(told.completion.length > 0);
    assert.ok(told.trace.some(({ topLogprobs = [] }) => topLogprobs.length === 3));
    assert.ok(told.usage.promptTokens > 0);
  });
  await check('JSON of a schema', async () => {
    const schema = { type: 'object', properties: { pet: { enum: ['cat', 'dog'] } }, required: ['pet'] };
    const told = await far({ messages: chat, responseSchema: schema, maxTokens: 60 });
    assert.ok(['cat', 'dog'].includes(JSON.parse(told.completion).pet));
  });
  await check('a text that is cancelled ends, and the server takes the next', async () => {
    const stop = new AbortController();
    let steps = 0;
    const told = await far(
      { prompt: PROMPT, maxTokens: 400 },
      { signal: stop.signal, onStep: () => ++steps === 5 && stop.abort() },
    );
    assert.equal(told.finishReason, 'cancelled');
    assert.ok(told.trace.length >= 5 && told.trace.length < 400);
    assert.ok((await far({ prompt: PROMPT })).completion.length > 0);
  });
  await check('a worker that is killed in the middle ends the text with an error that says so', async () => {
    let steps = 0;
    const killed = cluster.workers[1];
    const writing = far({ prompt: PROMPT, maxTokens: 400 }, { onStep: () => ++steps === 3 && killed.kill('SIGKILL') });
    await assert.rejects(writing, (error) => {
      assert.match(error.code, /^OPENAI/);
      assert.ok(error.text.fix.length > 0);
      return true;
    });
    await assert.rejects(far({ prompt: PROMPT }), (error) => /^OPENAI/.test(error.code));
  });
  await check('and a new one is served again', async () => {
    for (const child of children) child.kill('SIGKILL');
    await sleep(500);
    cluster = await serve(model);
    const again = new Engine({ env: { BITNET_OPENAI_BASE_URL: `${cluster.url}/v1` } });
    assert.ok(
      (await generateWith(again, { model: 'default', backend: 'openai', prompt: PROMPT, maxTokens: 8 })).completion
        .length > 0,
    );
  });
  process.stdout.write(`${passed} checks passed against llama.cpp with two RPC workers\n`);
} finally {
  for (const child of children) child.kill('SIGKILL');
  rmSync(join(folder, 'default.gguf'), { force: true });
}
