// The golden GGUF models of Qwen3.5's graph in Hugging Face's names and order of heads, for tests of folders: value heads
// by key head, norms as given, taps inside. As floats, or as MLX packs where a matrix is ternary.

import { GgufFile } from '../../src/formats/gguf-file.ts';
import type { TensorToWrite } from '../../src/formats/write-safetensors.ts';
import { ggufConfig } from '../../src/model/gguf-config.ts';
import { MODEL_TENSORS, tensorsOf } from '../../src/model/graph.ts';
import { qwen35 } from '../../src/model/graphs/qwen35.ts';
import type { ModelConfig } from '../../src/model/model-config.ts';
import { bf16ToF32 } from '../../src/quant/bf16.ts';
import { decodeBlocks, isBlockLayout } from '../../src/quant/grouped/codec.ts';
import { type GroupedRows, groupedValues } from '../../src/quant/grouped/grouped-matrix.ts';
import { encodeMlx } from '../../src/quant/grouped/mlx.ts';
import { quadRowBytes } from '../../src/quant/grouped/quads.ts';

export type FolderModel = { readonly config: ModelConfig; readonly tensors: TensorToWrite[] };

type Options = {
  readonly form: 'mlx' | 'floats';
  /** What norms are stored as: w, or w - 1 as transformers has them. */
  readonly norms: 'plain' | 'less one';
  readonly rename?: (name: string) => string;
  /** Vectors of signs beside matrices, by their names before they are renamed. */
  readonly signs?: (name: string, columns: number) => Float32Array | undefined;
  /** Whether the columns of the output projection are in key heads' order already. */
  readonly groupedColumns: boolean;
};

const f32 = (name: string, shape: readonly number[], values: Float32Array): TensorToWrite => ({
  name,
  dtype: 'F32',
  shape,
  bytes: new Uint8Array(Float32Array.from(values).buffer),
});

export async function asFolder(path: string, options: Options): Promise<FolderModel> {
  using file = await GgufFile.open(path);
  const config = ggufConfig(file);
  const { rename = (name: string) => name } = options;
  const { keyHeads, valueHeads, headDim, convTaps } = config.deltaNet!;
  const repeats = valueHeads / keyHeads;
  /** The tiled head that stands at a place in grouped order. */
  const tiled = (place: number) => (place % repeats) * keyHeads + Math.floor(place / repeats);
  const moved = (at: number, size: number) => tiled(Math.floor(at / size)) * size + (at % size);
  const rowsOfQkv = (row: number) => {
    const start = 2 * keyHeads * headDim;
    return row < start ? row : start + moved(row - start, headDim);
  };
  const rowOrder: Readonly<Record<string, (row: number) => number>> = {
    qkv: rowsOfQkv,
    conv: rowsOfQkv,
    z: (row) => moved(row, headDim),
    beta: (row) => moved(row, 1),
    alpha: (row) => moved(row, 1),
    decay: (row) => moved(row, 1),
    decayBias: (row) => moved(row, 1),
  };
  const tensors: TensorToWrite[] = [];

  const rowsOf = async (name: string): Promise<GroupedRows | Float32Array> => {
    const { dtype, shape } = file.info(name);
    const bytes = await file.readBytes(name);
    if (isBlockLayout(dtype)) return decodeBlocks(dtype, bytes, shape[0]!, shape[1]!);
    if (dtype === 'BF16') return bf16ToF32(bytes);
    return new Float32Array(Uint8Array.from(bytes).buffer);
  };
  const put = async (gguf: string, hf: string, role: string, shape?: readonly number[]): Promise<void> => {
    const own = file.info(gguf).shape;
    const [rows, columns] = [own[0]!, own[1] ?? 1];
    const source = rowOrder[role] ?? ((row: number) => row);
    const found = await rowsOf(gguf);
    const isPack = options.form === 'mlx' && !(found instanceof Float32Array);
    if (isPack) {
      const module = rename(hf).replace(/\.weight$/, '');
      const own = movedRows(found, source);
      const isTiled = role === 'deltaOut' && !options.groupedColumns;
      const pack = encodeMlx(isTiled ? movedGroups(own, (at) => moved(at, headDim)) : own, 2)!;
      const perRow = [rows, columns / found.group];
      tensors.push({ name: `${module}.weight`, dtype: 'U32', shape: [rows, columns / 16], bytes: pack.weight });
      tensors.push({ name: `${module}.scales`, dtype: 'F16', shape: perRow, bytes: pack.scales });
      tensors.push({ name: `${module}.biases`, dtype: 'F16', shape: perRow, bytes: pack.biases });
      const signs = options.signs?.(hf, columns);
      if (signs !== undefined) tensors.push(f32(`${module}.signs`, [columns], signs));
      return;
    }
    const values = found instanceof Float32Array ? found : groupedValues(found);
    let out = Float32Array.from({ length: values.length }, (_, i) => {
      return values[source(Math.floor(i / columns)) * columns + (i % columns)]!;
    });
    if (role === 'deltaOut' && !options.groupedColumns) {
      out = out.map((_, i) => out[Math.floor(i / columns) * columns + moved(i % columns, headDim)]!);
    }
    if (role === 'decay') out = out.map((value) => Math.log(-value));
    const isNorm = role !== 'deltaNorm' && /[nN]orm$/.test(role);
    if (isNorm && options.norms === 'less one') out = out.map((value) => value - 1);
    tensors.push(f32(rename(hf), shape ?? own, out));
  };

  const { embedding, finalNorm, head } = MODEL_TENSORS;
  await put(embedding.gguf, embedding.hf, 'embedding');
  await put(finalNorm.gguf, finalNorm.hf, 'finalNorm');
  if (file.has(head.gguf)) await put(head.gguf, head.hf, 'head');
  for (let index = 0; index < config.numHiddenLayers; index += 1) {
    const inGguf = tensorsOf(qwen35, config, index, 'gguf');
    const inHf = tensorsOf(qwen35, config, index, 'hf');
    for (const [i, { tensor, name }] of inGguf.entries()) {
      const channels = file.info(name).shape[0]!;
      const shape = options.form === 'mlx' ? [channels, convTaps, 1] : [channels, 1, convTaps];
      await put(name, inHf[i]!.name, tensor.role, tensor.role === 'conv' ? shape : undefined);
    }
  }
  return { config, tensors };
}

