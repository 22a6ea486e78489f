// A trace as a picture to share: tokens on their colors in lines of text, below each its log-probability and a bar as long
// as it is probable, then the running GF(3) sum.

import { packedOf } from '../color/hex.ts';
import { inkOn } from '../color/terminal.ts';
import { gf3Residue } from '../gf3/sums.ts';
import { type Trit, tritSymbol } from '../gf3/trit.ts';
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

export type TracePictureStep = {
  readonly token: string;
  /** "#RRGGBB". */
  readonly color: string;
  readonly trit: Trit;
  /** Nats; undefined where it is not told. */
  readonly logprob: number | undefined;
};

export type TracePictureOptions = {
  readonly title: string;
  /** Drawn above the tokens. */
  readonly prompt: string;
  readonly steps: readonly TracePictureStep[];
  /** The line at the end. */
  readonly summary: string;
};

const WIDTH = 960;
const MARGIN = 20;
const SCALE = 2;
/** Of a token's box, of what is written below it, and between lines of boxes. */
const BOX = 26;
const BELOW = 24;
const LINE = BOX + BELOW + 6;
const PAD = 4;
const TEXT = SCALE * CAP_HEIGHT;
const CHART = 110;
const BAR = 0x3b5bdb;
const GOOD = 0x146c2e;

/** What the font lacks and stands for the same; anything else is drawn as a box. */
const ALIKE: Readonly<Record<string, string>> = {
  '\u2018': "'",
  '\u2019': "'",
  '\u201c': '"',
  '\u201d': '"',
  '\u2013': '-',
  '\u2014': '-',
  '\u00a0': ' ',
  '\u2212': '-',
};

/** One line in the font's characters: breaks and tabs as they are written in code. */
function drawable(text: string): string {
  return text
    .replace(/[\u2018\u2019\u201c\u201d\u2013\u2014\u00a0\u2212]/g, (character) => ALIKE[character]!)
    .replaceAll('\n', '\\n')
    .replaceAll('\t', '\\t')
    .replaceAll('\r', '\\r');
}

type Place = { readonly x: number; readonly y: number; readonly width: number; readonly text: string };

const ROOM = WIDTH - 2 * MARGIN;

/** Boxes in lines; a token with a line break ends its line. Returns their places and the height of all lines. */
function layOut(steps: readonly TracePictureStep[]): { places: Place[]; height: number } {
  let [x, y] = [0, 0];
  const places = steps.map(({ token, logprob }) => {
    const text = fitText(drawable(token), ROOM - 2 * PAD, SCALE);
    // No narrower than what stands below.
    const width = Math.max(
      textWidth(text, SCALE) + 2 * PAD,
      logprob === undefined ? 14 : textWidth(logprobText(logprob), 1) + 4,
    );
    if (x > 0 && x + width > ROOM) [x, y] = [0, y + LINE];
    const place = { x, y, width, text };
    x += width + 2;
    if (token.includes('\n')) [x, y] = [0, y + LINE];
    return place;
  });
  return { places, height: x === 0 && y > 0 ? y : y + LINE };
}

const logprobText = (logprob: number) => logprob.toFixed(2).replace('-0.00', '0.00');

/** Text in lines of the picture's width, broken between words where that is possible; at most `most` lines. */
function wrap(text: string, most: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of drawable(text).match(/\s*\S+/g) ?? []) {
    if (line !== '' && textWidth(line + word, SCALE) > ROOM) {
      lines.push(line);
      line = word.trimStart();
    } else line += word;
    if (lines.length === most) return [...lines.slice(0, -1), fitText(`${lines.at(-1)!} …`, ROOM, SCALE)];
  }
  return line === '' ? lines : [...lines, line].map((one) => fitText(one, ROOM, SCALE));
}

