// Layers as pictures of their trits.

import { setImmediate as otherEvents } from 'node:timers/promises';
import { type PictureScheme, pictureColors } from '../color/picture-colors.ts';
import { openTernaryLayer, type TernaryLayer } from '../formats/ternary-layers.ts';
import { type Canvas, encodePng, MAX_PIXELS } from '../image/canvas.ts';
import { headBands, headShapeOf } from '../image/head-bands.ts';
import { stackPictures } from '../image/picture-sheet.ts';
import { tritMap } from '../image/trit-map.ts';
import type { TernaryModel } from './ternary-model.ts';

export type TritPictureOptions = {
  readonly seed: bigint;
  /** Default: contrast. */
  readonly scheme?: PictureScheme;
  /** Longest side of one layer's map, in pixels. */
  readonly maxSide: number;
  /** Where a window of single weights begins, beside the map; by default only a matrix larger than its map has one. */
  readonly window?: { readonly row: number; readonly column: number } | undefined;
  readonly signal?: AbortSignal | undefined;
};

/** One PNG: the layers' maps, each under its legend, side by side when they are several. */
export async function tritPicture(
  model: TernaryModel,
  layers: readonly TernaryLayer[],
  options: TritPictureOptions,
): Promise<Uint8Array> {
  const alone = layers.length === 1;
  const maps: Canvas[] = [];
  let pixels = 0;
  for (const layer of layers) {
    const { rows, columns } = layer;
    const isLarger = Math.max(rows, columns) > options.maxSide;
    const window = options.window ?? (alone && isLarger ? { row: 0, column: 0 } : undefined);
    const map = await mapOf(model, layer, { ...options, window });
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
  { seed, scheme, maxSide, window, signal }: TritPictureOptions,
): Promise<Canvas> {
  const options = { ...(config && { config }), ...(signal && { signal }) };
  const { name, rows, columns } = layer;
  // Windows of packed layers come four quarters at a time, the picture is drawn from the top: the trits of one matrix
  // are kept, one byte each.
  const trits = new Int8Array(rows * columns);
  const opened = await openTernaryLayer(checkpoint, layer, options);
  let plusTwo = 0;
  for await (const window of opened.windows(options)) {
    trits.set(window.values, window.rowStart * columns);
    plusTwo += window.counts()[3];
  }
  return tritMap({
    name,
    plusTwo,
    rows,
    columns,
    ...pictureColors({ seed, ...(scheme && { scheme }) }),
    // The seed's colors are mixed as they are; they were not made for a scale.
    blocks: scheme === undefined || scheme === 'contrast' ? 'density' : 'mean',
    heads: headBands(layer, headShapeOf(config, checkpoint.metadata)),
    window,
    maxSide,
    readRows: (start, end) => trits.subarray(start * columns, end * columns),
  });
}
