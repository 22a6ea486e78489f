import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { COMMANDS, loadCommand } from '../../src/cli/commands.ts';
import { runCli } from './run-cli.ts';

describe.each(COMMANDS.map((entry) => ({ entry, name: entry.name })))('$name', ({ entry }) => {
  test('is declared as the table says, with an example of its own', async () => {
    const command = await loadCommand(entry);
    expect(command.name).toBe(entry.name);
    expect(command.summary).toBe(entry.summary);
    expect(command.examples.length).toBeGreaterThan(0);
    for (const example of command.examples) expect(example.split(' ')[0]).toBe(entry.name);
  });

  test('--help shows usage, flags and the example', async () => {
    const { code, stdout, stderr } = await runCli([entry.name, '--help']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toContain(`bitnet-gf3 ${entry.name}`);
    expect(stdout).toContain('--json');
    expect(stdout).toMatch(/^Examples?:$/m);
  });

  test('an unknown flag is a wrong call', async () => {
    const { code, stdout, stderr } = await runCli([entry.name, '--jsn']);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(/^error: unknown flag --jsn; did you mean --json\? .*\n$/);
  });
});

test.each([
  [['--port', '9000'], '--port without --http'],
  [['--host', '0.0.0.0', '--token', 't'], '--host, --token without --http'],
  [['--behind-proxy'], '--behind-proxy without --http'],
])('serve %j on stdio is a wrong call', async (flags, message) => {
  const { code, stdout, stderr } = await runCli(['serve', ...flags]);
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  expect(stderr).toContain(message);
});

test('--help lists every public command', async () => {
  const { code, stdout } = await runCli(['--help']);
  expect(code).toBe(0);
  for (const { name, hidden } of COMMANDS) {
    expect(stdout.includes(`\n  ${name} `), name).toBe(hidden !== true);
  }
});

test('the exit statuses are told where people look', async () => {
  const { stdout } = await runCli(['--help']);
  const readme = await readFile(join(import.meta.dirname, '../../README.md'), 'utf8');
  for (const text of [stdout, readme]) {
    const told = text.replace(/\s+/g, ' ').match(/exit status(?: is|:) [^.]*/i)?.[0];
    expect(told?.match(/\b\d+\b/g)).toEqual(['0', '1', '2', '130']);
  }
});

test('help COMMAND and --version', async () => {
  expect((await runCli(['help', 'color'])).stdout).toBe((await runCli(['color', '--help'])).stdout);
  expect((await runCli(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
});

test('an unknown command names the nearest one', async () => {
  const { code, stderr } = await runCli(['palete', '3']);
  expect(code).toBe(2);
  expect(stderr).toMatch(/^error: unknown command "palete"; did you mean palette\? commands: .*\n$/);
});

test('color prints mark, role and spaces', async () => {
  expect(await runCli(['color', '1'])).toEqual({
    code: 0,
    stdout: [
      '  [-] #6404C3 MINUS',
      '      rgb(100, 4, 195)',
      '      hsl(270.2, 96.0%, 39.0%)',
      '      oklch(43.9% 0.2384 295.4)',
      '',
    ].join('\n'),
    stderr: '',
  });
});

test('color --json is the tool’s result', async () => {
  const { stdout } = await runCli(['color', '1', '--json', '--seed', '0xffffffffffffffff', '--scheme', 'gay.jl']);
  expect(Object.keys(JSON.parse(stdout))).toEqual([
    'index',
    'seed',
    'scheme',
    'hex',
    'rgb',
    'hsl',
    'oklch',
    'trit',
    'role',
  ]);
  expect(JSON.parse(stdout)).toMatchObject({ index: 1, seed: '18446744073709551615', scheme: 'gay.jl' });
});

const TRACE_1069 = '#6404C3 #EB6AF7 #7F1747 #4A4744 #3AC4D6 #6D2BEE #6BCECC #3B194C #9DA895 #1C45D5 #4ED072 #1F3EA5';

test('palette 12 is the published trace', async () => {
  const { stdout } = await runCli(['palette', '12']);
  const lines = stdout.trimEnd().split('\n');
  expect(lines.slice(0, 12).map((line) => line.match(/#[0-9A-F]{6}/)?.[0])).toEqual(TRACE_1069.split(' '));
  expect(lines.slice(0, 12).map((line) => line[3])).toEqual([...'---+o-o-+ooo']);
  expect(lines[12]).toBe('GF(3) trit sum: -3 mod 3 = 0 ✓ CONSERVED');
});

test('a sum that is not conserved says so', async () => {
  expect((await runCli(['palette', '2'])).stdout).toContain('GF(3) trit sum: -2 mod 3 = 1 ✗ NOT CONSERVED');
});

test('swatches only where colors are asked for or shown', async () => {
  const swatch = '\x1b[48;2;100;4;195m  \x1b[0m #6404C3';
  expect((await runCli(['palette', '1'])).stdout).not.toContain('\x1b');
  expect((await runCli(['palette', '1'], { env: { FORCE_COLOR: '3' } })).stdout).toContain(swatch);
});

test('tokenize goes both ways', async () => {
  const { stdout } = await runCli(['tokenize', 'default', 'Once upon a time', '--json']);
  const { ids, tokens, text } = JSON.parse(stdout);
  expect(text).toBe('Once upon a time');
  expect(tokens).toHaveLength(ids.length);
  const bare = JSON.parse((await runCli(['tokenize', 'default', 'Once upon a time', '--no-special', '--json'])).stdout);
  expect(ids.slice(1)).toEqual(bare.ids);
  const back = await runCli(['tokenize', 'default', '--ids', bare.ids.join(',')]);
  expect(back.stdout).toBe('Once upon a time\n');
});

test.each([
  [['tokenize', 'default'], 2, 'tokenize needs TEXT or --ids'],
  [['tokenize', 'default', 'a', '--ids', '1'], 2, 'not both'],
  [['tokenize', 'default', '--ids', '999999'], 2, '999999 is not a token id of this model'],
  [['tokenize', '/nowhere/model', 'a'], 2, '/nowhere/model'],
  [['color', 'one'], 2, 'INDEX must be a whole number from 0, got "one"; write it in digits'],
  [['color', '-1'], 2, ''],
  [
    ['color', '99999999999999999999'],
    2,
    'INDEX must be a whole number from 0 to 9007199254740991, got "99999999999999999999"',
  ],
  [['palette', '0'], 2, 'N must be a whole number from 1 to 4096, got "0"'],
  [['color', '10000001', '--scheme', 'gay-mcp'], 2, 'past the limit'],
])('%j fails with one clear line', async (args, expected, message) => {
  const { code, stdout, stderr } = await runCli(args);
  expect({ code, stdout }).toEqual({ code: expected, stdout: '' });
  expect(stderr).toContain(message);
  expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  expect(stderr).toMatch(/^error: /);
});

test.each([
  [['color', '1', '--constructor=5'], /^error: unknown flag --constructor; /],
  [['color', '-1'], /^error: INDEX must be a whole number from 0, got "-1"\n$/],
  [['color', '9007199254740993'], /^error: INDEX must be .* from 0 to 9007199254740991, got "9007199254740993"\n$/],
  [['color', '1.5'], /^error: INDEX must be a whole number from 0, got "1.5"; write it in digits\n$/],
])('%j is a wrong call', async (args, message) => {
  const { code, stderr } = await runCli(args);
  expect(stderr).toMatch(message);
  expect(code).toBe(2);
});

test('schemas and palette say what they cannot write, where, and what to do', async () => {
  const schemas = await runCli(['schemas', '--out', 'package.json']);
  expect(schemas).toMatchObject({
    code: 2,
    stderr: expect.stringContaining(
      'cannot write to this folder: the folder cannot be made: a file is in the way (ENOTDIR)',
    ),
  });
  const readme = await runCli(['schemas', '--readme', 'absent/README.md', '--out', 'schemas']);
  expect(readme).toMatchObject({ code: 2, stderr: expect.stringContaining('cannot read this file: ENOENT') });
  const palette = await runCli(['palette', '3', '-o', 'absent/p.png']);
  expect(palette.code).not.toBe(0);
  expect(palette.stderr).toContain('absent/p.png');
  expect(palette.stderr).toContain('check that the folder exists and can be written');
});
