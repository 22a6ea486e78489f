// The shipped model's files agree with each other, and the recipe that made them runs end to end on a tiny corpus.

import { execFile, execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, describe, expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const SHIPPED = join(ROOT, 'models', 'default');
const PYTHON = process.env.PYTHON ?? 'python3';

interface Entry {
  dtype: string;
  shape: number[];
  data: Uint8Array;
}

interface Config {
  architectures: string[];
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  vocab_size: number;
  quantization_config: { linear_class: string; quantization_mode: string };
}

// Read by hand rather than with src/formats: the files are what is tested here, not our reader.
async function readSafetensors(path: string): Promise<Map<string, Entry>> {
  const bytes = await readFile(path);
  const headerLength = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerLength)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, Entry>();
  let end = 0;
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const data = bytes.subarray(8 + headerLength + data_offsets[0], 8 + headerLength + data_offsets[1]);
    tensors.set(name, { dtype, shape, data });
    end = Math.max(end, data_offsets[1]);
  }
  expect(bytes.length, 'no bytes after the last tensor').toBe(8 + headerLength + end);
  return tensors;
}

const readJson = async <T>(...path: string[]) => JSON.parse(await readFile(join(...path), 'utf8')) as T;

function bf16(data: Uint8Array): Float32Array {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const word = new DataView(new ArrayBuffer(4));
  return Float32Array.from({ length: data.byteLength / 2 }, (_, i) => {
    word.setUint32(0, view.getUint16(2 * i, true) << 16);
    return word.getFloat32(0);
  });
}

/** [out, in] of every ternary matrix of one layer. */
function projections(c: Config): Record<string, [number, number]> {
  const keyValue = (c.hidden_size / c.num_attention_heads) * c.num_key_value_heads;
  return {
    'self_attn.q_proj': [c.hidden_size, c.hidden_size],
    'self_attn.k_proj': [keyValue, c.hidden_size],
    'self_attn.v_proj': [keyValue, c.hidden_size],
    'self_attn.o_proj': [c.hidden_size, c.hidden_size],
    'mlp.gate_proj': [c.intermediate_size, c.hidden_size],
    'mlp.up_proj': [c.intermediate_size, c.hidden_size],
    'mlp.down_proj': [c.hidden_size, c.intermediate_size],
  };
}

/** Checks a packed checkpoint folder and returns its number of ternary weights. */
async function checkFolder(folder: string): Promise<number> {
  const config = await readJson<Config>(folder, 'config.json');
  expect(config.architectures).toEqual(['BitNetForCausalLM']);
  expect(config.quantization_config).toMatchObject({ linear_class: 'autobitlinear', quantization_mode: 'offline' });
  const tensors = await readSafetensors(join(folder, 'model.safetensors'));
  const masters = await readSafetensors(join(folder, 'master', 'model.safetensors'));
  let ternary = 0;
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    for (const [kind, [rows, columns]] of Object.entries(projections(config))) {
      const name = `model.layers.${layer}.${kind}.weight`;
      const packed = tensors.get(name);
      expect(packed, name).toMatchObject({ dtype: 'U8', shape: [rows / 4, columns] });
      const codeThree = packed!.data.findIndex((b) => (b & (b >> 1) & 0x55) !== 0);
      expect(codeThree, `${name} holds code 3`).toBe(-1);
      const scale = tensors.get(`${name}_scale`);
      expect(scale, `${name}_scale`).toMatchObject({ dtype: 'BF16', shape: [1] });
      expect(bf16(scale!.data)[0]).toBeGreaterThan(0);
      expect(bf16(scale!.data)[0]).toBeLessThan(100);

      // Absmean on the masters gives exactly the packed trits: fine-tuning goes on from the very same function.
      const master = masters.get(name);
      expect(master, `master ${name}`).toMatchObject({ dtype: 'BF16', shape: [rows, columns] });
      const latents = bf16(master!.data);
      let sum = 0;
      for (const w of latents) sum += Math.abs(w);
      const half = sum / latents.length / 2;
      let differ = 0;
      for (let i = 0; i < latents.length; i++) {
        const trit = latents[i]! > half ? 1 : latents[i]! < -half ? -1 : 0;
        const row = Math.floor(i / columns);
        const byte = packed!.data[(row % (rows / 4)) * columns + (i % columns)]!;
        const code = (byte >> (2 * Math.floor(row / (rows / 4)))) & 3;
        if (code - 1 !== trit) differ++;
      }
      expect(differ, `trits of ${name} that differ from the masters`).toBe(0);
      ternary += rows * columns;
    }
    for (const [norm, size] of [
      ['input_layernorm', config.hidden_size],
      ['post_attention_layernorm', config.hidden_size],
      ['self_attn.attn_sub_norm', config.hidden_size],
      ['mlp.ffn_sub_norm', config.intermediate_size],
    ] as const) {
      const gain = tensors.get(`model.layers.${layer}.${norm}.weight`);
      expect(gain, norm).toMatchObject({ dtype: 'BF16', shape: [size] });
      expect(bf16(gain!.data).every(Number.isFinite)).toBe(true);
    }
  }
  expect(tensors.get('model.embed_tokens.weight')).toMatchObject({
    dtype: 'BF16',
    shape: [config.vocab_size, config.hidden_size],
  });
  expect(tensors.size, 'nothing else in the file').toBe(config.num_hidden_layers * 18 + 2);

  const tokenizer = await readJson<{ model: { vocab: Record<string, number> } }>(folder, 'tokenizer.json');
  expect(Object.keys(tokenizer.model.vocab)).toHaveLength(config.vocab_size);
  const wanted = { '<|begin_of_text|>': 0, '<|end_of_text|>': 1, '<|eot_id|>': 2 };
  expect(tokenizer.model.vocab).toMatchObject(wanted);
  const { chat_template } = await readJson<{ chat_template: string }>(folder, 'tokenizer_config.json');
  expect(chat_template).toContain('<|eot_id|>');
  expect(await readJson(folder, 'generation_config.json')).toMatchObject({ eos_token_id: [1, 2] });
  return ternary;
}

