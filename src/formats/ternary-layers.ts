// The ternary matrices of a checkpoint, whatever form they are stored in, read as windows of weights: memory is that of a
// window (of one matrix, where its scale must be known first), never that of a model, and no model is built.
//
//     form        seen in the file                                       scale
//     packed      U8 [ceil(R/4), C] beside X.weight_scale                 stored; multiplied or divided (see `ScaleRule`)
//     ggml        TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, Q1_0, I2_S           stored in blocks or behind the trits
//     mlx         U32 beside X.scales and X.biases, exactly ternary       stored, one for each group of columns
//     affine      the same, rounded from ternary floats by MLX           largest magnitude, or X.weight_scale
//     masters     floats of a model trained with BitNet QAT               absmean
//     prescaled   floats that are {-s, 0, s} already                     found in the values
//
// Norms are never ternary and are not looked at. Embeddings and heads are only where they are so beyond doubt: block types,
// exact MLX packs, floats of one magnitude in each group.

import { NotTernaryError } from '../quant/errors.ts';
import { isGgmlFloat } from '../quant/ggml.ts';
import { isBlockLayout } from '../quant/grouped/codec.ts';
import { elementCount } from '../tensor/tensor-view.ts';
import type { Checkpoint, TensorInfo } from './checkpoint.ts';
import { type GroupedTensor, groupedTensor, readGroupedRows } from './grouped-tensor.ts';
import { mlxShape } from './mlx-shape.ts';
import { classifyAffine, openAffine } from './ternary/affine-layer.ts';
import { beginsPrescaled, openMasters, openPrescaled } from './ternary/float-layer.ts';
import { openGrouped, openI2s } from './ternary/ggml-layer.ts';
import {
  matrixShape,
  type OpenTernaryLayer,
  type SkippedTensor,
  type TernaryLayer,
  type TernaryLayersOptions,
  type TernaryWindow,
} from './ternary/layer.ts';
import { classifyPacked, openPacked, quantizationConfig, scaleRuleOf, storedScale } from './ternary/packed-layer.ts';

export type {
  CodeCounts,
  OpenTernaryLayer,
  ScaleRule,
  SkippedTensor,
  TernaryForm,
  TernaryLayer,
  TernaryLayersOptions,
  TernaryWindow,
} from './ternary/layer.ts';
export { readPackedWindows } from './ternary/packed-layer.ts';

const NORM_OR_BIAS = /(^|[._])(norm|\w*_norm|ln\w*|\w*layernorm|wpe|bias)([._]|$)/i;
const EMBEDDING_OR_HEAD = /(^|[._])(embed\w*|wte|token_embd|lm_head|output)([._]|$)/i;

/** Tensors that belong to another one. */
const COMPANION = /(\.scales|\.biases|\.scale|_scale)$/;

/** Lists the ternary layers in the order of the file, reading little more than the header. */
export async function listTernaryLayers(
  checkpoint: Checkpoint,
  options: TernaryLayersOptions = {},
): Promise<{ layers: TernaryLayer[]; skipped: SkippedTensor[] }> {
  const layers: TernaryLayer[] = [];
  const skipped: SkippedTensor[] = [];
  for (const name of checkpoint.names()) {
    const info = checkpoint.info(name);
    if (matrixShape(info.shape) === undefined || elementCount(info.shape) === 0 || COMPANION.test(name)) continue;
    const module = moduleOf(name);
    if (NORM_OR_BIAS.test(module) || keptAsFloats(module, options.config)) continue;
    if (EMBEDDING_OR_HEAD.test(module)) {
      const found = await classifyTable(checkpoint, info, options);
      if (found !== undefined) layers.push(found);
      continue;
    }
    const found = await classify(checkpoint, info, options);
    if (typeof found === 'string') skipped.push({ name, reason: found });
    else layers.push(found);
  }
  return { layers, skipped };
}

/** `attn_output.weight` is a projection although `output.weight` alone is the head. */
function moduleOf(name: string): string {
  return name.replace(/\.weights?$/, '').replace(/attn_output$/, 'attn_o');
}

/** Whether the config's modules_to_not_convert names the module. */
function keptAsFloats(module: string, config: TernaryLayersOptions['config']): boolean {
  const listed = quantizationConfig(config).modules_to_not_convert;
  return (
    Array.isArray(listed) && listed.some((entry) => typeof entry === 'string' && module.split('.').includes(entry))
  );
}

/** True when float projections are masters: an online BitNet, or the 1bitLLM architecture. */
function configSaysMasters(config: TernaryLayersOptions['config']): boolean {
  const { quant_method: method, quantization_mode: mode } = quantizationConfig(config);
  if (method === 'bitnet' && mode === 'online') return true;
  const architectures = config?.architectures;
  return Array.isArray(architectures) && architectures.includes('BitnetForCausalLM');
}

