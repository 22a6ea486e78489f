// Any plain element type as float32, for the small tensors an engine keeps in full precision (norms, scales) and for
// masters that are made ternary at load.

import { DTYPES, elementCount, type TensorView } from '../tensor/tensor-view.ts';
import { bf16ToF32 } from './bf16.ts';
import { elementsOf } from './bytes.ts';
import { PackedSizeError } from './errors.ts';
import { f16ToF32 } from './f16.ts';

/**
 * The elements of a plain (not packed) tensor as float32. F32 that is aligned is not copied: the result then shares
 * the tensor's memory and must not be written. F64 and 64-bit and 32-bit integers round to nearest.
 */
export function toFloat32(view: TensorView): Float32Array {
  const count = elementCount(view.shape);
  const expectedBytes = count * DTYPES[view.dtype];
  if (view.bytes.byteLength !== expectedBytes) {
    throw new PackedSizeError({
      at: { tensor: view.name },
      layout: view.dtype,
      shape: view.shape,
      expectedBytes,
      actualBytes: view.bytes.byteLength,
    });
  }
  switch (view.dtype) {
    case 'F32':
      return elementsOf(view.bytes, Float32Array);
    case 'BF16':
      return bf16ToF32(view.bytes);
    case 'F16':
      return f16ToF32(view.bytes);
    case 'F64':
      return Float32Array.from(elementsOf(view.bytes, Float64Array));
    case 'U8':
      return Float32Array.from(view.bytes);
    case 'BOOL':
      return Float32Array.from(view.bytes, (byte) => (byte === 0 ? 0 : 1));
    case 'I8':
      return Float32Array.from(new Int8Array(view.bytes.buffer, view.bytes.byteOffset, view.bytes.byteLength));
    case 'U32':
      return Float32Array.from(elementsOf(view.bytes, Uint32Array));
    case 'I32':
      return Float32Array.from(elementsOf(view.bytes, Int32Array));
    case 'I64':
      return Float32Array.from(elementsOf(view.bytes, BigInt64Array), (value) => Number(value));
  }
}
