// Maple from every container: TQ2_0, TQ1_0, Q2_0, floats in GGUF and in a folder all give the same bits; Q4_K tables.

import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { loadNative } from '../../src/engine/cpu/native.ts';
import { nativePreparation } from '../../src/engine/cpu/preparation.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { WeightPreparation } from '../../src/engine/weight-preparation.ts';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import type { GgufTensorToWrite } from '../../src/formats/write-gguf.ts';
import { type TensorToWrite, writeSafetensors } from '../../src/formats/write-safetensors.ts';
import { openModel } from '../../src/model/open-model.ts';
import { f32ToF16 } from '../../src/quant/f16.ts';
import { decodeBlocks, encodeBlocks, isBlockLayout } from '../../src/quant/grouped/codec.ts';
import { groupedValues, regroup } from '../../src/quant/grouped/grouped-matrix.ts';
import { decodeQ4k } from '../../src/quant/q4k.ts';
import { type Entry, editGguf } from './edit-gguf.ts';

const source = join(import.meta.dirname, '../golden/hybrid/maple_tq2_a_s2621/model.gguf');
const root = mkdtempSync(join(tmpdir(), 'maple-'));
afterAll(() => rmSync(root, { recursive: true }));

const IDS = [5, 300, 17, 42, 42, 511, 9, 120, 77, 3, 250, 31];

async function logitsOf(path: string): Promise<Float32Array> {
  const kind = path.endsWith('.gguf') ? 'gguf' : 'folder';
  const { program } = await openModel({ kind, path }, { name: 'test', head: 'full' });
  using executable = await jsBackend.load(program, {});
  const rows = Int32Array.from(IDS, (_, i) => i);
  const { logits } = await executable.step({
    tokens: Int32Array.from(IDS),
    sequences: new Int32Array(IDS.length).fill(executable.createSequence()),
    positions: rows,
    outputRows: rows,
  });
  return logits;
}

const edited = async (
  name: string,
  edit: (entries: Map<string, Entry>) => void,
  tensors?: (tensors: GgufTensorToWrite[]) => GgufTensorToWrite[],
): Promise<string> => {
  const path = join(mkdtempSync(join(root, 'file-')), name);
  await editGguf(source, path, edit, tensors);
  return path;
};

const bytesOf = (tensor: GgufTensorToWrite) => (tensor as { bytes: Uint8Array }).bytes;

/** The ternary matrices of a file in another type. */
const retyped = (type: 'TQ1_0' | 'Q2_0' | 'PQ2_0' | 'F16') => (tensors: GgufTensorToWrite[]) =>
  tensors.map((tensor): GgufTensorToWrite => {
    if (!isBlockLayout(tensor.type)) return tensor;
    const columns = tensor.shape.at(-1)!;
    const rows = tensor.shape.slice(0, -1).reduce((a, b) => a * b, 1);
    const matrix = decodeBlocks(tensor.type, bytesOf(tensor), rows, columns);
    if (type === 'F16') return { ...tensor, type, bytes: f32ToF16(groupedValues(matrix)) };
    const group = { TQ1_0: 256, Q2_0: 64, PQ2_0: 128 }[type];
    return { ...tensor, type, bytes: encodeBlocks(type, regroup(matrix, group)!) };
  });

describe('containers', () => {
  test.each(['TQ1_0', 'Q2_0', 'PQ2_0', 'F16'] as const)('%s gives the bits of TQ2_0', async (type) => {
    const path = await edited(`${type}.gguf`, () => {}, retyped(type));
    expect(await logitsOf(path)).toEqual(await logitsOf(source));
  });

  test.each(['apart', 'stacked'] as const)('a folder with experts %s gives them too, its zeros -0', async (experts) => {
    expect(await logitsOf(await folder({}, experts))).toEqual(await logitsOf(source));
  });

  test('elements that turn, said of window layers alone', async () => {
    const path = await edited('swa.gguf', (entries) => {
      entries.set('maple.rope.dimension_count', { type: 'u32', value: 0 });
      entries.set('maple.rope.dimension_count_swa', { type: 'u32', value: 32 });
      entries.set('maple.expert_gating_func', { type: 'u32', value: 1 });
      entries.set('maple.expert_weights_norm', { type: 'bool', value: true });
    });
    expect(await logitsOf(path)).toEqual(await logitsOf(source));
  });

  test('a folder that names no clamp has the one of the model', async () => {
    const { config } = await openModel(
      { kind: 'folder', path: await folder({ swiglu_limit: undefined }) },
      { name: 'test', head: 'full' },
    );
    expect(config.experts?.clamps).toEqual([7, 7, 7, 7]);
  });
});

