// On a machine with an NVIDIA card: that the cuda backend computes what the others compute, and how fast.
//
//   node scripts/cuda-check.mjs [bits] [long] [speed] [prompts] [profile] [launches] [--golden FOLDER] [--cubin FILE] [--in-order] [--forks]
//
// bits: every golden case against js, both ways of running; long: against the cpu backend, contexts to 8,192, batches, drafts
// (`--models` some); speed: tokens and prompts of published shapes; prompts: those and batches alone; profile: one row a step; launches:
// several rows, instruction by instruction. The last two need kernels built with -DBITNET_PROFILE. Needs `npm run build`.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildCuda } from './build-cuda.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const dist = (path) => import(join(root, 'dist', path));
const flag = (name, otherwise) => {
  const at = process.argv.indexOf(name);
  return at < 0 ? otherwise : process.argv[at + 1];
};
const wants = (what) => process.argv.includes(what);
const golden = flag('--golden', join(root, 'test', 'golden'));
const say = (line) => process.stdout.write(`${line}\n`);

const { CudaExecutable } = await dist('engine/cuda/executable.js');
const { openKernels } = await dist('engine/cuda/backend.js');
const { BARRIER_BYTES } = await dist('engine/cuda/gpu.js');
const { packageKernels } = await dist('engine/cuda/kernels.js');
const { jsBackend } = await dist('engine/js/backend.js');
const { openModel } = await dist('model/open-model.js');
const { randomModel, BENCH_SHAPES } = await dist('bench/random-model.js');

const built = buildCuda();
if (built.path === undefined) throw new Error(built.reason);
const addon = createRequire(import.meta.url)(built.path);
/** How long the driver's part of a step took. */
let inDriver = 0;
const { perform } = addon;
addon.perform = (work, here, limitMs) => {
  // Launches of several rows wait for the one before, as on cards before 9.0.
  for (let i = 0; wants('--in-order') && i < work.length; i += work[i] === 2 ? 7 + work[i + 6] : 4) {
    if (work[i] === 2 && work[i + 4] === 2) work[i + 4] = 0;
  }
  const before = performance.now();
  const done = perform(work, here, limitMs);
  inDriver = performance.now() - before;
  if (here) return done;
  return done.then(() => {
    inDriver = performance.now() - before;
  });
};
const info = addon.probe(flag('--library', 'libcuda.so.1'));
let from = performance.now();
const given = flag('--cubin', undefined);
const kernels = given === undefined ? {} : { cubin: () => ({ bytes: readFileSync(given) }) };
const { gpu, detail, reason } = await openKernels(addon, info, { ...packageKernels, ...kernels });
if (gpu === undefined) throw new Error(reason);
say(
  `${info.name}, driver ${info.driver}, ${info.multiprocessors} multiprocessors, ${Math.round(info.memoryBytes / 2 ** 30)} GiB`,
);
say(`${detail}; loaded in ${(performance.now() - from).toFixed(0)} ms`);

/** What has to go when its part is done. */
const kept = [];
const keep = (value) => {
  if (value !== undefined) kept.push(value);
  return value;
};
const drop = () => {
  for (const value of kept.splice(0)) value[Symbol.dispose]();
};

let failures = 0;
const bits = (values) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);
function same(what, actual, wanted) {
  if (Buffer.compare(bits(actual), bits(wanted)) === 0) return;
  failures += 1;
  let different = 0;
  for (let i = 0; i < wanted.length; i += 1) if (actual[i] !== wanted[i]) different += 1;
  say(`DIFFERENT: ${what}: ${different} of ${wanted.length}, first ${actual[0]} for ${wanted[0]}`);
}

