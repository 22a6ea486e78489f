// Layers as pictures of their trits.

import { tritColors } from '../color/trit-colors.ts';
import { openTernaryLayer, type TernaryLayer } from '../formats/ternary-layers.ts';
import { stackPictures } from '../image/picture-sheet.ts';
import { tritMapPng } from '../image/trit-map.ts';
import type { TernaryModel } from './ternary-model.ts';

export type TritPictureOptions = {
  readonly seed: bigint;
  /** Longest side of one layer's map, in pixels. */
  readonly maxSide: number;
  readonly signal?: AbortSignal | undefined;
};

/** One PNG: the layers' maps, each under its legend, side by side when they are several. */
export async function tritPicture(
  model: TernaryModel,
  layers: readonly TernaryLayer[],
  options: TritPictureOptions,
): Promise<Uint8Array> {
  const maps: Uint8Array[] = [];
  for (const layer of layers) maps.push(await tritMap(model, layer, options));
  return maps.length === 1 ? maps[0]! : stackPictures(maps);
}

async function tritMap(
  { checkpoint, config }: TernaryModel,
  layer: TernaryLayer,
  { seed, maxSide, signal }: TritPictureOptions,
): Promise<Uint8Array> {
  const options = { ...(config && { config }), ...(signal && { signal }) };
  const { name, rows, columns } = layer;
  // Windows of packed layers come four quarters at a time, the picture is drawn from the top: the trits of one matrix
  // are kept, one byte each.
  const trits = new Int8Array(rows * columns);
  const opened = await openTernaryLayer(checkpoint, layer, options);
  for await (const window of opened.windows(options)) trits.set(window.trits, window.rowStart * columns);
  return tritMapPng({
    name,
    rows,
    columns,
    colors: tritColors({ seed }),
    seed,
    maxSide,
    readRows: (start, end) => trits.subarray(start * columns, end * columns),
  });
}
