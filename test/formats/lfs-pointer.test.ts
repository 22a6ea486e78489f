// A pointer of Git LFS in the place of each file of a model: everybody who opens one says what it is and what helps.

import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import { isLfsPointer } from '../../src/formats/lfs-pointer.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { SafetensorsFile } from '../../src/formats/safetensors-file.ts';
import { resolveModel } from '../../src/hub/resolve-model.ts';
import { packageRoot } from '../../src/package/root.ts';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';

const POINTER =
  'version https://git-lfs.github.com/spec/v1\n' +
  'oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 1180000000\n';
const SAID = /Git LFS pointer.*\(.*\).*`git lfs pull`.*`bitnet-gf3 pull`/;

const root = mkdtempSync(join(tmpdir(), 'lfs-'));
afterAll(() => rmSync(root, { recursive: true }));

function pointer(name: string): string {
  const path = join(root, name);
  writeFileSync(path, POINTER);
  return path;
}

test.each<[string, (path: string) => unknown]>([
  ['model.safetensors', (path) => SafetensorsFile.open(path)],
  ['other.safetensors', openCheckpoint],
  ['model.safetensors.index.json', openCheckpoint],
  ['x.gguf', (path) => GgufFile.open(path)],
  ['y.gguf', (path) => resolveModel(path)],
  ['weights.bin', (path) => resolveModel(path)],
])('%s', async (name, open) => {
  await expect((async () => open(pointer(name)))()).rejects.toThrow(SAID);
});

test.each(['tokenizer.json', 'tokenizer_config.json', 'tokenizer.model'])('%s', async (name) => {
  const folder = join(root, `with-${name}`);
  cpSync(join(packageRoot(), 'models/default'), folder, {
    recursive: true,
    filter: (path) => !/master|\.safetensors$/.test(path),
  });
  if (name === 'tokenizer.model') rmSync(join(folder, 'tokenizer.json'));
  writeFileSync(join(folder, name), POINTER);
  await expect(loadTokenizer(folder)).rejects.toThrow(SAID);
});

test('nothing else is one', () => {
  expect(isLfsPointer('version https://hawser.github.com/spec/v1\n')).toBe(true);
  for (const text of ['version 1', '', 'xversion https://git-lfs.github.com/spec/v1', 'version https://example.org/'])
    expect(isLfsPointer(text)).toBe(false);
});
