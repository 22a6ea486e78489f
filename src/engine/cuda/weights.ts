// Weights on the device, in one piece of memory and in the layout of the file; rows (of a ternary matrix: quads) are padded
// to whole chunks of 128 columns where they are not.

import type { Program, Weight } from '../program.ts';
import { CudaUnsupportedError } from './addon.ts';
import type { Gpu } from './gpu.ts';

/** Columns that a step of a product takes: 64, or 128 of an int8 matrix. */
export const CHUNK = 128;
/** Four trits 0: codes 1. */
const ZERO_TRITS = 0x55;
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

type Piece = { readonly bytes: Uint8Array; readonly rowBytes: number; readonly stride: number; readonly fill: number };

const bytesOf = (array: ArrayBufferView) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

/** What a weight is on the device: its elements, and its scales. */
function piecesOf(weight: Weight): readonly Piece[] {
  const whole = (bytes: Uint8Array): Piece => ({ bytes, rowBytes: bytes.length, stride: bytes.length, fill: 0 });
  switch (weight.kind) {
    case 'ternary':
      return [{ bytes: weight.bytes, rowBytes: weight.columns, stride: chunked(weight.columns), fill: ZERO_TRITS }];
    case 'int8': {
      const { columns, codes, rowScale } = weight;
      const rows = { bytes: bytesOf(codes), rowBytes: columns, stride: chunked(columns), fill: 0 };
      return [rows, whole(bytesOf(rowScale))];
    }
    case 'dense': {
      const rowBytes = weight.columns * (weight.dtype === 'f32' ? 4 : 2);
      return [{ bytes: weight.bytes, rowBytes, stride: rowBytes, fill: 0 }];
    }
    case 'grouped':
      return [whole(weight.bytes), whole(weight.scales)];
    case 'vector':
      return [whole(bytesOf(weight.values))];
  }
}

const sizeOf = ({ bytes, rowBytes, stride }: Piece) => aligned((bytes.length / Math.max(1, rowBytes)) * stride);

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
    const { bytes, rowBytes, stride, fill } = piece;
    if (stride === rowBytes) gpu.upload(to, bytes);
    else {
      const padded = new Uint8Array((bytes.length / rowBytes) * stride).fill(fill);
      for (let from = 0, row = 0; from < bytes.length; from += rowBytes, row += stride) {
        padded.set(bytes.subarray(from, from + rowBytes), row);
      }
      gpu.upload(to, padded);
    }
    return to;
  };
  try {
    const placed = pieces.map(([elements, scales]) => ({
      address: put(elements!),
      scales: scales === undefined ? 0 : put(scales),
      stride: elements!.stride,
    }));
    return { address, placed };
  } catch (error) {
    gpu.release(address);
    throw error;
  }
}
