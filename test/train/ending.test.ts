// How runs end: on a plateau or after all steps, with the best checkpoint kept and nothing left that only took room.

import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { nextTokenSequence } from '../../src/train/batch.ts';
import { JS_KERNELS } from '../../src/train/kernels.ts';
import { writeModelCard } from '../../src/train/model-card.ts';
import { Network } from '../../src/train/network.ts';
import { DEFAULT_OPTIMIZER, optimizerStep, zeroOptimizerState } from '../../src/train/optimizer.ts';
import { NOTHING_WATCHED } from '../../src/train/run-state.ts';
import { openTrainableModel } from '../../src/train/trainable-model.ts';
import { batchesOf, runTraining, type TrainRequest } from '../../src/train/trainer.ts';
import { QatCaseError, verifyQatCase } from '../../src/train/verify-qat.ts';
import { onPlateau, watchLook } from '../../src/train/watch.ts';
import { Numbers, tinyConfig } from './tiny.ts';
import { writeTinyModel } from './tiny-model.ts';

const folder = mkdtempSync(join(tmpdir(), 'bitnet-ending-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('a watch of held-out losses', () => {
  const watched = (losses: readonly number[]) =>
    losses.reduce(
      (watch, loss, step) => watchLook(watch, { step, loss, latents: Float32Array.of(loss) }),
      NOTHING_WATCHED,
    );

  test('keeps the lowest, the first of equals', () => {
    const { best } = watched([3, 2, 2.5, 2, 4]);
    expect(best).toMatchObject({ step: 1, loss: 2 });
    expect([...best!.latents]).toEqual([2]);
  });

  test.each([
    [[3, 2, 1], 0],
    [[3, 2, 2.1, 2.2], 2],
    // Falls of less than a thousandth are noise, but they add up.
    [[2, 1.9995, 1.9985], 2],
    [[2, 1.9995, 1.999, 1.9975], 0],
    [[0, 0, 0], 2],
  ])('%j: %i looks without a fall', (losses, stale) => {
    expect(watched(losses).stale).toBe(stale);
  });

  test('a patience of 0 never ends', () => {
    const watch = watched([1, 2, 2, 2]);
    expect([0, 1, 3, 4].map((patience) => onPlateau(watch, patience))).toEqual([false, true, true, false]);
  });
});

