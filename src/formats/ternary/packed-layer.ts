// Packed layers: U8 [ceil(R/4), C] (rowquad) beside X.weight_scale.

import { NonFiniteValueError } from '../../quant/errors.ts';
import { checkRowquadRows } from '../../quant/rowquad.ts';
import type { TernaryScale } from '../../quant/ternary-scale.ts';
import { toFloat32 } from '../../quant/to-float32.ts';
import { elementCount } from '../../tensor/tensor-view.ts';
import type { Checkpoint, TensorInfo } from '../checkpoint.ts';
import {
  checkCancelled,
  type OpenTernaryLayer,
  type ScaleRule,
  type TernaryLayer,
  type TernaryLayersOptions,
  TernaryWindow,
  WINDOW_BYTES,
} from './layer.ts';

type Config = TernaryLayersOptions['config'];

export function quantizationConfig(config: Config): Record<string, unknown> {
  const value = config?.quantization_config;
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

/** The one element beside a matrix that its trits are multiplied with, or divided by; undefined where there is none. */
export async function storedScale(checkpoint: Checkpoint, name: string): Promise<number | undefined> {
  const scaleName = `${name}_scale`;
  if (!checkpoint.has(scaleName) || elementCount(checkpoint.info(scaleName).shape) !== 1) return undefined;
  return toFloat32(await checkpoint.read(scaleName))[0]!;
}

/** The rule for a stored weight_scale. `bitlinear`, which divides, is the reference's default linear_class. */
export function scaleRuleOf(config: Config, stored: number): ScaleRule {
  const { quant_method: method, linear_class: linearClass } = quantizationConfig(config);
  if (linearClass === 'autobitlinear') return 'multiply';
  if (linearClass === 'bitlinear' || method === 'bitnet') return 'divide';
  return stored >= 10 ? 'divide-assumed' : 'multiply-assumed';
}

export async function classifyPacked(
  checkpoint: Checkpoint,
  info: TensorInfo,
  options: TernaryLayersOptions,
): Promise<TernaryLayer | string> {
  const { name, shape } = info;
  const scaleName = `${name}_scale`;
  if (!checkpoint.has(scaleName)) return `uint8 without a ${scaleName}`;
  const scaleInfo = checkpoint.info(scaleName);
  if (elementCount(scaleInfo.shape) !== 1)
    return `${scaleName} has the shape [${scaleInfo.shape.join(', ')}], not one element`;
  const stored = toFloat32(await checkpoint.read(scaleName))[0]!;
  // The file holds ceil(rows / 4): the true number of rows is in the config only when it is no multiple of 4.
  const rows = configRows(name, options.config, shape[0]!) ?? 4 * shape[0]!;
  return { name, rows, columns: shape[1]!, form: 'packed', scaleRule: scaleRuleOf(options.config, stored) };
}

/** Output features of a projection by its name, when they agree with the packed rows. */
function configRows(name: string, config: Config, packedRows: number): number | undefined {
  if (config === undefined) return undefined;
  const number = (key: string): number | undefined =>
    typeof config[key] === 'number' ? (config[key] as number) : undefined;
  const hidden = number('hidden_size');
  const heads = number('num_attention_heads');
  const headDim = number('head_dim') ?? (hidden !== undefined && heads !== undefined ? hidden / heads : undefined);
  const kvHeads = number('num_key_value_heads') ?? heads;
  const times = (a: number | undefined, b: number | undefined) =>
    a === undefined || b === undefined ? undefined : a * b;
  const projection = /\.(q|k|v|o|gate|up|down)_proj\.weight$/.exec(name)?.[1];
  const rows = {
    q: times(heads, headDim),
    k: times(kvHeads, headDim),
    v: times(kvHeads, headDim),
    o: hidden,
    down: hidden,
    gate: number('intermediate_size'),
    up: number('intermediate_size'),
  }[projection ?? ''];
  return rows !== undefined && Math.ceil(rows / 4) === packedRows ? rows : undefined;
}

export async function openPacked(checkpoint: Checkpoint, layer: TernaryLayer): Promise<OpenTernaryLayer> {
  const scale = await packedScale(checkpoint, layer);
  return { ...layer, scale: () => scale, windows: (options) => packedWindows(checkpoint, layer, options?.signal) };
}

/** Whole packed rows of a `packed` layer as they lie in the file, checked: `bytes` begins at packed row `packedStart`. */
export async function* readPackedWindows(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  signal?: AbortSignal,
): AsyncGenerator<{ readonly packedStart: number; readonly bytes: Uint8Array }> {
  const { name, rows, columns } = layer;
  const quarter = Math.ceil(rows / 4);
  const step = Math.max(1, Math.floor(WINDOW_BYTES / columns));
  const { file, offset } = checkpoint.info(name);
  for (let packedStart = 0; packedStart < quarter; packedStart += step) {
    checkCancelled(signal);
    const end = Math.min(quarter, packedStart + step);
    const bytes = await checkpoint.readRange(name, packedStart * columns, end * columns);
    checkRowquadRows(bytes, { rows, columns, packedStart }, { tensor: name, file, offset });
    yield { packedStart, bytes };
  }
}

/** The scale of a layer that has a stored one. */
export async function packedScale(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
): Promise<TernaryScale & { readonly kind: 'tensor' }> {
  const stored = toFloat32(await checkpoint.read(`${layer.name}_scale`))[0]!;
  const value = layer.scaleRule.startsWith('divide') ? Math.fround(1 / stored) : stored;
  if (!(value > 0 && value < Number.POSITIVE_INFINITY)) {
    throw new NonFiniteValueError({ name: `tensor "${layer.name}_scale"`, index: 0, value: stored });
  }
  return { kind: 'tensor', value };
}

async function* packedWindows(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  signal: AbortSignal | undefined,
): AsyncGenerator<TernaryWindow> {
  const { rows, columns } = layer;
  const quarter = Math.ceil(rows / 4);
  for await (const { packedStart, bytes } of readPackedWindows(checkpoint, layer, signal)) {
    const packedRows = bytes.byteLength / columns;
    for (let field = 0; field < 4; field++) {
      const rowStart = field * quarter + packedStart;
      const count = Math.min(packedRows, rows - rowStart);
      if (count <= 0) break;
      const weights = new Int8Array(count * columns);
      const shift = 2 * field;
      for (let i = 0; i < weights.length; i++) weights[i] = ((bytes[i]! >> shift) & 3) - 1;
      yield new TernaryWindow({ rowStart, rows: count, columns, weights });
    }
  }
}
