import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { colorAt, palette } from '../../src/color/palette.ts';
import { traceColors } from '../../src/color/trace.ts';
import { splitmix64 } from '../../src/random/splitmix64.ts';

type Row = {
  set?: string;
  seed: string;
  index: number;
  mixed: string;
  r: number;
  g: number;
  b: number;
  hex: string;
  hue: number;
  trit: number;
};

const folder = new URL('../golden/color/', import.meta.url);
const text = (name: string) => readFileSync(new URL(name, folder), 'utf8');
const rowsOf = (name: string) => (JSON.parse(text(name)) as { rows: Row[] }).rows;

test('the golden files are the ones of ORIGIN.json', () => {
  const { files } = JSON.parse(text('ORIGIN.json')) as { files: Record<string, { sha256: string }> };
  for (const [name, { sha256 }] of Object.entries(files)) {
    expect(createHash('sha256').update(text(name)).digest('hex'), name).toBe(sha256);
  }
});

describe.each([
  ['trace', 'seed1069.json', 230],
  ['gay.jl', 'hash_color.json', 218],
] as const)('scheme %s', (scheme, file, count) => {
  test('every golden row, exactly', () => {
    const rows = rowsOf(file);
    expect(rows).toHaveLength(count);
    for (const row of rows) {
      const color = colorAt({ seed: BigInt(row.seed), index: row.index, scheme });
      const at = `seed ${row.seed}, index ${row.index}`;
      expect(color, at).toMatchObject({ index: row.index, hex: row.hex, rgb: [row.r, row.g, row.b], trit: row.trit });
      // The file rounds half to even, we half up: they may differ in the last digit.
      expect(Math.abs(color.hsl.h - row.hue), at).toBeLessThan(1.5e-6);
    }
  });
});

test('the mixed words of the trace file are splitmix64(seed + index)', () => {
  for (const { seed, index, mixed } of rowsOf('seed1069.json')) {
    expect(splitmix64(BigInt(seed) + BigInt(index))).toBe(BigInt(mixed));
  }
});

test('bulk trace colors, every golden row', () => {
  for (const { seed, index, hex } of rowsOf('seed1069.json')) {
    const [packed] = traceColors({ seed: BigInt(seed), start: index }, new Uint32Array(1));
    expect(packed).toBe(Number.parseInt(hex.slice(1), 16));
  }
});

test('scheme gay-mcp: every golden row, exactly', () => {
  const rows = rowsOf('gay-mcp.json');
  expect(rows).toHaveLength(45);
  for (const { seed, index, hex, trit } of rows) {
    expect(colorAt({ seed: BigInt(seed), index, scheme: 'gay-mcp' }), `seed ${seed}, index ${index}`).toMatchObject({
      hex,
      trit,
    });
  }
});

test('the published trace of seed 1069', () => {
  const colors = palette({ seed: 1069n, n: 12 });
  expect(colors.map(({ hex }) => hex).join(' ')).toBe(
    '#6404C3 #EB6AF7 #7F1747 #4A4744 #3AC4D6 #6D2BEE #6BCECC #3B194C #9DA895 #1C45D5 #4ED072 #1F3EA5',
  );
  expect(colors.map(({ trit }) => trit)).toEqual([-1, -1, -1, 1, 0, -1, 0, -1, 1, 0, 0, 0]);
});
