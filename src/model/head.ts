// The int8 output head: every row of a dense matrix rounded to int8 with a scale of its own. It halves the bytes of a
// bf16 head, which in small models are most of what a token reads, at a small cost in perplexity (see `bench`).

import type { DenseWeight, Int8Weight } from '../engine/program.ts';
import { absmaxQuantize } from '../quant/absmax.ts';
import { toFloat32 } from '../quant/to-float32.ts';
import { DTYPES, type Dtype } from '../tensor/tensor-view.ts';

/**
 * code = rint(w * (127 / max|w|)) per row, half to even; rowScale = 1 / (127 / max|w|). Rows of zeros stay zero. Fills
 * and keeps `codes`, rows * columns of them.
 */
export function quantizeHead(head: DenseWeight, codes = new Int8Array(head.rows * head.columns)): Int8Weight {
  const { rows, columns, name } = head;
  const dtype = head.dtype.toUpperCase() as Dtype;
  const rowBytes = columns * DTYPES[dtype];
  const rowScale = new Float32Array(rows);
  for (let r = 0; r < rows; r += 1) {
    const bytes = head.bytes.subarray(r * rowBytes, (r + 1) * rowBytes);
    const row = toFloat32({ name, dtype, shape: [columns], bytes });
    rowScale[r] = 1 / absmaxQuantize(row, codes.subarray(r * columns, (r + 1) * columns));
  }
  return { kind: 'int8', name: `${name} (int8)`, rows, columns, codes, rowScale };
}