describe('the shipped model', () => {
  test('has files that agree with each other', async () => {
    const ternary = await checkFolder(SHIPPED);
    expect(ternary).toBeGreaterThan(10e6);
    expect(ternary).toBeLessThan(30e6);
  });

  test('has expected continuations made of its own tokens', async () => {
    const { vocab_size } = await readJson<Config>(SHIPPED, 'config.json');
    const { rows } = await readJson<{ rows: { input_ids: number[]; greedy: number[]; top2_margin: number[] }[] }>(
      SHIPPED,
      'expected.json',
    );
    expect(rows.length).toBeGreaterThanOrEqual(3);
    for (const row of rows) {
      expect(row.input_ids[0]).toBe(0);
      expect(row.top2_margin).toHaveLength(row.greedy.length);
      for (const id of [...row.input_ids, ...row.greedy]) expect(id).toBeLessThan(vocab_size);
    }
  });
});

function whyNoPython(): string | undefined {
  try {
    execFileSync(PYTHON, ['-c', 'import torch, tokenizers, safetensors, numpy'], { stdio: 'pipe', timeout: 50_000 });
    return undefined;
  } catch (error) {
    const lines = String((error as { stderr?: Buffer }).stderr ?? error).trim();
    return `${PYTHON} with torch, tokenizers, safetensors and numpy is needed: ${lines.split('\n').at(-1)}`;
  }
}

const missing = whyNoPython();
let work = '';
afterAll(async () => {
  if (work) await rm(work, { recursive: true, force: true });
});

describe('the recipe', () => {
  // The reason stands in the test's name, where every reporter shows it.
  test.skipIf(missing !== undefined)(
    missing ? `runs end to end (skipped: ${missing})` : 'runs end to end on a tiny corpus',
    async () => {
      work = await mkdtemp(join(tmpdir(), 'recipe-'));
      const corpus = join(work, 'corpus');
      await mkdir(corpus);
      const animals = ['fox', 'owl', 'frog', 'hen', 'bear', 'mouse', 'duck', 'lamb'];
      const stories = Array.from(
        { length: 60 },
        (_, i) => `Once there was a ${animals[i % 8]} who had ${i} nuts. It gave ${i % 5} of them to its friend.`,
      );
      const talks = Array.from(
        { length: 60 },
        (_, i) => `User: What is ${i} plus 1?\nAssistant: ${i} + 1 = ${i + 1}.\nUser: Thanks\nAssistant: No problem.`,
      );
      await writeFile(join(corpus, 'stories.txt'), stories.join('\n<|endoftext|>\n'));
      await writeFile(join(corpus, '15_synth_chat.txt'), talks.join('\n<|endoftext|>\n'));
      const out = join(work, 'model');
      const docs = join(work, 'docs');
      const shape = '--vocab 320 --hidden 32 --layers 2 --heads 4 --kv-heads 2 --ffn 64 --context 48'.split(' ');
      const run = '--steps 40 --batch 8 --device cpu --no-compile'.split(' ');
      const recipe = join(ROOT, 'scripts', 'default-model', 'train.py');
      const folders = ['--corpus', corpus, '--out', out, '--work', join(work, 'work'), '--docs', docs];
      // One thread: on a busy machine torch's threads wait for each other longer than they work.
      const env = { ...process.env, PYTHONDONTWRITEBYTECODE: '1', OMP_NUM_THREADS: '1', RAYON_NUM_THREADS: '2' };
      await promisify(execFile)(PYTHON, [recipe, ...folders, ...shape, ...run], { env, maxBuffer: 1 << 24 });

      expect(await checkFolder(out)).toBe(2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64));
      const history = await readJson<{
        log: { loss: number }[];
        trits: { step: number; counts: Record<string, number[]> }[];
      }>(docs, 'history.json');
      expect(history.log.at(-1)!.loss).toBeLessThan(history.log[0]!.loss - 0.3);
      expect(history.trits.map((mark) => mark.step)).toContain(0);
      expect(history.trits.at(-1)!.step).toBe(40);
      for (const mark of history.trits) expect(Object.keys(mark.counts)).toHaveLength(14);
      const report = await readJson<{ models: { new: { bits_per_byte: number } } }>(docs, 'evaluation.json');
      expect(report.models.new.bits_per_byte).toBeGreaterThan(0);
      expect(await readdir(docs)).toContain('heldout-ids.json');
    },
    600_000,
  );
});
