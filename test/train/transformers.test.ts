// What training writes loads in Hugging Face transformers, packed and as masters, and means the same there.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { makeBatch, nextTokenSequence } from '../../src/train/batch.ts';
import { exportModel } from '../../src/train/export-model.ts';
import { JS_KERNELS } from '../../src/train/kernels.ts';
import { Network } from '../../src/train/network.ts';
import { openTrainableModel } from '../../src/train/trainable-model.ts';
import { writeTinyModel } from './tiny-model.ts';

const PYTHON = process.env.PYTHON ?? 'python3';

const folder = mkdtempSync(join(tmpdir(), 'bitnet-transformers-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const probe = spawnSync(PYTHON, ['-c', 'import torch, accelerate, transformers'], { encoding: 'utf8' });
const missing = probe.status === 0 ? undefined : (probe.stderr?.trim().split('\n').at(-1) ?? `${PYTHON} was not found`);

test.runIf(missing !== undefined)(`skipped, transformers is not here: ${missing}`, () => {
  expect(probe.status).not.toBe(0);
});

test.runIf(missing === undefined).each(['bitnet'] as const)(
  '%s: transformers computes our logits from both forms',
  async (family) => {
    const model = await openTrainableModel(await writeTinyModel(join(folder, `source-${family}`), { family }));
    const out = join(folder, family);
    const { configJson, plan, latents, folder: companions } = model;
    await exportModel(out, { configJson, plan, latents, companions });
    const ids = [4, 8, 15, 16, 23, 42, 4, 8, 30];
    const network = new Network(model.config, JS_KERNELS);
    network.quantize(latents);
    const ours: number[] = [];
    network.loss(latents, makeBatch([nextTokenSequence([...ids, 0])]), {
      onLogits: (logits, _, rows) => ours.push(...logits.subarray(0, rows * model.config.vocabSize)),
    });
    const script = join(import.meta.dirname, '../../scripts/transformers-logits.py');
    const run = spawnSync(PYTHON, [script, out, ids.join(',')], { encoding: 'utf8', maxBuffer: 2 ** 26 });
    expect(run.status, run.stderr).toBe(0);
    const theirs = JSON.parse(run.stdout) as { packed: number[][]; masters: number[][] };
    for (const logits of [theirs.packed, theirs.masters]) {
      const flat = logits.flat();
      expect(flat.length).toBe(ours.length);
      // Sums in another order round some activations the other way, which moves single logits; most do not move.
      const errors = flat.map((value, i) => Math.abs(value - ours[i]!)).sort((a, b) => a - b);
      expect(errors[Math.floor(errors.length / 2)]).toBeLessThan(0.02);
      expect(errors.at(-1)).toBeLessThan(0.5);
    }
  },
  240_000,
);