/** An embedding or a head, where it is ternary beyond doubt. */
async function classifyTable(
  checkpoint: Checkpoint,
  info: TensorInfo,
  { config }: TernaryLayersOptions,
): Promise<TernaryLayer | undefined> {
  const { name, dtype } = info;
  const [rows, columns] = matrixShape(info.shape)!;
  if (isBlockLayout(dtype)) return { name, rows, columns, form: 'ggml', scaleRule: 'stored' };
  if (dtype === 'U32') return exactMlx(checkpoint, name, config);
  const isPlain = dtype === 'F16' || dtype === 'BF16' || dtype === 'F32';
  if (isPlain && (await beginsPrescaled(checkpoint, info)) === true) {
    return { name, rows, columns, form: 'prescaled', scaleRule: 'values' };
  }
  return undefined;
}

/** The layer of an MLX pack whose first row is exactly ternary. */
async function exactMlx(
  checkpoint: Checkpoint,
  name: string,
  config: TernaryLayersOptions['config'],
): Promise<TernaryLayer | undefined> {
  const tensor = groupedTensor(checkpoint, name, config);
  if (typeof tensor === 'string' || tensor.rows === 0) return undefined;
  try {
    await readGroupedRows(checkpoint, tensor, 0, 1);
  } catch (error) {
    if (error instanceof NotTernaryError) return undefined;
    throw error;
  }
  return { name, rows: tensor.rows, columns: tensor.columns, form: 'mlx', scaleRule: 'stored' };
}

async function classify(
  checkpoint: Checkpoint,
  info: TensorInfo,
  options: TernaryLayersOptions,
): Promise<TernaryLayer | string> {
  const { name, dtype } = info;
  const [rows, columns] = matrixShape(info.shape)!;
  if (dtype === 'U8') return classifyPacked(checkpoint, info, options);
  if (dtype === 'U32') {
    const shape = mlxShape(checkpoint, name, options.config);
    if (typeof shape === 'string') return shape;
    return (await exactMlx(checkpoint, name, options.config)) ?? classifyAffine(checkpoint, name, shape);
  }
  const layer = { name, rows, columns };
  if (isBlockLayout(dtype) || dtype === 'I2_S') return { ...layer, form: 'ggml', scaleRule: 'stored' };
  if (!isGgmlFloat(dtype) || dtype === 'Q6_K' || dtype === 'Q4_0' || dtype === 'Q4_K')
    return `the type ${dtype} does not hold exact trits`;
  if (options.absmean || configSaysMasters(options.config)) return { ...layer, form: 'masters', scaleRule: 'absmean' };
  if (await beginsPrescaled(checkpoint, info)) {
    // Trits that were not packed, beside their scale.
    const stored = await storedScale(checkpoint, name);
    const scaleRule = stored === undefined ? 'values' : scaleRuleOf(options.config, stored);
    return { ...layer, form: 'prescaled', scaleRule };
  }
  return 'ordinary floats; if they are masters of BitNet training, ask for absmean';
}

/**
 * Opens a layer and gives its windows. Masters and affine packs are gone through once for their scale. Throws
 * `NotTernaryError` (some windows of prescaled floats later) when the values turn out not to be ternary after all.
 */
export async function openTernaryLayer(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  options: TernaryLayersOptions & { readonly signal?: AbortSignal } = {},
): Promise<OpenTernaryLayer> {
  switch (layer.form) {
    case 'packed':
      return openPacked(checkpoint, layer);
    case 'ggml':
      if (checkpoint.info(layer.name).dtype === 'I2_S') return openI2s(checkpoint, layer, options);
      return openGrouped(checkpoint, layer, groupedOf(checkpoint, layer, options));
    case 'mlx':
      return openGrouped(checkpoint, layer, groupedOf(checkpoint, layer, options));
    case 'affine':
      return openAffine(checkpoint, layer, options);
    case 'masters':
      return openMasters(checkpoint, layer, options.signal);
    case 'prescaled':
      return openPrescaled(checkpoint, layer);
  }
}

function groupedOf(checkpoint: Checkpoint, { name }: TernaryLayer, { config }: TernaryLayersOptions): GroupedTensor {
  const tensor = groupedTensor(checkpoint, name, config);
  if (typeof tensor !== 'string') return tensor;
  throw new NotTernaryError({ what: `tensor "${name}": ${tensor}`, where: checkpoint.info(name).file });
}

/** Weights of a layer in windows; see `openTernaryLayer`. */
export async function* readTernaryWindows(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  options: TernaryLayersOptions & { readonly signal?: AbortSignal } = {},
): AsyncGenerator<TernaryWindow> {
  const opened = await openTernaryLayer(checkpoint, layer, options);
  yield* opened.windows(options);
}