function stepOf(executable, parts, outputs = 'all') {
  const tokens = parts.flatMap(([, ids]) => ids);
  let end = 0;
  const lasts = [];
  for (const [, ids] of parts) {
    end += ids.length;
    lasts.push(end - 1);
  }
  return {
    tokens: Int32Array.from(tokens),
    sequences: Int32Array.from(parts.flatMap(([sequence, ids]) => ids.map(() => sequence))),
    positions: Int32Array.from(parts.flatMap(([s, ids]) => ids.map((_, i) => executable.sequenceLength(s) + i))),
    outputRows: outputs === 'all' ? Int32Array.from(tokens, (_, i) => i) : Int32Array.from(lasts),
  };
}
const run = (executable, parts, outputs) =>
  executable.step(stepOf(executable, parts, outputs)).then(({ logits }) => logits);
/** What a greedy sampler asks for. */
const ONE = { top: 1, withoutLogits: true };
const best = async (executable, sequence, top) =>
  (await executable.step({ ...stepOf(executable, [[sequence, [7]]]), ...ONE, top })).top.ids[0];
const someTokens = (n, vocab, seed) =>
  Array.from({ length: n }, (_, i) => ((i * 7919 + seed * 104729 + 13) >>> 0) % vocab);

function modelOf(dir) {
  const names = readdirSync(dir);
  if (names.includes('config.json')) return [{ kind: 'folder', path: dir }];
  return names
    .filter((name) => !name.startsWith('expected'))
    .map((name) => ({ kind: name.endsWith('.gguf') ? 'gguf' : 'folder', path: join(dir, name) }));
}

if (wants('bits')) {
  let models = 0;
  for (const room of flag('--rooms', 'model,qwen3,hybrid').split(',')) {
    for (const entry of readdirSync(join(golden, room), { withFileTypes: true })) {
      const dir = join(golden, room, entry.name);
      if (!entry.isDirectory() || !existsSync(join(dir, 'expected.json'))) continue;
      const { input_ids: ids } = JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8'));
      for (const files of modelOf(dir)) {
        for (const head of room === 'model' ? ['full', 'int8'] : ['full']) {
          const { program } = await openModel(files, { name: entry.name, head });
          const js = keep(await jsBackend.load(program, {}));
          const reference = js.createSequence();
          const wanted = await run(js, [[reference, ids]]);
          const next = await run(js, [[reference, [ids[0]]]]);
          for (const phases of [false, true]) {
            const executable = keep(new CudaExecutable(gpu, program, { phases }));
            const what = `${files.path} ${head} ${phases ? 'phases' : 'persistent'}`;
            const one = executable.createSequence();
            same(`${what}, prompt`, await run(executable, [[one, ids]]), wanted);
            same(`${what}, next`, await run(executable, [[one, [ids[0]]]]), next);
            const two = executable.createSequence();
            const V = program.vocabSize;
            for (let t = 0; t < ids.length; t += 1) {
              same(`${what}, token ${t}`, await run(executable, [[two, [ids[t]]]]), wanted.slice(t * V, (t + 1) * V));
            }
            // Recurrent states are there only where they are: a prefix instead of a cut.
            executable.truncate(two, executable.rewindLimit(two) === 0 ? 3 : 0);
            if (executable.sequenceLength(two) === 0) await run(executable, [[two, ids.slice(0, 3)]]);
            const three = executable.fork(two, 3);
            const both = await run(executable, [
              [two, ids.slice(3)],
              [three, ids.slice(3)],
            ]);
            same(`${what}, together`, both.slice(0, (ids.length - 3) * V), wanted.slice(3 * V));
            same(`${what}, forked`, both.slice((ids.length - 3) * V), wanted.slice(3 * V));
            models += 1;
          }
          drop();
        }
      }
    }
  }
  say(`bits: ${models} models, ${failures} differences to js`);
}

async function native(program) {
  const { cpuBackend } = await dist('engine/cpu/backend.js');
  const reason = await cpuBackend.unavailable();
  if (reason !== undefined) throw new Error(reason);
  return cpuBackend.load(program, { threads: 16 });
}

