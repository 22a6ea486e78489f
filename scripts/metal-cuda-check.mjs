// Runs the Metal kernels on an NVIDIA GPU: the same text, compiled as CUDA (test/metal/native/cuda). No replacement for
// an Apple GPU, but a real one: thousands of threads at once, hardware warps, no emulator between.
//
//   node scripts/metal-cuda-check.mjs            records, builds and runs
//   node scripts/metal-cuda-check.mjs record [part of a name]     only writes build/metal/recordings (needs no GPU)
//   node scripts/metal-cuda-check.mjs build      only compiles build/metal/cuda-check (needs nvcc, no GPU)
//   build/metal/cuda-check build/metal/recordings/*      on any machine with the GPU; exit 1 on a difference
//   build/metal/cuda-check --speed                       bandwidth of the ternary kernels
//
// A recording is a step as the fake device ran it: buffers before, the tape, buffers after. Its results were compared
// with the js backend and with the golden logits by the test suite; those that are to be exact are compared here as well.
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { buildCuda, buildFake, joinKernels, ROOT, readKernels } from './metal-tools.mjs';

const FOLDER = join(ROOT, 'build', 'metal');
const RECORDINGS = join(FOLDER, 'recordings');
const PROGRAM = join(FOLDER, 'cuda-check');

/** Allowed difference of floats, as a share of the largest of their buffer: sums in another order, another exp. */
const TOLERANCE = 2e-5;
/** Results compared; the rest is scratch. */
const COMPARED = /^(out\d?|x|q|k|cache|counts|status|out_ids|out_values|masses|first|second|state|experts|shares)$/;

/** The addon, with every run written to `folder` as `name-0.mtlr`, `name-1.mtlr`, ... while `name` is set. */
function recorder(addon) {
  const kernels = readKernels(joinKernels().text);
  const kernelOf = new Map();
  const memories = new Map();
  const state = { name: undefined, exact: false, count: 0 };
  const addonLike = {
    open: (source) => addon.open(source),
    pipeline: (name) => {
      const made = addon.pipeline(name);
      kernelOf.set(
        made.id,
        kernels.findIndex((kernel) => kernel.name === name),
      );
      return made;
    },
    allocate: (bytes) => {
      const made = addon.allocate(bytes);
      memories.set(made.id, made.memory);
      return made;
    },
    wrap: () => undefined,
    release: (id) => {
      memories.delete(id);
      addon.release(id);
    },
    run: async (tape) => {
      if (state.name === undefined) return addon.run(tape);
      const before = new Map([...memories].map(([id, memory]) => [id, new Uint8Array(memory).slice()]));
      const seconds = await addon.run(tape);
      const { translated, used, written } = translate(tape);
      const words = [Uint32Array.of(0x524c544d, used.length)];
      for (const id of used) {
        const bytes = before.get(id);
        const padded = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
        padded.set(bytes);
        words.push(Uint32Array.of(bytes.length), new Uint32Array(padded.buffer));
      }
      words.push(Uint32Array.of(translated.length), Uint32Array.from(translated), Uint32Array.of(written.size));
      for (const [id, type] of written) {
        const after = new Uint32Array(new Uint8Array(memories.get(id)).slice().buffer);
        const floats = type.includes('float');
        const values = new Float32Array(after.buffer);
        const largest = values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
        const tolerance = new Uint32Array(Float32Array.of(state.exact ? 0 : TOLERANCE * largest).buffer);
        words.push(Uint32Array.of(used.indexOf(id), floats ? 1 : 0, 0, after.length, tolerance[0]), after);
      }
      writeFileSync(
        join(RECORDINGS, `${state.name}-${state.count}.mtlr`),
        Buffer.concat(words.map((part) => Buffer.from(part.buffer, part.byteOffset, part.byteLength))),
      );
      state.count += 1;
      return seconds;
    },
  };

  /** The tape with kernels and buffers by their number in the recording, and the buffers whose results count. */
  function translate(tape) {
    const out = [];
    const used = [];
    const written = new Map();
    for (let at = 0; at < tape.length; ) {
      const kernel = kernels[kernelOf.get(tape[at])];
      out.push(kernels.indexOf(kernel), ...tape.subarray(at + 1, at + 6));
      const bindings = tape[at + 5];
      at += 6;
      for (let i = 0; i < bindings; i += 1) {
        if (tape[at + 1] === 1) {
          const length = 3 + tape[at + 2];
          out.push(...tape.subarray(at, at + length));
          at += length;
          continue;
        }
        const id = tape[at + 2];
        if (!used.includes(id)) used.push(id);
        out.push(tape[at], 0, used.indexOf(id), tape[at + 3]);
        const parameter = kernel.parameters.find((p) => p.index === tape[at]);
        if (parameter.writable && COMPARED.test(parameter.name)) written.set(id, parameter.type);
        at += 4;
      }
    }
    return { translated: out, used, written };
  }
  return { addon: addonLike, state };
}

