// A small line plot, made for loss curves: axes with round ticks, labels, one or more series, smooth lines.

import { packedOf } from '../color/hex.ts';
import { ArgumentError } from '../errors.ts';
import {
  blendPixel,
  type Canvas,
  drawText,
  encodePng,
  fillRect,
  fitText,
  INK,
  MUTED,
  newCanvas,
  PAPER,
  RULE,
  textWidth,
} from './canvas.ts';
import { CAP_HEIGHT } from './font.ts';

export type PlotSeries = {
  readonly name: string;
  readonly y: ArrayLike<number>;
  /** One per y, ascending; by default 0, 1, 2, ... Points that are not finite break the line. */
  readonly x?: ArrayLike<number>;
  /** "#RRGGBB"; by default from a list of our own. */
  readonly hex?: string;
  /** Thin and pale: raw values behind their running mean. */
  readonly faint?: boolean;
};

export type LinePlotOptions = {
  readonly title: string;
  readonly xLabel: string;
  readonly yLabel: string;
  readonly series: readonly PlotSeries[];
  /** Pixels, 240 to 4096; default 960 x 540. */
  readonly width?: number;
  readonly height?: number;
};

/** Apart in hue and in lightness, so that they differ in print and for color-blind readers too. */
const SERIES_COLORS = [0x6404c3, 0xe07a1f, 0x0f8f8c, 0xc2185b, 0x3b6fd4, 0x6b7a12];
const SCALE = 2;
const TEXT = SCALE * CAP_HEIGHT;

type Range = { readonly min: number; readonly max: number };

/** Round numbers inside the range, at most about `count`: steps of 1, 2 or 5 times a power of ten. */
export function roundTicks({ min, max }: Range, count: number): { values: number[]; decimals: number } {
  const rough = (max - min) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const steps = [1, 2, 5, 10].map((factor) => factor * power);
  let at = steps.findIndex((step) => step >= rough * 0.999);
  let values = multiplesIn({ min, max }, steps[at]!);
  // Two ticks of a range that begins just above a multiple: the step may be longer than the range.
  while (values.length === 0 && at > 0) values = multiplesIn({ min, max }, steps[--at]!);
  return { values, decimals: Math.max(0, -Math.floor(Math.log10(steps[at]!) + 1e-9)) };
}

/** Multiples of the step, not repeated sums of it, which would drift. */
function multiplesIn({ min, max }: Range, step: number): number[] {
  const values: number[] = [];
  for (let k = Math.ceil(min / step - 1e-9); k * step <= max + step * 1e-9; k++) values.push(k * step + 0);
  return values;
}

function tickText(value: number, decimals: number): string {
  const size = Math.abs(value);
  if (size >= 1e7 || decimals > 6) return value.toExponential(1).replace('e+', 'e');
  return value.toFixed(decimals);
}

function finiteRange(series: readonly PlotSeries[], pick: (s: PlotSeries, i: number) => number): Range | undefined {
  let min = Number.POSITIVE_INFINITY;
  let max = Number.NEGATIVE_INFINITY;
  for (const one of series) {
    for (let i = 0; i < one.y.length; i++) {
      if (!isDrawn(one, i)) continue;
      min = Math.min(min, pick(one, i));
      max = Math.max(max, pick(one, i));
    }
  }
  return min > max ? undefined : { min, max };
}

const xOf = (series: PlotSeries, i: number) => (series.x === undefined ? i : series.x[i]!);
const isDrawn = (series: PlotSeries, i: number) => Number.isFinite(series.y[i]) && Number.isFinite(xOf(series, i));

/** Never empty: a single value gets room around it. */
function widened({ min, max }: Range, share: number): Range {
  if (min === max) return { min: min - (Math.abs(min) * 0.05 || 1), max: max + (Math.abs(max) * 0.05 || 1) };
  const room = share * (max - min);
  return { min: min - room, max: max + room };
}

