// Several pictures on one sheet: what a client that shows one image at a time, or one file, can take.

import { type Canvas, newCanvas, PAPER } from './canvas.ts';

const GAP = 8;
/** Sheets are about this much wider than tall. */
const ASPECT = 1.5;

/** One picture of several in rows, the tallest first, tops aligned. All have the same palette (or true color). */
export function stackPictures(several: readonly Canvas[]): Canvas {
  const pictures = several.toSorted((a, b) => b.height - a.height);
  const { palette } = pictures[0]!;
  const area = pictures.reduce((sum, { width, height }) => sum + (width + GAP) * (height + GAP), 0);
  const widest = Math.max(...pictures.map(({ width }) => width));
  const limit = Math.max(widest, Math.sqrt(ASPECT * area));

  const places: { x: number; y: number }[] = [];
  let [x, y, rowHeight, width] = [0, 0, 0, 0];
  for (const picture of pictures) {
    if (x > 0 && x + picture.width > limit) {
      y += rowHeight + GAP;
      [x, rowHeight] = [0, 0];
    }
    places.push({ x, y });
    x += picture.width + GAP;
    width = Math.max(width, x - GAP);
    rowHeight = Math.max(rowHeight, picture.height);
  }
  const paper = palette === undefined ? PAPER : palette.indexOf(PAPER);
  const sheet: Canvas = newCanvas({ width, height: y + rowHeight, ...(palette && { palette }) }, paper);
  const channels = palette === undefined ? 3 : 1;
  pictures.forEach((picture, i) => {
    const place = places[i]!;
    const line = picture.width * channels;
    for (let row = 0; row < picture.height; row++) {
      const from = picture.data.subarray(row * line, (row + 1) * line);
      sheet.data.set(from, ((place.y + row) * width + place.x) * channels);
    }
  });
  return sheet;
}
