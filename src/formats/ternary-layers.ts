// The ternary matrices of a checkpoint, whatever form they are stored in, read as windows of trits: memory is that of a
// window, never that of a model, and no model is built.
//
//     form        seen in the file                          scale
//     packed      U8 [ceil(R/4), C] beside X.weight_scale    stored; multiplied or divided (see `ScaleRule`)
//     ggml        TQ1_0, TQ2_0, I2_S, Q2_0                   stored in blocks or behind the trits
//     affine      U32 beside X.scales and X.biases           largest magnitude, or X.weight_scale
//     masters     floats of a model trained with BitNet QAT  absmean
//     prescaled   floats that are {-s, 0, s} already         found in the values
//
// Embeddings, heads and norms are never ternary and are not looked at.

import { CancelledError } from '../errors.ts';
import { ABSMEAN_FLOOR, ternarize } from '../quant/absmean.ts';
import { AFFINE_BITS, type AffineShape, affineCodes, affineTrits, decodeAffine } from '../quant/affine.ts';
import { NonFiniteValueError, NotTernaryError } from '../quant/errors.ts';
import { decodeGgml, isGgmlFloat, isGgmlTernary, unpackGgml } from '../quant/ggml.ts';
import { I2S_TAIL_BYTES, type I2sLayout, i2sBlock, i2sScale, unpackI2sTrits } from '../quant/i2s.ts';
import { PrescaledDetector, signs } from '../quant/prescaled.ts';
import { checkRowquadRows } from '../quant/rowquad.ts';
import { scaleOfBlocks, type TernaryScale } from '../quant/ternary-scale.ts';
import { toFloat32 } from '../quant/to-float32.ts';
import { elementCount } from '../tensor/tensor-view.ts';
import type { Checkpoint, TensorInfo } from './checkpoint.ts';
import { ggmlTypeOfName } from './ggml-types.ts';

export type TernaryForm = 'packed' | 'ggml' | 'affine' | 'masters' | 'prescaled';

/**
 * How the scale was found. `multiply` and `divide` follow the config's linear_class; `divide-assumed` and
 * `multiply-assumed` are read off its size for lack of a config (a reciprocal of a mean is tens, a mean is below that).
 */
export type ScaleRule =
  | 'multiply'
  | 'divide'
  | 'multiply-assumed'
  | 'divide-assumed'
  | 'stored'
  | 'largest'
  | 'absmean'
  | 'values';

export type TernaryLayer = {
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  readonly form: TernaryForm;
  readonly scaleRule: ScaleRule;
};

/** A matrix that was looked at and is not offered, and why. */
export type SkippedTensor = { readonly name: string; readonly reason: string };

export type TernaryLayersOptions = {
  /** Parsed config.json, where there is one. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Treat float projections as QAT masters even if nothing says so. */
  readonly absmean?: boolean;
  /** Order of the trits in I2_S tensors; nothing in a file tells. */
  readonly i2sLayout?: I2sLayout;
};

/** Rows `rowStart` .. `rowStart + rows - 1`, row-major. Windows of packed layers do not come in row order. */
export type TernaryWindow = { readonly rowStart: number; readonly rows: number; readonly trits: Int8Array };

/** Bytes read at once; a window of one row may exceed it. */
const WINDOW_BYTES = 4 * 2 ** 20;

/** Float elements sampled to see whether a matrix can be prescaled ternary at all. */
const SAMPLE_ELEMENTS = 4096;

const NEVER_TERNARY =
  /(^|[._])(embed\w*|wte|wpe|token_embd|lm_head|output|norm|\w*_norm|ln\w*|\w*layernorm|bias)([._]|$)/i;

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
    if (info.shape.length !== 2 || elementCount(info.shape) === 0) continue;
    if (COMPANION.test(name) || isNeverTernary(name, options.config)) continue;
    const found = await classify(checkpoint, info, options);
    if (typeof found === 'string') skipped.push({ name, reason: found });
    else layers.push(found);
  }
  return { layers, skipped };
}

