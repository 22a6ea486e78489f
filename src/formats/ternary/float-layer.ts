// Layers of floats: masters of a model trained with BitNet QAT, whose scale is their absmean, and matrices that are
// {-s, 0, s} already, whose scales are found in the values.

import { ABSMEAN_FLOOR, ternarize } from '../../quant/absmean.ts';
import { NonFiniteValueError, NotTernaryError } from '../../quant/errors.ts';
import { decodeGgml, isGgmlFloat } from '../../quant/ggml.ts';
import { PrescaledDetector, signs } from '../../quant/prescaled.ts';
import type { TernaryScale } from '../../quant/ternary-scale.ts';
import type { Checkpoint, TensorInfo } from '../checkpoint.ts';
import {
  checkCancelled,
  keptRanges,
  matrixShape,
  type OpenTernaryLayer,
  rowRanges,
  type TernaryLayer,
  TernaryWindow,
} from './layer.ts';
import { packedScale } from './packed-layer.ts';

/** Float elements sampled to see whether a matrix can be prescaled ternary at all. */
const SAMPLE_ELEMENTS = 4096;

type ReadRange = (start: number, end: number) => Promise<Uint8Array<ArrayBuffer>>;

/** Whether the first rows of a float matrix are {-s, 0, s}; `blank` when they are only zeros. */
export async function beginsPrescaled(checkpoint: Checkpoint, info: TensorInfo): Promise<boolean | 'blank'> {
  const [first, second] = matrixShape(info.shape)!;
  const rows = Math.min(first, Math.max(1, Math.floor(SAMPLE_ELEMENTS / second)));
  const detector = new PrescaledDetector(rows, second);
  detector.push(await floatRows((start, end) => checkpoint.readRange(info.name, start, end), info, 0, rows));
  return detector.alive && detector.blank ? 'blank' : detector.alive;
}

/** Rows [start, end) of a float matrix (plain, or Q8_0), as float32. */
async function floatRows(read: ReadRange, info: TensorInfo, start: number, end: number): Promise<Float32Array> {
  const [rows, columns] = matrixShape(info.shape)!;
  const rowBytes = info.byteLength / rows;
  const bytes = await read(start * rowBytes, end * rowBytes);
  const count = (end - start) * columns;
  if (!isGgmlFloat(info.dtype)) throw new NotTernaryError({ what: `tensor "${info.name}" has the type ${info.dtype}` });
  return decodeGgml(info.dtype, bytes, count, { tensor: info.name, file: info.file, offset: info.offset });
}

async function* floatWindows(
  read: ReadRange,
  info: TensorInfo,
  signal: AbortSignal | undefined,
): AsyncGenerator<{ rowStart: number; rows: number; values: Float32Array }> {
  const [rows, columns] = matrixShape(info.shape)!;
  for (const [start, end] of rowRanges(rows, columns * 4)) {
    checkCancelled(signal);
    yield { rowStart: start, rows: end - start, values: await floatRows(read, info, start, end) };
  }
}

export async function openMasters(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  signal: AbortSignal | undefined,
): Promise<OpenTernaryLayer> {
  const { name, rows: height, columns } = layer;
  const info = checkpoint.info(name);
  const read = keptRanges(checkpoint, name);
  // The same sum as `absmean` makes over the whole matrix: in double, in order.
  let sum = 0;
  for await (const { rowStart, values } of floatWindows(read, info, signal)) {
    for (let i = 0; i < values.length; i++) sum += Math.abs(values[i]!);
    if (!Number.isFinite(Math.fround(sum))) {
      const found = values.findIndex((value) => !Number.isFinite(value));
      const index = Math.max(0, found);
      throw new NonFiniteValueError({
        name: `tensor "${name}"`,
        index: rowStart * columns + index,
        value: values[index]!,
      });
    }
  }
  const value = Math.max(Math.fround(sum / (height * columns)), ABSMEAN_FLOOR);
  const scale: TernaryScale = { kind: 'tensor', value };
  return {
    ...layer,
    scale: () => scale,
    async *windows(options = {}) {
      for await (const { rowStart, rows, values } of floatWindows(read, info, options.signal)) {
        const weights = ternarize(values, value, new Int8Array(values.length)) as Int8Array<ArrayBuffer>;
        yield new TernaryWindow({ rowStart, rows, columns, weights });
      }
    },
  };
}

function times(scale: TernaryScale, factor: number): TernaryScale {
  if (factor === 1) return scale;
  if (scale.kind === 'tensor') return { kind: 'tensor', value: Math.fround(scale.value * factor) };
  return { ...scale, values: scale.values.map((value) => value * factor) };
}

export async function openPrescaled(checkpoint: Checkpoint, layer: TernaryLayer): Promise<OpenTernaryLayer> {
  const { name, columns } = layer;
  const info = checkpoint.info(name);
  const read: ReadRange = (start, end) => checkpoint.readRange(name, start, end);
  const factor = layer.scaleRule === 'values' ? 1 : (await packedScale(checkpoint, layer)).value;
  let scale: TernaryScale | undefined;
  const refuse = (): never => {
    throw new NotTernaryError({
      what: `tensor "${name}" begins like a ternary matrix but holds other values further on`,
      where: info.file,
      fix: 'if these are masters of BitNet training, ask for absmean',
    });
  };
  return {
    ...layer,
    scale: () => scale,
    async *windows(options = {}) {
      // Signs need no scale, so the values are gone through once for both.
      const detector = new PrescaledDetector(layer.rows, columns);
      for await (const { rowStart, rows, values } of floatWindows(read, info, options.signal)) {
        detector.push(values);
        if (!detector.alive) refuse();
        yield new TernaryWindow({ rowStart, rows, columns, weights: signs(values) });
      }
      scale = times(detector.finish() ?? refuse(), factor);
    },
  };
}
