// Every golden model case through the reference backend, and the same cases spoiled: a verifier that cannot fail
// proves nothing.

import { execFileSync } from 'node:child_process';
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { writeSafetensors } from '../../src/formats/write-safetensors.ts';
import { caseKind, verifyCase } from '../../src/generate/verify.ts';
import { toFloat32 } from '../../src/quant/to-float32.ts';

const golden = join(import.meta.dirname, '../golden/model');
const cases = (await readdir(golden, { withFileTypes: true }))
  .filter((entry) => entry.isDirectory())
  .map(({ name }) => name);

test('the golden folder has its cases', () => expect(cases.length).toBe(21));

test.each(cases)('%s', async (name) => {
  const dir = join(golden, name);
  expect(await caseKind(dir)).toBe('inference');
  const report = await verifyCase(dir, { backend: 'js' });
  expect(report).toMatchObject({ ok: true, chunkedEqual: true, backend: 'js' });
  // A sound float32 engine is far below the required tolerance.
  expect(report.maxAbsErr).toBeLessThan(2e-5);
  expect(report.greedyMatch).toBe(report.greedyTotal);
});

const hybrid = join(import.meta.dirname, '../golden/hybrid');

test.each((await readdir(hybrid)).filter((name) => /_s\d+$/.test(name)))('%s, a case with model.gguf', async (name) => {
  const report = await verifyCase(join(hybrid, name), { backend: 'js' });
  expect(report).toMatchObject({ ok: true, chunkedEqual: true, tolerance: 0.02 });
  expect(report.greedyMatch).toBe(report.greedyTotal);
});

describe('a spoiled case fails', () => {
  let dir = '';
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'verify-'));
  });
  afterAll(() => rm(dir, { recursive: true }));

  const spoil = async (name: string, change: (config: Record<string, unknown>) => void) => {
    const copy = join(dir, `${name}-${Math.random()}`);
    await cp(join(golden, name), copy, { recursive: true });
    const config = JSON.parse(await readFile(join(copy, 'config.json'), 'utf8'));
    change(config);
    await writeFile(join(copy, 'config.json'), JSON.stringify(config));
    return verifyCase(copy);
  };

  test('the scale used the wrong way round', async () => {
    const report = await spoil('bitnet_packed_a_s111', (config) => {
      (config.quantization_config as Record<string, unknown>).linear_class = 'bitlinear';
    });
    expect(report.ok).toBe(false);
  });

  test('another activation', async () => {
    const report = await spoil('bitnet_packed_a_s111', (config) => {
      config.hidden_act = 'silu';
    });
    expect(report.ok).toBe(false);
  });

  test('another RoPE base', async () => {
    const report = await spoil('llama_bitlinear_a_s411', (config) => {
      config.rope_theta = 10001;
    });
    expect(report.maxAbsErr).toBeGreaterThan(1e-5);
  });

  test('a NaN among the expected logits', async () => {
    const copy = join(dir, 'nan');
    await cp(join(golden, 'bitnet_packed_a_s111'), copy, { recursive: true });
    const file = join(copy, 'expected.safetensors');
    using reference = await openCheckpoint(file);
    const tensors = await Promise.all(reference.names().map((name) => reference.read(name)));
    const spoiled = tensors.map((view) => {
      if (view.name !== 'logits') return view;
      const values = Float32Array.from(toFloat32(view));
      values[100] = Number.NaN;
      return { ...view, bytes: new Uint8Array(values.buffer) };
    });
    await writeSafetensors(file, spoiled);
    expect(await verifyCase(copy)).toMatchObject({ ok: false, maxAbsErr: Number.POSITIVE_INFINITY });
  });

  test('is cancelled by its signal', async () => {
    const run = verifyCase(join(golden, 'bitnet_packed_a_s111'), { signal: AbortSignal.abort() });
    await expect(run).rejects.toMatchObject({ code: 'CANCELLED' });
  });

  test.skipIf(process.platform === 'win32')('a pipe in the place of expected.json is not waited for', async () => {
    const copy = await mkdtemp(join(dir, 'pipe-'));
    execFileSync('mkfifo', [join(copy, 'expected.json')]);
    await expect(verifyCase(copy)).rejects.toThrow(/not a regular file .*a case holds/);
  });

  test('a folder without expected.json says what a case holds', async () => {
    await expect(verifyCase(dir)).rejects.toThrow(/no expected\.json.*a case holds/);
  });
});