function isNeverTernary(name: string, config: Readonly<Record<string, unknown>> | undefined): boolean {
  const module = name.replace(/\.weights?$/, '');
  // `attn_output.weight` is a projection although `output.weight` alone is the head.
  if (NEVER_TERNARY.test(module.replace(/attn_output$/, 'attn_o'))) return true;
  const listed = quantizationConfig(config).modules_to_not_convert;
  return (
    Array.isArray(listed) && listed.some((entry) => typeof entry === 'string' && module.split('.').includes(entry))
  );
}

function quantizationConfig(config: Readonly<Record<string, unknown>> | undefined): Record<string, unknown> {
  const value = config?.quantization_config;
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}

/** True when float projections are masters: an online BitNet, or the 1bitLLM architecture. */
function configSaysMasters(config: Readonly<Record<string, unknown>> | undefined): boolean {
  const { quant_method: method, quantization_mode: mode } = quantizationConfig(config);
  if (method === 'bitnet' && mode === 'online') return true;
  const architectures = config?.architectures;
  return Array.isArray(architectures) && architectures.includes('BitnetForCausalLM');
}

async function classify(
  checkpoint: Checkpoint,
  info: TensorInfo,
  options: TernaryLayersOptions,
): Promise<TernaryLayer | string> {
  const { name, dtype } = info;
  const [first, second] = info.shape as [number, number];
  if (dtype === 'U8') return classifyPacked(checkpoint, info, options);
  if (dtype === 'U32') {
    const shape = affineShape(checkpoint, name, options.config);
    if (typeof shape === 'string') return shape;
    const codes = await codesOfFirstRow(checkpoint, name, shape);
    const largest = maxDistinct(codes, shape.groupSize);
    if (largest > 3)
      return `a group of its ${shape.bits}-bit codes has ${largest} values: floats, not trits, were quantized`;
    const scaleRule = checkpoint.has(`${name}_scale`) ? 'multiply' : 'largest';
    return { name, rows: shape.rows, columns: shape.columns, form: 'affine', scaleRule };
  }
  const layer = { name, rows: first, columns: second };
  if (isGgmlTernary(dtype)) return { ...layer, form: 'ggml', scaleRule: 'stored' };
  if (!isGgmlFloat(dtype) || dtype === 'Q6_K' || dtype === 'Q4_0') return `the type ${dtype} does not hold exact trits`;
  if (options.absmean || configSaysMasters(options.config)) return { ...layer, form: 'masters', scaleRule: 'absmean' };
  const rows = Math.min(first, Math.max(1, Math.floor(SAMPLE_ELEMENTS / second)));
  const detector = new PrescaledDetector(rows, second);
  detector.push(await floatRows(checkpoint, info, 0, rows));
  if (detector.alive) return { ...layer, form: 'prescaled', scaleRule: 'values' };
  return 'ordinary floats; if they are masters of BitNet training, ask for absmean';
}

/** The rule for a stored weight_scale. `bitlinear`, which divides, is the reference's default linear_class. */
function scaleRuleOf(config: Readonly<Record<string, unknown>> | undefined, stored: number): ScaleRule {
  const { quant_method: method, linear_class: linearClass } = quantizationConfig(config);
  if (linearClass === 'autobitlinear') return 'multiply';
  if (linearClass === 'bitlinear' || method === 'bitnet') return 'divide';
  return stored >= 10 ? 'divide-assumed' : 'multiply-assumed';
}

