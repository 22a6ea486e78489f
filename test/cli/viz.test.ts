import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { decode } from 'fast-png';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { layerOfFileName } from '../../src/cli/viz.ts';
import { runCli } from './run-cli.ts';

let cwd: string;
beforeAll(async () => {
  cwd = await mkdtemp(join(tmpdir(), 'viz-'));
});
afterAll(() => rm(cwd, { recursive: true }));

test.each([
  ['layer_0.weights.png', { index: 0, matrix: undefined }],
  ['some/where/layer_12.weights.png', { index: 12, matrix: undefined }],
  ['layer_3.q_proj.weights.png', { index: 3, matrix: 'q_proj' }],
  ['layer_3.png', undefined],
  ['default', undefined],
  ['model.safetensors', undefined],
])('%s names %j', (name, form) => {
  expect(layerOfFileName(name)).toEqual(form);
});

test('viz layer_0.weights.png draws every matrix of layer 0', async () => {
  const { code, stdout } = await runCli(['viz', 'layer_0.weights.png', '--max-side', '64', '--json'], { cwd });
  expect(code).toBe(0);
  const { file, layers } = JSON.parse(stdout);
  expect(file).toBe('layer_0.weights.png');
  const all = JSON.parse((await runCli(['analyze', 'default', '--layer', 'model.layers.0.*', '--json'])).stdout);
  expect(layers).toEqual(all.layers.map(({ name }: { name: string }) => name));
  expect(decode(await readFile(join(cwd, file))).width).toBeGreaterThan(64);
});

test('viz MODEL --layer NAME -o FILE draws one', async () => {
  const args = [
    'viz',
    'default',
    '--layer',
    'model.layers.1.self_attn.k_proj.weight',
    '-o',
    'k.png',
    '--max-side',
    '64',
  ];
  expect(await runCli(args, { cwd })).toEqual({
    code: 0,
    stdout: '',
    stderr: 'wrote k.png: model.layers.1.self_attn.k_proj.weight\n',
  });
  expect(decode(await readFile(join(cwd, 'k.png'))).height).toBeGreaterThan(0);
});

test('analyze prints a row a layer, the total and its conservation', async () => {
  const { stdout } = await runCli(['analyze', 'default', '--layer', '*.0.mlp.*']);
  const lines = stdout.trimEnd().split('\n');
  expect(lines).toHaveLength(6);
  expect(lines[1]).toMatch(
    /^model\.layers\.0\.mlp\.\w+\.weight +\d+ x \d+ +\d+\.\d\d% +\d+\.\d\d% +\d+\.\d\d% +-?\d+ +[012] [✓✗] /,
  );
  expect(lines[4]).toMatch(/^total /);
  expect(lines[5]).toMatch(/^GF\(3\) trit sum: -?\d+ mod 3 = [012] (✓ CONSERVED|✗ NOT CONSERVED)$/);
});

test.each([
  [['viz', 'default'], 'viz needs --layer'],
  [['viz', 'layer_99.weights.png'], 'the model has no layer 99; layers go from 0 to'],
  [['viz', 'layer_0.nose.weights.png'], 'layer 0 has no matrix "nose"; it has'],
  [['viz', 'default', '--layer', 'nothing'], 'no ternary layer matches "nothing"'],
  [['analyze', '/nowhere'], '/nowhere'],
])('%j is refused', async (args, message) => {
  const { code, stderr } = await runCli(args, { cwd });
  expect(code).toBe(2);
  expect(stderr).toContain(message);
});

test('a folder is not written over', async () => {
  const layer = 'model.layers.1.self_attn.k_proj.weight';
  const { code, stderr } = await runCli(['viz', 'default', '--layer', layer, '-o', '.', '--max-side', '16'], { cwd });
  expect(code).toBe(2);
  expect(stderr).toMatch(/cannot write here: this is a folder.*give the name of a file/);
});
