// What can be said about the kernels without running them: signatures against the host's lists, threadgroup memory,
// address spaces.

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import {
  checkAddressSpaces,
  findTools,
  joinKernels,
  KERNELS as KERNEL_FOLDER,
  readKernels,
  readStructs,
} from '../../scripts/metal-tools.mjs';
import { readKernelText } from '../../src/engine/metal/shaders.ts';
import { KERNELS, packStruct, STRUCTS } from '../../src/engine/metal/signatures.ts';

const text = readKernelText();
const folder = mkdtempSync(join(tmpdir(), 'metal-'));
afterAll(() => rmSync(folder, { recursive: true }));

test('the checks and the host join the same text', () => {
  expect(joinKernels().text).toBe(text);
});

test('argument structs: fields, order and types', () => {
  const fields = Object.fromEntries(
    Object.entries(readStructs(text)).map(([name, list]) => [name, list.map((f) => [f.name, f.type])]),
  );
  expect(fields).toEqual(
    Object.fromEntries(Object.entries(STRUCTS).map(([name, list]) => [name, Object.entries(list)])),
  );
});

test('kernels: every argument at its index', () => {
  const kernels = readKernels(text);
  expect(kernels.map(({ name }) => name).sort()).toEqual(Object.keys(KERNELS).sort());
  for (const { name, parameters } of kernels) {
    const buffers = parameters.filter((p) => p.attribute === 'buffer');
    const listed = Object.entries(KERNELS[name as keyof typeof KERNELS]);
    expect(buffers.map((p) => p.name)).toEqual(listed.map(([argument]) => argument));
    buffers.forEach((p, i) => {
      expect(p.index).toBe(i);
      const kind = listed[i]![1];
      expect(p.constant ? p.type : i).toBe(p.constant ? `constant ${kind}&` : kind);
    });
  }
});

test('structs are packed field by field, floats as their bits', () => {
  const row = { stride4: 4, width: 13, eps: 1e-5, keep: 0, status_at: 2 ** 32 - 1 };
  expect(packStruct('RowArgs', row)).toEqual([4, 0x41500000, 0x3727c5ac, 0, 0xffffffff]);
  expect(() => packStruct('SelectArgs', { stride4: -1 })).toThrow(RangeError);
  expect(() => packStruct('SelectArgs', { stride4: 0.5 })).toThrow(RangeError);
  expect(() => packStruct('SelectArgs', { stride4: 2 ** 32 })).toThrow(RangeError);
  expect(() => packStruct('SelectArgs', {})).toThrow('SelectArgs.stride4 is missing');
});

test('no kernel takes more than half of the 32 KiB of threadgroup memory by much', () => {
  for (const { name, threadgroupBytes } of readKernels(text)) {
    expect([name, threadgroupBytes <= 18 * 1024]).toEqual([name, true]);
  }
});

/** A copy of the kernels with one replacement. */
function mutated(file: string, from: string, to: string): string {
  const copy = join(folder, `copy-${Math.random()}`);
  cpSync(KERNEL_FOLDER, copy, { recursive: true });
  const source = readFileSync(join(copy, file), 'utf8');
  expect(source).toContain(from);
  writeFileSync(join(copy, file), source.replace(from, to));
  return copy;
}

const { clangMissing } = findTools();
if (clangMissing !== undefined)
  process.stderr.write(`\nSKIPPED: no check of the kernels' address spaces: ${clangMissing}\n\n`);

describe.skipIf(clangMissing !== undefined)('address spaces', () => {
  test('the kernels type-check', () => checkAddressSpaces());

  test.each([
    [
      'a device pointer as a threadgroup pointer',
      'common.metal',
      'threadgroup float* scratch',
      'device float* scratch',
    ],
    [
      'a write through a const pointer',
      'rows.metal',
      'device half4* codes, device float2*',
      'device const half4* codes, device float2*',
    ],
    [
      'a pointer without an address space',
      'rows.metal',
      'thread const float4* v, uint stride4',
      'const float4* v, uint stride4',
    ],
    ['a write to a constant', 'rows.metal', 'float squares = 0.0f;\n', 'float squares = 0.0f;\n    a.eps = 0.0f;\n'],
    ['a mixed max', 'rows.metal', 'max(as_type<float>(bits), 1e-5f)', 'max(bits, 1e-5f)'],
    ['a double', 'rows.metal', 'float sum = 0.0f;', 'double sum = 0.0;'],
    ['a vector narrowed in silence', 'rows.metal', '= half4(q);', '= q;'],
    [
      'a half matrix into a float accumulator',
      'ternary.metal',
      'simdgroup_float8x8 sums[8];',
      'simdgroup_half8x8 sums[8];',
    ],
    [
      'threadgroup sums as device memory',
      'grouped.metal',
      'threadgroup int* sums, uint lane)',
      'device int* sums, uint lane)',
    ],
    ['a write to the weights', 'grouped.metal', 'float4 x[TOKENS];', 'float4 x[TOKENS];\n        w[0] = q;'],
    ['int16 codes from floats in silence', 'exact.metal', 'short4 q = short4(0, 0, 0, 0);', 'short4 q = v[k];'],
    ['a rotation in device memory', 'exact.metal', 'threadgroup float* v, uint count', 'device float* v, uint count'],
    [
      'a write to the runs',
      'hybrid.metal',
      'uint4 run = runs[group.y];',
      'uint4 run = runs[group.y];\n    runs[0] = run;',
    ],
    ['experts as floats', 'grouped.metal', 'const uint expert = experts[', 'device const float* expert = experts['],
    ['as_type between sizes', 'dense.metal', 'as_type<half2>(a)', 'as_type<half4>(a)'],
    [
      'local memory bound to a device pointer',
      'ternary.metal',
      'device const uint4* w = m.which',
      'threadgroup const uint4* w = m.which',
    ],
  ])('%s is an error', (_, file, from, to) => {
    expect(() => checkAddressSpaces(mutated(file, from, to))).toThrow();
  });
});