async function classifyPacked(
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
function configRows(
  name: string,
  config: Readonly<Record<string, unknown>> | undefined,
  packedRows: number,
): number | undefined {
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

/** Shape of an MLX affine matrix from its three tensors and the config's `quantization`. */
function affineShape(
  checkpoint: Checkpoint,
  name: string,
  config: Readonly<Record<string, unknown>> | undefined,
): AffineShape | string {
  const stem = name.replace(/\.weight$/, '');
  if (!checkpoint.has(`${stem}.scales`) || !checkpoint.has(`${stem}.biases`))
    return 'uint32 without .scales and .biases';
  const quantization = (config?.quantization ?? {}) as Record<string, unknown>;
  const groupSize = typeof quantization.group_size === 'number' ? quantization.group_size : 64;
  const [rows, words] = checkpoint.info(name).shape as [number, number];
  const scales = checkpoint.info(`${stem}.scales`).shape;
  const biases = checkpoint.info(`${stem}.biases`).shape;
  const columns = (scales[1] ?? 0) * groupSize;
  const bits = (32 * words) / columns;
  if (scales.join() !== biases.join() || scales[0] !== rows || !AFFINE_BITS.includes(bits)) {
    return `its words [${rows}, ${words}], scales [${scales.join(', ')}] and biases [${biases.join(', ')}] fit no group size of ${groupSize}`;
  }
  return { rows, columns, bits, groupSize };
}

async function codesOfFirstRow(checkpoint: Checkpoint, name: string, shape: AffineShape): Promise<Uint8Array> {
  const bytes = await checkpoint.readRange(name, 0, (shape.columns * shape.bits) / 8);
  return affineCodes(bytes, { ...shape, rows: 1 });
}

function maxDistinct(codes: Uint8Array, groupSize: number): number {
  let most = 0;
  for (let from = 0; from < codes.length; from += groupSize) {
    most = Math.max(most, new Set(codes.subarray(from, from + groupSize)).size);
  }
  return most;
}

/** A layer whose scale is known and whose trits can be read, as often as wanted. */
export type OpenTernaryLayer = TernaryLayer & {
  readonly scale: TernaryScale;
  windows(options?: { readonly signal?: AbortSignal }): AsyncGenerator<TernaryWindow>;
};

/**
 * Finds the scale (masters, prescaled floats and block types are read once for it) and gives the windows. Throws
 * `NotTernaryError` when the values turn out not to be ternary after all.
 */
export async function openTernaryLayer(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  options: TernaryLayersOptions & { readonly signal?: AbortSignal } = {},
): Promise<OpenTernaryLayer> {
  switch (layer.form) {
    case 'packed':
      return {
        ...layer,
        scale: await packedScale(checkpoint, layer),
        windows: (o) => packedWindows(checkpoint, layer, o?.signal),
      };
    case 'ggml':
      return openGgml(checkpoint, layer, options);
    case 'affine':
      return openAffine(checkpoint, layer, options);
    case 'masters':
      return openMasters(checkpoint, layer, options.signal);
    case 'prescaled':
      return openPrescaled(checkpoint, layer, options.signal);
  }
}

/** Trits of a layer in windows; see `openTernaryLayer`. */
export async function* readTernaryWindows(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  options: TernaryLayersOptions & { readonly signal?: AbortSignal } = {},
): AsyncGenerator<TernaryWindow> {
  const opened = await openTernaryLayer(checkpoint, layer, options);
  yield* opened.windows(options);
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

async function packedScale(checkpoint: Checkpoint, layer: TernaryLayer): Promise<TernaryScale> {
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
      const trits = new Int8Array(count * columns);
      const shift = 2 * field;
      for (let i = 0; i < trits.length; i++) trits[i] = ((bytes[i]! >> shift) & 3) - 1;
      yield { rowStart, rows: count, trits };
    }
  }
}

function checkCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new CancelledError();
}