/** Throws ArgumentError when no series has a finite point, x and y differ in length, or a size is out of range. */
export function linePlotPng(options: LinePlotOptions): Uint8Array {
  const { title, xLabel, yLabel, series, width = 960, height = 540 } = options;
  for (const [name, value] of Object.entries({ width, height })) {
    if (!Number.isInteger(value) || value < 240 || value > 4096) {
      throw new ArgumentError({
        what: `${name} must be an integer from 240 to 4096, got ${value}`,
        fix: 'pass pixels',
      });
    }
  }
  for (const { name, x, y } of series) {
    if (x !== undefined && x.length !== y.length) {
      throw new ArgumentError({
        what: `series "${name}" has ${x.length} x and ${y.length} y`,
        fix: 'pass one x per y',
      });
    }
  }
  const xSpan = finiteRange(series, xOf);
  const ySpan = finiteRange(series, (one, i) => one.y[i]!);
  if (xSpan === undefined || ySpan === undefined) {
    throw new ArgumentError({ what: 'there is no finite point to plot', fix: 'pass at least one finite x and y' });
  }
  const xRange = xSpan.min === xSpan.max ? widened(xSpan, 0) : xSpan;
  const yRange = widened(ySpan, 0.06);

  const canvas = newCanvas({ width, height }, PAPER);
  const yTicks = roundTicks(yRange, Math.max(2, Math.floor(height / 90)));
  const yTexts = yTicks.values.map((value) => tickText(value, yTicks.decimals));
  const left = 20 + Math.max(...yTexts.map((text) => textWidth(text, SCALE))) + 12;
  const top = 20 + TEXT + 14 + TEXT + 14;
  const frame = { x: left, y: top, width: width - left - 28, height: height - top - 20 - 2 * TEXT - 22 };
  const toX = (value: number) => frame.x + ((value - xRange.min) / (xRange.max - xRange.min)) * frame.width;
  const toY = (value: number) => frame.y + (1 - (value - yRange.min) / (yRange.max - yRange.min)) * frame.height;

  drawText(canvas, fitText(title, width - 40, SCALE), { x: 20, y: 20, scale: SCALE }, INK);
  drawText(canvas, yLabel, { x: 20, y: 20 + TEXT + 14, scale: SCALE }, MUTED);
  drawLegend(canvas, series, {
    right: frame.x + frame.width,
    y: 20 + TEXT + 14,
    left: 20 + textWidth(yLabel, SCALE) + 28,
  });
  yTicks.values.forEach((value, i) => {
    const y = Math.round(toY(value));
    const text = yTexts[i]!;
    fillRect(canvas, { x: frame.x, y, width: frame.width, height: 1 }, RULE);
    drawText(canvas, text, { x: left - 12 - textWidth(text, SCALE), y: y - TEXT / 2, scale: SCALE }, MUTED);
  });
  const xTicks = roundTicks(xRange, Math.max(2, Math.floor(frame.width / 130)));
  const bottom = frame.y + frame.height;
  fillRect(canvas, { x: frame.x, y: bottom, width: frame.width, height: 2 }, MUTED);
  for (const value of xTicks.values) {
    const x = Math.round(toX(value));
    const text = tickText(value, xTicks.decimals);
    fillRect(canvas, { x: x - 1, y: bottom, width: 2, height: 7 }, MUTED);
    const from = Math.min(width - 8 - textWidth(text, SCALE), x - Math.round(textWidth(text, SCALE) / 2));
    drawText(canvas, text, { x: from, y: bottom + 12, scale: SCALE }, MUTED);
  }
  const labelX = frame.x + frame.width - textWidth(xLabel, SCALE);
  drawText(canvas, xLabel, { x: labelX, y: bottom + 12 + TEXT + 10, scale: SCALE }, MUTED);
  // Faint series lie behind the others.
  const order = series
    .map((_, i) => i)
    .sort((a, b) => Number(series[b]!.faint ?? false) - Number(series[a]!.faint ?? false));
  for (const i of order) drawSeries(canvas, series[i]!, colorOf(series, i), toX, toY);
  return encodePng(canvas);
}

function colorOf(series: readonly PlotSeries[], i: number): number {
  const { hex } = series[i]!;
  return hex === undefined ? SERIES_COLORS[i % SERIES_COLORS.length]! : packedOf(hex);
}

