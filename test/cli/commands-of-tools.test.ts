// world step, world invert and triad: the tools' other faces; and what commands read and write by name.

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { balanceTriadTool } from '../../src/tools/balance-triad.ts';
import { morphismInvertTool } from '../../src/tools/morphism-invert.ts';
import { morphismStepTool } from '../../src/tools/morphism-step.ts';
import { MAIN, type Run, runCli } from './run-cli.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'bitnet-faces-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const world = (...args: string[]) => runCli(['world', ...args], { env: { BITNET_WORLDS: folder }, cwd: folder });

describe('triad', () => {
  test('says whether skills balance, and what completes them', async () => {
    expect(await runCli(['triad', 'mlx-bitnet-gf3', 'unworlding-involution'])).toEqual({
      code: 0,
      stdout: [
        '  [+] mlx-bitnet-gf3',
        '  [+] unworlding-involution',
        'GF(3) trit sum: 2 mod 3 = 2 ✗ NOT CONSERVED',
        'a trit +1 completes it: gay-mcp',
        '',
      ].join('\n'),
      stderr: '',
    });
  });

  test('takes trits, negative ones too, and gives what the tool gives', async () => {
    const { stdout } = await runCli(['triad', '1', '-1', '+1', '0', '--json']);
    const result = JSON.parse(stdout);
    expect(balanceTriadTool.output.safeParse(result).error).toBeUndefined();
    expect(result).toMatchObject({ sum: 1, residue: 1, conserved: false, completing_trit: -1 });
  });

  test.each([
    [[], 'triad needs MEMBER'],
    [['2'], 'a trit is -1, 0 or 1, got "2"'],
    [['1.5'], 'a trit is -1, 0 or 1, got "1.5"'],
    [['1', 'geb'], 'trits and skills together: 1 and geb'],
    [['gebb'], 'did you mean geb?'],
  ])('%j is a wrong call', async (args, message) => {
    const { code, stdout, stderr } = await runCli(['triad', ...args]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(message);
  });
});

describe('world step and world invert', () => {
  const ids: string[] = [];

  test('a step, another from the latest, and both taken back', async () => {
    const first = await world('step', '--text', 'The little fox ran home.', '--conserve', '--json');
    expect(first).toMatchObject({ code: 0, stderr: '' });
    const one = JSON.parse(first.stdout);
    expect(morphismStepTool.output.safeParse(one).error).toBeUndefined();
    expect(one).toMatchObject({ conserved: true, gf3_residue: 0 });
    // Layers in which nothing changed would only be in the way.
    expect(one.layers.length).toBeGreaterThan(0);
    expect(one.layers.every(({ flips }: { flips: number }) => flips > 0)).toBe(true);

    const second = await world('step', 'latest', '--text', 'A hen.', '--text', 'An owl.', '--lr', '0.00001');
    expect(second.code).toBe(0);
    expect(second.stdout).toContain(`${one.world_after.slice(0, 12)} -> `);
    expect(second.stdout).toMatch(/^loss \d+\.\d{4} -> \d+\.\d{4} nats per token on these texts, gained [+-]/m);
    expect(second.stderr).toContain('back: bitnet-gf3 world invert ');

    const back = await world('invert', 'latest');
    expect(back.stdout).toContain(
      `-> ${one.world_after.slice(0, 12)}: back where the step began, 1 step from the model`,
    );
    const start = JSON.parse((await world('invert', one.world_after, '--json')).stdout);
    expect(morphismInvertTool.output.safeParse(start).error).toBeUndefined();
    expect(start).toMatchObject({ world: one.world_before, step_count: 0, morphism: { conserve: true } });
    ids.push(one.world_before, one.world_after);
  });

  test('a step with SGD that flips nothing says so', async () => {
    const { stdout, stderr } = await world('step', ids[1]!, '--text', 'A fox.', '--optimizer', 'sgd', '--lr', '1e-9');
    expect(stdout).toContain('0 trits flipped in 0 matrices; their changes sum to 0 mod 3 = 0 ✓ CONSERVED');
    expect(stderr).toContain('no trit flipped');
  });

  test('diff leaves out what did not change', async () => {
    const { layers, flips } = JSON.parse((await world('diff', ids[0]!, ids[1]!, '--json')).stdout);
    expect(flips).toBeGreaterThan(0);
    expect(layers.every((layer: { flips: number }) => layer.flips > 0)).toBe(true);
    expect(JSON.parse((await world('diff', ids[0]!, ids[0]!, '--json')).stdout)).toMatchObject({
      flips: 0,
      layers: [],
    });
  });

  test.each([
    [['step'], 'world step needs --text; for example'],
    [['step', 'latest', 'more', '--text', 'a'], 'world step takes at most 1 id, got 2'],
    [['step', 'latest', '--text', 'a', '--model', 'default'], 'world and model together'],
    [['step', '--text', 'a', '--lr', '0'], 'lr must be a number'],
    [['step', '--text', 'a', '--optimizer', 'adam'], 'did you mean adamw?'],
    [['invert'], 'world invert takes 1 id, got 0'],
    [['invert', 'ffff'], 'ffff'],
    [['invrt', 'latest'], 'did you mean invert?'],
    [['list', '--text', 'a'], 'world list takes no --text; leave it out; it goes with world step'],
    [['log', 'latest', '--steps', '2'], 'world log takes no --steps'],
    [['diff', 'latest', 'latest', '-o', 'flips.jpg'], 'pictures are written as PNG'],
  ])('%j is a wrong call', async (args, message) => {
    const { code, stdout, stderr } = await world(...args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(message);
  });
});

function withStdin(args: readonly string[], input: string | Uint8Array): Promise<Run> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [MAIN, ...args]);
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text) => {
      stderr += text;
    });
    child.on('close', (code) => resolve({ code, stdout, stderr }));
    child.stdin.on('error', () => {});
    child.stdin.end(input);
  });
}