/** Token ids below 40, the same each time. */
function ramp(count) {
  return Array.from({ length: count }, (_, i) => (i * 37 + 11) % 40);
}

/** Uniform in [-1, 1). */
function uniforms(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

/** A model of random trits with the given sizes. */
function randomModel(recordProgram, sizes, seed) {
  const next = uniforms(seed);
  const { hidden, ffn, heads, kvHeads, headDim, vocab, contextLength } = sizes;
  const vector = (name, length) => ({
    kind: 'vector',
    name,
    values: Float32Array.from({ length }, () => 1 + 0.3 * next()),
  });
  const ternary = (name, rows, columns) => {
    const bytes = Uint8Array.from({ length: Math.ceil(rows / 4) * columns }, () => {
      let byte = 0;
      for (let k = 0; k < 8; k += 2) byte |= Math.floor((next() + 1) * 1.5) << k;
      return byte;
    });
    return { kind: 'ternary', name, rows, columns, layout: 'rowquad', bytes, scale: 0.02 };
  };
  const layer = () => ({
    inputNorm: vector('input norm', hidden),
    q: ternary('q', heads * headDim, hidden),
    k: ternary('k', kvHeads * headDim, hidden),
    v: ternary('v', kvHeads * headDim, hidden),
    attnSubNorm: vector('attention sub-norm', heads * headDim),
    o: ternary('o', hidden, heads * headDim),
    postAttentionNorm: vector('post-attention norm', hidden),
    gate: ternary('gate', ffn, hidden),
    up: ternary('up', ffn, hidden),
    ffnSubNorm: vector('feed-forward sub-norm', ffn),
    down: ternary('down', hidden, ffn),
  });
  const words = Uint16Array.from(
    { length: vocab * hidden },
    () => new Uint32Array(Float32Array.of(next()).buffer)[0] >>> 16,
  );
  const embedding = {
    kind: 'dense',
    name: 'embedding',
    rows: vocab,
    columns: hidden,
    dtype: 'bf16',
    bytes: new Uint8Array(words.buffer),
  };
  const codes = Int8Array.from({ length: vocab * hidden }, () => Math.round(127 * next()));
  const int8 = {
    kind: 'int8',
    name: 'head',
    rows: vocab,
    columns: hidden,
    codes,
    rowScale: new Float32Array(vocab).fill(0.01),
  };
  const config = {
    family: 'bitnet',
    hiddenSize: hidden,
    intermediateSize: ffn,
    numAttentionHeads: heads,
    numKeyValueHeads: kvHeads,
    headDim,
    numHiddenLayers: 1,
    vocabSize: vocab,
    rmsNormEps: Math.fround(1e-5),
    ropeTheta: 500000,
    hiddenAct: 'relu2',
  };
  const weights = {
    embedding,
    layers: [layer()],
    finalNorm: vector('final norm', hidden),
    head: sizes.int8 ? int8 : embedding,
  };
  return recordProgram(config, weights, { name: 'random', contextLength });
}

/** Only operations that are exact everywhere: embed, quantize, ternary products, their sum, an int8 product. */
function exactProgram() {
  const next = uniforms(9);
  const columns = 1100;
  const rows = 70;
  const data = Float32Array.from({ length: rows * columns }, next);
  const weights = [{ kind: 'dense', name: 'data', rows, columns, dtype: 'f32', bytes: new Uint8Array(data.buffer) }];
  const buffers = [];
  const buffer = (name, width, dtype = 'f32', of = 'tokens') => buffers.push({ name, dtype, rows: of, width }) - 1;
  const [x, codes, scale] = [buffer('x', columns), buffer('codes', columns, 'i8'), buffer('scale', 1)];
  const ops = [
    { op: 'embed', table: 0, out: x },
    { op: 'quantize', x, codes, scale, label: 'x' },
  ];
  const outs = [0, 1, 2].map((i) => buffer(`out ${i}`, rows));
  for (const out of outs) {
    const trits = () => [0, 2, 4, 6].reduce((byte, k) => byte | (Math.floor((next() + 1) * 1.5) << k), 0);
    const bytes = Uint8Array.from({ length: Math.ceil(rows / 4) * columns }, trits);
    const weight =
      weights.push({ kind: 'ternary', name: `w${out}`, rows, columns, layout: 'rowquad', bytes, scale: 0.7 }) - 1;
    ops.push({ op: 'ternaryMatmul', codes, scale, weight, out });
  }
  ops.push({ op: 'add', x: outs[0], y: outs[1] }, { op: 'add', x: outs[0], y: outs[2] });
  const last = buffer('last', rows, 'f32', 'outputs');
  const lastCodes = buffer('last codes', rows, 'i8', 'outputs');
  const lastScale = buffer('last scale', 1, 'f32', 'outputs');
  const logits = buffer('logits', rows, 'f32', 'outputs');
  const int8Codes = Int8Array.from({ length: rows * rows }, () => Math.round(127 * next()));
  const rowScale = Float32Array.from({ length: rows }, () => 0.02 + 0.01 * next());
  const head = weights.push({ kind: 'int8', name: 'head', rows, columns: rows, codes: int8Codes, rowScale }) - 1;
  ops.push(
    { op: 'selectOutputs', x: outs[0], out: last },
    { op: 'quantize', x: last, codes: lastCodes, scale: lastScale, label: 'head' },
    { op: 'int8Matmul', codes: lastCodes, scale: lastScale, weight: head, out: logits },
  );
  const rope = { rotaryDim: 4, cos: new Float32Array(512), sin: new Float32Array(512) };
  const kv = { layers: 1, kvHeads: 1, headDim: 4 };
  return {
    name: 'exact',
    buffers,
    weights,
    ops,
    kv,
    rope,
    contextLength: 256,
    vocabSize: rows,
    logits,
    tracePoints: 0,
  };
}

/** Buffers, weights and operations of a program in the making, all of it random. */
function parts(seed) {
  const next = uniforms(seed);
  const [buffers, weights, ops, recurrent] = [[], [], [], []];
  const buffer = (name, width, dtype = 'f32', rows = 'tokens', group = undefined) =>
    buffers.push({ name, dtype, rows, width, group }) - 1;
  const floats = (length, scale = 1, around = 0) => Float32Array.from({ length }, () => around + scale * next());
  const vector = (name, values) => weights.push({ kind: 'vector', name, values }) - 1;
  const dense = (name, rows, columns, scale = 1) => {
    const bytes = new Uint8Array(floats(rows * columns, scale).buffer);
    return weights.push({ kind: 'dense', name, rows, columns, dtype: 'f32', bytes }) - 1;
  };
  const grouped = (name, rows, columns, group, experts = 1) => {
    const panels = experts * Math.ceil(rows / 64);
    // Rows and columns are whole panels and blocks, so every code is in use.
    const bytes = Uint8Array.from({ length: panels * (columns / 4) * 64 }, () => Math.floor((next() + 1) * 128));
    // Halves from 2^-6 to 2^-5.
    const halves = Uint16Array.from(
      { length: panels * (columns / group) * 64 },
      () => 0x2400 | Math.floor((next() + 1) * 512),
    );
    const scales = new Uint8Array(halves.buffer);
    const shape = { rows, columns, group, ...(experts === 1 ? {} : { experts }) };
    return weights.push({ kind: 'grouped', name, ...shape, layout: 'panel64', bytes, scaleType: 'f16', scales }) - 1;
  };
  const data = (name, rows, width, scale) => {
    const out = buffer(name, width);
    ops.push({ op: 'embed', table: dense(name, rows, width, scale), out });
    return out;
  };
  const signs = (length) =>
    vector(
      'signs',
      floats(length).map((v) => (v < 0 ? -1 : 1)),
    );
  /** Codes of x, rotated where `block` says so. */
  const rounded = (x, block = 0, move = { keyHeads: 0, headDim: 0 }) => {
    const { width, rows } = buffers[x];
    let from = x;
    if (block > 0) {
      from = buffer('rotated', width, 'f32', rows);
      ops.push({ op: 'hadamard', x, signs: signs(width), block, direction: 'forward', ...move, out: from });
    }
    const codes = buffer('codes', width, 'i16', rows, 128);
    const scale = buffer('scale', 1, 'f32', rows);
    ops.push({ op: 'quantize16', x: from, codes, scale, label: 'a product' });
    return { codes, scale };
  };
  const product = (from, name, rows) => {
    const { width, rows: counted } = buffers[from.codes];
    const out = buffer(name, rows, 'f32', counted);
    ops.push({ op: 'groupedMatmul', ...from, weight: grouped(name, rows, width, 128), out });
    return out;
  };
  const finish = (x, { kv, rotaryDim, choices, contextLength }) => {
    const { width } = buffers[x];
    const logits = buffer('logits', width, 'f32', 'outputs');
    ops.push({ op: 'selectOutputs', x, out: logits });
    const half = rotaryDim / 2;
    const angle = (i) => Math.floor(i / half) * 1e4 ** (-(i % half) / half);
    const table = (of) => Float32Array.from({ length: contextLength * half }, (_, i) => of(angle(i)));
    const rope = { rotaryDim, cos: table(Math.cos), sin: table(Math.sin) };
    const program = { name: 'random', buffers, weights, ops, kv, rope, recurrent, choices, contextLength };
    return { ...program, vocabSize: width, logits, tracePoints: 0 };
  };
  return { buffers, ops, recurrent, buffer, floats, vector, dense, grouped, data, rounded, product, finish };
}

/** Attention at the widths of Qwen3.5: heads of 256 of which 64 elements turn, one layer with a window. */
function attentionProgram() {
  const { ops, buffer, data, rounded, finish } = parts(11);
  const [heads, kvHeads, headDim] = [2, 1, 256];
  const [q, k, v] = [data('q', 40, heads * headDim, 3), data('k', 40, headDim, 3), data('v', 40, headDim, 1)];
  const [out, other] = [buffer('out', heads * headDim), buffer('out', heads * headDim)];
  ops.push({ op: 'rope', x: q, heads, headDim }, { op: 'rope', x: k, heads: kvHeads, headDim });
  ops.push({ op: 'kvAppend', layer: 0, k, v }, { op: 'kvAppend', layer: 1, k: v, v: k });
  const shape = { op: 'attention', q, heads, kvHeads, headDim, scale: Math.fround(headDim ** -0.5) };
  ops.push({ ...shape, layer: 0, out }, { ...shape, layer: 1, out: other }, { op: 'add', x: out, y: other });
  rounded(out);
  return finish(out, {
    kv: { layers: 2, kvHeads, headDim, windows: [100, 0] },
    rotaryDim: 64,
    choices: 0,
    contextLength: 400,
  });
}

/** A layer with the delta rule at head size 128, rotated in blocks of 1024, then experts. */
function deltaProgram() {
  const { recurrent, ops, buffer, floats, vector, dense, grouped, data, rounded, product, finish } = parts(12);
  const [hidden, keyHeads, valueHeads, headDim, taps] = [1024, 4, 8, 128, 4];
  const [channels, mixed, experts, choices, inner] = [2048, 1024, 16, 4, 256];
  const x = data('x', 40, hidden);
  const normed = buffer('normed', hidden);
  const norm = () =>
    ops.push({ op: 'rmsNorm', x, weight: vector('norm', floats(hidden, 0.3, 1)), eps: Math.fround(1e-6), out: normed });
  norm();
  const codes = rounded(normed, 1024);
  const [qkv, z] = [product(codes, 'qkv', channels), product(codes, 'z', mixed)];
  const [beta, alpha] = [buffer('beta', valueHeads), buffer('alpha', valueHeads)];
  for (const out of [beta, alpha]) {
    ops.push({ op: 'denseMatmul', x: normed, weight: dense('gate', valueHeads, hidden, 0.05), out });
  }
  const [convolved, out] = [buffer('convolved', channels), buffer('out', mixed)];
  const weight = vector('convolution', floats(taps * channels));
  const state = (name, width) => recurrent.push({ name, width }) - 1;
  ops.push({ op: 'causalConv', state: state('conv', 3 * channels), x: qkv, weight, taps, out: convolved });
  const lengths = { op: 'l2NormHeads', x: convolved, heads: keyHeads, headDim, eps: Math.fround(1e-6) };
  ops.push(
    { ...lengths, offset: 0, scale: Math.fround(headDim ** -0.5) },
    { ...lengths, offset: keyHeads * headDim, scale: 1 },
    {
      op: 'gatedDelta',
      state: state('delta', valueHeads * headDim * headDim),
      x: convolved,
      beta,
      alpha,
      decay: vector('decay', floats(valueHeads, 0.3, -0.5)),
      bias: vector('bias', floats(valueHeads)),
      keyHeads,
      valueHeads,
      headDim,
      order: 'tiled',
      out,
    },
    {
      op: 'rmsNormHeads',
      x: out,
      weight: vector('head norm', floats(headDim, 0.3, 1)),
      eps: Math.fround(1e-6),
      heads: valueHeads,
      headDim,
      out,
    },
    { op: 'gatedActivation', fn: 'silu', gate: z, up: out, out: z },
  );
  ops.push({ op: 'add', x, y: product(rounded(z, 1024, { keyHeads, headDim }), 'o', hidden) });
  norm();
  const [router, shares] = [buffer('router', experts), buffer('shares', choices)];
  ops.push({ op: 'denseMatmul', x: normed, weight: dense('router', experts, hidden, 0.05), out: router });
  const chosen = buffer('experts', choices, 'i32');
  const least = Math.fround(1e-9);
  ops.push({ op: 'routeExperts', x: router, experts: chosen, weights: shares, least, label: 'the router' });
  const expert = (from, name, rows, columns) => {
    const to = buffer(name, rows, 'f32', 'choices');
    const of = grouped(name, rows, columns, 128, experts);
    ops.push({ op: 'expertMatmul', ...from, weight: of, experts: chosen, out: to });
    return to;
  };
  const routed = rounded(normed);
  const [gate, up] = [expert(routed, 'gate', inner, hidden), expert(routed, 'up', inner, hidden)];
  ops.push({ op: 'gatedActivation', fn: 'clampedSilu', limit: 7, gate, up, out: gate });
  ops.push({ op: 'addExperts', x, y: expert(rounded(gate, 256), 'down', hidden, inner), weights: shares });
  return finish(x, { kv: { layers: 1, kvHeads: 1, headDim: 4 }, rotaryDim: 4, choices, contextLength: 64 });
}

async function record() {
  execFileSync(process.execPath, [join(ROOT, 'scripts', 'ensure-ready.mjs'), '--built'], { stdio: 'inherit' });
  const load = (path) => import(join(ROOT, 'dist', path));
  const { MetalExecutable } = await load('engine/metal/executable.js');
  const { Gpu } = await load('engine/metal/gpu.js');
  const { readKernelText } = await load('engine/metal/shaders.js');
  const { jsBackend } = await load('engine/js/backend.js');
  const { hybridSelfTestProgram } = await load('engine/metal/self-test.js');
  const { CANDIDATES, shapeKey } = await load('engine/metal/tuning.js');
  const { recordProgram } = await load('model/record.js');
  const { openModel } = await load('model/open-model.js');

  rmSync(RECORDINGS, { recursive: true, force: true });
  mkdirSync(RECORDINGS, { recursive: true });
  const { addon, state } = recorder(createRequire(import.meta.url)(buildFake()));

  const run = async (name, program, steps, options = {}) => {
    if (!name.includes(process.argv[3] ?? '')) return;
    const executable = new MetalExecutable(new Gpu(addon, readKernelText()), program, options);
    const sequence = executable.createSequence();
    const reference = options.exact ? await jsBackend.load(program, {}) : undefined;
    reference?.createSequence();
    state.count = 0;
    state.exact = options.exact ?? false;
    for (const { tokens, top, trace, unrecorded } of steps) {
      state.name = unrecorded ? undefined : name;
      const at = executable.sequenceLength(sequence);
      const step = {
        tokens: Int32Array.from(tokens),
        sequences: new Int32Array(tokens.length).fill(sequence),
        positions: Int32Array.from(tokens, (_, i) => at + i),
        outputRows: unrecorded ? new Int32Array() : Int32Array.from(tokens, (_, i) => i),
        trace: trace ?? false,
      };
      if (top === undefined) {
        const { logits } = await executable.step(step);
        const wanted = (await reference?.step(step))?.logits ?? logits;
        // What is to be replayed has to be right.
        if (Buffer.compare(Buffer.from(wanted.buffer), Buffer.from(logits.buffer)) !== 0)
          throw new Error(`${name} differs from the reference`);
      } else await executable.step({ ...step, top, withoutLogits: true });
    }
    state.name = undefined;
    executable[Symbol.dispose]();
    process.stderr.write(`recorded ${name}\n`);
  };

  const golden = join(ROOT, 'test', 'golden', 'model');
  for (const name of readdirSync(golden, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)) {
    const dir = join(golden, name);
    const { input_ids: ids } = JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8'));
    const { program } = await openModel({ kind: 'folder', path: dir }, { name, head: 'full' });
    await run(name, program, [
      { tokens: ids.slice(0, -3) },
      { tokens: ids.slice(-3, -1) },
      { tokens: ids.slice(-1), trace: true },
    ]);
  }
  // Group-scaled models: every float as well.
  const grouped = join(ROOT, 'test', 'golden', 'qwen3');
  for (const name of readdirSync(grouped).filter((entry) => entry.startsWith('qwen3_'))) {
    const dir = join(grouped, name);
    const { input_ids: ids } = JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8'));
    const file = readdirSync(dir).find((entry) => entry.endsWith('.gguf'));
    const { program } = await openModel({ kind: 'gguf', path: join(dir, file) }, { name, head: 'full' });
    const cuts = [ids.slice(0, -7), ids.slice(-7, -3), ids.slice(-3, -1), ids.slice(-1)];
    await run(
      name,
      program,
      cuts.map((piece) => ({ tokens: piece })),
      { exact: true },
    );
  }
  const next = uniforms(1);
  // Hybrid models: recurrent states as well.
  await run('hybrid', hybridSelfTestProgram(), [{ tokens: ramp(66) }, { tokens: [77, 5] }, { tokens: [11] }], {
    exact: true,
  });
  const filled = [{ tokens: ramp(40), unrecorded: true }, { tokens: ramp(39) }, { tokens: [3] }];
  await run('hybrid-attention', attentionProgram(), [{ tokens: ramp(256), unrecorded: true }, ...filled], {
    exact: true,
  });
  await run('hybrid-delta', deltaProgram(), [{ tokens: ramp(12) }, { tokens: [7, 8] }, { tokens: [9] }], {
    exact: true,
  });
  const tokens = (count, vocab) => Array.from({ length: count }, () => Math.floor(((next() + 1) / 2) * vocab));
  // 2B-4T's own widths but for a quarter of the feed-forward rows, which would only make the file large.
  const layer = { hidden: 2560, ffn: 1728, heads: 20, kvHeads: 5, headDim: 128, vocab: 200, contextLength: 64 };
  const prompt = { tokens: tokens(4, 200), unrecorded: true };
  await run('layer-of-2b4t', randomModel(recordProgram, layer, 3), [prompt, { tokens: [5], top: 40 }]);
  const exact = { exact: true };
  await run(
    'exact-products',
    exactProgram(),
    [1, 2, 3, 12, 40].map((count) => ({ tokens: tokens(count, 70) })),
    exact,
  );
  const small = {
    hidden: 96,
    ffn: 200,
    heads: 4,
    kvHeads: 1,
    headDim: 24,
    vocab: 4200,
    contextLength: 600,
    int8: true,
  };
  const model = randomModel(recordProgram, small, 4);
  await run('long-context-int8-head', model, [
    { tokens: tokens(270, 4200), unrecorded: true },
    { tokens: [1], top: 64 },
    { tokens: tokens(4, 4200) },
  ]);
  const tiny = randomModel(recordProgram, { ...small, vocab: 64 }, 5);
  for (const choice of CANDIDATES) {
    const quads = [(96 + 2 * 24) / 4, 96 / 4, 400 / 4];
    const tuning = new Map(quads.flatMap((n) => [6, 13].map((groups) => [shapeKey(n, groups), choice])));
    await run(`${choice.kernel}-${choice.simdgroups}`, tiny, [{ tokens: [7] }], { tuning });
  }
}

function build() {
  mkdirSync(FOLDER, { recursive: true });
  copyFileSync(buildCuda(), PROGRAM);
  process.stderr.write(`${PROGRAM}\n`);
}

const what = process.argv[2];
if (what !== 'build' && what !== 'run') await record();
if (what !== 'record' && what !== 'run') build();
if (what !== 'record' && what !== 'build') {
  const files = readdirSync(RECORDINGS).map((file) => join(RECORDINGS, file));
  execFileSync(PROGRAM, files, { stdio: 'inherit' });
}
