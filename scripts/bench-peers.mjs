// Our engine beside others on random ternary weights of one shape, same threads, runs interleaved:
//   node scripts/bench-peers.mjs [--shape large|2b4t|3b|bonsai-1.7b|bonsai-4b|bonsai-27b|maple-20b]
//     [--format tq2_0|tq1_0] [--layers N] [--threads 1,2] [--rounds 3] [--json]
// With --layers a model of that many layers stands for the whole one, where that does not fit: the tables then weigh more.
//
// The Bonsai shapes (Qwen3, a scale for every 128 columns, int16 activations) are written three times: as PQ2_0 for us, as
// Q2_0 for us and llama.cpp, and as TQ2_0, which cannot hold these models but which llama.cpp has a fast kernel for: its
// bar. Q2_0 has no x86 kernel there, so it gets a shorter prompt. Logits are compared on float weights of a small model:
// llama.cpp rounds the inputs of ternary matrices to int8 in blocks.
//
//   ours, ours int8   one GGUF file, with its own f16 head and with an int8 head
//   llama.cpp         the same file. Comes as the prebuilt binding node-llama-cpp from npm, into build/peers (nothing
//                     else is touched). It runs the file's architecture "bitnet" (sub-norms, SiLU), which is 1bitLLM's
//                     graph; for 2b4t only the shape is the model's. It quantizes activations in blocks of 256 and we a
//                     token at a time, so probabilities agree but not bits.
//   onnxruntime       2-bit MatMulNBits with the matrices of the layers alone: no attention, no norms, no head. Its time
//                     is less than a token, and stands beside our whole one. Needs onnxruntime-node (npm run onnx);
//                     without it the row is left out, and that is said.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { arch, cpus, platform } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const scratch = join(root, 'build', 'peers');
const PROMPT = 128;
const GENERATED = 32;
/** Where a token takes a second. */
const SLOW = { prompt: 16, generated: 4 };

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'large' },
    format: { type: 'string', default: 'tq2_0' },
    layers: { type: 'string' },
    threads: { type: 'string', default: '1,2' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
    // What a child of this program measures.
    measure: { type: 'string' },
  },
});
if (values.help) {
  const text = readFileSync(fileURLToPath(import.meta.url), 'utf8');
  console.log(text.slice(0, text.indexOf('import ')).replace(/^\/\/ ?/gm, ''));
  process.exit(0);
}

const dist = (path) => import(join(root, 'dist', path));
const { writeRandomGguf } = await import('./random-gguf.mjs');

async function measureOurs({ file, threads, head }) {
  const { openModel } = await dist('model/open-model.js');
  const { cpuBackend } = await dist('engine/cpu/backend.js');
  const { weightMemory, weightPreparation } = await dist('engine/select.js');
  const started = performance.now();
  const { program } = await openModel(
    { kind: 'gguf', path: file },
    { name: 'peer', contextLength: 1024, head, allocate: weightMemory('cpu'), prepare: weightPreparation },
  );
  const executable = await cpuBackend.load(program, { threads });
  const loadMs = performance.now() - started;
  const sequence = executable.createSequence();
  const run = async (tokens, outputs) => {
    const at = executable.sequenceLength(sequence);
    return executable.step({
      tokens: Int32Array.from(tokens),
      sequences: new Int32Array(tokens.length).fill(sequence),
      positions: Int32Array.from(tokens, (_, i) => at + i),
      outputRows: Int32Array.from(outputs),
    });
  };
  const best = (logits) => logits.reduce((top, value, i) => (value > logits[top] ? i : top), 0);
  const tokens = promptTokens();
  let t = performance.now();
  const { logits } = await run(tokens, [tokens.length - 1]);
  const promptSeconds = (performance.now() - t) / 1000;
  let next = best(logits);
  t = performance.now();
  for (let i = 0; i < GENERATED; i += 1) next = best((await run([next], [0])).logits);
  const generationSeconds = (performance.now() - t) / 1000;
  const peak = logits.reduce((a, b) => Math.max(a, b));
  const exp = Float64Array.from(logits, (value) => Math.exp(value - peak));
  const sum = exp.reduce((a, b) => a + b);
  report({ promptSeconds, generationSeconds, loadMs, probabilities: Array.from(exp, (value) => value / sum) });
}

