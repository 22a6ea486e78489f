// Folders of Qwen3.5's graph, made of the golden GGUF models: transformers' names and order of heads, with a vision tower
// and MTP blocks beside them; MLX packs, plain and rotated. All give the golden logits.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { type TensorToWrite, writeSafetensors } from '../../src/formats/write-safetensors.ts';
import { openModel } from '../../src/model/open-model.ts';
import { toFloat32 } from '../../src/quant/to-float32.ts';
import { asFolder, textConfig } from './grouped-heads.ts';

const golden = join(import.meta.dirname, '../golden/hybrid');
const root = mkdtempSync(join(tmpdir(), 'qwen35-'));
afterAll(() => rmSync(root, { recursive: true }));

async function writeFolder(tensors: TensorToWrite[], files: Readonly<Record<string, unknown>>): Promise<string> {
  const folder = mkdtempSync(join(root, 'model-'));
  await writeSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' });
  for (const [name, json] of Object.entries(files)) writeFileSync(join(folder, name), JSON.stringify(json));
  return folder;
}

const open = (path: string) => openModel({ kind: 'folder', path }, { name: 'test', head: 'full' });

/** How far the logits of a folder are from a golden case's. */
async function errorOf(
  folder: string,
  name: string,
): Promise<{ readonly max: number; readonly warnings: readonly string[] }> {
  const { input_ids: ids } = JSON.parse(readFileSync(join(golden, name, 'expected.json'), 'utf8')) as {
    input_ids: number[];
  };
  using file = await openCheckpoint(join(golden, name, 'expected.safetensors'));
  const wanted = toFloat32(await file.read('logits'));
  const { program, warnings } = await open(folder);
  using executable = await jsBackend.load(program, {});
  const rows = Int32Array.from(ids, (_, i) => i);
  const sequences = new Int32Array(ids.length).fill(executable.createSequence());
  const step = { tokens: Int32Array.from(ids), sequences, positions: rows, outputRows: rows };
  const { logits } = await executable.step(step);
  expect(logits.length).toBe(wanted.length);
  return { max: logits.reduce((max, value, i) => Math.max(max, Math.abs(value - wanted[i]!)), 0), warnings };
}

const MAX = 0.02;

describe('transformers’ folder', () => {
  const outer = {
    architectures: ['Qwen3_5ForConditionalGeneration'],
    model_type: 'qwen3_5',
    vision_config: { depth: 2 },
  };

  test.each(['qwen35_q2_a_s2601', 'qwen35_f32_tied_nextn_b_s2602'])('%s', async (name) => {
    const { config, tensors } = await asFolder(join(golden, name, 'model.gguf'), {
      form: 'floats',
      norms: 'less one',
      groupedColumns: false,
      rename: (hf) => hf.replace(/^model\./, 'model.language_model.'),
    });
    const stranger = (of: string): TensorToWrite => ({ name: of, dtype: 'F32', shape: [2], bytes: new Uint8Array(8) });
    const folder = await writeFolder(
      [...tensors, stranger('model.visual.patch_embed.proj.weight'), stranger('mtp.fc.weight')],
      { 'config.json': { ...outer, text_config: textConfig(config) } },
    );
    const { max, warnings } = await errorOf(folder, name);
    expect(max).toBeLessThanOrEqual(MAX);
    expect(warnings).toEqual([expect.stringMatching(/vision tower/), expect.stringMatching(/MTP/)]);
  });

  test('what the graph does not know is refused by name', async () => {
    const { config, tensors } = await asFolder(join(golden, 'qwen35_q2_a_s2601', 'model.gguf'), {
      form: 'floats',
      norms: 'less one',
      groupedColumns: false,
    });
    const text = textConfig(config);
    const refused = async (change: Record<string, unknown>) => {
      const json = { ...outer, text_config: { ...text, ...change } };
      return open(await writeFolder(tensors, { 'config.json': json }));
    };
    await expect(refused({ attn_output_gate: false })).rejects.toThrow(/attn_output_gate is false/);
    await expect(refused({ layer_types: ['linear_attention'] })).rejects.toThrow(/layer_types has 1 entries/);
    await expect(refused({ linear_num_key_heads: 4 })).rejects.toThrow(
      /linear_num_value_heads is 6, linear_num_key_heads 4/,
    );
    await expect(refused({ linear_value_head_dim: 32 })).rejects.toThrow(/64 elements in keys and 32 in values/);
    await expect(refused({ linear_conv_kernel_dim: 1 })).rejects.toThrow(/linear_conv_kernel_dim is 1/);
    await expect(
      open(await writeFolder(tensors, { 'config.json': { ...outer, architectures: ['Qwen3NextForCausalLM'] } })),
    ).rejects.toThrow(/Qwen3NextForCausalLM/);
  });
});

const ROTATED = 'hadamard_pq2_explicit_a_s2611';

async function contract(): Promise<Record<string, unknown>> {
  using file = await GgufFile.open(join(golden, ROTATED, 'model.gguf'));
  const value = (key: string) => file.metadata.get(`prism.hadamard.${key}`);
  const hfName = (name: string) =>
    name
      .replace(/^output\.weight$/, 'lm_head')
      .replace('token_embd.weight', 'model.embed_tokens')
      .replace(/^blk\.(\d+)\.(\w+)\.weight$/, (_, layer, part) => `model.layers.${layer}.${MODULES[part as string]}`);
  const named = (key: string) =>
    file.strings(`prism.hadamard.${key}`)!.map((name) => `language_model.${hfName(name)}.weight`);
  return {
    'prism.hadamard.version': 1,
    'prism.hadamard.block_size': value('block_size'),
    'prism.hadamard.transform': value('transform'),
    'prism.hadamard.axis': value('axis'),
    'prism.hadamard.sign_mode': value('sign_mode'),
    'prism.hadamard.sign_widths': file.numbers('prism.hadamard.sign_widths'),
    'prism.hadamard.sign_values': file.numbers('prism.hadamard.sign_values'),
    'prism.hadamard.weight_names': named('weight_names'),
    'prism.hadamard.inverse_weight_names': named('inverse_weight_names'),
    'prism.hadamard.gdn_v_grouped': true,
  };
}

