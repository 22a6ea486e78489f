// A matrix with a scale for each group of columns, wherever a checkpoint keeps it: one reader for analysis, which wants
// windows of rows, and for loading, which wants the whole. Codes and scales come together, and each byte is read once.
//
//     form     seen in the file                                   group
//     blocks   Q2_0, PQ2_0, PTQ1_0, Q1_0, TQ1_0, TQ2_0 in GGUF    the type's block
//     mlx      U32 beside N.scales and N.biases, 1 or 2 bits      config.json
//     floats   F16, BF16, F32 that are -m, 0, +m                  found in the values

import { NotTernaryError } from '../quant/errors.ts';
import type { BlockLayoutName } from '../quant/grouped/block-layout.ts';
import { BLOCK_LAYOUTS, blockRowBytes, countNeverWritten, isBlockLayout } from '../quant/grouped/codec.ts';
import { FLOAT_BYTES, type FloatType, isFloatType } from '../quant/grouped/floats.ts';
import { canonicalGroup, type GroupedRows } from '../quant/grouped/grouped-matrix.ts';
import { mlxRowBytes } from '../quant/grouped/mlx.ts';
import { type Panel64, toPanel64 } from '../quant/grouped/panel64.ts';
import { decodeGrouped } from '../quant/grouped/repack-panel64.ts';
import { unpackedGroup } from '../quant/grouped/unpacked.ts';
import type { Allocate } from '../tensor/allocate.ts';
import type { Checkpoint } from './checkpoint.ts';
import { mlxShape } from './mlx-shape.ts';
import { matrixShape } from './ternary/layer.ts';

export type GroupedForm =
  | { readonly form: 'blocks'; readonly layout: BlockLayoutName }
  | {
      readonly form: 'mlx';
      readonly bits: 1 | 2;
      readonly scaleType: FloatType;
      readonly scales: string;
      readonly biases: string;
    }
  | { readonly form: 'floats'; readonly type: FloatType };

export type GroupedTensor = GroupedForm & {
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  /** Of `floats`: not known before the values are (undefined). */
  readonly group: number | undefined;
  /** Bytes of a row in the file, without the scales of MLX. */
  readonly rowBytes: number;
};

/**
 * What the tensor `name` is as a grouped matrix, by its type and its companions, reading nothing; or a sentence that says
 * why it is none. Floats, and MLX packs, may turn out not to be ternary when they are read.
 */
export function groupedTensor(
  checkpoint: Checkpoint,
  name: string,
  config: Readonly<Record<string, unknown>> | undefined,
): GroupedTensor | string {
  const { dtype, shape } = checkpoint.info(name);
  const matrix = matrixShape(shape);
  if (matrix === undefined) return `it has ${shape.length} dimensions, a matrix has two`;
  const [rows, columns] = matrix;
  if (isBlockLayout(dtype)) {
    const layout = BLOCK_LAYOUTS[dtype];
    const rowBytes = blockRowBytes(layout, columns);
    return { name, form: 'blocks', layout: dtype, rows, columns, group: layout.group, rowBytes };
  }
  if (dtype === 'U32') {
    const found = mlxShape(checkpoint, name, config);
    if (typeof found === 'string') return found;
    const { bits, ...mlx } = found;
    if (bits !== 1 && bits !== 2) return `MLX codes of ${bits} bits, which hold no exact trits`;
    return { ...mlx, name, form: 'mlx', bits, rowBytes: mlxRowBytes(mlx.columns, bits) };
  }
  if (isFloatType(dtype)) {
    return {
      name,
      form: 'floats',
      type: dtype,
      rows,
      columns,
      group: undefined,
      rowBytes: columns * FLOAT_BYTES[dtype],
    };
  }
  return `the type ${dtype} holds no trits in groups`;
}

/**
 * Rows [start, end) with their codes and scales, in the group of the file; floats in `group`. `neverWritten`: base-3 bytes
 * among them that no writer makes. Throws GroupScaleError, NotTernaryError, and what reading throws.
 */
export async function readGroupedRows(
  checkpoint: Checkpoint,
  tensor: GroupedTensor,
  start: number,
  end: number,
  group = tensor.group ?? tensor.columns,
): Promise<GroupedRows & { readonly neverWritten: number }> {
  const { name, rows, columns, rowBytes } = tensor;
  const { file, offset } = checkpoint.info(name);
  const whole = start === 0 && end === rows;
  const read = (of: string, bytes: number) =>
    whole ? checkpoint.readBytes(of) : checkpoint.readRange(of, start * bytes, end * bytes);
  const bytes = await read(name, rowBytes);
  const options = { at: { tensor: name, file, offset }, firstRow: start };
  switch (tensor.form) {
    case 'blocks': {
      const { layout } = tensor;
      const decoded = decodeGrouped({ form: 'blocks', layout, bytes }, end - start, columns, options);
      return { ...decoded, neverWritten: countNeverWritten(layout, bytes) };
    }
    case 'mlx': {
      const { bits, scaleType } = tensor;
      const scaleBytes = (columns / group) * FLOAT_BYTES[scaleType];
      const scales = await read(tensor.scales, scaleBytes);
      const biases = await read(tensor.biases, scaleBytes);
      const pack = { form: 'mlx', bits, group, weight: bytes, scales, biases, scaleType } as const;
      return { ...decodeGrouped(pack, end - start, columns, options), neverWritten: 0 };
    }
    case 'floats': {
      const source = { form: 'floats', type: tensor.type, bytes, group } as const;
      return { ...decodeGrouped(source, end - start, columns, options), neverWritten: 0 };
    }
  }
}

/** The whole matrix in its canonical group; undefined for floats that are no trits. Throws as `readGroupedRows`. */
export async function readGrouped(checkpoint: Checkpoint, tensor: GroupedTensor): Promise<GroupedRows | undefined> {
  const { name, rows, columns } = tensor;
  if (tensor.form !== 'floats') return canonicalGroup(await readGroupedRows(checkpoint, tensor, 0, rows));
  const bytes = await checkpoint.readBytes(name);
  const group = unpackedGroup(bytes, tensor.type, columns);
  if (group === undefined) return undefined;
  const { file, offset } = checkpoint.info(name);
  const source = { form: 'floats', type: tensor.type, bytes, group } as const;
  return canonicalGroup(decodeGrouped(source, rows, columns, { at: { tensor: name, file, offset } }));
}

/**
 * The whole matrix as kernels read it. Throws NotTernaryError for floats that are no trits, GroupScaleError, and what
 * reading throws.
 */
export async function readPanel64(
  checkpoint: Checkpoint,
  tensor: GroupedTensor,
  options: { readonly sourceRow?: ((row: number) => number) | undefined; readonly allocate?: Allocate } = {},
): Promise<Panel64> {
  const { name } = tensor;
  const { file, offset } = checkpoint.info(name);
  const matrix = await readGrouped(checkpoint, tensor);
  if (matrix === undefined) {
    throw new NotTernaryError({
      what: `tensor "${name}" holds ordinary floats, not one magnitude in each group of columns`,
      where: file,
    });
  }
  return toPanel64(matrix, { ...options, at: { tensor: name, file, offset } });
}
