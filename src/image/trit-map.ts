// The weights of a ternary matrix as pixels in three colors, with a legend. Of a matrix larger than the picture a pixel stands
// for a block of weights: its mean, mixed as light (what an eye sees from further away), or, since the means of most
// matrices hardly differ, its density, stretched over the range that is there. Beside it, a window of single weights.
// Rows are read in windows and the picture has one byte a pixel, so memory does not grow with the matrix.

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
import type { Band, HeadBands } from './head-bands.ts';

export type TritMapSource = {
  readonly rows: number;
  readonly columns: number;
  /** Trits (end - start, columns) int8 of rows start .. end - 1; called once for each window, from the top. */
  readonly readRows: (start: number, end: number) => Int8Array | Promise<Int8Array>;
};

type Colors = TritColors<{ readonly hex: string }>;

export type TritMapOptions = TritMapSource & {
  /** Shown above the map; a long one is shortened in the middle. */
  readonly name: string;
  readonly colors: Colors;
  /** How many values are 2, which is no trit: drawn apart, and in no share. By default none may be. */
  readonly plusTwo?: number;
  /** What the three values are called; by default -1, 0 and +1. */
  readonly labels?: TritColors<string>;
  /** Named in the legend when given. */
  readonly seed?: bigint;
  readonly scheme?: string;
  /** The seed's own colors, named in the legend beside those that are drawn. */
  readonly seedColors?: Colors;
  /** Longest side of the map in pixels, 16 to 8192; default 4096. A larger matrix is drawn in square blocks. */
  readonly maxSide?: number;
  /** What a block of weights is drawn as: the mixture of its trits, or its density, stretched; default `mean`. */
  readonly blocks?: 'mean' | 'density';
  /** Heads of an attention matrix, drawn as a ruler. */
  readonly heads?: HeadBands | undefined;
  /** First row and column of a window of single weights beside the map, which is marked on it. */
  readonly window?: { readonly row: number; readonly column: number } | undefined;
};

export const DEFAULT_MAX_SIDE = 4096;
/** Rows and columns of a whole window. */
export const WINDOW_SIDE = 96;
const WINDOW_PIXELS = 480;
/** A window of rows holds about this many trits. */
const WINDOW_TRITS = 2 ** 22;
/** Small matrices are enlarged up to this side, by a whole factor of at most MAX_ENLARGEMENT. */
const COMFORTABLE_SIDE = 768;
const MAX_ENLARGEMENT = 24;

const MARGIN = 16;
const SCALE = 2;
const LINE = SCALE * (CAP_HEIGHT + 2) + 10;
const CHIP = SCALE * CAP_HEIGHT;
/** Between the map and its window. */
const GAP = 24;
/** Thickness of a ruler of heads, with room for its numbers. */
const RULER = 36;
const RULER_STRIP = 6;

// ---- palette: mixtures of three colors in steps of 1/18, which makes 190, neutral inks, and the seed's colors ----

const STEPS = 18;
/** Index of the mixture (minus, plus) / STEPS: rows of one minus share follow each other, each one entry shorter. */
function mixtureIndex(minus: number, plus: number): number {
  return minus * (STEPS + 1) - (minus * (minus - 1)) / 2 + plus;
}
const PAPER_INDEX = mixtureIndex(STEPS, 0) + 1;
const INK_INDEX = PAPER_INDEX + 1;
const MUTED_INDEX = PAPER_INDEX + 2;
const PLUS_TWO_INDEX = PAPER_INDEX + 3;
const SEED_INDEX = PAPER_INDEX + 4;
/** Of weights that are no trits, +2 times their scale; told from the contrast colors by every eye. */
const PLUS_TWO = 0xe83ec1;
const MINUS_INDEX = mixtureIndex(STEPS, 0);
const ERGODIC_INDEX = mixtureIndex(0, 0);
const PLUS_INDEX = mixtureIndex(0, STEPS);
const TRIT_INDICES = [MINUS_INDEX, ERGODIC_INDEX, PLUS_INDEX] as const;
const VALUE_INDICES = [...TRIT_INDICES, PLUS_TWO_INDEX] as const;

const inOrder = ({ minus, ergodic, plus }: Colors) => [minus, ergodic, plus].map(({ hex }) => packedOf(hex));

