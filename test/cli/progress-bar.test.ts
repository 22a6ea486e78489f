// Long work shows a bar on a terminal's stderr, and only there.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { COMMANDS, loadCommand } from '../../src/cli/commands.ts';
import { Output } from '../../src/cli/output.ts';
import { parseFlags } from '../../src/cli/parse-flags.ts';

const golden = (name: string) => fileURLToPath(new URL(`../golden/${name}`, import.meta.url));

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'progress-'));
});
afterAll(() => rm(folder, { recursive: true }));
afterEach(() => vi.restoreAllMocks());

/** Runs a command with a stderr of our own; every look at the clock is a second later. */
async function run(args: readonly string[], { isTTY }: { isTTY: boolean }) {
  const written: { stdout: string[]; stderr: string[] } = { stdout: [], stderr: [] };
  const stream = (name: keyof typeof written) =>
    ({ isTTY, columns: 100, write: (text: string) => void written[name].push(text) }) as never as NodeJS.WriteStream;
  let now = 0;
  vi.spyOn(performance, 'now').mockImplementation(() => {
    now += 1000;
    return now;
  });
  const [name, ...rest] = args;
  const command = await loadCommand(COMMANDS.find((entry) => entry.name === name)!);
  const output = new Output(stream('stdout'), stream('stderr'), {});
  const { signal } = new AbortController();
  const code = (await command.run({ ...parseFlags(command, rest), output, signal })) ?? 0;
  return { code, ...written };
}

/** Lines of the bar, without what moves the cursor. */
const barsOf = (stderr: readonly string[]) =>
  stderr.filter((text) => text.startsWith('\r\x1b[K') && text.length > 4).map((text) => text.slice(4));

const percentOf = (bar: string) => Number(/ (\d+)%/.exec(bar)![1]);

let files = 0;
const WORK: readonly [string, () => string[], RegExp][] = [
  ['verify', () => ['verify', golden('model/bitnet_packed_a_s111'), '--backend', 'js'], /loading layer 1 of/],
  ['verify of a training step', () => ['verify', golden('train/qat_step_a_s611'), '--backend', 'js'], /pass 2 of 30/],
  ['convert to GGUF', () => ['convert', 'default', join(folder, `${files++}.gguf`)], /reading layer 2 of/],
  ['convert to a folder', () => ['convert', 'default', join(folder, `${files++}`)], /writing tensor 2 of/],
];

describe.each(WORK)('%s', (_name, args, doing) => {
  test('shows on a terminal how far it is, and takes the bar away before it prints', async () => {
    const { code, stdout, stderr } = await run(args(), { isTTY: true });
    expect(code).toBe(0);
    const bars = barsOf(stderr);
    expect(bars.some((bar) => doing.test(bar))).toBe(true);
    const percents = bars.map(percentOf);
    expect(percents).toEqual(percents.toSorted((a, b) => a - b));
    expect(percents.at(-1)).toBeGreaterThan(90);
    expect(stderr.filter((text) => text === '\r\x1b[K')).toHaveLength(1);
    expect(stderr.at(-1)).toBe('\r\x1b[K');
    expect(stdout.length).toBeGreaterThan(0);
  });

  test('shows nothing where stderr is no terminal', async () => {
    expect((await run(args(), { isTTY: false })).stderr).toEqual([]);
  });

  test('shows nothing to a program that asked for JSON', async () => {
    const { stdout, stderr } = await run([...args(), '--json'], { isTTY: true });
    expect(stderr).toEqual([]);
    expect(JSON.parse(stdout.join(''))).toBeDefined();
  });
});

test('the others are quiet for programs, too', async () => {
  expect(barsOf((await run(['analyze', 'default'], { isTTY: true })).stderr).length).toBeGreaterThan(0);
  expect((await run(['analyze', 'default', '--json'], { isTTY: true })).stderr).toEqual([]);
});