/** One step of every matrix of every layer, chained as in the model, so that none is left out or kept in a cache. */
async function measureOnnx({ shape, threads, steps }) {
  const { InferenceSession, Tensor } = await import('onnxruntime-node');
  const { onnxModel } = await import('./onnx-model.mjs');
  const { hidden, ffn, layers, heads, kvHeads, headDim } = shape;
  const started = performance.now();
  const constants = [];
  const nodes = [];
  const BLOCK = 64;
  const matrix = (name, input, rows, columns) => {
    // Four codes a byte, each trit + 2: 1, 2 or 3.
    const weights = new Uint8Array((rows * columns) / 4);
    let state = rows * columns;
    for (let i = 0; i < weights.length; i += 1) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      weights[i] = (1 + ((state >>> 24) % 3)) | ((1 + ((state >>> 16) % 3)) << 2) | ((2 + (i & 1)) << 4) | (1 << 6);
    }
    const blocks = columns / BLOCK;
    const scales = new Float32Array(rows * blocks).fill(1 / Math.sqrt(columns));
    constants.push(
      { name: `${name}_w`, type: 'u8', shape: [rows, blocks, BLOCK / 4], values: weights },
      { name: `${name}_s`, type: 'f32', shape: [rows * blocks], values: scales },
    );
    nodes.push({
      op: 'MatMulNBits',
      domain: 'com.microsoft',
      inputs: [input, `${name}_w`, `${name}_s`],
      outputs: [name],
      ints: { K: columns, N: rows, bits: 2, block_size: BLOCK, accuracy_level: 4 },
    });
    return name;
  };
  const outputs = {};
  let x = 'x';
  for (let i = 0; i < layers; i += 1) {
    const q = matrix(`q${i}`, x, heads * headDim, hidden);
    for (const part of ['k', 'v']) outputs[matrix(`${part}${i}`, x, kvHeads * headDim, hidden)] = 2;
    const o = matrix(`o${i}`, q, hidden, heads * headDim);
    const gate = matrix(`gate${i}`, o, ffn, hidden);
    const up = matrix(`up${i}`, o, ffn, hidden);
    // Bounded, so that no layer's output leaves the range of ordinary numbers.
    nodes.push({ op: 'Tanh', inputs: [gate], outputs: [`bounded${i}`] });
    nodes.push({ op: 'Mul', inputs: [`bounded${i}`, up], outputs: [`gated${i}`] });
    nodes.push({ op: 'Tanh', inputs: [matrix(`down${i}`, `gated${i}`, hidden, ffn)], outputs: [`y${i}`] });
    x = `y${i}`;
  }
  outputs[x] = 2;
  const session = await InferenceSession.create(onnxModel({ nodes, constants, inputs: { x: 2 }, outputs }), {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    logSeverityLevel: 3,
  });
  const loadMs = performance.now() - started;
  const run = async (tokens) => {
    const feed = new Tensor('float32', new Float32Array(tokens * hidden).fill(0.5), [tokens, hidden]);
    const t = performance.now();
    await session.run({ x: feed });
    return (performance.now() - t) / 1000;
  };
  await run(1);
  let generationSeconds = 0;
  for (let i = 0; i < steps; i += 1) generationSeconds += await run(1);
  const promptSeconds = await run(PROMPT);
  report({ promptSeconds, generationSeconds: (generationSeconds * GENERATED) / steps, loadMs });
}

function report(result) {
  const peakRssBytes = process.resourceUsage().maxRSS * 1024;
  process.stdout.write(`${JSON.stringify({ ...result, peakRssBytes })}\n`);
}

