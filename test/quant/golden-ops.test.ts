// Weight and activation quantization against Hugging Face transformers' own numbers (test/golden/ops/ORIGIN.json).

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { SafetensorsFile } from '../../src/formats/safetensors-file.ts';
import { absmaxQuantize } from '../../src/quant/absmax.ts';
import { absmean } from '../../src/quant/absmean.ts';
import { NonFiniteValueError } from '../../src/quant/errors.ts';
import { packRowquad, unpackRowquad } from '../../src/quant/rowquad.ts';
import { toFloat32 } from '../../src/quant/to-float32.ts';

type Case = { name: string; outputs: string[]; absmean?: number; fragile?: number[]; rows?: number; cols?: number };

const folder = join(import.meta.dirname, '../golden/ops');
const casesOf = (op: string): Case[] => JSON.parse(readFileSync(join(folder, `${op}.json`), 'utf8')).cases;

/** One unit in the last place relative to the value, for the 16-bit types; 1e-6 for float32. */
const RELATIVE: Record<string, number> = { F32: 1e-6, BF16: 2 ** -7, F16: 2 ** -10 };

describe('weight_quant', () => {
  let file: SafetensorsFile;
  beforeAll(async () => {
    file = await SafetensorsFile.open(join(folder, 'weight_quant.safetensors'));
  });
  afterAll(() => file[Symbol.dispose]());

  test.each(casesOf('weight_quant').filter((c) => !c.name.startsWith('nonfinite')))('$name', async (c) => {
    const stored = await file.read(`${c.name}.w`);
    const [rows, columns] = stored.shape as [number, number];
    const { trits, scale } = absmean(toFloat32(stored), rows, columns);
    const want = new Int8Array((await file.read(`${c.name}.trits`)).bytes.buffer);
    const fragile = new Set(c.fragile ?? []);
    for (let i = 0; i < want.length; i++) {
      if (!fragile.has(i)) expect(trits[i], `trit ${i}`).toBe(want[i]);
    }
    const packed = await file.readBytes(`${c.name}.packed`);
    expect(unpackRowquad(packed, rows, columns)).toEqual(want);
    expect(packRowquad(want, rows, columns)).toEqual(packed);
    expect(Math.abs(scale - Math.max(c.absmean!, 1e-5))).toBeLessThanOrEqual(1e-6 * scale);
    const dequant = toFloat32(await file.read(`${c.name}.dequant`));
    for (let i = 0; i < want.length; i++) {
      if (fragile.has(i)) continue;
      expect(Math.abs(want[i]! * scale - dequant[i]!)).toBeLessThanOrEqual(
        RELATIVE[stored.dtype]! * Math.abs(dequant[i]!),
      );
    }
  });

  test.each(casesOf('weight_quant').filter((c) => c.name.startsWith('nonfinite')))('$name is refused', async (c) => {
    const stored = await file.read(`${c.name}.w`);
    const [rows, columns] = stored.shape as [number, number];
    expect(() => absmean(toFloat32(stored), rows, columns)).toThrow(NonFiniteValueError);
  });
});

describe('act_quant', () => {
  let file: SafetensorsFile;
  beforeAll(async () => {
    file = await SafetensorsFile.open(join(folder, 'act_quant.safetensors'));
  });
  afterAll(() => file[Symbol.dispose]());

  test.each(casesOf('act_quant'))('$name', async (c) => {
    const stored = await file.read(`${c.name}.x`);
    const [rows, columns] = stored.shape as [number, number];
    const x = toFloat32(stored);
    const codes = new Int8Array(columns);
    const dequant = toFloat32(await file.read(`${c.name}.dequant`));
    const q = c.outputs.includes('q') ? new Int8Array((await file.read(`${c.name}.q`)).bytes.buffer) : undefined;
    const scales = c.outputs.includes('scale') ? toFloat32(await file.read(`${c.name}.scale`)) : undefined;
    const fragile = new Set(c.fragile ?? []);
    for (let row = 0; row < rows; row++) {
      const input = x.subarray(row * columns, (row + 1) * columns);
      if (input.some((value) => !Number.isFinite(value))) {
        expect(() => absmaxQuantize(input, codes)).toThrow(NonFiniteValueError);
        continue;
      }
      const scale = absmaxQuantize(input, codes);
      if (scales !== undefined) expect(Math.abs(scale - scales[row]!)).toBeLessThanOrEqual(1e-6 * scales[row]!);
      for (let i = 0; i < columns; i++) {
        const at = row * columns + i;
        if (q !== undefined) {
          if (fragile.has(at)) expect(Math.abs(codes[i]! - q[at]!)).toBeLessThanOrEqual(1);
          else expect(codes[i], `code ${at}`).toBe(q[at]);
        }
        if (!fragile.has(at)) {
          const limit = RELATIVE[stored.dtype]! * Math.abs(dequant[at]!);
          expect(Math.abs(codes[i]! / scale - dequant[at]!)).toBeLessThanOrEqual(limit);
        }
      }
    }
  });
});
