// What a person sees at a terminal of 60 columns: nothing is cut within a word, and waiting is told in words.

import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { COMMANDS } from '../../src/cli/commands.ts';
import { table, wrap } from '../../src/cli/wrap.ts';
import { linesForPeople } from '../../src/logger.ts';
import { hasPty, linesOf, runAtTerminal } from './pty.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'bitnet-terminal-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('wrap', () => {
  test('breaks between words, and a long word stands alone', () => {
    expect(wrap('the little fox ran home over the hill', 24)).toBe('the little fox ran home\nover the hill');
    expect(wrap('a bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb c', 24)).toBe('a\nbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\nc');
    expect(wrap('  indented words that go on for a while', 24, '  ')).toBe(
      '  indented words that go\n    on for a while',
    );
    expect(wrap('two\nlines', 24)).toBe('two\nlines');
    expect(wrap('x '.repeat(50).trim(), Number.POSITIVE_INFINITY)).not.toContain('\n');
  });

  test('a table goes on below its second column, or stands below its first', () => {
    expect(
      table(
        [
          ['a', 'one two three four five six seven'],
          ['bb', 'x'],
        ],
        30,
      ),
    ).toBe('  a   one two three four five\n      six seven\n  bb  x');
    expect(table([['--a-very-long-name VALUE', 'what it does']], 40)).toBe(
      '  --a-very-long-name VALUE\n      what it does',
    );
    expect(
      table([
        ['a', 'b'],
        ['cc', 'd'],
      ]),
    ).toBe('  a   b\n  cc  d');
  });
});

test('the log is words where a person reads it', () => {
  const said: string[] = [];
  const log = linesForPeople('info', (text) => said.push(text));
  log.info({ reason: 'signal' }, 'closing');
  log.warn({ err: new Error('broken') }, 'protocol error');
  linesForPeople('error', (text) => said.push(text)).warn({}, 'not said');
  linesForPeople('loud', (text) => said.push(text));
  expect(said).toEqual([
    'closing (reason: signal)\n',
    'warn: protocol error (broken)\n',
    'warn: BITNET_LOG must be one of trace, debug, info, warn, error, fatal, silent, got loud; using info\n',
  ]);
});

if (!hasPty) console.warn('skipped: terminals, which want python3');
describe.skipIf(!hasPty)('at 60 columns', () => {
  /** Names of files and layers, and examples to copy, are not broken. */
  const tooLong = (screen: string) =>
    linesOf(screen).filter((line) => line.length > 60 && line.trim().includes(' ') && !/^ *bitnet-gf3 /.test(line));

  test.each([['--help'], ...COMMANDS.filter(({ hidden }) => !hidden).map(({ name }) => [name, '--help'])])(
    '%s %s',
    async (...args) => {
      const { code, screen } = await runAtTerminal(args.filter(Boolean));
      expect(code).toBe(0);
      expect(tooLong(screen)).toEqual([]);
      expect(screen).toContain('Exit status'.slice(0, args.length === 1 ? 11 : 0));
    },
  );

  test.each([
    [['doctor'], 0],
    [['analyze', 'default'], 0],
    [['palette', '4'], 0],
    [['color', '1'], 0],
    [['triad', 'geb', 'worlding'], 0],
    [['infer', 'Once', '--max-tokens', '30', '--trace-gf3'], 0],
    [['palete'], 2],
    [['infer', 'a', '--tmperature', '1'], 2],
    [['triad', 'gebb'], 2],
    [['convert', 'default', 'x.bin'], 2],
  ])('%j', async (args, expected) => {
    const { code, screen } = await runAtTerminal(args, { env: { BITNET_WORLDS: folder } });
    expect(code).toBe(expected);
    expect(tooLong(screen)).toEqual([]);
  });

  test('bench says what it waits for before it has numbers', async () => {
    const { code, screen } = await runAtTerminal(['bench', '--threads', '1']);
    expect(code).toBe(0);
    expect(screen).toContain('bench: loading default');
    expect(tooLong(screen)).toEqual([]);
  });

  test('pull says whom it waits for', async () => {
    // It is heard, and never answered.
    const silent = createServer().listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const { port } = silent.address() as AddressInfo;
    const env = { HF_ENDPOINT: `http://127.0.0.1:${port}`, HF_HOME: folder };
    const { code, screen } = await runAtTerminal(['pull', 'org/name'], {
      type: '\x03',
      after: 'waiting for an answer',
      env,
    });
    silent.close();
    expect(screen).toContain(`pull: waiting for an answer from 127.0.0.1:${port}`);
    expect(linesOf(screen)).toContain('stopped; the same command goes on from here');
    expect(code).toBe(130);
  });

  test('Ctrl-C ends a server on stdio, in words', async () => {
    const { code, screen } = await runAtTerminal(['serve'], { type: '\x03', after: 'Ctrl-C ends it' });
    expect(code).toBe(0);
    expect(screen).not.toContain('{"');
    expect(linesOf(screen)).toContain('stopped');
    expect(tooLong(screen)).toEqual([]);
  });

  test('Ctrl-C ends a server on HTTP, in words', async () => {
    const args = ['serve', '--http', '--port', '0'];
    const { code, screen } = await runAtTerminal(args, { type: '\x03', after: 'Ctrl-C ends' });
    expect(code).toBe(0);
    expect(screen).not.toContain('{"');
    expect(linesOf(screen).join(' ')).toContain('stopping: running calls have 10 s to finish; Ctrl-C again');
    expect(linesOf(screen)).toContain('stopped');
  });

  test('infer at a terminal without a prompt does not wait for one; with - it does', async () => {
    expect((await runAtTerminal(['infer'])).code).toBe(2);
    // Ctrl-D at a line's start ends the text.
    const args = ['infer', '-', '--max-tokens', '3', '--json'];
    const { screen } = await runAtTerminal(args, { type: 'Once upon a time\n\x04', after: '' });
    expect(screen).toContain('"output": "Once upon a time');
  });
});