/** Ordinary tokens of the made-up vocabulary: behind the 259 special ones. */
function promptTokens() {
  return Array.from({ length: PROMPT }, (_, i) => 300 + ((i * 7919) % 2000));
}

async function main() {
  const { BENCH_SHAPES } = await dist('bench/random-model.js');
  // llama.cpp knows no rotated weights.
  const shapes = Object.fromEntries(
    Object.entries(BENCH_SHAPES).filter(([, { rotationBlock }]) => rotationBlock === undefined),
  );
  const whole = shapes[values.shape];
  if (whole === undefined || !['tq2_0', 'tq1_0'].includes(values.format)) {
    throw new Error(`--shape is one of ${Object.keys(shapes).join(', ')}, --format tq2_0 or tq1_0`);
  }
  const layers = Number(values.layers ?? whole.layers);
  if (!(Number.isInteger(layers) && layers >= 1 && layers <= whole.layers)) {
    throw new Error(`--layers is 1 to ${whole.layers}`);
  }
  const shape = { ...whole, layers };
  mkdirSync(scratch, { recursive: true });
  // Of these the 2-bit blocks with a scale for 64 or 128 columns are the model, and TQ2_0 the peer's bar.
  const isGrouped = shape.family === 'qwen3' || shape.family === 'qwen35';
  const fileOf = async (format) => {
    const path = join(scratch, `${values.shape}-${layers}-${format}.gguf`);
    if (!existsSync(path)) {
      process.stderr.write(`writing ${path}\n`);
      await writeRandomGguf(path, shape, format);
    }
    return path;
  };
  const file = await fileOf(values.format);
  const grouped = isGrouped ? { q2: await fileOf('q2_0'), pq2: await fileOf('pq2_0') } : undefined;
  const peer = installPeer();
  const peerOn = (path, threads, { prompt, generated } = { prompt: PROMPT, generated: GENERATED }) => [
    peer,
    JSON.stringify({ file: path, threads, tokens: promptTokens().slice(0, prompt), generated }),
  ];
  const self = (what) => [fileURLToPath(import.meta.url), '--measure', JSON.stringify(what)];
  const onnx = await import('onnxruntime-node').then(
    () => true,
    (error) => {
      process.stderr.write(
        `its row is left out, onnxruntime-node does not load here (npm run onnx installs it): ${error.message}\n`,
      );
      return false;
    },
  );
  const results = [];
  for (const threads of values.threads.split(',').map(Number)) {
    for (let round = 0; round < Number(values.rounds); round += 1) {
      const rows = isGrouped
        ? [
            ['ours', self({ engine: 'ours', file: grouped.pq2, threads, head: 'full' })],
            ['ours Q2_0', self({ engine: 'ours', file: grouped.q2, threads, head: 'full' })],
            ['llama.cpp', peerOn(file, threads)],
            // A minute a run: once is enough to tell.
            ...(round === 0 ? [['llama Q2_0', peerOn(grouped.q2, threads, SLOW), SLOW]] : []),
          ]
        : [
            ['ours', self({ engine: 'ours', file, threads, head: 'full' })],
            ['ours int8', self({ engine: 'ours', file, threads, head: 'int8' })],
            ['llama.cpp', peerOn(file, threads)],
            ...(onnx && shape.family !== 'maple'
              ? [['onnxruntime', self({ engine: 'onnxruntime', shape, threads, steps: 8 })]]
              : []),
          ];
      for (const [engine, command, size = { prompt: PROMPT, generated: GENERATED }] of rows) {
        const result = await child(command);
        // As long as the others took, had they been as slow.
        const promptSeconds = (result.promptSeconds * PROMPT) / size.prompt;
        const generationSeconds = (result.generationSeconds * GENERATED) / size.generated;
        results.push({ engine, threads, round, ...result, promptSeconds, generationSeconds });
        process.stderr.write(
          `${engine}, ${threads} threads: prompt ${(PROMPT / promptSeconds).toFixed(1)}, ` +
            `generation ${(GENERATED / generationSeconds).toFixed(2)} tokens/s\n`,
        );
      }
    }
  }
  summarize(results, shape.family === 'qwen3' ? await floatAgreement(self, peerOn) : undefined);
}