describe('runs', () => {
  let source: string;
  const n = new Numbers(31);
  // Learned by heart, and so worse and worse on what is held out: another language.
  const up = (step: number) => nextTokenSequence(Int32Array.from({ length: 24 }, (_, i) => (7 + step * i) % 50));
  const train = [up(2), up(2), up(2)];
  const heldOut = [nextTokenSequence(n.integers(24, 0, 49)), up(2)];
  beforeAll(async () => {
    source = await writeTinyModel(join(folder, 'source'), { family: 'bitnet' });
  });
  const request = async (out: string, changes: Partial<TrainRequest> = {}): Promise<TrainRequest> => ({
    model: await openTrainableModel(source),
    train,
    heldOut,
    out: join(folder, out),
    kernels: JS_KERNELS,
    settings: {
      schedule: { kind: 'constant', lr: 0.02, weightDecay: 0, warmup: 0, steps: 200 },
      optimizer: DEFAULT_OPTIMIZER,
      batchTokens: 48,
      partRows: 64,
      context: 64,
      seed: 7n,
      evalEvery: 3,
      patience: 4,
      saveEvery: 5,
    },
    ...changes,
  });
  const lossOf = async (out: string) => {
    const { config, latents } = await openTrainableModel(join(folder, out));
    const network = new Network(config, JS_KERNELS);
    network.quantize(latents);
    return network.loss(latents, batchesOf(heldOut, 48)[0]!).loss;
  };
  const sha = (out: string, file: string) =>
    createHash('sha256')
      .update(readFileSync(join(folder, out, file)))
      .digest('hex');
  const FILES = ['model.safetensors', 'master/model.safetensors', 'train.jsonl'];

  test('end on a plateau with the checkpoint of the lowest held-out loss, whatever interrupted them', async () => {
    const result = await runTraining(await request('plateau'));
    const looks = result.log.filter(({ evalLoss }) => evalLoss !== undefined);
    const lowest = looks.reduce((a, b) => (b.evalLoss! < a.evalLoss! ? b : a));
    expect(result.ended).toBe('plateau');
    expect(result.step).toBeLessThan(200);
    expect(result.bestStep).toBe(lowest.step);
    expect(result.bestStep).toBeGreaterThan(0);
    expect(result.bestStep).toBeLessThan(result.step);
    expect(result.evalAfter).toBe(lowest.evalLoss);
    // The one batch holds both sequences, so its loss is that of the look.
    expect(await lossOf('plateau')).toBeCloseTo(lowest.evalLoss!, 6);
    // Three sequences in batches of two: an epoch is two steps.
    expect(result.log.slice(1, 5).map(({ epoch }) => epoch)).toEqual([0.667, 1, 1.667, 2]);
    expect(result.epochs).toBe(Math.floor(result.step / 2) + (result.step % 2 === 0 ? 0 : 2 / 3));

    let parts = 0;
    for (let ended = 'stopped'; ended === 'stopped'; parts += 1) {
      const stop = new AbortController();
      let steps = 0;
      const onProgress = () => ++steps === 4 && stop.abort();
      ({ ended } = await runTraining(await request('parts', { signal: stop.signal, onProgress })));
    }
    expect(parts).toBeGreaterThan(2);
    for (const file of FILES) expect(sha('parts', file), file).toBe(sha('plateau', file));
  });

  test('take every step without patience or held-out data', async () => {
    const patient = await request('patient');
    const { schedule } = patient.settings;
    const settings = { ...patient.settings, patience: 0, schedule: { ...schedule, steps: 60 } };
    expect(await runTraining({ ...patient, settings })).toMatchObject({ ended: 'steps', step: 60 });
    const blind = await request('blind', { heldOut: [] });
    const result = await runTraining({ ...blind, settings: { ...settings, patience: 1 } });
    expect(result).toMatchObject({ ended: 'steps', step: 60, bestStep: 60, evalAfter: undefined });
  });

  test('that only made it worse give the model back that they began with', async () => {
    const bad = await request('worse', { heldOut: [nextTokenSequence(n.integers(24, 0, 49))] });
    const settings = { ...bad.settings, schedule: { ...bad.settings.schedule, lr: 0.5 } };
    const result = await runTraining({ ...bad, settings });
    expect(result).toMatchObject({ ended: 'plateau', bestStep: 0, evalAfter: result.evalBefore });
    expect((await openTrainableModel(join(folder, 'worse'))).latents).toEqual(bad.model.latents);
  });

  test('stopped between two looks write the newest when it is the best', async () => {
    const stop = new AbortController();
    const onProgress = ({ step }: { step: number }) => step === 2 && stop.abort();
    const result = await runTraining(await request('early', { signal: stop.signal, onProgress }));
    expect(result).toMatchObject({ ended: 'stopped', step: 2, bestStep: 2 });
    expect(result.evalAfter).toBeLessThan(result.evalBefore!);
  });

  test('leave no optimizer state when done, and know that they are', async () => {
    const stop = new AbortController();
    const onProgress = ({ step }: { step: number }) => step === 8 && stop.abort();
    await runTraining(await request('tidy', { signal: stop.signal, onProgress }));
    expect(readdirSync(join(folder, 'tidy'))).toContain('state.safetensors');
    const first = await runTraining(await request('tidy'));
    const left = ['config.json', 'master', 'model.safetensors', 'run.json', 'train.jsonl'];
    expect(readdirSync(join(folder, 'tidy')).sort()).toEqual(left);
    const before = FILES.map((file) => sha('tidy', file));

    // Left by a crash between the last two writes.
    writeFileSync(join(folder, 'tidy/state.safetensors'), 'rest');
    const again = await runTraining(await request('tidy'));
    expect(again).toMatchObject({
      alreadyDone: true,
      step: first.step,
      evalAfter: first.evalAfter,
      ended: first.ended,
    });
    expect(FILES.map((file) => sha('tidy', file))).toEqual(before);
    expect(existsSync(join(folder, 'tidy/state.safetensors'))).toBe(false);

    const other = await request('tidy');
    const changed = { ...other, settings: { ...other.settings, patience: 3 } };
    await expect(runTraining(changed)).rejects.toThrow(/other settings.*--restart/);
    writeFileSync(join(folder, 'tidy/run.json'), 'null');
    await expect(runTraining(await request('tidy'))).rejects.toThrow(/other settings.*--restart/);
    expect((await runTraining(await request('tidy', { restart: true }))).alreadyDone).toBe(false);
    expect(FILES.map((file) => sha('tidy', file))).toEqual(before);

    // Without its model a finished run is worth nothing.
    rmSync(join(folder, 'tidy/model.safetensors'));
    expect((await runTraining(await request('tidy'))).alreadyDone).toBe(false);
    expect(FILES.map((file) => sha('tidy', file))).toEqual(before);
  });

  test("have a card that says what holds for them, and leave one of the user's own alone", async () => {
    const asked = await request('carded');
    const result = await runTraining(asked);
    const facts = {
      name: 'carded',
      base: 'my|mod`el',
      from: 'trits',
      configJson: asked.model.configJson,
      parameters: 10,
      ternary: 8,
      dataset: 'a.jsonl',
      trainTokens: 69,
      heldOutTokens: 46,
      settings: asked.settings,
      result,
    } as const;
    const path = join(folder, 'carded/README.md');
    await writeModelCard(join(folder, 'carded'), facts);
    const card = readFileSync(path, 'utf8');
    expect(card).toContain('| began from | `my\\|mod el`, its packed trits: it came without float masters |');
    expect(card).toContain(
      `${result.step} steps of about 48 tokens, ${result.epochs.toFixed(2)} epochs; the held-out loss no longer fell`,
    );
    expect(card).toContain(`${result.evalAfter!.toFixed(4)} in this model (step ${result.bestStep})`);
    expect(card).toContain('embedding and norms are float32');
    expect(card).not.toContain('bfloat16');
    expect(card).toContain('transformers load both');
    const own = { ...facts.configJson, architectures: ['BitnetForCausalLM'] };
    await writeModelCard(join(folder, 'carded'), { ...facts, base: undefined, configJson: own });
    expect(readFileSync(path, 'utf8')).toMatch(
      /random weights and a tokenizer learned from the data[\s\S]*no such graph/,
    );
    writeFileSync(path, '# mine');
    await writeModelCard(join(folder, 'carded'), facts);
    expect(readFileSync(path, 'utf8')).toBe('# mine');
  });

  test.each([
    ['infinite', { lr: Infinity }],
    ['negative', { lr: -0.1 }],
    ['no number', { lr: Number.NaN }],
    ['infinite as float32', { lr: 1e39 }],
    ['negative decay', { weightDecay: -1 }],
    ['infinite decay', { weightDecay: Infinity }],
    ['half a step', { steps: 1.5 }],
    ['no steps', { steps: 0 }],
    ['negative warmup', { warmup: -1 }],
  ])('are refused before anything is written when told %s', async (_, wrong) => {
    const asked = await request('refused');
    const settings = { ...asked.settings, schedule: { ...asked.settings.schedule, ...wrong } };
    await expect(runTraining({ ...asked, settings })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
    expect(existsSync(join(folder, 'refused'))).toBe(false);
  });

  test.each([
    ['infinite', { lr: Infinity, weightDecay: 0 }],
    ['negative', { lr: -1e-9, weightDecay: 0 }],
    ['no', { lr: undefined as never, weightDecay: 0 }],
    ['text as', { lr: '1' as never, weightDecay: 0 }],
  ])('no optimizer takes %s rate', (_, rates) => {
    const network = new Network(tinyConfig('bitnet'), JS_KERNELS);
    const { plan } = network;
    const latents = new Float32Array(plan.length).fill(1);
    for (const kind of ['sgd', 'adamw'] as const) {
      const step = () =>
        optimizerStep(
          JS_KERNELS,
          plan,
          { ...DEFAULT_OPTIMIZER, kind },
          rates,
          latents,
          latents.slice(),
          zeroOptimizerState(plan),
        );
      expect(step).toThrow(/learning rate must be a number from 0/);
    }
    expect(latents.every((value) => value === 1)).toBe(true);
  });

  test('nor moments that divide by zero', () => {
    const network = new Network(tinyConfig('bitnet'), JS_KERNELS);
    const latents = new Float32Array(network.plan.length);
    for (const wrong of [
      { beta1: 1 },
      { beta2: 1 },
      { beta1: Number.NaN },
      { eps: -1 },
      { clipNorm: 0 },
      { clipNorm: Number.NaN },
    ]) {
      const state = zeroOptimizerState(network.plan);
      const rates = { lr: 0.1, weightDecay: 0 };
      expect(() =>
        optimizerStep(
          JS_KERNELS,
          network.plan,
          { ...DEFAULT_OPTIMIZER, ...wrong },
          rates,
          latents,
          latents.slice(),
          state,
        ),
      ).toThrow(/must be/);
    }
  });

  test.each(['1e400', '-0.1', 'null', '"0.1"'])('a training case with a rate of %s is refused', async (lr) => {
    const golden = join(import.meta.dirname, '../golden/train/qat_step_a_s611');
    const bad = join(folder, 'case');
    rmSync(bad, { recursive: true, force: true });
    cpSync(golden, bad, { recursive: true });
    const expected = readFileSync(join(bad, 'expected.json'), 'utf8');
    writeFileSync(join(bad, 'expected.json'), expected.replace('"sgd_lr": 0.05', `"sgd_lr": ${lr}`));
    await expect(verifyQatCase(bad)).rejects.toBeInstanceOf(QatCaseError);
  });
});
