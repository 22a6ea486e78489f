// What the forms of ternary layers have in common: their types, and windows of rows.

import { CancelledError } from '../../errors.ts';
import { countCodes } from '../../quant/grouped/codec.ts';
import { quadRowBytes, unpackQuads } from '../../quant/grouped/quads.ts';
import type { I2sLayout } from '../../quant/i2s.ts';
import type { TernaryScale } from '../../quant/ternary-scale.ts';
import type { Checkpoint } from '../checkpoint.ts';

export type TernaryForm = 'packed' | 'ggml' | 'mlx' | 'affine' | 'masters' | 'prescaled';

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

/** How often each code occurs: -1, 0, +1, and +2 times the scale, which is no trit. */
export type CodeCounts = readonly [minus: number, zero: number, plus: number, plusTwo: number];

/** Rows `rowStart` .. `rowStart + rows - 1`, row-major. Windows of packed layers do not come in row order. */
export class TernaryWindow {
  readonly rowStart: number;
  readonly rows: number;
  readonly columns: number;
  /** Of each row and `group` columns, where the file has several in a matrix. */
  readonly scales: { readonly group: number; readonly values: Float32Array } | undefined;
  /** Base-3 bytes that no writer makes. */
  readonly neverWritten: number;
  readonly #weights: Int8Array<ArrayBuffer> | Uint8Array;

  /** `weights`: trits one to a byte (Int8Array), or codes as quads (Uint8Array). */
  constructor(window: {
    readonly rowStart: number;
    readonly rows: number;
    readonly columns: number;
    readonly weights: Int8Array<ArrayBuffer> | Uint8Array;
    readonly scales?: TernaryWindow['scales'];
    readonly neverWritten?: number;
  }) {
    this.rowStart = window.rowStart;
    this.rows = window.rows;
    this.columns = window.columns;
    this.scales = window.scales;
    this.neverWritten = window.neverWritten ?? 0;
    this.#weights = window.weights;
  }

  /** The weights without their scale, one to a byte: -1, 0, +1, or 2, which is no trit. */
  get values(): Int8Array<ArrayBuffer> {
    const weights = this.#weights;
    if (weights instanceof Int8Array) return weights;
    const codes = unpackQuads(weights, this.rows, this.columns);
    const values = new Int8Array(codes.buffer);
    for (let i = 0; i < values.length; i++) values[i]! -= 1;
    return values;
  }

  /** Counts of rows [start, end) of the window. */
  counts(start = 0, end = this.rows): CodeCounts {
    const weights = this.#weights;
    if (weights instanceof Uint8Array && this.columns % 4 === 0) {
      const rowBytes = quadRowBytes(this.columns);
      return countCodes(weights.subarray(start * rowBytes, end * rowBytes), (end - start) * this.columns);
    }
    const values = this.values;
    const counts: [number, number, number, number] = [0, 0, 0, 0];
    for (let i = start * this.columns, last = end * this.columns; i < last; i++) counts[values[i]! + 1]!++;
    return counts;
  }
}

/** A layer whose weights can be read, as often as wanted. */
export type OpenTernaryLayer = TernaryLayer & {
  windows(options?: { readonly signal?: AbortSignal }): AsyncGenerator<TernaryWindow>;
  /**
   * The scale, where the windows do not tell it (else undefined). That of prescaled floats is known when all windows
   * were read.
   */
  scale(): TernaryScale | undefined;
};

/**
 * Rows and columns of a tensor that is a matrix, or several of one shape, one after the other: the experts of a mixture
 * are one tensor [experts, rows, columns], read here as one matrix of all their rows. Undefined for others, and for the
 * taps of a convolution.
 */
export function matrixShape(shape: readonly number[]): readonly [rows: number, columns: number] | undefined {
  const [first, second, third] = shape;
  if (shape.length === 2) return [first!, second!];
  return shape.length === 3 && second! > 1 && third! > 1 ? [first! * second!, third!] : undefined;
}

/** Bytes read at once; a window of one row may exceed it. */
export const WINDOW_BYTES = 4 * 2 ** 20;

/**
 * A matrix up to this size is kept where it must be gone through twice, rather than read again: the scale of masters
 * comes before their trits. The largest of 2B-4T has 35 MB.
 */
const KEPT_BYTES = 128 * 2 ** 20;

export function checkCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new CancelledError();
}

/** Row ranges of about `WINDOW_BYTES`, in multiples of `multiple` rows. */
export function* rowRanges(rows: number, rowBytes: number, multiple = 1): Generator<[number, number]> {
  const step = Math.max(1, Math.floor(WINDOW_BYTES / (rowBytes * multiple))) * multiple;
  for (let start = 0; start < rows; start += step) yield [start, Math.min(rows, start + step)];
}

/** Bytes [start, end) of a tensor that is gone through more than once in the same pieces. */
export function keptRanges(
  checkpoint: Checkpoint,
  name: string,
): (start: number, end: number) => Promise<Uint8Array<ArrayBuffer>> {
  if (checkpoint.info(name).byteLength > KEPT_BYTES) return (start, end) => checkpoint.readRange(name, start, end);
  const kept = new Map<string, Uint8Array<ArrayBuffer>>();
  return async (start, end) => {
    const key = `${start} ${end}`;
    const bytes = kept.get(key) ?? (await checkpoint.readRange(name, start, end));
    kept.set(key, bytes);
    return bytes;
  };
}
