// Plain floats as they lie in files.

import { bf16ToF32 } from '../bf16.ts';
import { elementsOf } from '../bytes.ts';
import { f16ToF32 } from '../f16.ts';

/** As safetensors and GGUF both spell them. */
export type FloatType = 'F16' | 'BF16' | 'F32';

export const FLOAT_BYTES: Readonly<Record<FloatType, number>> = { F16: 2, BF16: 2, F32: 4 };

export function isFloatType(type: string): type is FloatType {
  return Object.hasOwn(FLOAT_BYTES, type);
}

/** Little-endian elements as float32: a view of aligned F32, else a copy. */
export function floatsOf(bytes: Uint8Array, type: FloatType): Float32Array {
  if (type === 'F16') return f16ToF32(bytes);
  return type === 'BF16' ? bf16ToF32(bytes) : elementsOf(bytes, Float32Array);
}