/** Log probabilities of both on one small model: trits times scales as plain floats, which we read as trits again. */
async function floatAgreement(self, peerOn) {
  const small = {
    family: 'qwen3',
    hidden: 512,
    ffn: 1536,
    layers: 4,
    heads: 8,
    kvHeads: 4,
    headDim: 128,
    vocab: 4096,
    ropeTheta: 1e6,
  };
  const file = join(scratch, 'small-qwen3-f32.gguf');
  if (!existsSync(file)) await writeRandomGguf(file, small, 'f32');
  const [mine, theirs] = [
    await child(self({ engine: 'ours', file, threads: 1, head: 'full' })),
    await child(peerOn(file, 1)),
  ];
  return correlation(mine.probabilities, theirs.probabilities);
}

function summarize(results, onFloats) {
  const engines = [...new Set(results.map(({ engine }) => engine))];
  const rows = [];
  for (const threads of new Set(results.map((result) => result.threads))) {
    const of = (engine, pick) => {
      const list = results.filter((result) => result.engine === engine && result.threads === threads).map(pick);
      return list.sort((a, b) => a - b)[list.length >> 1];
    };
    for (const engine of engines) {
      rows.push({
        threads,
        engine,
        promptTokensPerSecond: PROMPT / of(engine, (result) => result.promptSeconds),
        generationTokensPerSecond: GENERATED / of(engine, (result) => result.generationSeconds),
        peakRssBytes: of(engine, (result) => result.peakRssBytes),
        loadMs: of(engine, (result) => result.loadMs),
      });
    }
  }
  const probabilities = (engine) => results.find((result) => result.engine === engine).probabilities;
  const agreement = onFloats ?? correlation(probabilities('ours'), probabilities('llama.cpp'));
  if (values.json) {
    const summary = {
      shape: values.shape,
      format: values.format,
      cpu: cpus()[0].model,
      rows,
      logitCorrelation: agreement,
    };
    process.stdout.write(`${JSON.stringify(summary, undefined, 2)}\n`);
    return;
  }
  console.log(`${values.shape}, ${values.format}; medians of ${values.rounds}; x: how many times llama.cpp's speed`);
  console.log('threads  engine        prompt tokens/s        generation tokens/s    peak MB   load s');
  for (const row of rows) {
    const base = rows.find(({ threads, engine }) => threads === row.threads && engine === 'llama.cpp');
    const cell = (key) => `${row[key].toFixed(1).padStart(7)} ${(row[key] / base[key]).toFixed(2).padStart(6)} x`;
    const head = `${String(row.threads).padStart(7)}  ${row.engine.padEnd(12)}`;
    const tail = `${(row.peakRssBytes / 1e6).toFixed(0).padStart(7)}  ${(row.loadMs / 1000).toFixed(1).padStart(7)}`;
    console.log(`${head}${cell('promptTokensPerSecond')}       ${cell('generationTokensPerSecond')}       ${tail}`);
  }
  if (engines.includes('onnxruntime')) console.log('onnxruntime: the matrices of the layers alone');
  if (engines.includes('ours Q2_0')) {
    console.log('ours: PQ2_0, int16 activations; llama.cpp: TQ2_0 of the same shape; its Q2_0 on a shorter prompt');
  }
  console.log(
    `log probabilities after the prompt${onFloats === undefined ? '' : ' (float weights, a small model)'}: correlation ${agreement?.toFixed(4) ?? 'unknown'}`,
  );
}