const MODULES: Readonly<Record<string, string>> = {
  attn_qkv: 'linear_attn.in_proj_qkv',
  attn_gate: 'linear_attn.in_proj_z',
  ssm_out: 'linear_attn.out_proj',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

describe('rotated MLX pack', () => {
  const pack = async (
    change: {
      readonly norms?: 'plain' | 'less one';
      readonly contract?: Record<string, unknown>;
      readonly config?: object;
    } = {},
    edit: (tensors: TensorToWrite[]) => TensorToWrite[] = (tensors) => tensors,
  ) => {
    const keys = { ...(await contract()), ...change.contract };
    const [widths, values] = [
      keys['prism.hadamard.sign_widths'] as number[],
      keys['prism.hadamard.sign_values'] as number[],
    ];
    const signs = (_: string, columns: number) => {
      const at = widths.indexOf(columns);
      const start = widths.slice(0, at).reduce((sum, width) => sum + width, 0);
      return Float32Array.from(values.slice(start, start + columns));
    };
    const { config, tensors } = await asFolder(join(golden, ROTATED, 'model.gguf'), {
      form: 'mlx',
      norms: change.norms ?? 'plain',
      groupedColumns: true,
      rename: (hf) => `language_model.${hf}`,
      signs,
    });
    const json = {
      model_type: 'prism_hadamard_qwen35',
      schema_version: 2,
      base_model_type: 'qwen3_5',
      tensor_namespace: 'mlx-vlm-qwen3_5',
      gdn_activation_layout: 'grouped',
      quantization: { bits: 2, group_size: 128, mode: 'affine' },
      components: { text: true, vision: true, mtp: false },
      requires_runtime: 'runtime/artifact.py',
      hadamard_config: 'hadamard.json',
      modules: [
        ...(keys['prism.hadamard.weight_names'] as string[]),
        ...(keys['prism.hadamard.inverse_weight_names'] as string[]),
      ].map((name) => ({
        path: name.replace(/^language_model\.|\.weight$/g, ''),
        block: 128,
        embedding: name.includes('embed_tokens'),
        dtype: 'float16',
      })),
      text_config: textConfig(config),
      ...change.config,
    };
    return writeFolder(edit(tensors), { 'config.json': json, 'hadamard.json': keys });
  };

  test('gives the golden logits', async () => {
    const { max, warnings } = await errorOf(await pack(), ROTATED);
    expect(max).toBeLessThanOrEqual(MAX);
    expect(warnings).toEqual([]);
  });

  test('signs beside a matrix must be those of hadamard.json', async () => {
    const folder = await pack({}, (tensors) =>
      tensors.map((tensor) => {
        if (!tensor.name.endsWith('layers.1.mlp.up_proj.signs') || !('bytes' in tensor)) return tensor;
        const signs = new Float32Array(Uint8Array.from(tensor.bytes).buffer);
        signs[7] = -signs[7]!;
        return { ...tensor, bytes: new Uint8Array(signs.buffer) };
      }),
    );
    await expect(open(folder)).rejects.toThrow(
      /the signs are not those of hadamard\.json.*layers\.1\.mlp\.up_proj\.signs/,
    );
  });

  test('norms less one, a bias that is not -scale, and other layouts are refused', async () => {
    await expect(open(await pack({ norms: 'less one' }))).rejects.toThrow(/norm weights around .*less 1/);
    const shifted = await pack({}, (tensors) =>
      tensors.map((tensor) =>
        tensor.name.endsWith('layers.0.mlp.up_proj.biases') && 'bytes' in tensor
          ? { ...tensor, bytes: Uint8Array.from(tensor.bytes, (byte, i) => (i === 0 ? byte ^ 1 : byte)) }
          : tensor,
      ),
    );
    await expect(open(shifted)).rejects.toThrow(/the bias is not -scale/);
    await expect(open(await pack({ config: { gdn_activation_layout: 'tiled' } }))).rejects.toThrow(
      /rotated MLX pack.*gdn_activation_layout is "tiled"/,
    );
    await expect(open(await pack({ contract: { 'prism.hadamard.version': 3 } }))).rejects.toThrow(
      /rotated model.*prism\.hadamard\.version is 3/,
    );
    await expect(
      open(await pack({ contract: { 'prism.hadamard.weight_names': ['language_model.model.norm'] } })),
    ).rejects.toThrow(/"model\.norm\.weight", whose input is never rotated/);
  });

  test('a config that says another thing of a matrix is refused', async () => {
    const modules = [{ path: 'model.layers.0.mlp.up_proj', block: 0, embedding: false, dtype: 'float16' }];
    await expect(open(await pack({ config: { modules } }))).rejects.toThrow(
      /says two things of "model\.layers\.0\.mlp\.up_proj": blocks of 0 in config\.json, 128 here/,
    );
    await expect(open(await pack({ config: { modules: 'all' } }))).rejects.toThrow(/modules is no list/);
    await expect(open(await pack({ config: { hadamard_config: 'x.json' } }))).rejects.toThrow(
      /hadamard_config is "x\.json"/,
    );
  });

  test('without its hadamard.json it is not run', async () => {
    const folder = await pack();
    rmSync(join(folder, 'hadamard.json'));
    await expect(open(folder)).rejects.toThrow(/rotated MLX pack .*without its hadamard\.json/);
  });
});
