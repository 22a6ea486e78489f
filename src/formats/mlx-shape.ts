// The three tensors of a matrix that MLX quantized: N.weight (U32 words), N.scales and N.biases, and what config.json
// says of them: "quantization" (also as "quantization_config") with group_size and bits, which an entry of the module's
// name overrides.

import { type FloatType, isFloatType } from '../quant/grouped/floats.ts';
import type { Checkpoint } from './checkpoint.ts';

/** MLX's own when nothing is said. */
const DEFAULT_GROUP = 64;

export const MLX_BITS: readonly number[] = [1, 2, 3, 4, 5, 6, 8];

export type MlxShape = {
  readonly rows: number;
  readonly columns: number;
  readonly bits: number;
  readonly group: number;
  readonly scaleType: FloatType;
  /** Names of the companions. */
  readonly scales: string;
  readonly biases: string;
};

type Json = Readonly<Record<string, unknown>>;

const objectOf = (value: unknown): Json | undefined =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : undefined;

/** Shape and bits of the U32 matrix `name`, or a sentence that says why it is no matrix of MLX's. */
export function mlxShape(checkpoint: Checkpoint, name: string, config: Json | undefined): MlxShape | string {
  const stem = name.replace(/\.weight$/, '');
  const scales = `${stem}.scales`;
  const biases = `${stem}.biases`;
  if (!checkpoint.has(scales) || !checkpoint.has(biases)) return 'uint32 without .scales and .biases';
  // Whichever of the two has a group: the other may tell of another quantization of the same model.
  const quantization =
    [config?.quantization, config?.quantization_config].map(objectOf).find((one) => one?.group_size !== undefined) ??
    {};
  const said = { ...quantization, ...objectOf(quantization[stem]) } as Json;
  const mode = said.mode ?? 'affine';
  if (mode !== 'affine') return `MLX mode ${JSON.stringify(mode)}, only affine is read here`;
  const group = said.group_size ?? DEFAULT_GROUP;
  const shape = checkpoint.info(name).shape;
  const info = checkpoint.info(scales);
  const other = checkpoint.info(biases);
  const [rows = 0, words = 0] = shape;
  const columns = typeof group === 'number' ? (info.shape[1] ?? 0) * group : 0;
  const bits = (32 * words) / columns;
  const fits =
    shape.length === 2 &&
    info.shape.length === 2 &&
    info.shape[0] === rows &&
    info.shape.join() === other.shape.join() &&
    Number.isInteger(group) &&
    (group as number) % 32 === 0 &&
    MLX_BITS.includes(bits);
  if (!fits) {
    return `its words [${shape.join(', ')}], scales [${info.shape.join(', ')}] and biases [${other.shape.join(', ')}] fit no group size of ${String(group)}`;
  }
  if (!isFloatType(info.dtype) || info.dtype !== other.dtype) {
    return `its scales are ${info.dtype} and its biases ${other.dtype}, floats of one type are read here`;
  }
  return { rows, columns, bits, group: group as number, scaleType: info.dtype, scales, biases };
}