function mixturePalette(colors: Colors, seedColors: Colors | undefined): number[] {
  const corners = inOrder(colors);
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
  return [...palette, PAPER, INK, MUTED, PLUS_TWO, ...(seedColors === undefined ? [] : inOrder(seedColors))];
}

// ---- geometry ----

type Geometry = { block: number; zoom: number; width: number; height: number; scaleText: string };

function geometryOf(rows: number, columns: number, maxSide: number, blocks: 'mean' | 'density'): Geometry {
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
        ? `1 px = ${block} x ${block} weights, ${blocks === 'mean' ? 'mean' : 'density'}`
        : zoom > 1
          ? `1 weight = ${zoom} x ${zoom} px`
          : '1 px = 1 weight',
  };
}

type Window = { row: number; column: number; rows: number; columns: number; zoom: number };

/** The part of the window that lies on the matrix, moved back inside where it would hang over. */
function windowOf({ rows, columns, window }: TritMapOptions): Window | undefined {
  if (window === undefined) return undefined;
  for (const [axis, value, end] of [
    ['row', window.row, rows],
    ['column', window.column, columns],
  ] as const) {
    if (Number.isSafeInteger(value) && value >= 0 && value < end) continue;
    throw new ArgumentError({
      what: `the window's ${axis} must be an integer from 0 to ${end - 1}, got ${value}`,
      fix: `the matrix is ${rows} x ${columns}; a window has ${WINDOW_SIDE} x ${WINDOW_SIDE} weights`,
    });
  }
  const [height, width] = [Math.min(WINDOW_SIDE, rows), Math.min(WINDOW_SIDE, columns)];
  return {
    row: Math.min(window.row, rows - height),
    column: Math.min(window.column, columns - width),
    rows: height,
    columns: width,
    zoom: Math.max(1, Math.min(MAX_ENLARGEMENT, Math.floor(WINDOW_PIXELS / Math.max(height, width)))),
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
 * Throws ArgumentError for a bad shape, maxSide or window, rows of another size than asked, or a value that is no trit.
 */
export async function tritMap(options: TritMapOptions): Promise<Canvas> {
  const { rows, columns, name, colors, seedColors, heads, maxSide = DEFAULT_MAX_SIDE, blocks = 'mean' } = options;
  checkOptions({ rows, columns, maxSide });
  const geometry = geometryOf(rows, columns, maxSide, blocks);
  const window = windowOf(options);
  const asDensity = blocks === 'density' && geometry.block > 1;
  const facts = `[${rows}, ${columns}]   ${geometry.scaleText}${streamText(options)}`;
  // The shares are known only after the map is drawn; their widest text is.
  const legend = [legendChips(options, { minus: 1, ergodic: 1, plus: 1 }), seedChips(options)];
  const widest = { low: 1, high: 1, balance: 1 };
  const lines = [...legend.filter((line) => line.length > 0), ...(asDensity ? [densityChips(widest)] : [])];
  const ruler = {
    left: heads?.axis === 'rows' ? RULER : 0,
    top: heads === undefined ? 0 : heads.axis === 'columns' ? RULER : 12,
  };
  const top = MARGIN + (2 + lines.length) * LINE + ruler.top;
  const left = MARGIN + ruler.left;
  const side = window && { x: left + geometry.width + GAP + ruler.left, width: window.columns * window.zoom };
  const content = side === undefined ? ruler.left + geometry.width : side.x + side.width - MARGIN;
  const width = Math.max(content, textWidth(facts, SCALE), ...lines.map(widthOf));
  // The window's caption stands below it.
  const windowHeight = window === undefined ? 0 : window.rows * window.zoom + LINE + CHIP;
  const height = top + Math.max(geometry.height, windowHeight) + MARGIN;
  const canvas = newCanvas(
    { width: width + 2 * MARGIN, height, palette: mixturePalette(colors, seedColors) },
    PAPER_INDEX,
  );
  const drawn = await drawMap(canvas, options, geometry, { left, top, asDensity, window });
  drawText(canvas, fitText(name, width, SCALE), { x: MARGIN, y: MARGIN, scale: SCALE }, INK_INDEX);
  drawText(canvas, facts, { x: MARGIN, y: MARGIN + LINE, scale: SCALE }, MUTED_INDEX);
  const shown = [legendChips(options, drawn.counts), seedChips(options), drawn.range ? densityChips(drawn.range) : []];
  shown
    .filter((line) => line.length > 0)
    .forEach((line, i) => {
      drawChips(canvas, line, MARGIN + (2 + i) * LINE);
    });
  if (heads !== undefined) {
    drawRuler(canvas, heads, {
      x: left,
      y: top,
      from: 0,
      weights: heads.axis === 'rows' ? rows : columns,
      pixelsPerWeight: geometry.zoom / geometry.block,
    });
  }
  if (window !== undefined && side !== undefined) {
    drawWindow(canvas, drawn.windowTrits, window, { x: side.x, y: top });
    markWindow(canvas, window, { left, top, scale: geometry.zoom / geometry.block });
    if (heads !== undefined) {
      const [from, weights] = heads.axis === 'rows' ? [window.row, window.rows] : [window.column, window.columns];
      drawRuler(canvas, heads, { x: side.x, y: top, from, weights, pixelsPerWeight: window.zoom });
    }
  }
  return canvas;
}

// ---- legend ----

function streamText({ seed, scheme, seedColors }: TritMapOptions): string {
  const named = scheme === undefined ? '' : ` ${scheme}`;
  if (seed === undefined) return named === '' ? '' : `   colors${named}`;
  return seedColors === undefined ? `   seed ${seed}${named}` : `   colors${named}`;
}

type Counts = { minus: number; ergodic: number; plus: number };
/** Colored squares, then words. */
type Chip = { readonly indices: readonly number[]; readonly text: string; readonly muted?: boolean };

const LABELS: TritColors<string> = { minus: '-1', ergodic: ' 0', plus: '+1' };
const CHIP_GAP = 28;

function legendChips({ colors, labels = LABELS, plusTwo = 0 }: TritMapOptions, counts: Counts): Chip[] {
  const total = counts.minus + counts.ergodic + counts.plus;
  const chips: Chip[] = (['minus', 'ergodic', 'plus'] as const).map((key, i) => ({
    indices: [TRIT_INDICES[i]!],
    text: `${labels[key]} ${hexOf(packedOf(colors[key].hex))} ${((100 * counts[key]) / total).toFixed(2).padStart(5)}%`,
  }));
  return plusTwo === 0 ? chips : [...chips, { indices: [PLUS_TWO_INDEX], text: `+2: ${plusTwo}, no trits` }];
}

function seedChips({ seedColors, seed, labels = LABELS }: TritMapOptions): Chip[] {
  if (seedColors === undefined) return [];
  const chips = (['minus', 'ergodic', 'plus'] as const).map((key, i) => ({
    indices: [SEED_INDEX + i],
    text: `${labels[key].trim()} ${hexOf(packedOf(seedColors[key].hex))}`,
    muted: true,
  }));
  return [{ indices: [], text: seed === undefined ? 'seed:' : `seed ${seed}:`, muted: true }, ...chips];
}

/** Shares that the lightest and the darkest blocks stand for, and the difference of +1 and -1 at the ends of the hues. */
type DensityRange = { readonly low: number; readonly high: number; readonly balance: number };

function densityChips({ low, high, balance }: DensityRange): Chip[] {
  const ramp = (at: (step: number) => number) => Array.from({ length: 7 }, (_, i) => at(Math.round((i * STEPS) / 6)));
  const percent = (share: number) => `${(100 * share).toFixed(1)}%`;
  const even = (step: number) => mixtureIndex(Math.floor(step / 2), Math.ceil(step / 2));
  return [
    { indices: ramp(even), text: `not 0: ${percent(low)} to ${percent(high)}`, muted: true },
    {
      indices: ramp((step) => mixtureIndex(STEPS - step, step)),
      text: `more -1 to more +1: by ${percent(balance)}`,
      muted: true,
    },
  ];
}

const chipWidth = ({ indices, text }: Chip) =>
  indices.length * CHIP + (indices.length > 0 ? 8 : 0) + textWidth(text, SCALE) + CHIP_GAP;
const widthOf = (line: readonly Chip[]) => line.reduce((sum, chip) => sum + chipWidth(chip), 0) - CHIP_GAP;

function drawChips(canvas: Canvas, line: readonly Chip[], y: number): void {
  let x = MARGIN;
  for (const chip of line) {
    const { indices, text, muted } = chip;
    // A light color on light paper has no edge of its own.
    if (indices.length > 0) frame(canvas, { x, y, width: indices.length * CHIP, height: CHIP }, MUTED_INDEX);
    indices.forEach((index, i) => {
      fillRect(canvas, { x: x + i * CHIP, y, width: CHIP, height: CHIP }, index);
    });
    const from = x + indices.length * CHIP + (indices.length > 0 ? 8 : 0);
    drawText(canvas, text, { x: from, y, scale: SCALE }, muted ? MUTED_INDEX : INK_INDEX);
    x += chipWidth(chip);
  }
}

/** A line of one pixel around the rectangle. */
function frame(
  canvas: Canvas,
  { x, y, width, height }: { x: number; y: number; width: number; height: number },
  ink: number,
): void {
  fillRect(canvas, { x: x - 1, y: y - 1, width: width + 2, height: 1 }, ink);
  fillRect(canvas, { x: x - 1, y: y + height, width: width + 2, height: 1 }, ink);
  fillRect(canvas, { x: x - 1, y, width: 1, height }, ink);
  fillRect(canvas, { x: x + width, y, width: 1, height }, ink);
}

// ---- rulers and window ----

type RulerPlace = {
  /** Top left of the map. */
  readonly x: number;
  readonly y: number;
  /** First row or column that is drawn, and how many. */
  readonly from: number;
  readonly weights: number;
  readonly pixelsPerWeight: number;
};

/** Heads as a strip in two alternating inks left of the rows, or above the columns, numbered where there is room. */
function drawRuler(canvas: Canvas, { axis, bands }: HeadBands, place: RulerPlace): void {
  const { x, y, from, weights, pixelsPerWeight } = place;
  const down = axis === 'rows';
  const to = from + weights;
  const pixelOf = (index: number) => Math.round((Math.min(to, Math.max(from, index)) - from) * pixelsPerWeight);
  const size = ({ start, end }: Band) => pixelOf(end) - pixelOf(start);
  const needed = (label: string) => (down ? CAP_HEIGHT + 4 : textWidth(label, 1) + 4);
  const whole = bands.filter(({ start, end }) => start < to && end > from);
  // Every head, every second, every fifth: as many numbers as there is room for.
  const every =
    [1, 2, 5, 10, 20, 50, 100].find((step) => whole.every((band) => size(band) * step >= needed(band.label))) ?? 1000;
  bands.forEach((band, i) => {
    const [start, length] = [pixelOf(band.start), size(band)];
    if (length === 0) return;
    const ink = i % 2 === 0 ? INK_INDEX : MUTED_INDEX;
    const strip = down
      ? { x: x - RULER_STRIP - 4, y: y + start, width: RULER_STRIP, height: length }
      : { x: x + start, y: y - RULER_STRIP - 4, width: length, height: RULER_STRIP };
    fillRect(canvas, strip, ink);
    // The boundary itself, up to the map.
    if (start > 0) {
      fillRect(
        canvas,
        down
          ? { x: x - RULER_STRIP - 8, y: y + start, width: RULER_STRIP + 8, height: 1 }
          : { x: x + start, y: y - RULER_STRIP - 8, width: 1, height: RULER_STRIP + 8 },
        INK_INDEX,
      );
    }
    if (i % every !== 0 && !/\D0$/.test(band.label)) return;
    const text = {
      x: x - RULER_STRIP - 8 - textWidth(band.label, 1),
      y: y + start + Math.max(2, Math.floor((Math.min(length, every > 1 ? 12 : length) - CAP_HEIGHT) / 2)),
    };
    const above = {
      x: x + start + Math.max(2, Math.floor((length - textWidth(band.label, 1)) / 2)),
      y: y - RULER_STRIP - 10 - CAP_HEIGHT,
    };
    drawText(canvas, band.label, { ...(down ? text : above), scale: 1 }, INK_INDEX);
  });
  const name = down ? { x: x - RULER + 2, y: y - CAP_HEIGHT - 3 } : { x, y: y - RULER + 4 };
  drawText(canvas, 'head', { ...name, scale: 1 }, MUTED_INDEX);
}

function drawWindow(canvas: Canvas, trits: Int8Array, window: Window, { x, y }: { x: number; y: number }): void {
  const { row, column, rows, columns, zoom } = window;
  trits.forEach((trit, i) => {
    const at = { x: x + (i % columns) * zoom, y: y + Math.floor(i / columns) * zoom, width: zoom, height: zoom };
    fillRect(canvas, at, VALUE_INDICES[trit + 1]!);
  });
  frame(canvas, { x, y, width: columns * zoom, height: rows * zoom }, INK_INDEX);
  const text = `rows ${row}-${row + rows - 1}, columns ${column}-${column + columns - 1}`;
  const fits = fitText(text, columns * zoom, SCALE);
  drawText(canvas, fits, { x, y: y + rows * zoom + 10, scale: SCALE }, MUTED_INDEX);
}

/** Around the window's place on the map: dark and light lines, which show on any color. */
function markWindow(
  canvas: Canvas,
  window: Window,
  { left, top, scale }: { left: number; top: number; scale: number },
): void {
  const x = left + Math.floor(window.column * scale);
  const y = top + Math.floor(window.row * scale);
  const width = Math.max(3, Math.ceil((window.column + window.columns) * scale) - Math.floor(window.column * scale));
  const height = Math.max(3, Math.ceil((window.row + window.rows) * scale) - Math.floor(window.row * scale));
  for (const [grow, ink] of [
    [0, INK_INDEX],
    [1, PAPER_INDEX],
    [2, INK_INDEX],
  ] as const) {
    frame(canvas, { x: x - grow, y: y - grow, width: width + 2 * grow, height: height + 2 * grow }, ink);
  }
}

// ---- the map ----

type MapPlace = { left: number; top: number; asDensity: boolean; window: Window | undefined };
type Drawn = { counts: Counts; range: DensityRange | undefined; windowTrits: Int8Array };

/** Draws the map with its top left at (left, top) and returns the counts of all trits. */
async function drawMap(
  canvas: Canvas,
  { rows, columns, readRows, plusTwo: expectedTwos = 0 }: TritMapOptions,
  { block, zoom, height: mapHeight }: Geometry,
  { left, top, asDensity, window }: MapPlace,
): Promise<Drawn> {
  const windowRows = Math.max(1, Math.floor(WINDOW_TRITS / (columns * block))) * block;
  const pixels = Math.ceil(columns / block);
  const line = new Uint8Array(pixels * zoom);
  const minus = new Uint32Array(pixels);
  const plus = new Uint32Array(pixels);
  const twos = new Uint32Array(pixels);
  const counts = { minus: 0, ergodic: 0, plus: 0 };
  const windowTrits = new Int8Array(window === undefined ? 0 : window.rows * window.columns);
  const density = asDensity ? new DensityBlocks(pixels * mapHeight) : undefined;
  let y = top;
  for (let start = 0; start < rows; start += windowRows) {
    const end = Math.min(rows, start + windowRows);
    const trits = await readRows(start, end);
    checkWindow(trits, { start, end, columns }, expectedTwos > 0 ? 2 : 1);
    if (window !== undefined) copyWindow(trits, { start, end, columns }, window, windowTrits);
    for (let row = start; row < end; row += block) {
      const height = Math.min(block, end - row);
      minus.fill(0);
      plus.fill(0);
      twos.fill(0);
      let at = (row - start) * columns;
      for (let down = 0; down < height; down++) {
        for (let p = 0; p < pixels; p++) {
          const stop = at + Math.min(block, columns - p * block);
          let sum = 0;
          let nonzero = 0;
          let two = 0;
          for (; at < stop; at++) {
            const value = trits[at]!;
            sum += value;
            nonzero += value & 1;
            // The one value whose upper bit is set and lower is not.
            two += (value >> 1) & ~value & 1;
          }
          sum -= 2 * two;
          twos[p]! += two;
          plus[p]! += (nonzero + sum) / 2;
          minus[p]! += (nonzero - sum) / 2;
        }
      }
      for (let p = 0; p < pixels; p++) {
        const all = height * Math.min(block, columns - p * block);
        // Shares are of trits; a block without one is drawn for what it is.
        const total = all - twos[p]!;
        counts.minus += minus[p]!;
        counts.plus += plus[p]!;
        counts.ergodic += total - minus[p]! - plus[p]!;
        const of = Math.max(1, total);
        if (density !== undefined) density.add(minus[p]! / of, plus[p]! / of, all === block * block);
        else {
          const index = total === 0 ? PLUS_TWO_INDEX : mixtureOf(minus[p]! / of, plus[p]! / of);
          line.fill(index, p * zoom, (p + 1) * zoom);
        }
      }
      if (density !== undefined) continue;
      for (let copy = 0; copy < zoom; copy++) canvas.data.set(line, y++ * canvas.width + left);
    }
  }
  const range = density?.range();
  if (density !== undefined && range !== undefined) {
    for (let row = 0; row < mapHeight; row++)
      density.drawRow(
        row * pixels,
        range,
        canvas.data.subarray((top + row) * canvas.width + left, (top + row) * canvas.width + left + pixels),
      );
  }
  return { counts, range, windowTrits };
}

/** Palette index of a mixture, shares of -1 and +1 in [0, 1]. */
function mixtureOf(minus: number, plus: number): number {
  const minusSteps = Math.round(STEPS * minus);
  return mixtureIndex(minusSteps, Math.min(STEPS - minusSteps, Math.round(STEPS * plus)));
}

/** Blocks within this many standard deviations of the mean get their own shades; those beyond, the outermost ones. */
const SPREAD = 2.5;

/**
 * Shares of -1 and +1 of the blocks, in a byte each, until the range they span is known. A block's lightness is its share
 * of weights that are not 0, its hue the balance of -1 and +1.
 */
class DensityBlocks {
  readonly #minus: Uint8Array;
  readonly #plus: Uint8Array;
  #filled = 0;
  /** Over whole blocks: those cut by the edge vary more. */
  #whole = 0;
  #sums = { dense: 0, dense2: 0, balance: 0, balance2: 0 };

  constructor(blocks: number) {
    this.#minus = new Uint8Array(blocks);
    this.#plus = new Uint8Array(blocks);
  }

  add(minus: number, plus: number, whole: boolean): void {
    this.#minus[this.#filled] = Math.round(255 * minus);
    this.#plus[this.#filled++] = Math.round(255 * plus);
    if (!whole) return;
    this.#whole++;
    this.#sums.dense += minus + plus;
    this.#sums.dense2 += (minus + plus) ** 2;
    this.#sums.balance += plus - minus;
    this.#sums.balance2 += (plus - minus) ** 2;
  }

  range(): DensityRange {
    const n = Math.max(1, this.#whole);
    const { dense, dense2, balance, balance2 } = this.#sums;
    const mean = dense / n;
    const reach = SPREAD * Math.sqrt(Math.max(0, dense2 / n - mean * mean));
    const lean = Math.abs(balance / n) + SPREAD * Math.sqrt(Math.max(0, balance2 / n - (balance / n) ** 2));
    // Blocks that are all alike have no range to stretch.
    const [low, high] = reach < 0.005 ? [0, 1] : [Math.max(0, mean - reach), Math.min(1, mean + reach)];
    return { low, high, balance: lean < 0.005 ? 1 : Math.min(1, lean) };
  }

  /** out (N,) palette indices of blocks from `start` on. */
  drawRow(start: number, { low, high, balance }: DensityRange, out: Uint8Array): void {
    for (let i = 0; i < out.length; i++) {
      const [minus, plus] = [this.#minus[start + i]! / 255, this.#plus[start + i]! / 255];
      const depth = Math.min(1, Math.max(0, (minus + plus - low) / (high - low)));
      const lean = Math.min(1, Math.max(-1, (plus - minus) / balance));
      const steps = Math.round(STEPS * depth);
      const toMinus = Math.round((steps * (1 - lean)) / 2);
      out[i] = mixtureIndex(toMinus, steps - toMinus);
    }
  }
}

type Rows = { readonly start: number; readonly end: number; readonly columns: number };

function copyWindow(trits: Int8Array, { start, end, columns }: Rows, window: Window, out: Int8Array): void {
  const last = Math.min(end, window.row + window.rows);
  for (let row = Math.max(start, window.row); row < last; row++) {
    const at = (row - start) * columns + window.column;
    out.set(trits.subarray(at, at + window.columns), (row - window.row) * window.columns);
  }
}

function checkWindow(trits: Int8Array, window: { start: number; end: number; columns: number }, largest: 1 | 2): void {
  const { start, end, columns } = window;
  if (trits.length !== (end - start) * columns) {
    throw new ArgumentError({
      what: `rows ${start} to ${end - 1} should hold ${(end - start) * columns} trits, ${trits.length} were read`,
      fix: 'return exactly the rows that are asked for',
    });
  }
  for (let i = 0; i < trits.length; i++) {
    if (trits[i]! < -1 || trits[i]! > largest) {
      throw new ArgumentError({
        what: `row ${start + Math.floor(i / columns)}, column ${i % columns} is ${trits[i]}, which is no trit`,
        fix: 'return only -1, 0 and 1',
      });
    }
  }
}
