import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { decode } from 'fast-png';
import { afterAll, describe, expect, test } from 'vitest';
import { command } from '../../src/cli/infer.ts';
import { visible } from '../../src/cli/visible.ts';
import { jsonSchemaOf } from '../../src/tools/define-tool.ts';
import { generateWithTraceTool } from '../../src/tools/generate-with-trace.ts';
import { MAIN, runCli } from './run-cli.ts';

const PROMPT = ['infer', 'Once upon a time', '--max-tokens', '12'];
const HEXES = '#6404C3 #EB6AF7 #7F1747 #4A4744 #3AC4D6 #6D2BEE #6BCECC #3B194C #9DA895 #1C45D5 #4ED072 #1F3EA5';
const SYMBOLS = '- - - + o - o - + o o o';

test('--trace-gf3 prints a line a token and the sum', async () => {
  const { code, stdout } = await runCli([...PROMPT, '--trace-gf3']);
  expect(code).toBe(0);
  const lines = stdout.trimEnd().split('\n');
  expect(lines).toHaveLength(13);
  const parts = lines.slice(0, 12).map((line) => /^ {2}\[([-o+])\] (#[0-9A-F]{6}) (.*)$/.exec(line)!);
  expect(parts.map(([, symbol]) => symbol).join(' ')).toBe(SYMBOLS);
  expect(parts.map(([, , hex]) => hex).join(' ')).toBe(HEXES);
  expect(lines[12]).toBe('GF(3) trit sum: -3 mod 3 = 0 ✓ CONSERVED');
  const plain = await runCli(PROMPT);
  expect(plain.stdout).toBe(`${parts.map(([, , , token]) => token).join('')}\n`);
});

describe('-o writes the trace in the form of its name', () => {
  const cwd = mkdtempSync(join(tmpdir(), 'infer-out-'));
  afterAll(() => rmSync(cwd, { recursive: true }));
  const run = (...args: string[]) => runCli([...PROMPT, '--trace-gf3', ...args], { cwd });

  test('a picture, a page, JSON', async () => {
    for (const name of ['t.png', 't.HTML', 't.json']) {
      const { code, stdout, stderr } = await run('-o', name);
      expect(code, stderr).toBe(0);
      expect(stdout).toContain('GF(3) trit sum: -3 mod 3 = 0');
      expect(stderr).toContain(`wrote ${name}`);
    }
    expect(decode(readFileSync(join(cwd, 't.png'))).width).toBe(960);
    const json = JSON.parse(readFileSync(join(cwd, 't.json'), 'utf8'));
    expect(generateWithTraceTool.output.safeParse(json).error).toBeUndefined();
    const page = readFileSync(join(cwd, 't.HTML'), 'utf8');
    expect(page.match(/class="step"/g)).toHaveLength(12);
    for (const hex of HEXES.split(' ')) expect(page).toContain(`background: ${hex};`);
    const shown = [...page.matchAll(/class="logprob">([^<]+)</g)].map(([, text]) => Number(text));
    expect(shown).toEqual(json.trace.map(({ logprob }: { logprob: number }) => Number(logprob.toFixed(2)) + 0));
  });

  test('--json still prints its document, and nothing but it', async () => {
    const { stdout } = await runCli([...PROMPT, '--json', '-o', 'both.html'], { cwd });
    expect(JSON.parse(stdout).trace).toHaveLength(12);
    expect(readdirSync(cwd)).toContain('both.html');
  });

  test.each([
    ['t.jpg', /cannot write a trace as \.jpg.*\.png, \.html, \.json/],
    ['trace', /no suffix.*\.png, \.html, \.json/],
    ['.', /no suffix/],
  ])('%s is refused before a token is written', async (name, message) => {
    const { code, stdout, stderr } = await run('-o', name);
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
    expect(stdout).toBe('');
  });
});

test('a sum that is not conserved is not called so', async () => {
  const { stdout } = await runCli(['infer', 'Once upon a time', '--max-tokens', '2', '--trace-gf3']);
  expect(stdout.trimEnd().split('\n').at(-1)).toBe('GF(3) trit sum: -2 mod 3 = 1 ✗ NOT CONSERVED');
});

test('on a terminal with colors each token stands on its color', async () => {
  const { stdout } = await runCli([...PROMPT, '--trace-gf3'], { env: { FORCE_COLOR: '3' } });
  expect(stdout).toContain('[-] \x1b[48;2;100;4;195m  \x1b[0m #6404C3 \x1b[38;2;255;255;255;48;2;100;4;195m');
});

test('--json is the tool’s result and how it was computed', async () => {
  const { stdout, stderr } = await runCli([...PROMPT, '--json', '--seed', '0xFFFFFFFFFFFFFFFF', '--activations']);
  const result = JSON.parse(stdout);
  expect(generateWithTraceTool.output.safeParse(result).error).toBeUndefined();
  expect(result.seed).toBe('18446744073709551615');
  expect(result.trace.map(({ token }: { token: string }) => token).join('')).toBe(result.completion);
  expect(result.output).toBe(`Once upon a time${result.completion}`);
  expect(result.trace[0].activations.length).toBeGreaterThan(0);
  expect(result.engine).toMatchObject({ threads: expect.any(Number), head: expect.any(String) });
  expect(stderr).toBe('');
});

test('sampling repeats with its seed and differs with another', async () => {
  const sample = async (seed: string) =>
    (await runCli(['infer', 'The', '--temperature', '1', '--top-k', '50', '--top-p', '0.95', '--sample-seed', seed]))
      .stdout;
  const [one, again, other] = await Promise.all([sample('1'), sample('1'), sample('2')]);
  expect(again).toBe(one);
  expect(other).not.toBe(one);
});

test('--stop ends before the text, the first of several', async () => {
  const whole = (await runCli(PROMPT)).stdout.trimEnd();
  const word = whole.split(' ')[3]!;
  const { stdout } = await runCli([...PROMPT, '--stop', word, '--stop', 'never written']);
  expect(stdout).toBe(`${whole.slice(0, whole.indexOf(word))}\n`);
});

test('Ctrl-C ends it with what there is', async () => {
  // The slowest backend: it is still writing when the signal comes.
  const slow = ['--backend', 'js', '--max-tokens', '900', '--temperature', '1'];
  const child = spawn(process.execPath, [MAIN, 'infer', 'Once', ...slow], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (piece) => {
    text += piece;
  });
  await once(child.stdout, 'data');
  child.kill('SIGINT');
  const [code] = await once(child, 'close');
  expect(code).toBe(130);
  expect(text.endsWith('\n')).toBe(true);
});

test('a reader that goes away is no failure', async () => {
  const child = spawn(process.execPath, [MAIN, 'infer', 'Once', '--max-tokens', '900', '--trace-gf3'], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let errors = '';
  child.stderr.setEncoding('utf8').on('data', (text) => {
    errors += text;
  });
  await once(child.stdout, 'data');
  child.stdout.destroy();
  const [code] = await once(child, 'close');
  expect({ code, errors }).toEqual({ code: 0, errors: '' });
});

test.each([
  [['infer'], 2, 'infer needs PROMPT'],
  [['infer', 'a', '--model', '/nowhere/model'], 2, '/nowhere/model'],
  [['infer', 'a', '--max-tokens', '0'], 2, '--max-tokens must be an integer >= 1'],
  [['infer', 'a', '--temperature', 'hot'], 2, '--temperature must be a number >= 0, got "hot"'],
  [['infer', 'a', '--top-p', '0'], 2, 'top_p'],
  [['infer', 'a', '--backend', 'vulkan'], 2, '--backend must be one of auto'],
  [['infer', 'a', '--scheme', 'trac'], 2, 'did you mean trace?'],
])('%j fails with one clear line', async (args, expected, message) => {
  const { code, stdout, stderr } = await runCli(args);
  expect({ code, stdout }).toEqual({ code: expected, stdout: '' });
  expect(stderr).toContain(message);
  expect(stderr.trimEnd().split('\n')).toHaveLength(1);
});

describe('the flags are the tool’s fields', () => {
  // `infer` declares its flags by hand, to start without loading the schemas.
  const fields = jsonSchemaOf(generateWithTraceTool.input, 'input').properties!;
  const elsewhere = [
    'prompt',
    'messages',
    'prompts',
    'n',
    'trace',
    'max_seconds',
    'continuation',
    'tools',
    'tool_choice',
  ];

  test.each(Object.keys(fields).filter((name) => !elsewhere.includes(name)))('%s', (name) => {
    const flag = (command.flags as Record<string, { default?: unknown }>)[name.replaceAll('_', '-')];
    expect(flag).toBeDefined();
    if (name !== 'activations') expect(`${flag?.default}`).toBe(`${fields[name]?.default}`);
  });
});

test('tokens stay on their line', () => {
  expect(visible(' a\n\r\t\\\u001b[31m\u2028é✓')).toBe(' a\\n\\r\\t\\\\\\u001b[31m\\u2028é✓');
});
