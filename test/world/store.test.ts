import { mkdtempSync, rmSync } from 'node:fs';
import { cp, mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parseRecord } from '../../src/world/parse-record.ts';
import { WorldError } from '../../src/world/world-error.ts';
import { type WorldRecord, WorldStore } from '../../src/world/world-store.ts';
import { Worlds } from '../../src/world/worlds.ts';
import { writeTinyModel } from '../train/tiny-model.ts';

const folder = mkdtempSync(join(tmpdir(), 'bitnet-store-'));
const model = join(folder, 'model');
let counter = 0;
const place = () => join(folder, `store-${counter++}`);

beforeAll(async () => {
  await writeTinyModel(model, { seed: 5 });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const record = (n: number): WorldRecord => ({
  format: 1,
  id: n.toString(16).padStart(64, '0'),
  parent: null,
  base: { id: 'b'.repeat(64), model: 'default', folder: '/models/default' },
  stepCount: 0,
  created: new Date(Date.UTC(2026, 0, 1, 0, n)).toISOString(),
});

const stepped = (n: number, changes: object) => ({
  ...record(n),
  parent: record(1).id,
  stepCount: 1,
  morphism: { optimizer: 'sgd', lr: 0.5, steps: 1, conserve: false, text: ['a fox'], ...changes },
});

test('a store that was only looked into leaves no folder; the first write makes it', async () => {
  const at = place();
  const store = await WorldStore.open(at);
  expect(await store.list()).toEqual([]);
  expect(await store.snapshots()).toEqual([]);
  await expect(store.resolve('latest')).rejects.toThrow(/no worlds yet/);
  await expect(stat(at)).rejects.toThrow(/ENOENT/);
  await store.add(record(1));
  expect(await store.list()).toEqual([record(1)]);
});

test('a place that is no folder is named', async () => {
  const at = place();
  await writeFile(at, '');
  await expect(WorldStore.open(at)).rejects.toThrow(/cannot look into this folder: ENOTDIR .*BITNET_WORLDS/);
});

test('broken records are named, and hide no other', async () => {
  const at = place();
  const store = await WorldStore.open(at);
  for (let n = 1; n <= 40; n += 1) await store.add(record(n));
  const path = (n: number) => join(at, 'worlds', `${record(n).id}.json`);
  const broken: Record<number, [text: string, message: RegExp]> = {
    3: ['{"format": 1, "id', /not JSON/],
    9: ['null', /not a JSON object/],
    20: [JSON.stringify(record(21)), /its id is not that of its file/],
    25: [JSON.stringify({ ...record(25), parent: record(1).id }), /go together/],
    30: [JSON.stringify({ ...record(30), base: { ...record(30).base, folder: '../up' } }), /absolute path/],
    34: [JSON.stringify(stepped(34, { lr: -1 })), /its morphism is incomplete/],
    36: [JSON.stringify(stepped(36, {})).replace('"lr":0.5', '"lr":1e999'), /its morphism is incomplete/],
    37: [JSON.stringify(stepped(37, { text: undefined })), /its morphism is incomplete/],
    38: [JSON.stringify(stepped(38, { tokens: [[1]] })), /its morphism is incomplete/],
    40: [JSON.stringify({ ...record(40), created: 5 }), /its time/],
  };
  for (const [n, [text]] of Object.entries(broken)) await writeFile(path(Number(n)), text);
  await rm(path(35));
  await mkdir(path(35));

  const found = await store.survey();
  expect(found.records).toEqual(
    Array.from({ length: 40 }, (_, i) => record(i + 1)).filter((_, i) => !(i + 1 in broken) && i + 1 !== 35),
  );
  expect(found.broken).toHaveLength(11);
  expect(await store.resolve('latest')).toBe(record(39).id);
  for (const [n, [, message]] of Object.entries(broken)) {
    const error = await store.record(record(Number(n)).id).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(WorldError);
    expect((error as Error).message).toMatch(message);
    expect((error as Error).message).toContain(path(Number(n)));
  }
  await expect(store.record(record(35).id)).rejects.toThrow(/not a regular file/);
  // Reaching the world again mends its record.
  await store.add(record(3));
  expect(await store.record(record(3).id)).toEqual(record(3));
});

test.each(['1e400', '-1e400', '-0.003', '0', '1e39', 'null', '"0.003"', '[1]'])(
  'a record with a rate of %s is broken',
  async (lr) => {
    const morphism = { optimizer: 'adamw', lr: 0.003, steps: 1, conserve: false, tokens: [[1, 2]] } as const;
    const whole = { ...record(2), parent: record(1).id, morphism };
    const text = JSON.stringify(whole);
    expect(parseRecord(text, whole.id)).toEqual(whole);
    const changed = text.replace(/"lr":[^,]+/, `"lr":${lr}`);
    expect(changed).not.toBe(text);
    expect(parseRecord(changed, whole.id)).toBe('its morphism is incomplete');
  },
);

test('a record that is deleted while the store is listed is no error', async () => {
  const store = await WorldStore.open(place());
  for (let n = 1; n <= 3; n += 1) await store.add(record(n));
  const ids = await store.ids();
  store.ids = async () => ids;
  await store.delete(record(2).id);
  expect(await store.survey()).toEqual({ records: [record(1), record(3)], broken: [] });
});

test("a record's folder is opened only where models may be read", async () => {
  const at = place();
  const shared = { folder: at, kernels: 'js' } as const;
  const { id } = await (await Worlds.open(shared)).begin(model);
  const closed = await Worlds.open({ ...shared, allowedRoots: [join(folder, 'elsewhere')] });
  const step = { world: id, tokens: [[1, 2, 3]], lr: 0.01, optimizer: 'sgd', steps: 1, conserve: false } as const;
  const error = await closed.step(step).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: 'PATH_NOT_ALLOWED' });
  expect(await readdir(join(at, 'worlds'))).toHaveLength(1);
  const open = await Worlds.open({ ...shared, allowedRoots: [folder] });
  expect((await open.step(step)).before.id).toBe(id);

  // The same model from a place that may be read begins the same world.
  const inside = join(folder, 'inside');
  await cp(model, join(inside, 'model'), { recursive: true });
  const other = await Worlds.open({ ...shared, allowedRoots: [inside] });
  const { world: _, ...rest } = step;
  expect((await other.step({ ...rest, model: join(inside, 'model') })).before.id).toBe(id);
});

test('a tokenizer that could not be read is tried again', async () => {
  const own = join(folder, 'late');
  await writeTinyModel(own, { seed: 6 });
  const worlds = await Worlds.open({ folder: place(), kernels: 'js' });
  const { id } = await worlds.begin(own);
  const step = {
    world: id,
    text: ['Once upon a time'],
    lr: 0.01,
    optimizer: 'sgd',
    steps: 1,
    conserve: false,
  } as const;
  await expect(worlds.step(step)).rejects.toThrow(/tokenizer/);
  const source = join(import.meta.dirname, '../../models/default');
  for (const file of await readdir(source))
    if (file.startsWith('tokenizer')) await cp(join(source, file), join(own, file));
  // It has more tokens than the tiny model.
  await expect(worlds.step(step)).rejects.toThrow(/token id/);
});
