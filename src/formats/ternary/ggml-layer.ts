// Layers of GGUF's own ternary types: I2_S with one scale behind its trits, and the block types, whose scales come with
// the codes.

import { I2S_TAIL_BYTES, i2sBlock, i2sScale, unpackI2sTrits } from '../../quant/i2s.ts';
import type { TernaryScale } from '../../quant/ternary-scale.ts';
import { toFloat32 } from '../../quant/to-float32.ts';
import type { Checkpoint } from '../checkpoint.ts';
import { type GroupedTensor, readGroupedRows } from '../grouped-tensor.ts';
import {
  checkCancelled,
  type OpenTernaryLayer,
  rowRanges,
  type TernaryLayer,
  type TernaryLayersOptions,
  TernaryWindow,
} from './layer.ts';

/** `X.scale` [1] beside `X.weight` in GGUF multiplies the stored scales. */
async function outputScale(checkpoint: Checkpoint, name: string): Promise<number> {
  const scaleName = name.replace(/\.weight$/, '.scale');
  if (scaleName === name || !checkpoint.has(scaleName)) return 1;
  return toFloat32(await checkpoint.read(scaleName))[0] ?? 1;
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

export async function openI2s(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  { i2sLayout: layout = 'L128' }: TernaryLayersOptions,
): Promise<OpenTernaryLayer> {
  const { name, rows, columns } = layer;
  const { file, offset, byteLength } = checkpoint.info(name);
  const at = { tensor: name, file, offset };
  const factor = await outputScale(checkpoint, name);
  const tail = await checkpoint.readRange(name, byteLength - I2S_TAIL_BYTES, byteLength);
  const scale: TernaryScale = { kind: 'tensor', value: Math.fround(i2sScale(tail) * factor) };
  const block = i2sBlock(layout, columns);
  const multiple = block / gcd(block, columns);
  return {
    ...layer,
    scale: () => scale,
    async *windows({ signal } = {}) {
      for (const [start, end] of rowRanges(rows, columns / 4, multiple)) {
        checkCancelled(signal);
        const bytes = await checkpoint.readRange(name, (start * columns) / 4, (end * columns) / 4);
        const weights = unpackI2sTrits(bytes, { columns, layout, firstElement: start * columns }, at);
        yield new TernaryWindow({ rowStart: start, rows: end - start, columns, weights });
      }
    },
  };
}

/** Block types and MLX packs: every window has its scales. */
export async function openGrouped(
  checkpoint: Checkpoint,
  layer: TernaryLayer,
  tensor: GroupedTensor,
): Promise<OpenTernaryLayer> {
  const { name, rows, columns } = layer;
  const factor = await outputScale(checkpoint, name);
  return {
    ...layer,
    scale: () => undefined,
    async *windows({ signal } = {}) {
      for (const [start, end] of rowRanges(rows, tensor.rowBytes)) {
        checkCancelled(signal);
        const { group, quads, scales, neverWritten } = await readGroupedRows(checkpoint, tensor, start, end);
        const values = factor === 1 ? scales : scales.map((value) => value * factor);
        yield new TernaryWindow({
          rowStart: start,
          rows: end - start,
          columns,
          weights: quads,
          scales: { group, values },
          neverWritten,
        });
      }
    },
  };
}
