// Every golden model case through the reference backend, and the same cases spoiled: a verifier that cannot fail
// proves nothing.

import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { caseKind, verifyCase } from '../../src/generate/verify.ts';

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

  test('a folder without expected.json says what a case holds', async () => {
    await expect(verifyCase(dir)).rejects.toThrow(/no expected\.json.*a case holds/);
  });
});