/** Throws ArgumentError for a trace that makes a picture of more than `MAX_PIXELS`. */
export function tracePicturePng({ title, prompt, steps, summary }: TracePictureOptions): Uint8Array {
  const said = wrap(prompt, 6);
  const { places, height } = layOut(steps);
  const lineOf = (line: number) => MARGIN + line * (TEXT + 10);
  const isTold = steps.some(({ logprob }) => logprob !== undefined);
  const notes = `color and trit: position only${isTold ? '; below: log-probability, bar: probability' : ''}`;
  const top = lineOf(2 + said.length) + 8;
  const chartTop = top + (steps.length === 0 ? 0 : height) + 24;
  const chartHeight = steps.length === 0 ? 0 : CHART + 2 * TEXT;
  const canvas = newCanvas({ width: WIDTH, height: chartTop + chartHeight + TEXT + MARGIN }, PAPER);
  const write = (text: string, x: number, y: number, ink: number) =>
    drawText(canvas, fitText(drawable(text), WIDTH - MARGIN - x, SCALE), { x, y, scale: SCALE }, ink);
  write(title, MARGIN, lineOf(0), INK);
  write(notes, MARGIN, lineOf(1), MUTED);
  said.forEach((line, i) => {
    write(line, MARGIN, lineOf(2 + i), MUTED);
  });
  steps.forEach((step, i) => {
    drawStep(canvas, step, places[i]!, top);
  });
  if (steps.length > 0) drawSums(canvas, steps, chartTop);
  write(summary, MARGIN, chartTop + chartHeight, INK);
  return encodePng(canvas);
}

function drawStep(
  canvas: Canvas,
  { color, logprob, trit }: TracePictureStep,
  { x, y, width, text }: Place,
  top: number,
): void {
  const [left, up] = [MARGIN + x, top + y];
  fillRect(canvas, { x: left, y: up, width, height: BOX }, packedOf(color));
  drawText(canvas, text, { x: left + PAD, y: up + (BOX - TEXT) / 2, scale: SCALE }, packedOf(inkOn(color)));
  if (logprob === undefined) {
    drawText(canvas, tritSymbol(trit), { x: left + 2, y: up + BOX + 9, scale: 1 }, MUTED);
    return;
  }
  fillRect(canvas, { x: left, y: up + BOX + 2, width, height: 4 }, RULE);
  fillRect(
    canvas,
    { x: left, y: up + BOX + 2, width: Math.round(width * Math.exp(Math.min(0, logprob))), height: 4 },
    BAR,
  );
  drawText(canvas, logprobText(logprob), { x: left + 2, y: up + BOX + 9, scale: 1 }, MUTED);
}

/** Steps of the running sum with dots where it is 0 mod 3. */
function drawSums(canvas: Canvas, steps: readonly TracePictureStep[], top: number): void {
  let sum = 0;
  const sums = steps.map(({ trit }) => {
    sum += trit;
    return sum;
  });
  const least = Math.min(0, ...sums);
  const most = Math.max(0, ...sums);
  const caption = `running GF(3) sum, ${least} to ${most}, at the end ${sum}; dots: 0 mod 3`;
  drawText(canvas, caption, { x: MARGIN, y: top, scale: SCALE }, MUTED);
  const area = top + TEXT + 12;
  const height = CHART - 24;
  const xOf = (i: number) => MARGIN + 6 + (sums.length < 2 ? (ROOM - 12) / 2 : (i * (ROOM - 12)) / (sums.length - 1));
  const yOf = (value: number) => area + height - ((value - least) * height) / Math.max(1, most - least);
  fillRect(canvas, { x: MARGIN, y: Math.round(yOf(0)), width: ROOM, height: 1 }, RULE);
  for (let i = 1; i < sums.length; i++) {
    drawLine(canvas, [xOf(i - 1), yOf(sums[i - 1]!)], [xOf(i), yOf(sums[i]!)]);
  }
  sums.forEach((value, i) => {
    if (gf3Residue(value) === 0) drawDot(canvas, xOf(i), yOf(value));
  });
}

type Point = readonly [x: number, y: number];

function drawLine(canvas: Canvas, [x0, y0]: Point, [x1, y1]: Point): void {
  const parts = Math.max(1, Math.ceil(2 * Math.max(Math.abs(x1 - x0), Math.abs(y1 - y0))));
  for (let i = 0; i <= parts; i++) {
    const [x, y] = [x0 + ((x1 - x0) * i) / parts, y0 + ((y1 - y0) * i) / parts];
    fillRect(canvas, { x: Math.round(x), y: Math.round(y), width: 2, height: 2 }, INK);
  }
}

function drawDot(canvas: Canvas, x: number, y: number): void {
  const radius = 4;
  for (let down = -radius - 1; down <= radius + 1; down++) {
    for (let right = -radius - 1; right <= radius + 1; right++) {
      const cover = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(down, right)));
      if (cover > 0) blendPixel(canvas, Math.round(x) + right + 1, Math.round(y) + down + 1, GOOD, cover);
    }
  }
}
