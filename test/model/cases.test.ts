// Situations that people reported to projects of this field, on models: what transformers computes, or a word that says why not.

import { cpSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { allLogits } from '../../src/generate/forward.ts';
import { convertModel } from '../../src/model/convert.ts';
import { type ModelFiles, openModel } from '../../src/model/open-model.ts';
import { toFloat32 } from '../../src/quant/to-float32.ts';

const cases = join(import.meta.dirname, '../golden/cases');
const root = mkdtempSync(join(tmpdir(), 'model-cases-'));
afterAll(() => rmSync(root, { recursive: true }));

const idsOf = (name: string) =>
  readFileSync(join(cases, name, 'ids.txt'), 'utf8')
    .trim()
    .split(',')
    .map(Number);

async function logitsOf(files: ModelFiles, ids: readonly number[]): Promise<Float32Array> {
  const { program } = await openModel(files, { name: files.path, head: 'full' });
  using executable = await jsBackend.load(program, {});
  return allLogits(executable, ids, program.vocabSize);
}

async function expectLogits(path: string, name: string): Promise<void> {
  using file = await openCheckpoint(join(cases, name, 'expected.safetensors'));
  const wanted = toFloat32(await file.read('logits'));
  const logits = await logitsOf({ kind: 'folder', path }, idsOf(name));
  expect(logits.length).toBe(wanted.length);
  const largest = logits.reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i]!)), 0);
  expect(largest).toBeLessThan(1e-3);
}

describe("logits of transformers' float32", () => {
  test.each(['some-projections-stay-floats', 'unpacked-trits-with-weight-scale', 'config-rope-theta-twice'])(
    '%s',
    (name) => expectLogits(join(cases, name), name),
  );

  test('config-rope-theta-twice, the inner one in rope_scaling', async () => {
    const name = 'config-rope-theta-twice';
    const path = join(root, name);
    cpSync(join(cases, name), path, { recursive: true });
    renameSync(join(path, 'config-rope_scaling.json'), join(path, 'config.json'));
    await expectLogits(path, name);
  });
});

describe("F16 trits of architecture llama: what bitnet.cpp's converter writes for Falcon-E", () => {
  const files: ModelFiles = { kind: 'gguf', path: join(cases, 'gguf-llama-f16-ternary', 'model.gguf') };

  test('the logits of the folder it was made from, its q and k put back in order', async () => {
    const ids = [1, 2, 3];
    const logits = await logitsOf(files, ids);
    const folder = join(import.meta.dirname, '../golden/model/llama_bitlinear_a_s411');
    const wanted = await logitsOf({ kind: 'folder', path: folder }, ids);
    const vocab = logits.length / ids.length;
    const best = ids.map((_, i) => {
      const row = logits.subarray(i * vocab, (i + 1) * vocab);
      return row.indexOf(Math.max(...row));
    });
    expect(best).toEqual([256, 114, 267]);
    const largest = logits.reduce((most, value, i) => Math.max(most, Math.abs(value - wanted[i]!)), 0);
    // The scales are rounded to f16, which flips a code here and there.
    expect(largest).toBeLessThan(0.1);
  });

  test('converts to I2_S, with the same bits', async () => {
    const target = join(root, 'falcon.gguf');
    await convertModel(files, target, { to: 'gguf-i2_s' });
    expect(await logitsOf({ kind: 'gguf', path: target }, [1, 2, 3])).toEqual(await logitsOf(files, [1, 2, 3]));
  });
});

test('a quantizer fell back to Q4_0: the type, why, and what to do', async () => {
  const files: ModelFiles = { kind: 'gguf', path: join(cases, 'gguf-tq2-fallback', 'model.gguf') };
  const opened = openModel(files, { name: 'test', head: 'full' });
  await expect(opened).rejects.toThrow(/type Q4_0.*rows of 192 are no multiple of 256.*Q2_0 or I2_S/);
  await expect(opened).rejects.not.toThrow(/quantization_config/);
});
