// Layers as pictures of their trits.

import { setImmediate as otherEvents } from 'node:timers/promises';
import { tritColors } from '../color/trit-colors.ts';
import { openTernaryLayer, type TernaryLayer } from '../formats/ternary-layers.ts';
import { type Canvas, encodePng, MAX_PIXELS } from '../image/canvas.ts';
import { stackPictures } from '../image/picture-sheet.ts';
import { tritMap } from '../image/trit-map.ts';
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
  const maps: Canvas[] = [];
  let pixels = 0;
  for (const layer of layers) {
    const map = await mapOf(model, layer, options);
    maps.push(map);
    pixels += map.width * map.height;
    // No sheet holds more: it says so below.
    if (pixels > MAX_PIXELS) break;
    await otherEvents();
  }
  return encodePng(maps.length === 1 ? maps[0]! : stackPictures(maps));
}

async function mapOf(
  { checkpoint, config }: TernaryModel,
  layer: TernaryLayer,
  { seed, maxSide, signal }: TritPictureOptions,
): Promise<Canvas> {
  const options = { ...(config && { config }), ...(signal && { signal }) };
  const { name, rows, columns } = layer;
  // Windows of packed layers come four quarters at a time, the picture is drawn from the top: the trits of one matrix
  // are kept, one byte each.
  const trits = new Int8Array(rows * columns);
  const opened = await openTernaryLayer(checkpoint, layer, options);
  for await (const window of opened.windows(options)) trits.set(window.trits, window.rowStart * columns);
  return tritMap({
    name,
    rows,
    columns,
    colors: tritColors({ seed }),
    seed,
    maxSide,
    readRows: (start, end) => trits.subarray(start * columns, end * columns),
  });
}
