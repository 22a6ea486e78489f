import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { runCli } from './run-cli.ts';

const CASE = fileURLToPath(new URL('../golden/model/bitnet_packed_a_s111', import.meta.url));

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'verify-'));
});
afterAll(() => rm(folder, { recursive: true }));

test('verify --json has the contract’s fields and says ok', async () => {
  const { code, stdout } = await runCli(['verify', CASE, '--json']);
  const report = JSON.parse(stdout);
  expect(code).toBe(0);
  expect(report).toMatchObject({ ok: true, greedy_match: report.greedy_total, chunked_equal: true });
  expect(report.max_abs_err).toBeLessThanOrEqual(report.tolerance);
  expect(report.max_rel_err).toBeGreaterThan(0);
});

test.each(['4096,1', '4294967297,1', '-1'])('eval --ids %s: no ids of this model', async (ids) => {
  const { code, stdout, stderr } = await runCli(['eval', 'default', '--ids', ids]);
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  expect(stderr).toMatch(/--ids/);
});

test('verify for people', async () => {
  const { code, stdout } = await runCli(['verify', CASE, '--backend', 'js']);
  expect(code).toBe(0);
  expect(stdout).toMatch(/^✓ logits: largest error /);
  expect(stdout.trimEnd()).toMatch(/ok on backend js$/);
});

test('verify fails a case that expects something else', async () => {
  const copy = join(folder, 'wrong');
  await cp(CASE, copy, { recursive: true });
  const file = join(copy, 'expected.json');
  const expected = JSON.parse(await readFile(file, 'utf8'));
  expected.greedy[3] += 1;
  await writeFile(file, JSON.stringify(expected));
  const { code, stdout } = await runCli(['verify', copy, '--json']);
  expect(code).toBe(1);
  expect(JSON.parse(stdout)).toMatchObject({ ok: false, greedy_match: 3 });
});

test('verify says what a folder lacks', async () => {
  const { code, stderr } = await runCli(['verify', folder]);
  expect(code).toBe(2);
  expect(stderr).toContain('there is no expected.json');
});

test('eval --ids writes the logits tensor', async () => {
  const out = join(folder, 'logits.safetensors');
  const run = await runCli(['eval', 'default', '--ids', '0,100,200', '--logits', out, '--json']);
  const report = JSON.parse(run.stdout);
  expect(run.code).toBe(0);
  expect(report.argmax).toHaveLength(3);
  expect(report.perplexity).toBeCloseTo(Math.exp(report.cross_entropy), 10);
  using file = await openCheckpoint(out);
  expect(file.names()).toEqual(['logits']);
  expect(file.info('logits')).toMatchObject({ dtype: 'F32', shape: [3, report.vocab_size] });
  // Nothing in the file varies from run to run.
  const again = join(folder, 'again.safetensors');
  await runCli(['eval', 'default', '--ids', '0,100,200', '--logits', again]);
  expect(await readFile(again)).toEqual(await readFile(out));
});

test('eval --text gives cross-entropy and perplexity', async () => {
  const text = join(folder, 'text.txt');
  await writeFile(text, 'Once upon a time there was a little girl named Lily. She liked to play in the park.');
  const { stdout } = await runCli(['eval', 'default', '--text', text, '--json']);
  const report = JSON.parse(stdout);
  expect(report.windows).toBe(1);
  expect(report.perplexity).toBeGreaterThan(1);
  // It has learned something: far below one of a whole vocabulary.
  expect(report.perplexity).toBeLessThan(100);
});

test.each([
  [['eval', 'default'], 'eval needs --ids or --text'],
  [['eval', 'default', '--ids', '1', '--text', 'x'], 'not both'],
  [['eval', 'default', '--text', 'x', '--logits', 'y'], '--logits goes with --ids'],
  [['eval', 'default', '--text', '/nowhere.txt'], 'there is no such file'],
  [['eval', 'default', '--ids', '99999999'], '99999999'],
  [['eval', 'default', '--ids', '1,x'], '--ids must be integers'],
  [['verify'], 'verify needs CASE_DIR'],
])('%j is refused', async (args, message) => {
  const { code, stdout, stderr } = await runCli(args);
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  expect(stderr).toContain(message);
  expect(stderr.trimEnd().split('\n')).toHaveLength(1);
});
