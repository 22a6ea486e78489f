// A palette as a grid of swatches. Few colors get large cells with index, hex and trit; many get small bare ones.

import type { Color } from '../color/color.ts';
import { packedOf } from '../color/hex.ts';
import { inkOn } from '../color/terminal.ts';
import { ArgumentError } from '../errors.ts';
import { tritSymbol } from '../gf3/trit.ts';
import { type Canvas, drawText, encodePng, fillRect, fitText, MUTED, newCanvas, PAPER, textWidth } from './canvas.ts';
import { CAP_HEIGHT } from './font.ts';

export type SwatchOptions = {
  /** Cells in a row; by default about as many as make the picture wider than tall, with few empty cells at its end. */
  readonly columns?: number;
  /** Width of a cell in pixels, 2 to 512; by default by the number of colors. */
  readonly cell?: number;
  /** A line below the grid. */
  readonly caption?: string;
};

/** Cells from this width on are labelled: seven characters of double size, or of single size. */
const LARGE_LABEL_CELL = 104;
const SMALL_LABEL_CELL = 56;
const CAPTION_SCALE = 2;

function defaultCell(n: number): number {
  if (n <= 24) return 128;
  if (n <= 256) return 64;
  return n <= 1024 ? 24 : 12;
}

function defaultColumns(n: number): number {
  if (n <= 6) return n;
  const ideal = Math.sqrt(1.6 * n);
  let best = Math.round(ideal);
  const cost = (columns: number) => Math.ceil(n / columns) * columns - n + Math.abs(columns - ideal) / ideal;
  for (let columns = Math.ceil(0.75 * ideal); columns <= 1.35 * ideal; columns++) {
    if (cost(columns) < cost(best)) best = columns;
  }
  return best;
}

/**
 * A PNG of the colors in rows, in their order. Labelled cells show the index and the trit on top and the hex below.
 * Throws ArgumentError for no colors, or for columns or cells out of range.
 */
export function swatchPng(colors: readonly Color[], options: SwatchOptions = {}): Uint8Array {
  const n = colors.length;
  const { columns = defaultColumns(n), cell = defaultCell(n), caption = '' } = options;
  if (n === 0) throw new ArgumentError({ what: 'there are no colors to draw', fix: 'pass at least one' });
  if (!Number.isInteger(columns) || columns < 1) {
    throw new ArgumentError({ what: `columns must be a positive integer, got ${columns}`, fix: 'pass 1 or more' });
  }
  if (!Number.isInteger(cell) || cell < 2 || cell > 512) {
    throw new ArgumentError({ what: `cell must be an integer from 2 to 512, got ${cell}`, fix: 'pass pixels' });
  }
  const used = Math.min(columns, n);
  const labelled = cell >= SMALL_LABEL_CELL;
  const height = labelled ? Math.round(0.75 * cell) : cell;
  const gap = labelled ? Math.round(cell / 16) : cell >= 24 ? 2 : 0;
  const margin = labelled ? 16 : 12;
  const gridWidth = used * (cell + gap) - gap;
  const gridHeight = Math.ceil(n / used) * (height + gap) - gap;
  const captionHeight = caption === '' ? 0 : margin + CAPTION_SCALE * (CAP_HEIGHT + 2);
  const size = { width: gridWidth + 2 * margin, height: gridHeight + captionHeight + 2 * margin };
  const canvas = newCanvas(size, PAPER);
  colors.forEach((color, i) => {
    const x = margin + (i % used) * (cell + gap);
    const y = margin + Math.floor(i / used) * (height + gap);
    fillRect(canvas, { x, y, width: cell, height }, packedOf(color.hex));
    if (labelled) label(canvas, color, { x, y, width: cell, height });
  });
  if (caption !== '') {
    const line = fitText(caption, gridWidth, CAPTION_SCALE);
    drawText(canvas, line, { x: margin, y: 2 * margin + gridHeight, scale: CAPTION_SCALE }, MUTED);
  }
  return encodePng(canvas);
}

function label(canvas: Canvas, color: Color, cell: { x: number; y: number; width: number; height: number }): void {
  const ink = packedOf(inkOn(color.hex));
  const scale = cell.width >= LARGE_LABEL_CELL ? 2 : 1;
  const inset = 4 * scale;
  const symbol = tritSymbol(color.trit);
  const top = cell.y + inset;
  const bottom = cell.y + cell.height - inset - CAP_HEIGHT * scale;
  const room = cell.width - 3 * inset - textWidth(symbol, scale);
  drawText(canvas, fitText(`${color.index}`, room, scale), { x: cell.x + inset, y: top, scale }, ink);
  drawText(canvas, symbol, { x: cell.x + cell.width - inset - textWidth(symbol, scale), y: top, scale }, ink);
  drawText(canvas, color.hex, { x: cell.x + inset, y: bottom, scale }, ink);
}
