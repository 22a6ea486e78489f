// The weights of a ternary matrix as pixels in three colors, with a legend. A matrix larger than the picture is
// averaged in blocks: a pixel takes the mixture of its block's trits, mixed as light (what an eye sees from further
// away). Rows are read in windows and the picture has one byte a pixel, so memory does not grow with the matrix.

import { hexOf, packedOf } from '../color/hex.ts';
import { channelOfLinearLight, linearLight } from '../color/oklch.ts';
import type { TritColors } from '../color/trit-colors.ts';
import { ArgumentError } from '../errors.ts';
import {
  type Canvas,
  drawText,
  encodePng,
  fillRect,
  fitText,
  INK,
  MUTED,
  newCanvas,
  PAPER,
  textWidth,
} from './canvas.ts';
import { CAP_HEIGHT } from './font.ts';

export type TritMapSource = {
  readonly rows: number;
  readonly columns: number;
  /** Trits (end - start, columns) int8 of rows start .. end - 1; called once for each window, from the top. */
  readonly readRows: (start: number, end: number) => Int8Array | Promise<Int8Array>;
};

export type TritMapOptions = TritMapSource & {
  /** Shown above the map; a long one is shortened in the middle. */
  readonly name: string;
  readonly colors: TritColors<{ readonly hex: string }>;
  /** Named in the legend when given. */
  readonly seed?: bigint;
  readonly scheme?: string;
  /** Longest side of the map in pixels, 16 to 8192; default 4096. A larger matrix is averaged in square blocks. */
  readonly maxSide?: number;
};

export const DEFAULT_MAX_SIDE = 4096;
/** A window of rows holds about this many trits. */
const WINDOW_TRITS = 2 ** 22;
/** Small matrices are enlarged up to this side, by a whole factor of at most MAX_ENLARGEMENT. */
const COMFORTABLE_SIDE = 768;
const MAX_ENLARGEMENT = 24;

const MARGIN = 16;
const SCALE = 2;
const LINE = SCALE * (CAP_HEIGHT + 2) + 10;
const CHIP = SCALE * CAP_HEIGHT;

// ---- palette: mixtures of three colors in steps of 1/21, which makes 253, and three neutral inks ----

const STEPS = 21;
/** Index of the mixture (minus, plus) / STEPS: rows of one minus share follow each other, each one entry shorter. */
function mixtureIndex(minus: number, plus: number): number {
  return minus * (STEPS + 1) - (minus * (minus - 1)) / 2 + plus;
}
const PAPER_INDEX = 253;
const INK_INDEX = 254;
const MUTED_INDEX = 255;
const MINUS_INDEX = mixtureIndex(STEPS, 0);
const ERGODIC_INDEX = mixtureIndex(0, 0);
const PLUS_INDEX = mixtureIndex(0, STEPS);

function mixturePalette(colors: TritColors<{ readonly hex: string }>): number[] {
  const corners = [colors.minus, colors.ergodic, colors.plus].map(({ hex }) => packedOf(hex));
  const mix = (weights: readonly number[]) => {
    let rgb = 0;
    for (const shift of [16, 8, 0]) {
      let light = 0;
      corners.forEach((corner, i) => {
        light += (weights[i]! / STEPS) * linearLight((corner >>> shift) & 255);
      });
      rgb |= channelOfLinearLight(light) << shift;
    }
    return rgb;
  };
  const palette: number[] = [];
  for (let minus = 0; minus <= STEPS; minus++) {
    for (let plus = 0; plus <= STEPS - minus; plus++) palette.push(mix([minus, STEPS - minus - plus, plus]));
  }
  return [...palette, PAPER, INK, MUTED];
}

// ---- geometry ----

type Geometry = { block: number; zoom: number; width: number; height: number; scaleText: string };

function geometryOf(rows: number, columns: number, maxSide: number): Geometry {
  const side = Math.max(rows, columns);
  const block = Math.ceil(side / maxSide);
  const comfortable = Math.floor(Math.min(COMFORTABLE_SIDE, maxSide) / side);
  const zoom = Math.min(MAX_ENLARGEMENT, Math.max(1, comfortable));
  return {
    block,
    zoom,
    width: Math.ceil(columns / block) * zoom,
    height: Math.ceil(rows / block) * zoom,
    scaleText:
      block > 1
        ? `1 px = ${block} x ${block} weights, mean`
        : zoom > 1
          ? `1 weight = ${zoom} x ${zoom} px`
          : '1 px = 1 weight',
  };
}

function checkOptions({ rows, columns, maxSide }: { rows: number; columns: number; maxSide: number }): void {
  for (const [name, value] of Object.entries({ rows, columns })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new ArgumentError({ what: `${name} must be a positive integer, got ${value}`, fix: 'pass a matrix' });
    }
  }
  if (!Number.isInteger(maxSide) || maxSide < 16 || maxSide > 8192) {
    throw new ArgumentError({ what: `maxSide must be an integer from 16 to 8192, got ${maxSide}`, fix: 'pass pixels' });
  }
}

/** `tritMap` as a PNG file. */
export async function tritMapPng(options: TritMapOptions): Promise<Uint8Array> {
  return encodePng(await tritMap(options));
}

/**
 * A picture of the matrix, row 0 on top, column 0 left, under a legend: name, shape, what a pixel stands for, and the three
 * colors with their shares of all weights.
 * Throws ArgumentError for a bad shape or maxSide, a window of another size than asked, or a value that is no trit.
 */
