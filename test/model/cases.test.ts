// Situations that people reported to projects of this field, on models: what transformers computes, or a word that says why not.

import { cpSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { writeGguf } from '../../src/formats/write-gguf.ts';
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

describe("PrismML's types", () => {
  test.each(['old-q2_0', 'pq2_0', 'ptq1_0'])('%s: some matrices are told from a damaged model', async (name) => {
    const opened = openModel(
      { kind: 'gguf', path: join(cases, 'gguf-bonsai-types', `${name}.gguf`) },
      { name: 'test', head: 'full' },
    );
    await expect(opened).rejects.toThrow(/no token_embd.weight: the file holds 2 tensors, not a whole model/);
    await expect(opened).rejects.not.toThrow(/incomplete|damage|convert|download/);
  });

  test.each(['pq2_0', 'ptq1_0'])('%s without the keys of a rotation is run, with a warning', async (type) => {
    const path = join(import.meta.dirname, `../golden/qwen3/qwen3_all_layouts_s2601/${type}.gguf`);
    const { warnings } = await openModel({ kind: 'gguf', path }, { name: 'test', head: 'full' });
    expect(warnings).toEqual([
      expect.stringMatching(
        new RegExp(`^${type}\\.gguf: "blk.0.attn_q.weight" is ${type.toUpperCase()}, .* may be rotated$`),
      ),
    ]);
  });

  test('q2_0 needs none', async () => {
    const path = join(import.meta.dirname, '../golden/qwen3/qwen3_all_layouts_s2601/q2_0_g64.gguf');
    expect((await openModel({ kind: 'gguf', path }, { name: 'test', head: 'full' })).warnings).toEqual([]);
  });
});

test.each<[string, Record<string, string>, RegExp]>([
  ['a vision tower', { 'general.architecture': 'clip' }, /vision tower \(mmproj\)/],
  ['an importance matrix', { 'general.type': 'imatrix' }, /importance matrix/],
  ['an adapter', { 'general.type': 'adapter', 'general.architecture': 'llama' }, /adapter \(LoRA\)/],
  ['Ternary Bonsai 2', { 'general.architecture': 'qwen35', 'prism.hadamard.axis': 'in' }, /rotated model .*Bonsai 2/],
  ['a rotation by another name', { 'general.architecture': 'qwen3', 'x.Hadamard.size': '8' }, /x\.Hadamard\.size/],
  ['a vocabulary', { 'general.architecture': 'llama' }, /no weights, only a vocabulary or settings/],
])('%s is refused as what it is', async (name, keys, message) => {
  const path = join(root, `${name}.gguf`);
  const metadata = Object.entries(keys).map(([key, value]) => ({ key, type: 'string' as const, value }));
  await writeGguf(path, { metadata, tensors: [] });
  await expect(openModel({ kind: 'gguf', path }, { name: 'test', head: 'full' })).rejects.toThrow(message);
});

describe('config.json', () => {
  const saved = (name: string, change: (text: string) => string | Buffer): ModelFiles => {
    const path = join(root, name);
    cpSync(join(cases, 'config-rope-theta-twice'), path, { recursive: true });
    writeFileSync(join(path, 'config.json'), change(readFileSync(join(path, 'config.json'), 'utf8')));
    return { kind: 'folder', path };
  };

  test('in UTF-16, as PowerShell 5 writes it, is told from a damaged one', async () => {
    const files = saved('utf-16', (text) => Buffer.from(`\ufeff${text}`, 'utf16le'));
    await expect(openModel(files, { name: 'test', head: 'full' })).rejects.toThrow(
      /this is UTF-16, JSON is UTF-8 .*save the file as UTF-8/,
    );
  });

  test('with a byte order mark is read', async () => {
    const files = saved('mark', (text) => `\ufeff${text}`);
    expect((await openModel(files, { name: 'test', head: 'full' })).config.hiddenSize).toBe(32);
  });

  test('a value that is used must be finite, and is shown as it stands', async () => {
    const files = saved('nan', (text) => text.replace(/"rms_norm_eps": [^,]*/, '"rms_norm_eps": NaN'));
    await expect(openModel(files, { name: 'test', head: 'full' })).rejects.toThrow(
      /rms_norm_eps is NaN, expected a positive number/,
    );
  });
});

test('a converted model keeps its named chat templates', async () => {
  const path = join(root, 'templates');
  cpSync(join(import.meta.dirname, '../golden/model/bitnet_packed_a_s111'), path, { recursive: true });
  mkdirSync(join(path, 'additional_chat_templates'));
  writeFileSync(join(path, 'chat_template.jinja'), 'plain');
  writeFileSync(join(path, 'additional_chat_templates', 'tool_use.jinja'), 'with tools');
  const target = join(root, 'templates-converted');
  await convertModel({ kind: 'folder', path }, target, { to: 'hf' });
  expect(readFileSync(join(target, 'chat_template.jinja'), 'utf8')).toBe('plain');
  expect(readFileSync(join(target, 'additional_chat_templates', 'tool_use.jinja'), 'utf8')).toBe('with tools');
});
