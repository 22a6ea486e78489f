import { mkdtempSync, rmSync } from 'node:fs';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { packageRoot } from '../../src/package/root.ts';
import { worldExpectedValue } from '../../src/world/morphism.ts';
import { morphismColorIndex } from '../../src/world/morphism-color.ts';
import { worldId } from '../../src/world/world-state.ts';
import { type StepRequest, Worlds, type WorldsOptions } from '../../src/world/worlds.ts';
import { writeTinyModel } from '../train/tiny-model.ts';

const folder = mkdtempSync(join(tmpdir(), 'bitnet-worlds-'));
const model = join(folder, 'model');
let counter = 0;

beforeAll(async () => {
  await writeTinyModel(model, { seed: 77 });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const open = (options: WorldsOptions = {}) =>
  Worlds.open({ folder: join(folder, `store-${counter++}`), kernels: 'js', ...options });

const TOKENS = [
  [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9],
  [2, 7, 18, 28, 18, 28, 4],
];
const morphism = { tokens: TOKENS, lr: 0.003, optimizer: 'adamw', steps: 1, conserve: false } as const;
const step = (
  from: { readonly world: string } | { readonly model: string },
  changes: Partial<StepRequest> = {},
): StepRequest => ({
  ...morphism,
  ...changes,
  ...from,
});

test('step, invert and step again give the same ids; the loss falls', async () => {
  const worlds = await open();
  const first = await worlds.step(step({ model }));
  expect(first.report.lossAfter).toBeLessThan(first.report.lossBefore);
  expect(first.before.parent).toBeNull();
  const second = await worlds.step(step({ world: first.after.id }));
  expect(second.before.id).toBe(first.after.id);
  expect(second.report.lossBefore).toBe(first.report.lossAfter);

  const back = await worlds.invert(second.after.id);
  expect(back.to.id).toBe(first.after.id);
  const again = await worlds.step(step({ world: back.to.id }));
  expect(again.after.id).toBe(second.after.id);
  const begin = await worlds.invert(back.to.id);
  expect(begin.to.id).toBe(first.before.id);
  expect((await worlds.step(step({ world: begin.to.id }))).after.id).toBe(first.after.id);
  await expect(worlds.invert(begin.to.id)).rejects.toThrow(/no step led to it/);
  expect((await worlds.log(second.after.id)).map(({ id }) => id)).toEqual([
    second.after.id,
    first.after.id,
    first.before.id,
  ]);
});

test('steps share one beginning and one gradient, and what is not stepped from is forgotten', async () => {
  const worlds = await open();
  const { before, after } = await worlds.step(step({ model }));
  const beginning = await worlds.state(before.id);
  const { gradients } = await worlds.network(before);
  const remembered = await worlds.state(after.id);
  expect(await worlds.state(after.id)).toBe(remembered);
  await worlds.step(step({ model }, { lr: 0.004 }));
  expect(await worlds.state(before.id)).toBe(beginning);
  expect((await worlds.network(before)).gradients).toBe(gradients);
  // Had again, not kept: a state is three times the model.
  const again = await worlds.state(after.id);
  expect(again).not.toBe(remembered);
  expect(worldId(again)).toBe(after.id);
  // A step leaves what it began from as it was.
  expect(beginning.optimizer).toMatchObject({ adamSteps: 0 });
  expect(beginning.optimizer.m.every((moment) => moment === 0)).toBe(true);
  expect(remembered.optimizer.m.some((moment) => moment !== 0)).toBe(true);
});

test('a world that is reached by two ways is inverted to where the last one began', async () => {
  const worlds = await open();
  const atOnce = await worlds.step(step({ model }, { steps: 2 }));
  const first = await worlds.step(step({ model }));
  const second = await worlds.step(step({ world: first.after.id }));
  expect(second.after.id).toBe(atOnce.after.id);
  expect(second.after).toMatchObject({ parent: first.after.id, morphism: { steps: 1 } });
  expect(second.after.report!.lossBefore).toBe(first.after.report!.lossAfter);
  expect((await worlds.invert(second.after.id)).to.id).toBe(first.after.id);
  await worlds.step(step({ model }, { steps: 2 }));
  expect((await worlds.invert(second.after.id)).to.id).toBe(atOnce.before.id);
});

test('latest is the world that the last step led to, also where it had been before', async () => {
  const worlds = await open();
  vi.useFakeTimers({ toFake: ['Date'] });
  try {
    const ids: string[] = [];
    for (const [minute, lr] of [0.003, 0.004, 0.003].entries()) {
      vi.setSystemTime(Date.UTC(2026, 0, 1, 0, minute));
      const { after } = await worlds.step(step({ model }, { lr }));
      ids.push(after.id);
      expect(await worlds.store.resolve('latest')).toBe(after.id);
    }
    expect(ids[2]).toBe(ids[0]);
  } finally {
    vi.useRealTimers();
  }
});

test('anything that the next step depends on is in the id', async () => {
  const worlds = await open();
  const { before, after } = await worlds.step(step({ model }));
  const ids = [before.id, after.id];
  for (const changes of [
    { lr: 0.0031 },
    { optimizer: 'sgd' },
    { steps: 2 },
    { tokens: [[3, 14, 15, 9, 26, 5]] },
    { lr: 1e-30 },
    { lr: 1e-30, optimizer: 'sgd' },
  ] satisfies Partial<StepRequest>[]) {
    ids.push((await worlds.step(step({ model }, changes))).after.id);
  }
  expect(new Set(ids).size).toBe(ids.length);
  const state = await worlds.state(after.id);
  expect(worldId(state)).toBe(after.id);
  state.latents[5] = state.latents[5]! + 1;
  expect(worldId(state)).not.toBe(after.id);
});

test('fifty steps replayed by another process on other thread counts give the same id', async () => {
  const shared = join(folder, `store-${counter++}`);
  const writer = await Worlds.open({ folder: shared, kernels: 'auto', threads: 1, snapshotEvery: 1000 });
  let world = (await writer.begin(model)).id;
  for (let i = 0; i < 25; i += 1) {
    const changes = {
      lr: 0.001 * (1 + (i % 3)),
      conserve: i % 4 === 0,
      steps: 2,
      optimizer: i % 5 === 0 ? 'sgd' : 'adamw',
    } as const;
    world = (await writer.step(step({ world }, changes))).after.id;
  }
  expect((await writer.log(world))[0]!.stepCount).toBe(50);
  expect(await readdir(join(shared, 'snapshots'))).toEqual([]);
  for (const options of [{ kernels: 'auto', threads: 3 }, { kernels: 'js' }] as const) {
    const reader = await Worlds.open({ folder: shared, ...options });
    // state() throws unless the replayed state hashes to the id.
    expect(worldId(await reader.state(world))).toBe(world);
  }
});

test('snapshots come every so many steps, are checked, and eviction spares what cannot be replayed', async () => {
  const shared = join(folder, `store-${counter++}`);
  const worlds = await Worlds.open({ folder: shared, kernels: 'js', snapshotEvery: 3 });
  const ids: string[] = [(await worlds.begin(model)).id];
  for (let i = 0; i < 7; i += 1) ids.push((await worlds.step(step({ world: ids.at(-1)! }))).after.id);
  expect([...(await worlds.store.snapshotIds())].sort()).toEqual([ids[3]!, ids[6]!].sort());

  // A damaged snapshot is not believed: it is deleted, and the world computed again.
  const path = join(shared, 'snapshots', `${ids[6]}.safetensors`);
  await writeFile(path, 'damaged');
  const second = await Worlds.open({ folder: shared, kernels: 'js', snapshotEvery: 3 });
  expect(worldId(await second.state(ids[7]!))).toBe(ids[7]);
  expect(await worlds.store.snapshotIds()).toEqual(new Set([ids[3]]));

  // A limit of nothing keeps only the snapshot just written.
  const small = await Worlds.open({ folder: shared, kernels: 'js', snapshotEvery: 3, maxBytes: 1 });
  const next = await small.step(step({ world: ids[6]! }, { lr: 0.004 }));
  expect(await worlds.store.snapshotIds()).toEqual(new Set([next.after.id]));
  expect(worldId(await small.state(ids[5]!))).toBe(ids[5]);

  // With the model gone, snapshots are all there is: none is evicted, and what has no snapshot is an error that says why.
  const moved = `${model}-moved`;
  const { rename } = await import('node:fs/promises');
  await rename(model, moved);
  try {
    const orphan = await Worlds.open({ folder: shared, kernels: 'js', maxBytes: 1 });
    expect(await orphan.store.evict(async () => false)).toEqual([]);
    expect(worldId(await orphan.state(next.after.id))).toBe(next.after.id);
    await expect(orphan.state(ids[2]!)).rejects.toThrow(/cannot be opened.*put the model back/);
  } finally {
    await rename(moved, model);
  }
});

test('a cancelled step leaves nothing behind', async () => {
  const worlds = await open();
  const { id } = await worlds.begin(model);
  const controller = new AbortController();
  let seen = 0;
  const running = worlds.step(step({ world: id }, { steps: 50 }), {
    signal: controller.signal,
    onProgress: (done, total) => {
      expect(done).toBeLessThanOrEqual(total);
      if (++seen === 12) controller.abort();
    },
  });
  await expect(running).rejects.toMatchObject({ code: 'CANCELLED' });
  expect(await worlds.store.ids()).toEqual([id]);
  // And the next request is served as if nothing had been.
  const { after } = await worlds.step(step({ world: id }));
  expect((await (await open()).step(step({ model }))).after.id).toBe(after.id);
});

test('conserve makes the sum of trit changes 0 mod 3, also in what is stored', async () => {
  const worlds = await open();
  let world = (await worlds.begin(model)).id;
  let repaired = 0;
  for (let i = 0; i < 12; i += 1) {
    const { after, report } = await worlds.step(step({ world }, { conserve: true, lr: 0.002 + 0.0005 * i }));
    expect(report.gf3Residue).toBe(0);
    expect(report.conserved).toBe(true);
    expect(report.extraFlips.length).toBeLessThanOrEqual(2);
    repaired += report.extraFlips.length > 0 ? 1 : 0;
    const total = (await worlds.diff(world, after.id)).reduce((sum, layer) => sum + layer.tritDeltaSum, 0);
    expect(total).toBe(report.tritDeltaSum);
    expect(Math.abs(total % 3)).toBe(0);
    world = after.id;
  }
  // Steps that need no repair prove nothing: about two in three do.
  expect(repaired).toBeGreaterThan(3);
});

test('to invert a world waits for no step', async () => {
  const worlds = await open();
  const { before, after } = await worlds.step(step({ model }));
  const order: string[] = [];
  // Each of the steps lets other events through; inverting needs far fewer.
  const stepping = worlds.step(step({ world: after.id }, { steps: 100 })).then(() => order.push('step'));
  const inverting = worlds.invert(after.id).then(({ to }) => order.push(to.id));
  await Promise.all([stepping, inverting]);
  expect(order).toEqual([before.id, 'step']);
});

test('a rate that is too high is said to be, and nothing is stored', async () => {
  const worlds = await open();
  const diverging = step({ model }, { lr: 1e30, optimizer: 'sgd', steps: 20 });
  const error = {
    name: 'WorldError',
    message: expect.stringMatching(/^the training diverged: .*smaller lr than 1e\+30/),
  };
  await expect(worlds.step(diverging)).rejects.toMatchObject(error);
  expect(await worlds.store.ids()).toEqual([]);
});

test('diff counts the flips that the step reported, by kind and place', async () => {
  const worlds = await open();
  const { before, after, report } = await worlds.step(step({ model }, { lr: 0.02 }));
  const diff = await worlds.diff(before.id, after.id);
  expect(diff.map(({ name, flips, tritDeltaSum }) => ({ name, flips, tritDeltaSum }))).toEqual(report.layers);
  expect(diff.some(({ flips }) => flips > 0)).toBe(true);
  for (const { kinds, flips } of diff) expect(Object.values(kinds).reduce((sum, n) => sum + n, 0)).toBe(flips);
  const layer = diff.find(({ flips }) => flips > 0)!;
  const { signs, shape } = await worlds.changes(before.id, after.id, layer.name);
  expect(signs).toHaveLength(shape[0] * shape[1]);
  expect(signs.filter((sign) => sign !== 0)).toHaveLength(layer.flips);
  await expect(worlds.changes(before.id, after.id, 'nonsense')).rejects.toThrow(/no ternary layer/);
});

test('delete refuses to orphan worlds, or takes them all', async () => {
  const worlds = await open();
  const a = await worlds.step(step({ model }));
  const b = await worlds.step(step({ world: a.after.id }));
  const other = await worlds.step(step({ world: a.before.id }, { lr: 0.01 }));
  await expect(worlds.delete(a.after.id, { descendants: false })).rejects.toThrow(/1 worlds came from/);
  expect((await worlds.delete(a.after.id, { descendants: true })).sort()).toEqual([a.after.id, b.after.id].sort());
  expect((await worlds.store.ids()).sort()).toEqual([a.before.id, other.after.id].sort());
  await worlds.delete(other.after.id, { descendants: false });
  await expect(worlds.state(b.after.id)).rejects.toThrow(/there is no world/);
});

test('bad requests say what is wrong', async () => {
  const worlds = await open();
  await expect(worlds.step(step({ world: 'xyz' }))).rejects.toThrow(/not a world id/);
  await expect(worlds.step(step({ world: 'abcdef0123' }))).rejects.toThrow(/there is no world abcdef0123/);
  await expect(worlds.step(step({ world: 'latest' }))).rejects.toThrow(/no worlds yet/);
  await expect(worlds.step(step({ model }, { tokens: [[1, 999]] }))).rejects.toThrow(/token id 999/);
  // As an int32 it is 1.
  await expect(worlds.step(step({ model }, { tokens: [[1, 2 ** 32 + 1]] }))).rejects.toThrow(
    /token id 4294967297 is not/,
  );
  await expect(worlds.step(step({ model }, { tokens: [[1.5, 1]] }))).rejects.toThrow(/token id 1\.5 is not/);
  await expect(worlds.step(step({ model }, { tokens: [[1]] }))).rejects.toThrow(/nothing to predict/);
  await expect(worlds.step(step({ model: join(folder, 'nowhere') }))).rejects.toThrow();
  for (const lr of [0, -1, Number.POSITIVE_INFINITY, Number.NaN]) {
    await expect(worlds.step(step({ model }, { lr }))).rejects.toThrow(/^lr is /);
  }
  for (const steps of [0, 1.5, 101]) await expect(worlds.step(step({ model }, { steps }))).rejects.toThrow(/^steps is/);
  // Nothing of them is left: no beginning either, which "latest" would name.
  expect(await worlds.store.ids()).toEqual([]);
  await expect(worlds.store.resolve('latest')).rejects.toThrow(/no worlds yet/);
});

test('a batch that is too long is refused before it is taken apart, and leaves no world', async () => {
  const worlds = await open();
  const ids = Array.from({ length: 9000 }, () => 1);
  await expect(worlds.step(step({ model }, { tokens: [ids, ids] }))).rejects.toThrow(
    /^the batch has 17998 tokens, a step takes at most 16384/,
  );
  const real = { model: join(packageRoot(), 'models', 'default') };
  const long = { text: Array(4).fill('Once upon a time there was a fox. '.repeat(30_000)) };
  const { tokens: _, ...plain } = step(real);
  await expect(worlds.step({ ...plain, ...long })).rejects.toThrow(/^the batch has more than 16384 tokens/);
  expect(await worlds.store.ids()).toEqual([]);
});

test('a refused step leaves a beginning that was there, and latest where it was', async () => {
  const worlds = await open();
  const { id } = await worlds.begin(model);
  const { after } = await worlds.step(step({ world: id }));
  await expect(worlds.step(step({ model }, { tokens: [[1, 999]] }))).rejects.toThrow(/token id 999/);
  expect((await worlds.store.ids()).sort()).toEqual([id, after.id].sort());
  expect(await worlds.store.resolve('latest')).toBe(after.id);
});

test('a temporary file of a killed process is cleared once it is old, and never read', async () => {
  const shared = join(folder, `store-${counter++}`);
  const worlds = await Worlds.open({ folder: shared, kernels: 'js' });
  const { id } = await worlds.begin(model);
  const fresh = join(shared, 'worlds', '.half.json.abcdef.tmp');
  await writeFile(fresh, '{"id": ');
  const { utimes } = await import('node:fs/promises');
  const stale = join(shared, 'snapshots', '.half.safetensors.abcdef.tmp');
  await writeFile(stale, 'half');
  await utimes(stale, new Date(0), new Date(0));
  const again = await Worlds.open({ folder: shared, kernels: 'js' });
  expect(await again.store.ids()).toEqual([id]);
  expect(await readdir(join(shared, 'worlds'))).toContain('.half.json.abcdef.tmp');
  expect(await readdir(join(shared, 'snapshots'))).toEqual([]);
  await rm(fresh);
});

test('wev and the morphism color follow their definitions', () => {
  expect(worldExpectedValue(3, 2)).toEqual({ wev: 1, wevRatio: 0.5 });
  expect(worldExpectedValue(3, 0)).toEqual({ wev: 3, wevRatio: Number.MAX_VALUE });
  expect(worldExpectedValue(0, 3)).toEqual({ wev: -3, wevRatio: -1 });
  expect(worldExpectedValue(0, 0)).toEqual({ wev: 0, wevRatio: 0 });
  // printf '["abc"]' | sha256sum begins with 02f393ea93585608; that number mod 1000 is 560.
  expect(morphismColorIndex(['abc'])).toBe(560);
});

describe.each([1, 2, 3])('a store in which a world comes from itself after %i steps', (length) => {
  /** A chain of three steps whose `length`th world was made to come from the last of them. */
  async function forged() {
    const at = join(folder, `store-${counter++}`);
    const worlds = await Worlds.open({ folder: at, kernels: 'js' });
    const ids: string[] = [];
    let from: { world: string } | { model: string } = { model };
    for (let i = 0; i < length; i += 1) {
      const { after } = await worlds.step(step(from));
      ids.push(after.id);
      from = { world: after.id };
    }
    const path = join(at, 'worlds', `${ids[0]}.json`);
    const record = JSON.parse(await readFile(path, 'utf8'));
    await writeFile(path, JSON.stringify({ ...record, parent: ids.at(-1) }));
    // Without what the process that took the steps remembers.
    return { worlds: await Worlds.open({ folder: at, kernels: 'js' }), ids, last: ids.at(-1)!, path };
  }

  test('every way back ends with an error that names the record', async () => {
    const { worlds, last, ids, path } = await forged();
    const error = { name: 'WorldError', message: expect.stringContaining(path) };
    await expect(worlds.log(last)).rejects.toMatchObject(error);
    await expect(worlds.state(last)).rejects.toMatchObject(error);
    await expect(worlds.step(step({ world: last }))).rejects.toMatchObject(error);
    await expect(worlds.diff(last, last)).rejects.toMatchObject(error);
    await expect(worlds.invert(ids[0]!)).rejects.toMatchObject(error);
  });

  test('its worlds can be deleted, the others stay', async () => {
    const { worlds, last } = await forged();
    const before = await worlds.store.ids();
    expect(await worlds.delete(last, { descendants: true })).toHaveLength(length);
    expect(await worlds.store.ids()).toHaveLength(before.length - length);
  });
});

test('a step count that does not follow from where the world came from is damage', async () => {
  const at = join(folder, `store-${counter++}`);
  const worlds = await Worlds.open({ folder: at, kernels: 'js' });
  const { after } = await worlds.step(step({ model }, { steps: 3 }));
  const path = join(at, 'worlds', `${after.id}.json`);
  const record = JSON.parse(await readFile(path, 'utf8'));
  for (const forgery of [
    { ...record, stepCount: 4 },
    { ...record, morphism: { ...record.morphism, steps: 2 } },
    { ...record, morphism: { ...record.morphism, steps: 0 } },
    // A beginning has none behind it, and so it would add up: but nobody would see the end of it.
    { ...record, stepCount: 2 ** 52, morphism: { ...record.morphism, steps: 2 ** 52 } },
  ]) {
    await writeFile(path, JSON.stringify(forgery));
    await expect(worlds.log(after.id)).rejects.toThrow(/the record is damaged/);
  }
});
