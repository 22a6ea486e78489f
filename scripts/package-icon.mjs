// The icon of the packages: the addition table of GF(3) in the three trit colors of seed 1069. Each row and each column
// holds every trit once, so each is conserved. Writes plugin/icon.png.
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { encode } from 'fast-png';

const SIDE = 512;
const MARGIN = 48;
const GAP = 20;
const CORNER = 26;
const PAPER = [0xff, 0xff, 0xff];
/** Of -1, 0, +1: colors 1, 2, 3 of seed 1069, scheme trace. */
const COLORS = [
  [0x64, 0x04, 0xc3],
  [0xeb, 0x6a, 0xf7],
  [0x7f, 0x17, 0x47],
];
const CELL = (SIDE - 2 * MARGIN - 2 * GAP) / 3;

/** Share of a pixel inside a square with round corners, sampled 4 x 4, so that edges are smooth. */
function coverage(x, y, left, top, side, radius) {
  let inside = 0;
  for (let i = 0; i < 16; i++) {
    const px = x + ((i % 4) + 0.5) / 4;
    const py = y + (Math.floor(i / 4) + 0.5) / 4;
    const dx = Math.max(left + radius - px, px - (left + side - radius), 0);
    const dy = Math.max(top + radius - py, py - (top + side - radius), 0);
    if (dx * dx + dy * dy <= radius * radius) inside += 1;
  }
  return inside / 16;
}

export function iconPng() {
  const data = new Uint8Array(SIDE * SIDE * 4);
  for (let y = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++) {
      const paper = coverage(x, y, 0, 0, SIDE, 96);
      const column = Math.min(2, Math.max(0, Math.floor((x - MARGIN + GAP / 2) / (CELL + GAP))));
      const row = Math.min(2, Math.max(0, Math.floor((y - MARGIN + GAP / 2) / (CELL + GAP))));
      // Rows and columns stand for -1, 0, +1: the sum of two, modulo 3.
      const sum = (row - 1 + (column - 1) + 6) % 3;
      const color = COLORS[sum === 2 ? 0 : sum + 1];
      const cell = coverage(x, y, MARGIN + column * (CELL + GAP), MARGIN + row * (CELL + GAP), CELL, CORNER);
      const at = 4 * (y * SIDE + x);
      for (let c = 0; c < 3; c++) data[at + c] = Math.round(PAPER[c] * (1 - cell) + color[c] * cell);
      data[at + 3] = Math.round(255 * paper);
    }
  }
  return encode({ width: SIDE, height: SIDE, data, channels: 4 });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const file = join(dirname(fileURLToPath(import.meta.url)), '..', 'plugin', 'icon.png');
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, iconPng());
}