/** The model in Hugging Face's names, F32. */
async function folder(
  change: Readonly<Record<string, unknown>> = {},
  form: 'apart' | 'stacked' = 'apart',
): Promise<string> {
  using file = await GgufFile.open(source);
  const tensors: TensorToWrite[] = [];
  const put = (name: string, shape: readonly number[], values: Float32Array) =>
    void tensors.push({ name, dtype: 'F32', shape, bytes: new Uint8Array(Float32Array.from(values).buffer) });
  const floats = async (name: string): Promise<Float32Array> => {
    const { dtype, shape } = file.info(name);
    const bytes = await file.readBytes(name);
    const columns = shape.at(-1)!;
    if (isBlockLayout(dtype)) {
      const rows = shape.slice(0, -1).reduce((a, b) => a * b, 1);
      return groupedValues(decodeBlocks(dtype, bytes, rows, columns)).map((value) => (value === 0 ? -0 : value));
    }
    if (dtype === 'F32') return new Float32Array(Uint8Array.from(bytes).buffer);
    const halves = new Uint16Array(Uint8Array.from(bytes).buffer);
    return Float32Array.from(halves, halfToNumber);
  };
  const HF: Readonly<Record<string, string>> = {
    attn_norm: 'input_layernorm',
    attn_q: 'self_attn.q_proj',
    attn_k: 'self_attn.k_proj',
    attn_v: 'self_attn.v_proj',
    attn_output: 'self_attn.o_proj',
    attn_q_norm: 'self_attn.q_norm',
    attn_k_norm: 'self_attn.k_norm',
    ffn_norm: 'post_attention_layernorm',
    ffn_gate_inp: 'mlp.gate',
    ffn_gate_exps: 'gate_proj',
    ffn_up_exps: 'up_proj',
    ffn_down_exps: 'down_proj',
  };
  for (const name of file.names()) {
    const { shape } = file.info(name);
    const values = await floats(name);
    const [, layer, part] = /^blk\.(\d+)\.(\w+)\.weight$/.exec(name) ?? [];
    if (layer === undefined) {
      const names: Record<string, string> = {
        'token_embd.weight': 'model.word_embeddings',
        'output.weight': 'lm_head',
      };
      put(`${names[name] ?? 'model.norm'}.weight`, shape, values);
    } else if (shape.length === 3 && form === 'stacked') {
      put(`model.layers.${layer}.mlp.experts.${HF[part!]}`, shape, values);
    } else if (shape.length === 3) {
      const [experts, rows, columns] = shape as [number, number, number];
      for (let e = 0; e < experts; e += 1) {
        const own = values.subarray(e * rows * columns, (e + 1) * rows * columns);
        put(`model.layers.${layer}.mlp.experts.${e}.${HF[part!]}.weight`, [rows, columns], own);
      }
    } else {
      put(`model.layers.${layer}.${HF[part!]}.weight`, shape, values);
    }
  }
  const path = mkdtempSync(join(root, 'folder-'));
  await writeSafetensors(join(path, 'model.safetensors'), tensors, { format: 'pt' });
  const config = {
    architectures: ['MapleForCausalLM'],
    model_type: 'maple',
    hidden_size: 256,
    intermediate_size: 4096,
    quantize: true,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 64,
    vocab_size: 512,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    partial_rotary_factor: 0.5,
    num_experts: 8,
    num_experts_per_tok: 2,
    moe_intermediate_size: 256,
    swiglu_limit: 1,
    sliding_window: 8,
    layer_types: ['sliding_attention', 'sliding_attention', 'sliding_attention', 'full_attention'],
    tie_word_embeddings: false,
    ...change,
  };
  writeFileSync(join(path, 'config.json'), JSON.stringify(config));
  return path;
}

function halfToNumber(half: number): number {
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  const size = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
  return half >> 15 ? -size : size;
}

