// Converting and converting back changes no logit's bit, and the result is a model like any other.

import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import { type ConvertFormat, convertModel } from '../../src/model/convert.ts';
import { type ModelFiles, openModel } from '../../src/model/open-model.ts';
import { packageRoot } from '../../src/package/root.ts';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';

let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'convert-'));
});
afterAll(() => rm(root, { recursive: true }));

const golden = (name: string): ModelFiles => ({
  kind: 'folder',
  path: join(import.meta.dirname, '../golden/model', name),
});
const embedded: ModelFiles = { kind: 'folder', path: join(packageRoot(), 'models', 'default') };

async function logits(files: ModelFiles): Promise<Uint32Array> {
  const { program } = await openModel(files, { name: 'test', head: 'full' });
  using executable = await jsBackend.load(program, {});
  const T = 7;
  const { logits: values } = await executable.step({
    tokens: Int32Array.from({ length: T }, (_, i) => (i * 31 + 5) % program.vocabSize),
    sequences: new Int32Array(T).fill(executable.createSequence()),
    positions: Int32Array.from({ length: T }, (_, i) => i),
    outputRows: Int32Array.from({ length: T }, (_, i) => i),
  });
  return new Uint32Array(values.buffer);
}

async function convert(files: ModelFiles, to: ConvertFormat) {
  const isFile = to.startsWith('gguf-');
  const path = join(root, `${Math.random()}${isFile ? '.gguf' : ''}`);
  const report = await convertModel(files, path, { to });
  return { files: { kind: isFile ? 'gguf' : 'folder', path } as ModelFiles, report };
}

describe('there and back, bit for bit', () => {
  test.each<[string, ConvertFormat]>([
    ['bitnet_packed_a_s111', 'hf'],
    ['bitnet_packed_div_b_s322', 'hf'],
    ['bitnet_online_a_s11', 'hf'],
    ['bitnet_packed_untied_a_s711', 'gguf-i2_s'],
    ['bitnet_online_a_s11', 'gguf-i2_s'],
    ['llama_bitlinear_a_s411', 'gguf-i2_s'],
    ['llama_bitlinear_plain_config_c_s433', 'hf'],
    ['onebitllm_a_s511', 'hf'],
    ['onebitllm_a_s511', 'gguf-i2_s'],
    ['bitnet_packed_a_s111', 'hf-unpacked'],
  ])('%s to %s', async (name, to) => {
    const source = golden(name);
    const wanted = await logits(source);
    const { files } = await convert(source, to);
    expect(await logits(files)).toEqual(wanted);
    expect(await logits((await convert(files, 'hf')).files)).toEqual(wanted);
  });

  test.each<ConvertFormat>(['gguf-i2_s', 'gguf-tq2_0', 'gguf-tq1_0'])(
    'the embedded model, with its tokenizer, to %s',
    async (to) => {
      const wanted = await logits(embedded);
      const { files } = await convert(embedded, to);
      expect(await logits(files)).toEqual(wanted);
      const back = (await convert(files, 'hf')).files;
      expect(await logits(back)).toEqual(wanted);
      const tokenizer = await loadTokenizer(embedded.path);
      const chat = [{ role: 'user', content: "What's that? <|eot_id|> naïve ☕" }];
      for (const path of [files.path, back.path]) {
        const other = await loadTokenizer(path);
        for (const text of ['Once upon a time', "It's  12345\n\n x", 'naïve ☕ 東京 <|eot_id|>', '']) {
          expect(other.encode(text)).toEqual(tokenizer.encode(text));
        }
        expect(other.encodeChat(chat)).toEqual(tokenizer.encodeChat(chat));
        expect(other.endOfTurnIds).toEqual(tokenizer.endOfTurnIds);
      }
    },
  );
});

describe('refused', () => {
  test('a target that exists', async () => {
    await expect(convertModel(embedded, root)).rejects.toThrow(/the target exists.*choose another name/);
  });

  test('a folder below a file', async () => {
    const below = join(root, 'a-file', 'folder');
    await writeFile(join(root, 'a-file'), '');
    await expect(convertModel(embedded, below)).rejects.toMatchObject({ code: 'WRITE_FAILED' });
  });

  test('a type whose blocks do not fit, leaving nothing behind', async () => {
    const before = await readdir(root);
    await expect(convert(golden('bitnet_packed_a_s111'), 'gguf-tq2_0')).rejects.toThrow(/TQ2_0 needs rows.*gguf-i2_s/);
    expect(await readdir(root)).toEqual(before);
  });
});

describe('group-scaled models', () => {
  const qwen3 = (name: string, container: string): ModelFiles => {
    const path = join(import.meta.dirname, '../golden/qwen3', name, container);
    return { kind: container.endsWith('.gguf') ? 'gguf' : 'folder', path };
  };

  test.each<ConvertFormat>(['gguf-q2_0', 'gguf-pq2_0', 'gguf-ptq1_0', 'hf-unpacked', 'mlx'])(
    'there and back by %s, bit for bit',
    async (to) => {
      for (const source of [
        qwen3('qwen3_all_layouts_s2601', 'hf'),
        qwen3('qwen3_yarn_wide_heads_s2602', 'ptq1_0.gguf'),
      ]) {
        const wanted = await logits(source);
        const { files } = await convert(source, to);
        expect(await logits(files)).toEqual(wanted);
        expect(await logits((await convert(files, 'gguf-q2_0')).files)).toEqual(wanted);
      }
    },
  );

  test.each<[ConvertFormat, string]>([
    ['gguf-pq2_0', 'pq2_0.gguf'],
    ['gguf-ptq1_0', 'ptq1_0.gguf'],
  ])('%s writes the bytes that others write', async (to, theirs) => {
    const { files } = await convert(qwen3('qwen3_all_layouts_s2601', 'q2_0_g128.gguf'), to);
    using mine = await GgufFile.open(files.path);
    using wanted = await GgufFile.open(qwen3('qwen3_all_layouts_s2601', theirs).path);
    for (const name of wanted.names()) {
      expect(Buffer.compare(await mine.readBytes(name), await wanted.readBytes(name)), name).toBe(0);
    }
  });

  test.each<ConvertFormat>(['gguf-q2_0', 'gguf-pq2_0'])(
    'a BitNet as %s stays one, its scale beside the matrix',
    async (to) => {
      const wanted = await logits(embedded);
      const { files } = await convert(embedded, to);
      expect(await logits(files)).toEqual(wanted);
    },
  );

  test('+2 has no place among trits', async () => {
    const source = qwen3('qwen3_odd_code3_g64_s2603', 'q2_0_g64.gguf');
    await expect(convert(source, 'hf-unpacked')).rejects.toThrow(/\+2|code 3|twos/);
    const { files } = await convert(source, 'gguf-q2_0');
    expect(await logits(files)).toEqual(await logits(source));
  });

  test('who reads the file is said where that is not everybody', async () => {
    const notes = async (source: ModelFiles, to: ConvertFormat) => (await convert(source, to)).report.notes.join('\n');
    expect(await notes(qwen3('qwen3_all_layouts_s2601', 'hf'), 'gguf-ptq1_0')).toMatch(
      /PTQ1_0 is read by PrismML's fork/,
    );
    expect(await notes(golden('bitnet_packed_a_s111'), 'gguf-i2_s')).toMatch(/"bitnet-b1.58" is read by bitnet.cpp/);
  });
});
