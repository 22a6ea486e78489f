// A raster to draw labels, boxes and lines on, in true color or with a palette, and its PNG.

import { encode } from 'fast-png';
import { ArgumentError } from '../errors.ts';
import { GLYPH_ADVANCE, GLYPH_WIDTH, glyphRows } from './font.ts';

/** Room for an 8192 x 8192 map with its legend. Larger pictures are refused before they are allocated. */
export const MAX_PIXELS = 72_000_000;

/** Neutral colors of every picture: they go with any stream's colors. */
export const PAPER = 0xfbfaf8;
export const INK = 0x1d1d22;
export const MUTED = 0x6e6d75;
export const RULE = 0xe3e1dd;

/** An ink is 0xRRGGBB in true color, an index of `palette` otherwise. */
export type Canvas = {
  readonly width: number;
  readonly height: number;
  /** (height, width) indices, or (height, width, 3) bytes of r, g, b. */
  readonly data: Uint8Array;
  /** 0xRRGGBB per index, at most 256. */
  readonly palette?: readonly number[];
};

/** Filled with `paper`. */
export function newCanvas(
  { width, height, palette }: { readonly width: number; readonly height: number; readonly palette?: readonly number[] },
  paper: number,
): Canvas {
  if (width * height > MAX_PIXELS) {
    throw new ArgumentError({
      what: `a picture of ${width} x ${height} pixels is larger than ${MAX_PIXELS} pixels`,
      fix: 'ask for smaller cells, fewer columns or a smaller side',
    });
  }
  const data = new Uint8Array(width * height * (palette === undefined ? 3 : 1));
  const canvas: Canvas = { width, height, data, ...(palette === undefined ? {} : { palette }) };
  fillRect(canvas, { x: 0, y: 0, width, height }, paper);
  return canvas;
}

export type Rect = { readonly x: number; readonly y: number; readonly width: number; readonly height: number };

/** Fills the part of the rectangle that lies on the canvas. */
export function fillRect(canvas: Canvas, rect: Rect, ink: number): void {
  const left = Math.max(0, rect.x);
  const right = Math.min(canvas.width, rect.x + rect.width);
  const bottom = Math.min(canvas.height, rect.y + rect.height);
  if (left >= right) return;
  const { data, width } = canvas;
  for (let y = Math.max(0, rect.y); y < bottom; y++) {
    if (canvas.palette !== undefined) {
      data.fill(ink, y * width + left, y * width + right);
      continue;
    }
    for (let at = 3 * (y * width + left); at < 3 * (y * width + right); at += 3) {
      data[at] = ink >>> 16;
      data[at + 1] = (ink >>> 8) & 255;
      data[at + 2] = ink & 255;
    }
  }
}

/** Pixels that `text` takes from its first to its last dot. */
export function textWidth(text: string, scale: number): number {
  const length = Array.from(text).length;
  return length === 0 ? 0 : scale * (GLYPH_ADVANCE * length - (GLYPH_ADVANCE - GLYPH_WIDTH));
}

export type TextPlace = { readonly x: number; readonly y: number; readonly scale: number };

/** Writes one line; (x, y) is the top left of the first character, a dot is scale x scale pixels. */
export function drawText(canvas: Canvas, text: string, { x, y, scale }: TextPlace, ink: number): void {
  let left = x;
  for (const character of text) {
    glyphRows(character).forEach((row, down) => {
      for (let dot = 0; dot < GLYPH_WIDTH; dot++) {
        if (((row >> (GLYPH_WIDTH - 1 - dot)) & 1) === 0) continue;
        fillRect(canvas, { x: left + dot * scale, y: y + down * scale, width: scale, height: scale }, ink);
      }
    });
    left += GLYPH_ADVANCE * scale;
  }
}

/** `text`, or its two ends around an ellipsis where it is wider than `width` pixels. */
export function fitText(text: string, width: number, scale: number): string {
  if (textWidth(text, scale) <= width) return text;
  const characters = Array.from(text);
  const room = Math.max(0, Math.floor((width / scale + 1) / GLYPH_ADVANCE) - 1);
  const head = Math.ceil(room / 2);
  const tail = room - head;
  return `${characters.slice(0, head).join('')}…${tail === 0 ? '' : characters.slice(-tail).join('')}`;
}

/** Mixes 0xRRGGBB into a pixel of a true-color canvas; `cover` in [0, 1]. Outside the canvas nothing happens. */
export function blendPixel(canvas: Canvas, x: number, y: number, ink: number, cover: number): void {
  if (x < 0 || y < 0 || x >= canvas.width || y >= canvas.height) return;
  const { data } = canvas;
  const at = 3 * (y * canvas.width + x);
  data[at]! += Math.round(cover * ((ink >>> 16) - data[at]!));
  data[at + 1]! += Math.round(cover * (((ink >>> 8) & 255) - data[at + 1]!));
  data[at + 2]! += Math.round(cover * ((ink & 255) - data[at + 2]!));
}

/**
 * The picture as a PNG file. A map of trits is runs and noise, in which a longer search finds little and takes six times
 * as long; a server answers nobody meanwhile.
 */
export function encodePng({ width, height, data, palette }: Canvas): Uint8Array {
  if (palette === undefined) return encode({ width, height, data, channels: 3, depth: 8 });
  const entries = palette.map((rgb) => [rgb >>> 16, (rgb >>> 8) & 255, rgb & 255]);
  return encode({ width, height, data, channels: 1, depth: 8, palette: entries }, { zlib: { level: 1 } });
}