/** Row ranges of about `WINDOW_BYTES`, in multiples of `multiple` rows. */
function* rowRanges(rows: number, rowBytes: number, multiple = 1): Generator<[number, number]> {
  const step = Math.max(1, Math.floor(WINDOW_BYTES / (rowBytes * multiple))) * multiple;
  for (let start = 0; start < rows; start += step) yield [start, Math.min(rows, start + step)];
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** `X.scale` [1] beside `X.weight` in GGUF multiplies the stored scales. */
async function outputScale(checkpoint: Checkpoint, name: string): Promise<number> {
  const scaleName = name.replace(/\.weight$/, '.scale');
  if (scaleName === name || !checkpoint.has(scaleName)) return 1;
  return toFloat32(await checkpoint.read(scaleName))[0] ?? 1;
}

async function openGgml(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  options: TernaryLayersOptions & { readonly signal?: AbortSignal },
): Promise<OpenTernaryLayer> {
  const { name, rows, columns } = layer;
  const { dtype, file, offset, byteLength } = checkpoint.info(name);
  const at = { tensor: name, file, offset };
  const factor = await outputScale(checkpoint, name);
  if (dtype === 'I2_S') {
    const { i2sLayout: layout = 'L128' } = options;
    const tail = await checkpoint.readRange(name, byteLength - I2S_TAIL_BYTES, byteLength);
    const block = i2sBlock(layout, columns);
    const multiple = block / gcd(block, columns);
    const value = Math.fround(i2sScale(tail) * factor);
    return {
      ...layer,
      scale: { kind: 'tensor', value },
      async *windows({ signal } = {}) {
        for (const [start, end] of rowRanges(rows, columns / 4, multiple)) {
          checkCancelled(signal);
          const bytes = await checkpoint.readRange(name, (start * columns) / 4, (end * columns) / 4);
          const trits = unpackI2sTrits(bytes, { columns, layout, firstElement: start * columns }, at);
          yield { rowStart: start, rows: end - start, trits };
        }
      },
    };
  }
  if (!isGgmlTernary(dtype)) throw new NotTernaryError({ what: `tensor "${name}" has the type ${dtype}`, where: file });
  const { blockElements, blockBytes } = ggmlTypeOfName(dtype)!;
  const rowBytes = (columns / blockElements) * blockBytes;
  const unpackRows = async (start: number, end: number) => {
    const bytes = await checkpoint.readRange(name, start * rowBytes, end * rowBytes);
    return unpackGgml(dtype, bytes, end - start, columns, { at: { ...at, offset: offset + start * rowBytes } });
  };
  const scales = new Float32Array((rows * columns) / blockElements);
  for (const [start, end] of rowRanges(rows, rowBytes)) {
    checkCancelled(options.signal);
    const { scale } = await unpackRows(start, end);
    const from = (start * columns) / blockElements;
    if (scale.kind === 'tensor') scales.fill(scale.value, from, (end * columns) / blockElements);
    else scales.set(scale.values, from);
  }
  return {
    ...layer,
    scale: scaleOfBlocks(
      scales.map((value) => value * factor),
      blockElements,
    ),
    async *windows({ signal } = {}) {
      for (const [start, end] of rowRanges(rows, rowBytes)) {
        checkCancelled(signal);
        yield { rowStart: start, rows: end - start, trits: (await unpackRows(start, end)).trits };
      }
    },
  };
}

async function openAffine(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  options: TernaryLayersOptions & { readonly signal?: AbortSignal },
): Promise<OpenTernaryLayer> {
  const { name, rows } = layer;
  const shape = affineShape(checkpoint, name, options.config);
  if (typeof shape === 'string') throw new NotTernaryError({ what: `tensor "${name}": ${shape}` });
  const stem = name.replace(/\.weight$/, '');
  const scales = toFloat32(await checkpoint.read(`${stem}.scales`));
  const biases = toFloat32(await checkpoint.read(`${stem}.biases`));
  const rowBytes = (shape.columns * shape.bits) / 8;
  const groups = shape.columns / shape.groupSize;
  const decodeRows = async (start: number, end: number): Promise<Float32Array> => {
    const bytes = await checkpoint.readRange(name, start * rowBytes, end * rowBytes);
    const part = (values: Float32Array) => values.subarray(start * groups, end * groups);
    return decodeAffine(bytes, part(scales), part(biases), { ...shape, rows: end - start });
  };
  let largest = 0;
  for (const [start, end] of rowRanges(rows, shape.columns * 4)) {
    checkCancelled(options.signal);
    for (const value of await decodeRows(start, end)) largest = Math.max(largest, Math.abs(value));
  }
  if (!Number.isFinite(largest)) throw new NonFiniteValueError({ name: `tensor "${name}"`, index: 0, value: largest });
  const value = layer.scaleRule === 'multiply' ? toFloat32(await checkpoint.read(`${name}_scale`))[0]! : largest || 1;
  return {
    ...layer,
    scale: { kind: 'tensor', value },
    async *windows({ signal } = {}) {
      for (const [start, end] of rowRanges(rows, shape.columns * 4)) {
        checkCancelled(signal);
        const values = await decodeRows(start, end);
        const trits = new Int8Array(values.length);
        yield {
          rowStart: start,
          rows: end - start,
          trits: affineTrits(values, largest, trits) as Int8Array<ArrayBuffer>,
        };
      }
    },
  };
}

/** Rows [start, end) of a float matrix (plain, or Q8_0), as float32. */
async function floatRows(checkpoint: Checkpoint, info: TensorInfo, start: number, end: number): Promise<Float32Array> {
  const rowBytes = info.byteLength / info.shape[0]!;
  const bytes = await checkpoint.readRange(info.name, start * rowBytes, end * rowBytes);
  const count = (end - start) * info.shape[1]!;
  if (!isGgmlFloat(info.dtype)) throw new NotTernaryError({ what: `tensor "${info.name}" has the type ${info.dtype}` });
  return decodeGgml(info.dtype, bytes, count, { tensor: info.name, file: info.file, offset: info.offset });
}

async function* floatWindows(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  signal: AbortSignal | undefined,
): AsyncGenerator<{ rowStart: number; rows: number; values: Float32Array }> {
  const info = checkpoint.info(layer.name);
  for (const [start, end] of rowRanges(layer.rows, layer.columns * 4)) {
    checkCancelled(signal);
    yield { rowStart: start, rows: end - start, values: await floatRows(checkpoint, info, start, end) };
  }
}

async function openMasters(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  signal: AbortSignal | undefined,
): Promise<OpenTernaryLayer> {
  // The same sum as `absmean` makes over the whole matrix: in double, in order.
  let sum = 0;
  for await (const { rowStart, values } of floatWindows(checkpoint, layer, signal)) {
    for (let i = 0; i < values.length; i++) sum += Math.abs(values[i]!);
    if (!Number.isFinite(Math.fround(sum))) {
      const index = Math.max(
        0,
        values.findIndex((value) => !Number.isFinite(value)),
      );
      const name = `tensor "${layer.name}"`;
      throw new NonFiniteValueError({ name, index: rowStart * layer.columns + index, value: values[index]! });
    }
  }
  const value = Math.max(Math.fround(sum / (layer.rows * layer.columns)), ABSMEAN_FLOOR);
  return {
    ...layer,
    scale: { kind: 'tensor', value },
    async *windows(options = {}) {
      for await (const { rowStart, rows, values } of floatWindows(checkpoint, layer, options.signal)) {
        yield { rowStart, rows, trits: ternarize(values, value, new Int8Array(values.length)) };
      }
    },
  };
}

async function openPrescaled(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  signal: AbortSignal | undefined,
): Promise<OpenTernaryLayer> {
  const detector = new PrescaledDetector(layer.rows, layer.columns);
  for await (const { values } of floatWindows(checkpoint, layer, signal)) {
    detector.push(values);
    if (!detector.alive) break;
  }
  const scale = detector.finish();
  if (scale === undefined) {
    throw new NotTernaryError({
      what: `tensor "${layer.name}" begins like a ternary matrix but holds other values further on`,
      where: checkpoint.info(layer.name).file,
      fix: 'if these are masters of BitNet training, ask for absmean',
    });
  }
  return {
    ...layer,
    scale,
    async *windows(options = {}) {
      for await (const { rowStart, rows, values } of floatWindows(checkpoint, layer, options.signal)) {
        yield { rowStart, rows, trits: signs(values) };
      }
    },
  };
}