describe('infer reads standard input', () => {
  const outputOf = ({ stdout }: Run) => JSON.parse(stdout).output as string;
  const flags = ['--max-tokens', '4', '--json'];

  test('from a pipe or by -, without the last line break, as if it were given', async () => {
    const given = outputOf(await runCli(['infer', 'Once upon a time', ...flags]));
    expect(outputOf(await withStdin(['infer', ...flags], 'Once upon a time\n'))).toBe(given);
    expect(outputOf(await withStdin(['infer', '-', ...flags], 'Once upon a time\r\n'))).toBe(given);
    // Only one: what is left is the prompt's own.
    expect(outputOf(await withStdin(['infer', '-', ...flags], 'Once\n\n'))).toMatch(/^Once\n/);
    // A prompt that is given wins, and nobody waits for the pipe.
    expect(outputOf(await withStdin(['infer', 'Once upon a time', ...flags], 'not this'))).toBe(given);
  });

  test.each([
    ['', [], 'infer needs PROMPT'],
    ['\n', ['-'], 'standard input is empty'],
    [Uint8Array.of(0x4f, 0xff, 0xfe), ['-'], 'standard input is not UTF-8 text'],
  ])('%j %j is a wrong call', async (input, args, message) => {
    const { code, stdout, stderr } = await withStdin(['infer', ...args], input);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(message);
  });
});

describe('a name says what is in the file', () => {
  test.each([
    [
      ['viz', 'default', '--layer', '*.0.mlp.up_proj.weight', '-o', 'x.jpg'],
      'this name ends in .jpg (x.jpg); name it x.png',
    ],
    [['viz', 'layer_0.weights.jpeg'], 'this name ends in .jpeg (layer_0.weights.jpeg); name it layer_0.weights.png'],
    [['palette', '3', '-o', 'colors'], 'this name ends in nothing (colors); name it colors.png'],
    [['eval', 'default', '--ids', '1,2', '--logits', 'x.npy'], 'name it x.safetensors'],
    [['convert', 'default', 'x.bin'], 'no .bin file can be written (x.bin)'],
    [['convert', 'default', 'x.safetensors'], 'no .safetensors file can be written'],
    [['convert', 'default', 'folder', '--to', 'gguf-tq2_0'], 'name it folder.gguf'],
    [['convert', 'default', 'x.gguf', '--to', 'hf'], '--to hf makes a folder'],
  ])('%j is refused before anything is done', async (args, message) => {
    const { code, stdout, stderr } = await runCli(args, { cwd: folder });
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(message);
    expect(existsSync(join(folder, args.at(-1)!))).toBe(false);
  });

  test('capital letters, a version at the end of a folder, and --to for any folder are taken', async () => {
    expect((await runCli(['palette', '3', '-o', 'COLORS.PNG'], { cwd: folder })).code).toBe(0);
    expect((await runCli(['convert', 'default', 'copy-b1.58'], { cwd: folder })).code).toBe(0);
    expect((await runCli(['convert', 'default', 'copy.final', '--to', 'hf'], { cwd: folder })).code).toBe(0);
  });
});

test('-v, -V and --version are one', async () => {
  const [version, ...others] = await Promise.all(['--version', '-v', '-V'].map((flag) => runCli([flag])));
  expect(version!.stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  for (const other of others) expect(other).toEqual(version);
});

test('help tells the seed of the sampling', async () => {
  expect((await runCli(['infer', '--help'])).stdout).toMatch(/--sample-seed S .*default 0\)/);
});
