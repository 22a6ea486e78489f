// Models in an engine: who may take one away from whom.

import { mkdtemp, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CancelledError } from '../../src/errors.ts';
import { Engine } from '../../src/generate/engine.ts';
import { evaluateIds } from '../../src/generate/evaluate.ts';
import { generateWith } from '../../src/generate/generate.ts';

const models = fileURLToPath(new URL('../../models/default', import.meta.url));

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'engine-'));
  for (const name of 'abcd') await symlink(models, join(folder, name));
});
afterAll(() => rm(folder, { recursive: true }));

const ask = (engine: Engine, name: string) =>
  generateWith(engine, { model: join(folder, name), prompt: 'Once upon a time', maxTokens: 6, backend: 'js' });

/** Asks for a model and gives up when its last layer is read, but it is not loaded yet. */
function giveUp(engine: Engine, name: string): Promise<void> {
  const stop = new AbortController();
  const onLayer = (done: number, total: number) => done === total && stop.abort();
  const request = { model: join(folder, name), backend: 'js', signal: stop.signal, onLayer } as const;
  return engine.use(request, async () => expect.unreachable('it was loaded before it was given up'));
}

test('more models asked for at once than are kept: each serves its caller before it goes', async () => {
  using engine = new Engine({ maxModels: 1 });
  const results = await Promise.all([...'abcd'].map((name) => ask(engine, name)));
  expect(new Set(results.map(({ completion }) => completion)).size).toBe(1);
  expect(results[0]!.usage.completionTokens).toBe(6);
});

test('a caller that gives up while a model loads does not take it from another', async () => {
  using engine = new Engine();
  const first = giveUp(engine, 'a');
  const second = ask(engine, 'a');
  await expect(first).rejects.toBeInstanceOf(CancelledError);
  expect((await second).usage.completionTokens).toBe(6);
});

test('a model given up by its only caller is loaded again for the next', async () => {
  using engine = new Engine();
  await expect(giveUp(engine, 'a')).rejects.toBeInstanceOf(CancelledError);
  expect((await ask(engine, 'a')).usage.completionTokens).toBe(6);
});

test('ids are evaluated without a tokenizer', async () => {
  const dir = fileURLToPath(new URL('../golden/model/bitnet_packed_a_s111', import.meta.url));
  const { logits, vocabSize, argmax } = await evaluateIds(dir, [1, 2, 3], { backend: 'js' });
  expect(logits.length).toBe(3 * vocabSize);
  expect(argmax.length).toBe(3);
});
