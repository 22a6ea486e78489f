// Machine code of the CUDA kernels through npm's tarball: what packages of a version hold is made where nvcc is, but the way
// there is the same for any bytes.

import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { packCubins, whyCubinsNotCurrent } from '../../scripts/cubins.mjs';
import { CUBINS, findCubin, kernelSources } from '../../src/engine/cuda/kernels.ts';
import { ROOT } from '../mcp/server-process.ts';
import { run, temporaryFolder } from './packed-program.ts';

test('they are found in what npm unpacks, whole and of its sources', () => {
  using folder = temporaryFolder();
  const root = join(folder.path, 'sources');
  mkdirSync(root);
  const { name, version, files, license } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));
  writeFileSync(join(root, 'package.json'), JSON.stringify({ name, version, files, license }));
  for (const source of kernelSources(ROOT)!) cpSync(join(ROOT, 'kernels', source), join(root, 'kernels', source));
  const cubins = new Map(
    CUBINS.map((capability) => [capability as number, Buffer.alloc(3000, `code for ${capability}; `)]),
  );
  packCubins(cubins, root, 'a compiler');

  const packed = run('npm', ['pack', root, '--json', '--ignore-scripts'], folder.path);
  expect(packed.status, packed.stderr).toBe(0);
  const [{ filename }] = Object.values(JSON.parse(packed.stdout)) as [{ filename: string }];
  expect(run('tar', ['xzf', filename], folder.path).status).toBe(0);
  const installed = join(folder.path, 'package');
  expect(whyCubinsNotCurrent(installed)).toBeUndefined();
  for (const [capability, bytes] of cubins) {
    const found = findCubin(capability, installed);
    expect('bytes' in found && Buffer.compare(found.bytes, bytes)).toBe(0);
  }
});
