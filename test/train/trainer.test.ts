// Whole runs: what comes out can be used, and comes out the same however the run went.

import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { ModelFamily } from '../../src/model/model-config.ts';
import { openModel } from '../../src/model/open-model.ts';
import { makeBatch, nextTokenSequence } from '../../src/train/batch.ts';
import { exportModel, refuseOwnFolder } from '../../src/train/export-model.ts';
import { makeFreshModel } from '../../src/train/fresh-model.ts';
import { JS_KERNELS } from '../../src/train/kernels.ts';
import { latentsFromTrits } from '../../src/train/load-latents.ts';
import { loadTrainKernels } from '../../src/train/native-kernels.ts';
import { Network } from '../../src/train/network.ts';
import { DEFAULT_OPTIMIZER, optimizerStep, zeroOptimizerState } from '../../src/train/optimizer.ts';
import { openTrainableModel } from '../../src/train/trainable-model.ts';
import { runTraining, type TrainRequest } from '../../src/train/trainer.ts';
import { Numbers, randomLatents, tinyConfig } from './tiny.ts';
import { writeTinyModel } from './tiny-model.ts';

const folder = mkdtempSync(join(tmpdir(), 'bitnet-train-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const writeModel = (name: string, family: ModelFamily) => writeTinyModel(join(folder, name), { family });

async function inferenceLogits(path: string, ids: readonly number[]): Promise<Float32Array> {
  const { program } = await openModel({ kind: 'folder', path }, { name: 'trained', head: 'full' });
  using executable = await jsBackend.load(program, {});
  const sequence = executable.createSequence();
  const rows = Int32Array.from(ids, (_, i) => i);
  const step = { tokens: Int32Array.from(ids), sequences: rows.map(() => sequence), positions: rows, outputRows: rows };
  return (await executable.step(step)).logits;
}

describe.each(['bitnet', 'onebitllm', 'llama'] satisfies ModelFamily[])('%s', (family) => {
  test('inference on the exported model, packed or masters, gives the logits of training bit for bit', async () => {
    const model = await openTrainableModel(await writeModel(`source-${family}`, family));
    const network = new Network(model.config, JS_KERNELS);
    const latents = model.latents.slice();
    const ids = [4, 8, 15, 16, 23, 42, 4, 8];
    const batch = makeBatch([nextTokenSequence(ids)]);
    const gradients = new Float32Array(model.plan.length);
    const state = zeroOptimizerState(model.plan);
    for (let step = 0; step < 3; step += 1) {
      network.quantize(latents);
      network.lossAndGradients(latents, batch, gradients);
      const rates = { lr: 0.01, weightDecay: 0.1 };
      optimizerStep(JS_KERNELS, model.plan, DEFAULT_OPTIMIZER, rates, latents, gradients, state);
    }
    const out = join(folder, `exported-${family}`);
    await exportModel(out, { configJson: model.configJson, plan: model.plan, latents, companions: model.folder });
    network.quantize(latents);
    const trained: number[] = [];
    network.loss(latents, batch, {
      onLogits: (logits, _, rows) => trained.push(...logits.subarray(0, rows * model.config.vocabSize)),
    });
    for (const path of [out, join(out, 'master')]) {
      expect([...(await inferenceLogits(path, ids.slice(0, -1)))]).toEqual(trained);
    }
    // Training goes on from the masters inside, with the very same latents.
    const again = await openTrainableModel(out);
    expect(again.from).toBe('masters');
    expect(again.latents).toEqual(latents);
  });
});

test('latents made for packed trits give their trits and scale back', async () => {
  const n = new Numbers(6);
  for (const scale of [0.013, 1.47, 0.0625]) {
    const trits = n.integers(64 * 48, -1, 1);
    const w = new Float32Array(trits.length);
    latentsFromTrits(trits, Math.fround(scale), w);
    const back = new Int8Array(trits.length);
    const [m] = JS_KERNELS.quantizeMatrices([{ name: 'w', w, trits: back }]);
    expect(back).toEqual(trits);
    expect(Math.abs(m! / Math.fround(scale) - 1)).toBeLessThan(2 ** -22);
  }
  const nothing = new Float32Array(8);
  latentsFromTrits(new Int8Array(8), 1, nothing);
  expect([...nothing]).toEqual(Array(8).fill(0));
});

test('an exported model keeps its named chat templates', async () => {
  const source = await writeModel('with-templates', 'bitnet');
  mkdirSync(join(source, 'additional_chat_templates'));
  writeFileSync(join(source, 'additional_chat_templates', 'tool_use.jinja'), 'with tools');
  const { configJson, plan, latents, folder: companions } = await openTrainableModel(source);
  const out = join(folder, 'exported-templates');
  await exportModel(out, { configJson, plan, latents, companions });
  expect(readFileSync(join(out, 'additional_chat_templates', 'tool_use.jinja'), 'utf8')).toBe('with tools');
});

test('a packed model that has no masters can be trained from its trits', async () => {
  const model = await openTrainableModel(await writeModel('to-pack', 'bitnet'));
  const out = join(folder, 'packed-only');
  await exportModel(out, {
    configJson: model.configJson,
    plan: model.plan,
    latents: model.latents,
    companions: model.folder,
  });
  rmSync(join(out, 'master'), { recursive: true });
  const packed = await openTrainableModel(out);
  expect(packed.from).toBe('trits');
  const batch = makeBatch([nextTokenSequence([1, 2, 3, 4, 5, 6, 7])]);
  const losses = [model, packed].map(({ config, latents }) => {
    const network = new Network(config, JS_KERNELS);
    network.quantize(latents);
    return network.loss(latents, batch).loss;
  });
  expect(Math.abs(losses[0]! - losses[1]!)).toBeLessThan(1e-4);
});

test('one batch can be learned by heart while trits flip ever less', () => {
  const network = new Network(tinyConfig('bitnet'), JS_KERNELS);
  const { plan } = network;
  const latents = randomLatents(plan, 12);
  const n = new Numbers(13);
  const batch = makeBatch([nextTokenSequence(n.integers(20, 0, 49))]);
  const state = zeroOptimizerState(plan);
  const gradients = new Float32Array(plan.length);
  const ternary = plan.all.filter(({ kind }) => kind === 'ternary');
  const flips: number[] = [];
  let loss = 0;
  for (let step = 0; step < 120; step += 1) {
    const before = ternary.map((parameter) => network.ternary(parameter).trits.slice());
    network.quantize(latents);
    if (step > 0) {
      const changed = ternary.map((parameter, i) =>
        network.ternary(parameter).trits.reduce((sum, trit, j) => sum + (trit === before[i]![j] ? 0 : 1), 0),
      );
      flips.push(changed.reduce((sum, count) => sum + count, 0));
    }
    ({ loss } = network.lossAndGradients(latents, batch, gradients));
    const rates = { lr: step < 90 ? 0.01 : 0.002, weightDecay: 0 };
    optimizerStep(JS_KERNELS, plan, DEFAULT_OPTIMIZER, rates, latents, gradients, state);
  }
  expect(loss).toBeLessThan(0.02);
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  expect(mean(flips.slice(0, 10))).toBeGreaterThan(5);
  expect(mean(flips.slice(-10))).toBeLessThan(mean(flips.slice(0, 10)) / 5);
});

test.each(['bitnet', 'llama'] satisfies ModelFamily[])('%s: parts of a batch change memory, not bits', (family) => {
  const n = new Numbers(14);
  const batch = makeBatch([9, 30, 2, 17, 5].map((length) => nextTokenSequence(n.integers(length, 0, 49))));
  const results = [4096, 30, 1].map((partRows) => {
    const network = new Network(tinyConfig(family), JS_KERNELS, { partRows });
    const latents = randomLatents(network.plan, 15);
    const gradients = new Float32Array(network.plan.length);
    network.quantize(latents);
    const { loss } = network.lossAndGradients(latents, batch, gradients);
    return { loss, gradients };
  });
  expect(results[1]).toEqual(results[0]);
  expect(results[2]).toEqual(results[0]);
});

describe('runs', () => {
  let source: string;
  const n = new Numbers(20);
  // A language that can be learned: each token is followed by the next but one, now and then by any.
  const text = (length: number) => {
    let id = Math.floor(n.next() * 50);
    return Int32Array.from({ length }, () => {
      id = n.next() < 0.1 ? Math.floor(n.next() * 50) : (id + 2) % 50;
      return id;
    });
  };
  const sequences = Array.from({ length: 40 }, () => nextTokenSequence(text(24)));
  const heldOut = Array.from({ length: 5 }, () => nextTokenSequence(text(24)));
  beforeAll(async () => {
    source = await writeModel('run-source', 'bitnet');
  });

  const request = async (out: string, changes: Partial<TrainRequest> = {}): Promise<TrainRequest> => ({
    model: await openTrainableModel(source),
    train: sequences,
    heldOut,
    out: join(folder, out),
    kernels: JS_KERNELS,
    settings: {
      schedule: { kind: 'two-stage', lr: 0.01, weightDecay: 0.1, warmup: 2, steps: 40 },
      optimizer: DEFAULT_OPTIMIZER,
      batchTokens: 100,
      partRows: 64,
      context: 64,
      seed: 1069n,
      evalEvery: 10,
      patience: 0,
      saveEvery: 5,
    },
    ...changes,
  });
  const files = ['model.safetensors', 'master/model.safetensors', 'config.json', 'train.jsonl'];
  const hashes = (out: string) =>
    files.map((file) =>
      createHash('sha256')
        .update(readFileSync(join(folder, out, file)))
        .digest('hex'),
    );

  test('the loss on held-out data falls, and kernels and threads do not matter', async () => {
    const readable = await runTraining(await request('plain'));
    expect(readable.ended).toBe('steps');
    expect(readable.evalAfter!).toBeLessThan(readable.evalBefore! - 0.5);
    expect(readable.log).toHaveLength(41);
    for (const threads of [1, 3]) {
      await runTraining(await request(`native-${threads}`, { kernels: await loadTrainKernels({ threads }) }));
      expect(hashes(`native-${threads}`)).toEqual(hashes('plain'));
    }
  });

  test('a run that is stopped again and again ends like one that was not', async () => {
    await runTraining(await request('whole'));
    let stops = 0;
    for (let finished = false; !finished; stops += 1) {
      const controller = new AbortController();
      let steps = 0;
      const result = await runTraining(
        await request('stopped', {
          signal: controller.signal,
          onProgress: () => {
            steps += 1;
            if (steps === 7) controller.abort();
          },
        }),
      );
      finished = result.ended !== 'stopped';
    }
    expect(stops).toBe(6);
    expect(hashes('stopped')).toEqual(hashes('whole'));
  });

  test('a folder of another run is not overwritten', async () => {
    await runTraining(await request('mine'));
    const other = await request('mine');
    const changed = { ...other, settings: { ...other.settings, seed: 2n } };
    await expect(runTraining(changed)).rejects.toThrow(/another model or other settings.*--restart/);
    await runTraining({ ...changed, restart: true });
  });

  test('a state that is damaged anywhere is refused, not trained on', async () => {
    const stop = new AbortController();
    const onProgress = ({ step }: { step: number }) => step === 22 && stop.abort();
    await runTraining(await request('damaged', { signal: stop.signal, onProgress }));
    const path = join(folder, 'damaged', 'state.safetensors');
    const whole = readFileSync(path);
    const refused = async (bytes: Buffer) => {
      await writeFile(path, bytes);
      await expect(runTraining(await request('damaged'))).rejects.toThrow(/is damaged: .*--restart/);
    };
    await refused(Buffer.alloc(0));
    await refused(whole.subarray(0, whole.length / 2));
    for (const at of [whole.indexOf('"cursor') - 1, Math.floor(whole.length / 2), whole.length - 1]) {
      const flipped = Buffer.from(whole);
      flipped[at]! ^= 1;
      await refused(flipped);
    }
    await writeFile(path, whole);
    expect((await runTraining(await request('damaged'))).ended).toBe('steps');
  });

  test('the tokenizer of another run is not overwritten either', async () => {
    const out = join(folder, 'fresh');
    const fresh = (text: string, restart: boolean) =>
      makeFreshModel(out, [text], { shape: 'tiny', vocabSize: 300, contextLength: 64, seed: 1n, restart });
    const tokenizerJson = () => readFileSync(join(out, 'tokenizer.json'), 'utf8');
    await fresh('a fox, a fox', false);
    const first = tokenizerJson();
    // Without a state nothing was trained with it yet.
    await fresh('a hen, a hen', false);
    expect(tokenizerJson()).not.toBe(first);
    await writeFile(join(out, 'state.safetensors'), '');
    await fresh('a hen, a hen', false);
    await expect(fresh('a fox, a fox', false)).rejects.toThrow(/a run with other data.*--restart/);
    expect(tokenizerJson()).not.toBe(first);
    await fresh('a fox, a fox', true);
    expect(tokenizerJson()).toBe(first);
  });

  test('a model is not trained over itself: a stopped run would have lost where it began', async () => {
    for (const out of [source, join(source, 'master'), `${source}/../run-source`]) {
      await expect(refuseOwnFolder(source, out)).rejects.toThrow(/overwrite the model/);
    }
    await expect(refuseOwnFolder(join(source, 'master'), source)).rejects.toThrow(/overwrite the model/);
    await refuseOwnFolder(source, join(folder, 'somewhere-else'));
  });

  test('a log that cannot be written is named', async () => {
    mkdirSync(join(folder, 'no-log', 'train.jsonl'), { recursive: true });
    await expect(runTraining(await request('no-log'))).rejects.toThrow(/cannot write the log: EISDIR .*train\.jsonl/);
  });

  test('a file in the place of the folder is named', async () => {
    await writeFile(join(folder, 'a-file'), '');
    for (const out of ['a-file', 'a-file/below']) {
      await expect(runTraining(await request(out))).rejects.toThrow(
        /cannot be made: a file is in the way \(ENOTDIR\).*a-file.*another/,
      );
    }
  });

  test('a run that ends while it writes what belongs beside the model writes it the next time', async () => {
    const onExported = async () => {
      throw new Error('killed');
    };
    await expect(runTraining(await request('half-done', { onExported }))).rejects.toThrow('killed');
    let steps = 0;
    const resumed = await runTraining(
      await request('half-done', {
        onExported: async ({ step }) => {
          steps = step;
        },
      }),
    );
    expect(resumed).toMatchObject({ ended: 'steps', alreadyDone: false, step: steps });
    expect(hashes('half-done')).toEqual(hashes('whole'));
  });

  test('a run whose log was deleted or cut goes on to the same model', async () => {
    await runTraining(await request('with-log'));
    for (const keep of [0, 100]) {
      const stop = new AbortController();
      const onProgress = ({ step }: { step: number }) => step === 7 && stop.abort();
      await runTraining(await request(`cut-${keep}`, { signal: stop.signal, onProgress }));
      const log = join(folder, `cut-${keep}`, 'train.jsonl');
      if (keep === 0) rmSync(log);
      else truncateSync(log, keep);
      const { ended, log: entries } = await runTraining(await request(`cut-${keep}`));
      expect(ended).toBe('steps');
      expect(entries.at(-1)!.step).toBe(40);
      expect(hashes(`cut-${keep}`).slice(0, 3)).toEqual(hashes('with-log').slice(0, 3));
    }
  });
});

// ---- the program, killed ----

const main = join(import.meta.dirname, '../../dist/cli/main.js');

describe.runIf(existsSync(main))('train on the command line', () => {
  const data = join(folder, 'data.jsonl');
  const args = (out: string) => [
    ...['train', '--dataset', data, '--qat', '--preset', 'tiny', '--vocab', '300', '--context', '64', '--seed', '5'],
    ...['--steps', '24', '--batch-tokens', '256', '--save-every', '3', '--eval-every', '8', '--threads', '2', '--json'],
    ...['--out', join(folder, out)],
  ];
  const trained = (out: string) =>
    ['model.safetensors', 'master/model.safetensors', 'tokenizer.json', 'train.jsonl', 'loss.png'].map((file) =>
      createHash('sha256')
        .update(readFileSync(join(folder, out, file)))
        .digest('hex'),
    );

  test('a model without masters is said to flip little', () => {
    const lone = join(folder, 'cli-lone');
    mkdirSync(lone);
    const embedded = join(import.meta.dirname, '../../models/default');
    for (const file of ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json']) {
      copyFileSync(join(embedded, file), join(lone, file));
    }
    const text = join(folder, 'lone.txt');
    writeFileSync(text, 'A fox ran home.');
    const said = (model: string) =>
      spawnSync(
        process.execPath,
        [
          main,
          'train',
          '--dataset',
          text,
          '--qat',
          '--model',
          model,
          '--steps',
          '1',
          '--out',
          join(folder, 'cli-lone-out'),
          '--restart',
        ],
        { encoding: 'utf8' },
      ).stderr;
    expect(said(lone)).toMatch(/no float masters.*raise --lr or --steps/);
    expect(said(embedded)).not.toContain('no float masters');
  });

  function start(out: string): {
    readonly done: Promise<{ code: number | null; stdout: string }>;
    readonly kill: () => void;
  } {
    const child = spawn(process.execPath, [main, ...args(out)], { stdio: ['ignore', 'pipe', 'inherit'] });
    let stdout = '';
    child.stdout.on('data', (chunk) => {
      stdout += chunk;
    });
    const done = new Promise<{ code: number | null; stdout: string }>((resolve) =>
      child.on('close', (code) => resolve({ code, stdout })),
    );
    return { done, kill: () => child.kill('SIGKILL') };
  }

  test('kill -9 at any moment, again and again: the same files as an uninterrupted run', async () => {
    const records = Array.from({ length: 60 }, (_, i) => {
      const animal = ['fox', 'bear', 'hen', 'owl'][i % 4];
      return JSON.stringify(
        i % 3 === 0
          ? { prompt: `What does the ${animal} do?`, completion: ` The ${animal} runs home.` }
          : { text: `The ${animal} ran to the ${['hill', 'river', 'barn'][i % 3]} and slept. It was day ${i}.` },
      );
    });
    await writeFile(data, records.join('\n'));
    const whole = await start('cli-whole').done;
    expect(whole.code).toBe(0);
    const report = JSON.parse(whole.stdout);
    expect(report).toMatchObject({ steps: 24, finished: true, ended: 'steps' });
    expect(report.epochs).toBeGreaterThan(4);
    expect(report.next).toMatch(/ infer 'What does the fox do\?' --model .*cli-whole$/);
    // What it says to do next can be pasted.
    const pasted = spawnSync(`${report.next} --json`, { shell: true, encoding: 'utf8' });
    expect(JSON.parse(pasted.stdout).trace.length, pasted.stderr).toBeGreaterThan(0);
    expect(existsSync(join(folder, 'cli-whole', 'state.safetensors'))).toBe(false);
    expect(readFileSync(join(folder, 'cli-whole', 'README.md'), 'utf8')).toContain('`data.jsonl`: 1133 tokens');

    // Killed at a random moment soon after a few steps, so that kills fall between steps and into writes of the state and
    // the log; states are written every third step, so each life gets further than the one before.
    const n = new Numbers(40);
    const log = join(folder, 'cli-killed', 'train.jsonl');
    const lineCount = () => (existsSync(log) ? readFileSync(log, 'utf8').split('\n').length : 0);
    let kills = 0;
    for (;;) {
      const run = start('cli-killed');
      const before = lineCount();
      let delay: NodeJS.Timeout | undefined;
      let first: number | undefined;
      const watch = setInterval(() => {
        const lines = lineCount() - before;
        if (delay !== undefined || lines < 1) return;
        first ??= performance.now();
        // Within about two steps, however fast they are.
        if (lines >= 4) delay = setTimeout(run.kill, ((2 * (performance.now() - first)) / 3) * n.next());
      }, 1);
      const { code } = await run.done;
      clearInterval(watch);
      clearTimeout(delay);
      if (code === 0) break;
      expect(code).toBeNull();
      kills += 1;
      expect(kills).toBeLessThan(40);
    }
    expect(kills).toBeGreaterThan(1);
    expect(trained('cli-killed')).toEqual(trained('cli-whole'));
  }, 300_000);
});
