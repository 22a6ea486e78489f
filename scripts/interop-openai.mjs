// Our `openai` backend against a real distributed engine: llama.cpp's server with two RPC workers, each a process of its own, which
// hold the layers of a GGUF that we wrote. llama.cpp is built from the source bundle in npm's node-llama-cpp, in build/;
// that takes some ten minutes of CPU time, once.
//   npm run interop:openai          INTEROP_JOBS=8: compilers at once (default: half of the processors)
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
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

async function serve(model, more = []) {
  const ports = [await freePort(), await freePort()];
  const workers = ports.map((port) => start('ggml-rpc-server', ['-H', '127.0.0.1', '-p', String(port)]));
  const port = await freePort();
  const server = start('llama-server', [
    ...['-m', model, '--host', '127.0.0.1', '--port', String(port), '-c', '4096', '-ngl', '99', '--no-webui'],
    ...['--rpc', ports.map((one) => `127.0.0.1:${one}`).join(',')],
    ...more,
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
/** The embedded model under the architecture's name that llama.cpp knows, with which both compute SiLU. */
const model = join(folder, 'silu.gguf');
async function convert() {
  const exact = join(folder, 'default.gguf');
  for (const made of [model, exact]) rmSync(made, { force: true });
  run(process.execPath, [join(root, 'dist/cli/main.js'), 'convert', 'default', exact, '--to', 'gguf-tq2_0'], root);
  const [{ GgufFile }, { writeGguf }] = await Promise.all([
    dist('formats/gguf-file.js'),
    dist('formats/write-gguf.js'),
  ]);
  const gguf = await GgufFile.open(exact);
  const ours = gguf.architecture;
  const metadata = [...gguf.entries].map(([key, { raw }]) =>
    key === 'general.architecture'
      ? { key, type: 'string', value: 'bitnet' }
      : { key: key.startsWith(`${ours}.`) ? `bitnet${key.slice(ours.length)}` : key, raw },
  );
  const tensors = [];
  for (const { name, dtype, shape } of gguf.tensors.values())
    tensors.push({ name, type: dtype, shape, bytes: await gguf.readBytes(name) });
  gguf[Symbol.dispose]();
  await writeGguf(model, { metadata, tensors });
}

/** Of a model that thinks and calls tools; llama-server finds out from it how thoughts and calls are written. */
const TEMPLATE = `{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\n' }}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
{{- 'A call: <tool_call>\\n{"name": NAME, "arguments": ARGUMENTS}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\\n' }}
{%- if message.role == 'tool' %}{{- '<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- else %}
{%- if message.reasoning_content %}{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}
{{- message.content or '' }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}
{%- else %}{{- '<think>\\n' }}
{%- endif %}
{%- endif %}`;
const template = join(folder, 'template.jinja');
const THOUGHT_TOKENS = 12;
const dist = (path) => import(pathToFileURL(join(root, 'dist', path)).href);

await convert();

writeFileSync(template, TEMPLATE);

const { Engine, generateWith } = await dist('index.js');
const PROMPT = 'Once upon a time';
let passed = 0;
async function check(label, work) {
  await work();
  passed += 1;
  process.stdout.write(`ok   ${label}\n`);
}

let cluster = await serve(model, ['--chat-template-file', template]);
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
    const told = await far({ messages: chat, thinking: 'off', topLogprobs: 3 });
    assert.ok(told.completion.length > 0);
    assert.ok(told.trace.some(({ topLogprobs = [] }) => topLogprobs.length === 3));
    assert.ok(told.usage.promptTokens > 0);
  });
  await check('a bounded thought comes as reasoning, and the answer after it', async () => {
    const thoughts = [];
    const told = await far(
      { messages: chat, thinking: THOUGHT_TOKENS, maxTokens: 40 },
      { onThought: (text) => thoughts.push(text) },
    );
    assert.ok(told.reasoning.length > 0);
    assert.ok(!/<.?think>/.test(told.reasoning + told.completion), told.completion);
    assert.ok(told.completion.length > 0);
    assert.equal(told.warnings, undefined);
  });
  await check('no thought where none is asked for', async () => {
    const told = await far({ messages: chat, thinking: 'off' });
    assert.equal(told.reasoning, undefined);
    assert.ok(told.completion.length > 0);
  });
  await check('a call of a tool, and what comes back of it', async () => {
    const parameters = { type: 'object', properties: { animal: { enum: ['fox', 'owl'] } }, required: ['animal'] };
    const tools = [{ type: 'function', function: { name: 'feed', description: 'Feeds an animal.', parameters } }];
    // "required" lets a model write what it likes before the call; this one would do so for ever, so its turn is begun.
    const begun = [...chat, { role: 'assistant', content: '<tool_call>\n' }];
    const asked = { tools, parallelToolCalls: false, thinking: 'off', maxTokens: 120 };
    const told = await far({ ...asked, messages: begun, toolChoice: 'required' });
    assert.equal(told.toolCalls.length, 1);
    assert.equal(told.toolCalls[0].name, 'feed');
    assert.ok(['fox', 'owl'].includes(JSON.parse(told.toolCalls[0].arguments).animal));
    const call = { id: 'call_0', type: 'function', function: { name: 'feed', arguments: told.toolCalls[0].arguments } };
    const messages = [
      ...chat,
      { role: 'assistant', content: '', tool_calls: [call] },
      { role: 'tool', tool_call_id: 'call_0', content: 'It ate two eggs.' },
    ];
    const after = await far({ ...asked, messages });
    assert.ok(after.usage.promptTokens > told.usage.promptTokens);
  });
  await check('JSON of a schema', async () => {
    const schema = { type: 'object', properties: { pet: { enum: ['cat', 'dog'] } }, required: ['pet'] };
    const told = await far({ messages: chat, thinking: 'off', responseSchema: schema, maxTokens: 60 });
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
    cluster = await serve(model, ['--chat-template-file', template]);
    const again = new Engine({ env: { BITNET_OPENAI_BASE_URL: `${cluster.url}/v1` } });
    assert.ok(
      (await generateWith(again, { model: 'default', backend: 'openai', prompt: PROMPT, maxTokens: 8 })).completion
        .length > 0,
    );
  });
  process.stdout.write(`${passed} checks passed against llama.cpp with two RPC workers\n`);
} finally {
  for (const child of children) child.kill('SIGKILL');
}
