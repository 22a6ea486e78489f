// Hybrid, rotated and mixture models from one GGUF type to another: the same bits, and what is not converted says so.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import { type ConvertFormat, convertModel } from '../../src/model/convert.ts';
import { type ModelFiles, openModel } from '../../src/model/open-model.ts';

const root = mkdtempSync(join(tmpdir(), 'convert-hybrid-'));
afterAll(() => rmSync(root, { recursive: true }));

const golden = (name: string): ModelFiles => ({
  kind: 'gguf',
  path: join(import.meta.dirname, '../golden/hybrid', name, 'model.gguf'),
});

async function logits(files: ModelFiles): Promise<Uint32Array> {
  const { program } = await openModel(files, { name: 'test', head: 'full' });
  using executable = await jsBackend.load(program, {});
  const rows = Int32Array.from({ length: 9 }, (_, i) => i);
  const { logits: values } = await executable.step({
    tokens: rows.map((i) => (i * 31 + 5) % program.vocabSize),
    sequences: new Int32Array(9).fill(executable.createSequence()),
    positions: rows,
    outputRows: rows,
  });
  return new Uint32Array(values.buffer);
}

async function convert(files: ModelFiles, to: ConvertFormat) {
  const path = join(mkdtempSync(join(root, 'to-')), 'model.gguf');
  const { notes } = await convertModel(files, path, { to });
  return { files: { kind: 'gguf', path } as ModelFiles, notes };
}

test.each<[string, ConvertFormat, string]>([
  ['qwen35_q2_a_s2601', 'gguf-q2_0', 'Q2_0'],
  ['qwen35_f32_tied_nextn_b_s2602', 'gguf-q2_0', 'F32'],
  ['hadamard_pq2_explicit_a_s2611', 'gguf-ptq1_0', 'PTQ1_0'],
  ['hadamard_pq2_explicit_a_s2611', 'gguf-q2_0', 'Q2_0'],
  ['hadamard_ptq1_identity_b_s2612', 'gguf-pq2_0', 'PQ2_0'],
  ['hadamard_q2_tied_v2_c_s2613', 'gguf-q2_0', 'Q2_0'],
  ['maple_tq2_a_s2621', 'gguf-tq1_0', 'TQ1_0'],
  ['maple_tq2_a_s2621', 'gguf-q2_0', 'Q2_0'],
])('%s to %s', async (name, to, type) => {
  const { files, notes } = await convert(golden(name), to);
  expect(await logits(files)).toEqual(await logits(golden(name)));
  using file = await GgufFile.open(files.path);
  const up = file.names().find((tensor) => /^blk\.0\.ffn_up(_exps)?\.weight$/.test(tensor))!;
  expect(file.info(up).dtype).toBe(type);
  expect(notes.some((note) => /stay rotated/.test(note))).toBe(name.startsWith('hadamard'));
  expect(notes.some((note) => /MTP/.test(note))).toBe(name.includes('nextn'));
  expect(file.names().some((tensor) => tensor.includes('nextn'))).toBe(false);
});

describe('refused by name', () => {
  test.each<[string, ConvertFormat]>([
    ['qwen35_q2_a_s2601', 'hf-unpacked'],
    ['qwen35_q2_a_s2601', 'mlx'],
    ['maple_tq2_a_s2621', 'hf'],
  ])('%s to %s', async (name, to) => {
    await expect(convertModel(golden(name), join(root, 'never'), { to })).rejects.toThrow(
      /a (Qwen3\.5|Maple) model is converted from one GGUF type to another only, not to a folder/,
    );
  });

  test('a type that cannot hold the scales', async () => {
    const to = join(root, 'never.gguf');
    await expect(convertModel(golden('hadamard_pq2_explicit_a_s2611'), to, { to: 'gguf-i2_s' })).rejects.toThrow(
      /I2_S/,
    );
  });
});