export async function tritMap(options: TritMapOptions): Promise<Canvas> {
  const { rows, columns, name, seed, scheme, colors, maxSide = DEFAULT_MAX_SIDE } = options;
  checkOptions({ rows, columns, maxSide });
  const geometry = geometryOf(rows, columns, maxSide);
  const stream = seed === undefined ? '' : `   seed ${seed}${scheme === undefined ? '' : ` ${scheme}`}`;
  const facts = `[${rows}, ${columns}]   ${geometry.scaleText}${stream}`;
  // The shares are known only after the map is drawn; their widest text is.
  const chips = legendChips(colors, { minus: 1, ergodic: 1, plus: 1 });
  const chipsWidth = chips.reduce((sum, chip) => sum + chip.width, 0);
  const width = Math.max(geometry.width, textWidth(facts, SCALE), chipsWidth);
  const top = MARGIN + 3 * LINE;
  const canvas = newCanvas(
    { width: width + 2 * MARGIN, height: top + geometry.height + MARGIN, palette: mixturePalette(colors) },
    PAPER_INDEX,
  );
  const counts = await drawMap(canvas, options, geometry, { left: MARGIN, top });
  drawText(canvas, fitText(name, width, SCALE), { x: MARGIN, y: MARGIN, scale: SCALE }, INK_INDEX);
  drawText(canvas, facts, { x: MARGIN, y: MARGIN + LINE, scale: SCALE }, MUTED_INDEX);
  let x = MARGIN;
  const y = MARGIN + 2 * LINE;
  for (const chip of legendChips(colors, counts)) {
    fillRect(canvas, { x, y, width: CHIP, height: CHIP }, chip.index);
    drawText(canvas, chip.text, { x: x + CHIP + 8, y, scale: SCALE }, INK_INDEX);
    x += chip.width;
  }
  return canvas;
}

type Counts = { minus: number; ergodic: number; plus: number };

function legendChips(
  colors: TritMapOptions['colors'],
  counts: Counts,
): { text: string; index: number; width: number }[] {
  const total = counts.minus + counts.ergodic + counts.plus;
  const entries = [
    ['-1', counts.minus, colors.minus.hex, MINUS_INDEX],
    [' 0', counts.ergodic, colors.ergodic.hex, ERGODIC_INDEX],
    ['+1', counts.plus, colors.plus.hex, PLUS_INDEX],
  ] as const;
  return entries.map(([trit, count, hex, index]) => {
    const text = `${trit} ${hexOf(packedOf(hex))} ${((100 * count) / total).toFixed(2).padStart(5)}%`;
    return { text, index, width: CHIP + 8 + textWidth(text, SCALE) + 28 };
  });
}

/** Draws the map with its top left at (left, top) and returns the counts of all trits. */
async function drawMap(
  canvas: Canvas,
  { rows, columns, readRows }: TritMapSource,
  { block, zoom }: Geometry,
  { left, top }: { left: number; top: number },
): Promise<Counts> {
  const windowRows = Math.max(1, Math.floor(WINDOW_TRITS / (columns * block))) * block;
  const pixels = Math.ceil(columns / block);
  const line = new Uint8Array(pixels * zoom);
  const minus = new Uint32Array(pixels);
  const plus = new Uint32Array(pixels);
  const counts = { minus: 0, ergodic: 0, plus: 0 };
  let y = top;
  for (let start = 0; start < rows; start += windowRows) {
    const end = Math.min(rows, start + windowRows);
    const trits = await readRows(start, end);
    checkWindow(trits, { start, end, columns });
    for (let row = start; row < end; row += block) {
      const height = Math.min(block, end - row);
      minus.fill(0);
      plus.fill(0);
      let at = (row - start) * columns;
      for (let down = 0; down < height; down++) {
        for (let p = 0; p < pixels; p++) {
          const stop = at + Math.min(block, columns - p * block);
          let sum = 0;
          let nonzero = 0;
          for (; at < stop; at++) {
            sum += trits[at]!;
            nonzero += trits[at]! & 1;
          }
          plus[p]! += (nonzero + sum) / 2;
          minus[p]! += (nonzero - sum) / 2;
        }
      }
      for (let p = 0; p < pixels; p++) {
        const total = height * Math.min(block, columns - p * block);
        counts.minus += minus[p]!;
        counts.plus += plus[p]!;
        counts.ergodic += total - minus[p]! - plus[p]!;
        const minusSteps = Math.round((STEPS * minus[p]!) / total);
        const plusSteps = Math.min(STEPS - minusSteps, Math.round((STEPS * plus[p]!) / total));
        line.fill(mixtureIndex(minusSteps, plusSteps), p * zoom, (p + 1) * zoom);
      }
      for (let copy = 0; copy < zoom; copy++) canvas.data.set(line, y++ * canvas.width + left);
    }
  }
  return counts;
}

function checkWindow(trits: Int8Array, window: { start: number; end: number; columns: number }): void {
  const { start, end, columns } = window;
  if (trits.length !== (end - start) * columns) {
    throw new ArgumentError({
      what: `rows ${start} to ${end - 1} should hold ${(end - start) * columns} trits, ${trits.length} were read`,
      fix: 'return exactly the rows that are asked for',
    });
  }
  for (let i = 0; i < trits.length; i++) {
    if (trits[i]! < -1 || trits[i]! > 1) {
      throw new ArgumentError({
        what: `row ${start + Math.floor(i / columns)}, column ${i % columns} is ${trits[i]}, which is no trit`,
        fix: 'return only -1, 0 and 1',
      });
    }
  }
}
