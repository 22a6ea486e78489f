// `npm run fuzz`: a short run of every target, which must find nothing, and readers with faults, which must be found.

import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';

// A bound for what hangs: fourteen targets one after the other, on a machine that may have other work.
vi.setConfig({ testTimeout: 1_200_000 });

const root = join(import.meta.dirname, '../..');
const FAULTS = join(import.meta.dirname, 'faults');

type Ended = { readonly code: number; readonly out: string };

/** In inputs, not in time: the same on a busy machine. */
function fuzz(...args: string[]): Promise<Ended> {
  return new Promise((resolve) => {
    execFile(process.execPath, [join(root, 'scripts/fuzz.mjs'), ...args], { cwd: root }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), out: stdout + stderr });
    });
  });
}

const TARGETS = readdirSync(import.meta.dirname)
  .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
  .map((name) => basename(name, '.ts'))
  .sort();

test('every reader of what others wrote has a target', () => {
  expect(TARGETS).toEqual([
    'config',
    'continuation-handle',
    'gguf',
    'gguf-model',
    'hub-answer',
    'mlx-pack',
    'model-folder',
    'safetensors',
    'sse',
    'strict-json',
    'structure',
    'template',
    'tokenizer-json',
    'tokenizer-model',
    'world-record',
  ]);
});

test('a short run of all finds nothing', async () => {
  // What the seeds go through, and more; those of templates alone are above a thousand.
  const { code, out } = await fuzz('--all', '--runs', '1500', '--seed', '1');
  for (const target of TARGETS) {
    expect(out).toMatch(new RegExp(`^${target}: 1500 inputs in .*, [1-9]\\d* of \\d+ places, .* 0 findings$`, 'm'));
  }
  expect(code, out).toBe(0);
});

describe('what is wrong is found, kept, and happens again', () => {
  test.each([
    ['throws', 'error: TypeError: the fault', 60_000, '679bc31e'],
    ['rejects', 'error: RangeError: nobody waits for this', 1000, 'ff'],
    // In so many inputs one is found, which takes five seconds; the second and third say the same.
    ['hangs', 'hang: more than 2 s of CPU time for one input', 700, undefined],
    ['grows', 'memory: ', 700, undefined],
    ['crashes', 'crash: ended with SIGABRT', 500, undefined],
  ])('%s', async (target, what, runs, least) => {
    const from = ['--folder', FAULTS, '--target', target];
    const { code, out } = await fuzz(...from, '--runs', `${runs}`, '--seed', '1');
    expect(out).toContain(`${target}: ${what}`);
    expect(code).toBe(1);
    const file = /--replay (\S+)/.exec(out)?.[1] ?? '';
    const bytes = readFileSync(join(root, file));
    // A plain failure is made as short as it gets.
    if (least === undefined) expect(bytes[0]).toBe(0xff);
    else expect(bytes.toString('hex')).toBe(least);
    const again = await fuzz(...from, '--replay', file);
    expect(again.out).toContain(what);
    expect(again.code).toBe(1);
  });

  test('the same seed takes the same way', async () => {
    const run = async (seed: string) => {
      const { out } = await fuzz('--target', 'world-record', '--runs', '3000', '--seed', seed);
      return out.replace(/ in [\d.]+ s/, '');
    };
    expect(await run('7')).toBe(await run('7'));
  });

  test('a reader without fault', async () => {
    const { code, out } = await fuzz('--folder', FAULTS, '--target', 'none', '--runs', '500');
    expect([code, out]).toEqual([0, expect.stringContaining('0 findings')]);
  });
});

test('arguments that are none are refused', async () => {
  expect(await fuzz('--target', 'absent')).toMatchObject({ code: 2, out: expect.stringContaining('gguf') });
  expect(await fuzz('--all', '--runs', '1e6')).toMatchObject({ code: 2, out: expect.stringContaining('--runs') });
});