function drawLegend(
  canvas: Canvas,
  series: readonly PlotSeries[],
  { left, right, y }: { left: number; right: number; y: number },
): void {
  if (series.length < 2) return;
  const room = Math.floor((right - left) / series.length) - 46;
  const names = series.map(({ name }) => fitText(name, Math.max(room, 24), SCALE));
  let x = right - names.reduce((sum, name) => sum + 46 + textWidth(name, SCALE), 0) + 20;
  names.forEach((name, i) => {
    const cover = series[i]!.faint ? 0.4 : 1;
    for (let dx = 0; dx < 18; dx++) {
      for (let dy = 0; dy < 4; dy++) blendPixel(canvas, x + dx, y + TEXT / 2 - 2 + dy, colorOf(series, i), cover);
    }
    drawText(canvas, name, { x: x + 26, y, scale: SCALE }, INK);
    x += 46 + textWidth(name, SCALE);
  });
}

/**
 * Draws in order of x. Where many points fall on one column of pixels, the column's first, lowest, highest and last
 * point stand for them: the picture is the same and its cost is bounded by its width.
 */
function drawSeries(
  canvas: Canvas,
  series: PlotSeries,
  color: number,
  toX: (value: number) => number,
  toY: (value: number) => number,
): void {
  const radius = series.faint ? 0.6 : 1.25;
  const cover = series.faint ? 0.4 : 1;
  // The whole run is covered first and blended once, so that joints of pale lines are not darker.
  const mask = new Float32Array(canvas.width * canvas.height);
  let column: [number, number][] = [];
  let previous: [number, number] | undefined;
  let runLength = 0;
  const flush = () => {
    if (column.length === 0) return;
    const lowest = column.reduce((a, b) => (b[1] > a[1] ? b : a));
    const highest = column.reduce((a, b) => (b[1] < a[1] ? b : a));
    const kept =
      column.length <= 4
        ? column
        : column.filter((p, i) => i === 0 || i === column.length - 1 || p === lowest || p === highest);
    for (const point of kept) {
      coverSegment(mask, canvas, previous ?? point, point, radius);
      previous = point;
      runLength++;
    }
    column = [];
  };
  const endRun = () => {
    flush();
    // A point without neighbours is a line too short to see: a larger dot.
    if (previous !== undefined && runLength === 1) coverSegment(mask, canvas, previous, previous, radius + 1.75);
    previous = undefined;
    runLength = 0;
  };
  for (let i = 0; i < series.y.length; i++) {
    if (!isDrawn(series, i)) {
      endRun();
      continue;
    }
    const point: [number, number] = [toX(xOf(series, i)), toY(series.y[i]!)];
    if (column.length > 0 && Math.floor(column[0]![0]) !== Math.floor(point[0])) flush();
    column.push(point);
  }
  endRun();
  for (let at = 0; at < mask.length; at++) {
    if (mask[at]! > 0) blendPixel(canvas, at % canvas.width, Math.floor(at / canvas.width), color, cover * mask[at]!);
  }
}

/** Raises the mask to the cover of a round-ended stroke from a to b, by each pixel center's distance from it. */
function coverSegment(
  mask: Float32Array,
  { width, height }: Canvas,
  [ax, ay]: readonly [number, number],
  [bx, by]: readonly [number, number],
  radius: number,
): void {
  const reach = radius + 1;
  const [dx, dy] = [bx - ax, by - ay];
  const squared = dx * dx + dy * dy;
  const x1 = Math.min(width - 1, Math.ceil(Math.max(ax, bx) + reach));
  const y1 = Math.min(height - 1, Math.ceil(Math.max(ay, by) + reach));
  for (let y = Math.max(0, Math.floor(Math.min(ay, by) - reach)); y <= y1; y++) {
    for (let x = Math.max(0, Math.floor(Math.min(ax, bx) - reach)); x <= x1; x++) {
      const [px, py] = [x + 0.5 - ax, y + 0.5 - ay];
      const along = squared === 0 ? 0 : Math.min(1, Math.max(0, (px * dx + py * dy) / squared));
      const distance = Math.hypot(px - along * dx, py - along * dy);
      const cover = Math.min(1, Math.max(0, radius + 0.5 - distance));
      if (cover > mask[y * width + x]!) mask[y * width + x] = cover;
    }
  }
}