/** Columns moved, whole groups at a time. */
function movedGroups(matrix: GroupedRows, source: (column: number) => number): GroupedRows {
  const { rows, columns, group } = matrix;
  const [rowBytes, perRow] = [quadRowBytes(columns), columns / group];
  const quads = new Uint8Array(matrix.quads.length);
  const scales = new Float32Array(matrix.scales.length);
  for (let row = 0; row < rows; row += 1) {
    for (let g = 0; g < perRow; g += 1) {
      const from = source(g * group);
      const bytes = matrix.quads.subarray(row * rowBytes + from / 4, row * rowBytes + (from + group) / 4);
      quads.set(bytes, row * rowBytes + (g * group) / 4);
      scales[row * perRow + g] = matrix.scales[row * perRow + from / group]!;
    }
  }
  return { ...matrix, quads, scales };
}

function movedRows(matrix: GroupedRows, source: (row: number) => number): GroupedRows {
  const { rows, columns, group } = matrix;
  const [rowBytes, perRow] = [quadRowBytes(columns), columns / group];
  const quads = new Uint8Array(matrix.quads.length);
  const scales = new Float32Array(matrix.scales.length);
  for (let row = 0; row < rows; row += 1) {
    const from = source(row);
    quads.set(matrix.quads.subarray(from * rowBytes, (from + 1) * rowBytes), row * rowBytes);
    scales.set(matrix.scales.subarray(from * perRow, (from + 1) * perRow), row * perRow);
  }
  return { ...matrix, quads, scales };
}

/** What transformers says of such a model. */
export function textConfig(config: ModelConfig): Record<string, unknown> {
  const { keyHeads, valueHeads, headDim, convTaps } = config.deltaNet!;
  return {
    model_type: 'qwen3_5_text',
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numHiddenLayers,
    num_attention_heads: config.numAttentionHeads,
    num_key_value_heads: config.numKeyValueHeads,
    head_dim: config.headDim,
    vocab_size: config.vocabSize,
    max_position_embeddings: config.maxPositionEmbeddings,
    rms_norm_eps: config.rmsNormEps,
    hidden_act: 'silu',
    attention_bias: false,
    attn_output_gate: true,
    tie_word_embeddings: config.tieWordEmbeddings,
    layer_types: config.layerKinds!.map((kind) => (kind === 'recurrent' ? 'linear_attention' : 'full_attention')),
    linear_num_key_heads: keyHeads,
    linear_num_value_heads: valueHeads,
    linear_key_head_dim: headDim,
    linear_value_head_dim: headDim,
    linear_conv_kernel_dim: convTaps,
    rope_parameters: {
      rope_type: 'default',
      rope_theta: config.ropeTheta,
      partial_rotary_factor: config.rotaryDim! / config.headDim,
      mrope_section: [3, 3, 2],
      mrope_interleaved: true,
    },
  };
}