if (wants('long')) {
  const small = {
    family: 'bitnet',
    hidden: 256,
    ffn: 704,
    layers: 2,
    heads: 8,
    kvHeads: 2,
    headDim: 32,
    vocab: 1024,
    ropeTheta: 500_000,
    tied: true,
  };
  const thin = { ...small, hidden: 64, ffn: 128, layers: 1, heads: 2, kvHeads: 1, headDim: 32, vocab: 256 };
  // js where it takes seconds; the cpu backend for whole shapes, where there is one.
  const chosen = flag('--models', 'small,thin,2b4t,bonsai-1.7b').split(',');
  for (const [name, shape, context, reference] of [
    ['small', small, 900, 'js'],
    ['thin', thin, 8300, 'js'],
    ['2b4t', BENCH_SHAPES['2b4t'], 1200, 'cpu'],
    ['bonsai-1.7b', BENCH_SHAPES['bonsai-1.7b'], 700, 'cpu'],
  ]) {
    if (!chosen.includes(name)) continue;
    from = performance.now();
    const program = randomModel(shape, 'int8', context, name);
    const cpu = keep(await (reference === 'js' ? jsBackend.load(program, {}) : native(program)).catch(() => undefined));
    if (cpu === undefined) {
      drop();
      say(`long: ${name} NOT RUN: there is no cpu backend`);
      continue;
    }
    const cuda = keep(new CudaExecutable(gpu, program));
    const both = [cpu, cuda];
    const V = program.vocabSize;
    const sequences = both.map((e) => Array.from({ length: 8 }, () => e.createSequence()));
    const check = async (what, parts, outputs) => {
      const [wanted, actual] = [
        await run(
          cpu,
          parts.map(([s, ids]) => [sequences[0][s], ids]),
          outputs,
        ),
        await run(
          cuda,
          parts.map(([s, ids]) => [sequences[1][s], ids]),
          outputs,
        ),
      ];
      same(`${name}: ${what}`, actual, wanted);
    };
    const before = failures;
    await check('first token', [[0, [5]]]);
    await check('second token', [[0, [77]]]);
    await check('draft of 5', [[0, someTokens(5, V, 1)]]);
    await check('prompt of 40', [[0, someTokens(40, V, 2)]], 'last');
    for (let i = 0; i < 4; i += 1) await check(`token after 47 (${i})`, [[0, [i]]]);
    for (let at = 52; at < context - 40; ) {
      const n = Math.min(500, context - 40 - at);
      await check(`prompt at ${at}`, [[0, someTokens(n, V, at)]], 'last');
      at += n;
      await check(`token at ${at}`, [[0, [3]]]);
      at += 1;
    }
    await check(
      'batch of 8, some with prompts',
      sequences[0].map((_, s) => [s, someTokens(1 + 3 * (s % 3), V, s)]),
      'last',
    );
    for (let i = 0; i < 3; i += 1)
      await check(
        `batch of 8 (${i})`,
        sequences[0].map((_, s) => [s, [i]]),
        'last',
      );
    for (const [i, e] of both.entries()) {
      e.truncate(sequences[i][0], 200);
      sequences[i][1] = e.fork(sequences[i][0], 130);
    }
    await check('after truncate', [[0, [9]]]);
    await check('after fork', [[1, [9]]]);
    drop();
    say(
      `long: ${name}, context ${context}: ${failures - before} differences to ${reference} (${((performance.now() - from) / 1000).toFixed(1)} s)`,
    );
  }
}

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
const spread = (values) =>
  `${median(values).toFixed(3)} (${Math.min(...values).toFixed(3)}..${Math.max(...values).toFixed(3)})`;
function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i += 1) if (values[i] > values[best]) best = i;
  return best;
}

async function feedTo(executable, sequence, length, vocab) {
  while (executable.sequenceLength(sequence) < length) {
    const n = Math.min(512, length - executable.sequenceLength(sequence));
    await executable.step({
      ...stepOf(executable, [[sequence, someTokens(n, vocab, 3)]]),
      outputRows: new Int32Array(0),
    });
  }
}