/** Of log probabilities, over the tokens that both list. */
function correlation(a, b) {
  if (!a || !b) return undefined;
  const pairs = [];
  for (let i = 0; i < a.length; i += 1) if (a[i] > 0 && b[i] > 0) pairs.push([Math.log(a[i]), Math.log(b[i])]);
  const mean = (k) => pairs.reduce((sum, pair) => sum + pair[k], 0) / pairs.length;
  const [x, y] = [mean(0), mean(1)];
  const sum = (f) => pairs.reduce((total, pair) => total + f(pair), 0);
  return sum(([p, q]) => (p - x) * (q - y)) / Math.sqrt(sum(([p]) => (p - x) ** 2) * sum(([, q]) => (q - y) ** 2));
}

function child(args) {
  return new Promise((resolve, reject) => {
    const process_ = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    process_.stdout.on('data', (data) => {
      text += data;
    });
    process_.on('close', (code) => {
      if (code === 0) resolve(JSON.parse(text.trim().split('\n').at(-1)));
      else reject(new Error(`${args[0]} ended with ${code}`));
    });
  });
}

/** Puts the binding and this platform's prebuilt library into the scratch folder; returns the script that runs it. */
function installPeer() {
  const library = {
    'linux-x64': 'linux-x64',
    'linux-arm64': 'linux-arm64',
    'darwin-arm64': 'mac-arm64-metal',
    'darwin-x64': 'mac-x64',
    'win32-x64': 'win-x64',
  }[`${platform()}-${arch()}`];
  if (library === undefined) throw new Error(`node-llama-cpp has no prebuilt library for ${platform()}-${arch()}`);
  writeFileSync(join(scratch, 'package.json'), '{ "name": "peers", "private": true, "type": "module" }\n');
  const installed = join(scratch, 'node_modules', '@node-llama-cpp', library);
  if (!existsSync(installed)) {
    const npm = (...args) => {
      const options = { cwd: scratch, stdio: ['ignore', 2, 2], shell: platform() === 'win32' };
      const flags = ['--no-audit', '--no-fund', '--ignore-scripts', '--omit=optional'];
      if (spawnSync('npm', ['install', ...flags, ...args], options).status !== 0) throw new Error('npm install failed');
    };
    npm('node-llama-cpp@3');
    const manifest = join(scratch, 'node_modules', 'node-llama-cpp', 'package.json');
    const { version } = JSON.parse(readFileSync(manifest, 'utf8'));
    npm(`node-llama-cpp@${version}`, `@node-llama-cpp/${library}@${version}`);
  }
  const script = join(scratch, 'peer.mjs');
  writeFileSync(script, PEER);
  return script;
}

const PEER = `// Written by scripts/bench-peers.mjs.
import { getLlama, LlamaLogLevel } from 'node-llama-cpp';

const { file, threads, tokens, generated } = JSON.parse(process.argv[2]);
const started = performance.now();
const llama = await getLlama({ gpu: false, build: 'never', logLevel: LlamaLogLevel.error, maxThreads: threads });
const model = await llama.loadModel({ modelPath: file });
const context = await model.createContext({ contextSize: 1024, batchSize: 512, threads });
const loadMs = performance.now() - started;
const sequence = context.getSequence();
let t = performance.now();
const evaluated = await sequence.controlledEvaluate([...tokens.slice(0, -1), [tokens.at(-1), { generateNext: { token: true, probabilities: true } }]]);
const promptSeconds = (performance.now() - t) / 1000;
const { token, probabilities } = evaluated.at(-1).next;
t = performance.now();
let count = 0;
for await (const _ of sequence.evaluate([token], { temperature: 0, yieldEogToken: true })) if (++count === generated) break;
const generationSeconds = ((performance.now() - t) / 1000) * (generated / count);
const list = [];
for (const [id, p] of probabilities ?? []) list[id] = p;
const peakRssBytes = process.resourceUsage().maxRSS * 1024;
process.stdout.write(JSON.stringify({ promptSeconds, generationSeconds, loadMs, peakRssBytes, probabilities: Array.from(list, (p) => p ?? 0) }) + '\\n', () => process.exit(0));
`;

if (values.measure === undefined) {
  await main();
} else {
  const what = JSON.parse(values.measure);
  await (what.engine === 'ours' ? measureOurs(what) : measureOnnx(what));
}
