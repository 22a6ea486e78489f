import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { TernaryLayer } from '../../src/formats/ternary-layers.ts';
import { writeSafetensors } from '../../src/formats/write-safetensors.ts';
import { packRowquad } from '../../src/quant/rowquad.ts';
import { openTernaryModel, selectLayers } from '../../src/tools/ternary-model.ts';
import { tritWindowText } from '../../src/tools/trit-window.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'ternary-'));
});
afterAll(() => rm(folder, { recursive: true }));

const services = { generate: () => Promise.reject(new Error('not called')) };

/** Only the names matter. */
const named = (...names: string[]) => names.map((name) => ({ name }) as TernaryLayer);
const matches = (glob: string, name: string) => {
  try {
    return selectLayers(named(name), glob).length === 1;
  } catch {
    return false;
  }
};

test.each([
  ['model.*.mlp', 'model.0.mlp.weight', true],
  ['model.?.mlp', 'model.0.mlp', true],
  ['model.?.mlp', 'model.10.mlp', false],
  ['modelX0', 'model.0', false],
  ['a*b*c', 'a.b.b.d.c', true],
  ['a**?', 'a', false],
  ['*ab', 'aab', true],
  ['a*', 'a\nb', true],
  ['(a+)[b]', '(a+)[b]', true],
])('%j on %j: %s', (glob, name, expected) => {
  expect(matches(glob, name)).toBe(expected);
});

test('globs select what the same regular expression does', () => {
  const glob = fc.string({ unit: fc.constantFrom('a', 'b', '*', '?'), minLength: 1, maxLength: 8 });
  const text = fc.string({ unit: fc.constantFrom('a', 'b', '*'), maxLength: 8 });
  fc.assert(
    fc.property(glob, text, (pattern, name) => {
      const source = pattern.replaceAll('?', '.').replace(/\*+/g, '.*');
      expect(matches(pattern, name)).toBe(new RegExp(`^${source}$`, 's').test(name));
    }),
  );
});

test('a hostile glob is answered at once', () => {
  const started = performance.now();
  expect(matches(`${'*?'.repeat(50)}Z`, 'a'.repeat(5000))).toBe(false);
  expect(performance.now() - started).toBeLessThan(5000);
});

async function modelFolder(name: string): Promise<string> {
  const path = join(folder, name);
  await mkdir(path);
  // 16 rows of one column; row r holds r mod 3 - 1.
  const trits = Int8Array.from({ length: 16 }, (_, row) => (row % 3) - 1);
  await writeSafetensors(join(path, 'model.safetensors'), [
    { name: 'layers.0.up.weight', dtype: 'U8', shape: [4, 1], bytes: packRowquad(trits, 16, 1) },
    { name: 'layers.0.up.weight_scale', dtype: 'F32', shape: [1], bytes: new Uint8Array(Float32Array.of(1).buffer) },
  ]);
  return path;
}

test('a config.json that is no file, or too large for one, is refused before it is read', async () => {
  const withFolder = await modelFolder('config-folder');
  await mkdir(join(withFolder, 'config.json'));
  await expect(openTernaryModel(withFolder)).rejects.toThrow(/not a regular file .*config\.json/);

  const withHuge = await modelFolder('config-huge');
  await writeFile(join(withHuge, 'config.json'), '');
  await truncate(join(withHuge, 'config.json'), 8 * 2 ** 30);
  await expect(openTernaryModel(withHuge)).rejects.toThrow(/8589934592 bytes, at most 1048576 are read .*config\.json/);
});

test('a window has all of its rows in order', async () => {
  const model = await modelFolder('window');
  const text = await tritWindowText({ model, layer: 'layers.0.up.weight', row: 5, column: 0 }, { services });
  expect(text).toBe('+-o+-o+-o+-'.split('').join('\n'));
});

test('what lies behind the wanted rows is not read', async () => {
  const path = join(folder, 'damaged.safetensors');
  // More than one read of 4 MB; the last byte holds the code that no trit has.
  const bytes = new Uint8Array(1100 * 4096).fill(0x55);
  bytes[bytes.length - 1] = 0xff;
  await writeSafetensors(path, [
    { name: 'a.weight', dtype: 'U8', shape: [1100, 4096], bytes },
    { name: 'a.weight_scale', dtype: 'F32', shape: [1], bytes: new Uint8Array(Float32Array.of(1).buffer) },
  ]);
  const window = (row: number) => tritWindowText({ model: path, layer: 'a.weight', row, column: 0 }, { services });
  expect((await window(0)).split('\n')).toHaveLength(128);
  await expect(window(4399)).rejects.toThrow();
});
