// Weights on the device, in one piece of memory and in the layout of the file; rows (of a ternary matrix: quads) are padded
// to whole chunks of 128 columns where they are not.

import { padRows, rowsOf, scalesOf, type WeightRows } from '../gpu/weight-rows.ts';
import type { Program, Weight } from '../program.ts';
import { CudaUnsupportedError } from './addon.ts';
import type { Gpu } from './gpu.ts';

/** Columns that a step of a product takes: 64, or 128 of an int8 matrix. */
export const CHUNK = 128;
const ALIGN = 256;
/** Left for activations, the first sequences and others. */
const RESERVE_BYTES = 256 << 20;

export const chunked = (columns: number) => Math.ceil(columns / CHUNK) * CHUNK;
const aligned = (bytes: number) => Math.ceil(bytes / ALIGN) * ALIGN;

export type PlacedWeight = {
  readonly address: number;
  /** int8: the row scales; grouped: the groups'. */
  readonly scales: number;
  /** Bytes from row to row, or quad to quad. */
  readonly stride: number;
};

type Piece = {
  readonly rows: WeightRows;
  /** Elements from row to row. */
  readonly stride: number;
};

/** What a weight is on the device: its elements, and its scales. */
function piecesOf(weight: Weight): readonly Piece[] {
  const rows = rowsOf(weight);
  const padded = weight.kind === 'ternary' || weight.kind === 'int8';
  const elements: Piece = { rows, stride: padded ? chunked(rows.columns) : rows.columns };
  const bytes = scalesOf(weight);
  if (bytes === undefined) return [elements];
  const columns = bytes.length;
  return [elements, { rows: { bytes, rows: 1, columns, elementBytes: 1, fill: 0 }, stride: columns }];
}

const paddedBytes = ({ rows: { bytes, columns }, stride }: Piece) => (bytes.length / Math.max(1, columns)) * stride;
const sizeOf = (piece: Piece) => aligned(paddedBytes(piece));

/** Puts every weight there, with `beside` bytes left for a sequence; frees nothing on failure but what it took. Throws `CudaUnsupportedError` where it does not fit. */
export function placeWeights(gpu: Gpu, program: Program, beside = 0): { address: number; placed: PlacedWeight[] } {
  const reserve = RESERVE_BYTES + beside;
  const pieces = program.weights.map(piecesOf);
  const total = pieces.flat().reduce((sum, piece) => sum + sizeOf(piece), 0);
  const left = gpu.memoryLeft();
  const address = total + reserve > left ? undefined : gpu.allocate(total);
  if (address === undefined) {
    const mib = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MiB`;
    const what = `${mib(total)} of weights and ${mib(reserve)} beside them, ${gpu.name} has ${mib(left)} free`;
    throw new CudaUnsupportedError(what, program.name);
  }
  let at = address;
  const put = (piece: Piece): number => {
    const to = at;
    at += sizeOf(piece);
    const { rows, stride } = piece;
    if (stride === rows.columns) gpu.upload(to, rows.bytes);
    else {
      const padded = new Uint8Array(paddedBytes(piece));
      padRows(rows, stride, padded);
      gpu.upload(to, padded);
    }
    return to;
  };
  try {
    const placed = pieces.map(([elements, scales]) => ({
      address: put(elements!),
      scales: scales === undefined ? 0 : put(scales),
      stride: elements!.stride * elements!.rows.elementBytes,
    }));
    return { address, placed };
  } catch (error) {
    gpu.release(address);
    throw error;
  }
}
