import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { cpuFeatures } from '../../src/cli/doctor.ts';

const folder = mkdtempSync(join(tmpdir(), 'cpuinfo-'));
afterAll(() => rmSync(folder, { recursive: true }));

test('the features are those that the kernels know, as Linux lists them', () => {
  const file = join(folder, 'cpuinfo');
  writeFileSync(file, 'processor\t: 0\nflags\t\t: fpu avx2 f16c avx512f sse\nbugs\t\t:\n');
  expect(cpuFeatures(['scalar'], file)).toEqual(['avx2', 'f16c', 'avx512f']);
});

test('where no system lists them, what the native kernels found is told', () => {
  const none = join(folder, 'none');
  const arm = process.arch === 'arm64' ? ['asimd'] : [];
  expect(cpuFeatures([], none)).toEqual(arm);
  expect(cpuFeatures(['scalar'], none)).toEqual(arm);
  expect(cpuFeatures(['avx512', 'avx2', 'scalar'], none)).toEqual(
    expect.arrayContaining(['avx2', 'f16c', 'avx512f', 'avx512bw', 'avx512_vnni']),
  );
  expect(cpuFeatures(['neon-i8mm', 'neon-dot', 'neon', 'scalar'], none)).toEqual(['asimd', 'asimddp', 'i8mm']);
});