/** Models of `--shapes` on the card, of `--layers` layers, one after the other; int8 heads but where a ternary head is rotated. */
function* published(otherwise) {
  for (const name of flag('--shapes', otherwise).split(',')) {
    const shape = BENCH_SHAPES[name];
    const layers = Number(flag('--layers', shape.layers));
    const program = randomModel({ ...shape, layers }, shape.rotationBlock === undefined ? 'int8' : 'full', 8704, name);
    const before = performance.now();
    const executable = keep(new CudaExecutable(gpu, program));
    say(`${name}: weights on the card in ${(performance.now() - before).toFixed(0)} ms`);
    yield { name, program, executable, sequence: executable.createSequence(), V: program.vocabSize };
    drop();
  }
}

if (wants('speed') || wants('prompts')) {
  for (const { executable, sequence, V } of published('2b4t,bonsai-1.7b')) {
    const lengths = wants('prompts') ? [...Array(24).fill(512), 2048, 2048, 200, 200, 100, 100] : [512, 512, 512];
    for (const n of lengths) {
      executable.truncate(sequence, 0);
      const step = stepOf(executable, [[sequence, someTokens(n, V, 3)]], 'last');
      from = performance.now();
      await executable.step(step);
      say(`  prompt of ${n}: ${(performance.now() - from).toFixed(2)} ms, in the driver ${inDriver.toFixed(2)}`);
    }
    executable.truncate(sequence, 0);
    const ways = {
      'best on the device': async (s) => best(executable, s, 1),
      '20 best on the device': async (s) => best(executable, s, 20),
      'logits, argmax here': async (s) => argmax(await run(executable, [[s, [7]]])),
    };
    const contexts = wants('speed') ? flag('--contexts', '64,512,2048,8192').split(',').map(Number) : [];
    for (const context of contexts) {
      await feedTo(executable, sequence, context, V);
      for (const [way, work] of Object.entries(ways)) {
        const line = executable.fork(sequence, context);
        const times = [];
        const driver = [];
        // So many until what there is of JavaScript is compiled.
        for (let i = 0; i < 600; i += 1) {
          from = performance.now();
          await work(line);
          times.push(performance.now() - from);
          driver.push(inDriver);
          // Each of the same length.
          executable.truncate(line, context);
        }
        const inner = median(driver.slice(400)).toFixed(3);
        say(`  context ${context}, ${way}: ${spread(times.slice(400))} ms a token, in the driver ${inner}`);
        executable.freeSequence(line);
      }
    }
    executable.truncate(sequence, 0);
    await feedTo(executable, sequence, 256, V);
    for (const count of [8, 32]) {
      // Sequences of their own, or forks, which share a cache that then comes from L2.
      const batch = [];
      for (let i = 0; i < count; i += 1) {
        batch.push(wants('--forks') ? executable.fork(sequence, 256) : executable.createSequence());
        await feedTo(executable, batch[i], 256, V);
      }
      const times = [];
      for (let i = 0; i < 60; i += 1) {
        from = performance.now();
        const parts = batch.map((s) => [s, [i]]);
        await executable.step({ ...stepOf(executable, parts), ...ONE });
        times.push(performance.now() - from);
      }
      const ms = times.slice(20);
      say(`  batch ${count} at context 256: ${spread(ms)} ms, ${Math.round((1000 * count) / median(ms))} tokens/s`);
      for (const s of batch) executable.freeSequence(s);
    }
  }
}