test('Q4_K tables are those of their values as F16', async () => {
  // Scales small enough that logits stay in range; any bytes are a sound block.
  const table = (seed: number) => {
    const bytes = Uint8Array.from({ length: 512 * 144 }, (_, i) => (i * 7919 + seed * 104_729 + (i >> 5)) & 255);
    for (let at = 0; at < bytes.length; at += 144) bytes.set([0x00, 0x0c, 0x00, 0x10], at);
    return bytes;
  };
  const withTables = (form: 'Q4_K' | 'F16') => (tensors: GgufTensorToWrite[]) =>
    tensors.map((tensor, i): GgufTensorToWrite => {
      if (tensor.type !== 'F16') return tensor;
      const bytes = table(i);
      return form === 'Q4_K'
        ? { ...tensor, type: form, bytes }
        : { ...tensor, bytes: f32ToF16(decodeQ4k(bytes, 512 * 256)) };
    });
  const paths = [
    await edited('q4k.gguf', () => {}, withTables('Q4_K')),
    await edited('f16.gguf', () => {}, withTables('F16')),
  ] as const;
  const [coded, plain] = [await logitsOf(paths[0]), await logitsOf(paths[1])];
  expect(new Set(coded).size).toBeGreaterThan(100);
  expect(coded).toEqual(plain);
});

describe('refusals', () => {
  const open = (path: string) =>
    openModel({ kind: path.endsWith('.gguf') ? 'gguf' : 'folder', path }, { name: 'test', head: 'full' });

  test.each<[string, string, unknown, string, RegExp]>([
    ['more experts than there are', 'expert_used_count', 9, 'u32', /maple\.expert_used_count is 9 of 8/],
    [
      'a short pattern',
      'attention.sliding_window_pattern',
      [true],
      'bool',
      /sliding_window_pattern is no list .* 4 layers/,
    ],
    ['no clamp', 'swiglu_clamp_exp', [1, 1, 0, 1], 'f32', /swiglu_clamp_exp is missing, or not a positive number/],
    ['shared experts', 'expert_shared_count', 1, 'u32', /expert_shared_count is not 0/],
    ['another gate', 'expert_gating_func', 2, 'u32', /expert_gating_func is 2/],
    ['shares of all', 'expert_weights_norm', false, 'bool', /expert_weights_norm is not true/],
    ['nothing that turns', 'rope.dimension_count', 0, 'u32', /dimension_count_swa is missing/],
    ['a window of none', 'attention.sliding_window', 0, 'u32', /sliding_window is 0/],
  ])('%s', async (_, key, value, type, wanted) => {
    const path = await edited('bad.gguf', (entries) => void entries.set(`maple.${key}`, { type, value }));
    await expect(open(path)).rejects.toThrow(wanted);
  });

  test('an expert that is no trits', async () => {
    const path = await edited(
      'bad.gguf',
      () => {},
      (tensors) =>
        retyped('F16')(tensors).map((tensor) =>
          tensor.name === 'blk.1.ffn_up_exps.weight'
            ? { ...tensor, bytes: bytesOf(tensor).map((byte, i) => (i < 64 && i % 2 === 0 ? i : byte)) }
            : tensor,
        ),
    );
    await expect(open(path)).rejects.toThrow(/no trits under scales.*blk\.1\.ffn_up_exps/);
  });

  test('an MLX pack', async () => {
    const path = await folder({ quantization: { bits: 2, group_size: 128 } });
    await expect(open(path)).rejects.toThrow(/MLX pack of Maple, whose embedding and head are rounded to 4 bits.*GGUF/);
  });

  test('a folder without a window', async () => {
    await expect(open(await folder({ sliding_window: null }))).rejects.toThrow(/sliding_window is missing/);
  });
});

const native = await loadNative();

describe.skipIf('reason' in native)('experts by native code', () => {
  test.each(['TQ2_0', 'TQ1_0', 'Q2_0', 'PQ2_0'] as const)('%s: the panels and scales of JavaScript', async (type) => {
    const path = type === 'TQ2_0' ? source : await edited('model.gguf', () => {}, retyped(type));
    let calls = 0;
    const prepare: WeightPreparation = {
      ...nativePreparation,
      repackGrouped: async (...args) => {
        const done = await nativePreparation.repackGrouped(...args);
        if (done !== undefined) calls += 1;
        return done;
      },
    };
    const open = (options: object) => openModel({ kind: 'gguf', path }, { name: 'test', head: 'full', ...options });
    const [fast, slow] = [(await open({ prepare })).program, (await open({})).program];
    expect(calls).toBeGreaterThan(0);
    const hashed = (value: unknown) =>
      ArrayBuffer.isView(value)
        ? createHash('sha256')
            .update(new Uint8Array(value.buffer, value.byteOffset, value.byteLength))
            .digest('hex')
        : value;
    const plain = (weight: object) =>
      Object.fromEntries(Object.entries(weight).map(([key, value]) => [key, hashed(value)]));
    for (const [i, weight] of slow.weights.entries()) expect(plain(fast.weights[i]!)).toEqual(plain(weight));
  });
});
