import { mkdir, mkdtemp, readFile, rm } from 'node:fs/promises';
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

test('viz draws in contrast colors unless a scheme is asked for; --window puts single weights beside', async () => {
  const layer = 'model.layers.1.self_attn.k_proj.weight';
  const colorsOf = async (name: string, args: readonly string[]) => {
    const { code, stderr } = await runCli(['viz', 'default', '--layer', layer, '-o', name, ...args], { cwd });
    expect(code, stderr).toBe(0);
    const { palette, data, width } = decode(await readFile(join(cwd, name)));
    const counts = new Map<string, number>();
    for (const index of data) {
      const hex = `#${palette!
        [index]!.map((v) => v.toString(16).padStart(2, '0'))
        .join('')
        .toUpperCase()}`;
      counts.set(hex, (counts.get(hex) ?? 0) + 1);
    }
    return { width, count: (hex: string) => counts.get(hex) ?? 0 };
  };
  const contrast = await colorsOf('contrast.png', []);
  expect(['#0A1C66', '#F4F0E6', '#CD5B0A'].every((hex) => contrast.count(hex) > 10_000)).toBe(true);
  expect(contrast.count('#6404C3')).toBe(14 * 14);
  const seed = await colorsOf('seed.png', ['--scheme', 'trace']);
  expect(['#6404C3', '#EB6AF7', '#7F1747'].every((hex) => seed.count(hex) > 10_000)).toBe(true);
  expect(seed.count('#0A1C66')).toBe(0);
  const windowed = await colorsOf('window.png', ['--window', '5,400']);
  expect(windowed.width).toBeGreaterThan(contrast.width + 200);
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
  [['viz', 'default', '--layer', '*.0.*k_proj*', '--scheme', 'contrats'], 'did you mean contrast?'],
  [['viz', 'default', '--layer', '*.0.*k_proj*', '--window', '5'], '--window needs a row and a column'],
  [
    ['viz', 'default', '--layer', '*.0.*k_proj*', '--window', '5,512'],
    "the window's column must be an integer from 0 to 511",
  ],
  [['analyze', '/nowhere'], '/nowhere'],
])('%j is refused', async (args, message) => {
  const { code, stderr } = await runCli(args, { cwd });
  expect(code).toBe(2);
  expect(stderr).toContain(message);
});

test('analyze tells of groups: their scales, what is no trit, what is odd', async () => {
  const golden = join(import.meta.dirname, '../golden/qwen3');
  const odd = join(golden, 'qwen3_odd_code3_g64_s2603/q2_0_g64.gguf');
  const { code, stdout } = await runCli(['analyze', odd, '--layer', 'blk.0.attn_k.*'], { cwd });
  expect(code).toBe(0);
  expect(stdout).toMatch(
    /\+2: 165 weights of \+2 times their scale, no trits: the shares, sums and bits leave them out/,
  );
  expect(stdout.split('\n')[0]).toMatch(/bits +scales +min +median +max +of 0$/);
  expect(stdout).toMatch(/^blk\.0\.attn_k\.weight .* 1\.\d{3} +320 +0\.02950 +0\.07703 +0\.1672 +0$/m);
  const prism = await runCli(['analyze', join(golden, 'qwen3_all_layouts_s2601/ptq1_0.gguf')], { cwd });
  expect(prism.stderr).toContain('has no prism.hadamard keys');
  const drawn = await runCli(['viz', odd, '--layer', 'blk.0.attn_k.weight', '-o', 'odd.png'], { cwd });
  expect(drawn.code, drawn.stderr).toBe(0);
});

test('a folder is not written over', async () => {
  await mkdir(join(cwd, 'folder.png'));
  const layer = 'model.layers.1.self_attn.k_proj.weight';
  const { code, stderr } = await runCli(['viz', 'default', '--layer', layer, '-o', 'folder.png', '--max-side', '16'], {
    cwd,
  });
  expect(code).toBe(2);
  expect(stderr).toMatch(/cannot write here: this is a folder.*give the name of a file/);
});