if (wants('profile')) {
  for (const { name, program, executable, sequence, V } of published('2b4t')) {
    for (const [tokens, context] of [
      [1, 64],
      [1, 512],
      [1, 8192],
    ]) {
      if (context > Number(flag('--most', 9000))) continue;
      if (executable.sequenceLength(sequence) > context) executable.truncate(sequence, 0);
      await feedTo(executable, sequence, context, V);
      for (let i = 0; i < 3; i += 1) {
        const line = executable.fork(sequence, context);
        await executable.step({ ...stepOf(executable, [[line, someTokens(tokens, V, 1)]], 'last') });
        executable.freeSequence(line);
      }
      const list = executable.instructionsOf(tokens, 1, context + tokens);
      const clocks = new BigUint64Array(BARRIER_BYTES / 8);
      gpu.download(gpu.barrier, new Uint8Array(clocks.buffer));
      const sums = new Map();
      for (const [i, { op, ending = 0, width }] of list.entries()) {
        const took = i === 0 ? 0 : Number(clocks[8 + i] - clocks[7 + i]);
        const key = `${op} ${ending} ${width ?? ''}`;
        const sum = sums.get(key) ?? { n: 0, took: 0 };
        sum.n += 1;
        sum.took += took;
        sums.set(key, sum);
      }
      say(
        `profile: ${name}, ${tokens} tokens at context ${context}, ${list.length} instructions; clocks of block 0 each`,
      );
      for (const [key, { n, took }] of sums) {
        say(`  ${key.padEnd(24)} ${String(n).padStart(4)} x ${Math.round(took / n)}`);
      }
      if (tokens > 1) continue;
      const times = [];
      const line = executable.fork(sequence, context);
      for (let i = 0; i < 200; i += 1) {
        from = performance.now();
        await best(executable, line, 1);
        times.push([performance.now() - from, inDriver]);
      }
      executable.freeSequence(line);
      const [whole, driver] = [0, 1].map((k) => median(times.slice(100).map((pair) => pair[k])));
      say(`  a step ${whole.toFixed(3)} ms, in the driver ${driver.toFixed(3)} ms`);
      // What mark(NUMBER) in the kernels found, between it and the mark before, of all instructions of a kind.
      const marks = new Uint32Array(clocks.buffer, 60_000, 144);
      const { layers } = program.kv;
      for (const [kind, name] of ['store', 'add', 'gate', 'wide add', 'attention', 'other'].entries()) {
        const found = [...marks.subarray(24 * kind, 24 * kind + 24)].map((v) => Math.round(v / layers));
        const shown = found.flatMap((v, i) => (v > 0 ? [`${i}: ${v}`] : []));
        say(`    marks of ${name.padEnd(10)} ${shown.join(', ')}`);
      }
    }
  }
}

if (wants('launches')) {
  for (const { name, executable, sequence, V } of published('2b4t')) {
    await feedTo(executable, sequence, 256, V);
    for (const [count, each, context] of [
      [32, 1, 256],
      [8, 1, 256],
      [1, 512, 0],
    ]) {
      let here = 0;
      for (let i = 0; i < 5; i += 1) {
        const lines = Array.from({ length: count }, () => executable.fork(sequence, context));
        const parts = lines.map((s) => [s, someTokens(each, V, i)]);
        const step = { ...stepOf(executable, parts, 'last'), ...ONE };
        from = performance.now();
        await executable.step(step);
        here = performance.now() - from;
        for (const s of lines) executable.freeSequence(s);
      }
      const list = executable.instructionsOf(count * each, count, context + each, count, ONE);
      const times = new BigUint64Array(BARRIER_BYTES / 8);
      gpu.download(gpu.barrier, new Uint8Array(times.buffer));
      const at = (i, end) => Number(times[8 + 2 * i + end] - times[8]) / 1000;
      const sums = new Map();
      for (const [i, { op, ending = 0, width, heads }] of list.entries()) {
        const key = `${op} ${ending} ${width ?? heads ?? ''} after ${list[i - 1]?.op ?? 'none'}`;
        const sum = sums.get(key) ?? { n: 0, took: 0, since: 0 };
        sum.n += 1;
        sum.took += at(i, 1) - at(i, 0);
        sum.since += i === 0 ? 0 : at(i, 1) - at(i - 1, 1);
        sums.set(key, sum);
      }
      say(
        `launches: ${name}, ${count} sequences, ${each} rows each at ${context}: ${at(list.length - 1, 1).toFixed(0)} us, ${(1000 * here).toFixed(0)} here`,
      );
      say('  microseconds each from the end of the one before, and from when its last block began');
      for (const [key, { n, took, since }] of sums) {
        say(
          `  ${key.padEnd(36)} ${String(n).padStart(4)} x ${(since / n).toFixed(1).padStart(6)} ${(took / n).toFixed(1).padStart(6)}`,
        );
      }
    }
  }
}

say(failures === 0 ? 'no difference' : `${failures} DIFFERENCES`);
process.exit(failures === 0 ? 0 : 1);
