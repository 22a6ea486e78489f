// The completion scripts, run by the shells that they are for: a line is typed up to where Tab is pressed.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { COMMANDS, loadCommand } from '../../src/cli/commands.ts';
import { runCli } from './run-cli.ts';

const SHELLS = ['bash', 'zsh', 'fish'] as const;
type Shell = (typeof SHELLS)[number];
const isThere = (shell: Shell) => spawnSync(shell, ['--version']).status === 0;

let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'bitnet-completion-'));
  for (const shell of SHELLS) {
    const { code, stdout, stderr } = await runCli(['completion', shell]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    writeFileSync(join(folder, `script.${shell}`), stdout);
  }
  writeFileSync(join(folder, 'a picture.png'), '');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const run = (command: string, args: readonly string[], input = '') =>
  spawnSync(command, args, {
    cwd: folder,
    encoding: 'utf8',
    input,
    env: { PATH: process.env.PATH, HOME: folder, TERM: 'dumb', LC_ALL: 'C.UTF-8' },
  });

/** What bash offers for the last of the words. */
function bashOffers(words: readonly string[]): string[] {
  const list = words.map((word) => `'${word}'`).join(' ');
  const { stdout, stderr } = run('bash', [
    '--norc',
    '-c',
    `source script.bash; COMP_WORDS=(${list}); COMP_CWORD=${words.length - 1}; _bitnet_gf3; printf '%s\\n' "\${COMPREPLY[@]}"`,
  ]);
  expect(stderr.replace(/^.*compopt: not currently executing.*\n/gm, '')).toBe('');
  return stdout.split('\n').filter((line) => line !== '');
}

function fishOffers(words: readonly string[]): string[] {
  const { stdout, stderr } = run('fish', ['--no-config', '-c', `source script.fish; complete -C '${words.join(' ')}'`]);
  expect(stderr).toBe('');
  return stdout
    .split('\n')
    .map((line) => line.split('\t')[0]!)
    .filter((line) => line !== '');
}

/** The words after Tab, in an interactive zsh behind a pseudo terminal: a function stands for the program and prints them. */
function zshCompletes(words: readonly string[]): string {
  const { stdout } = run('zsh', [
    '-f',
    '-c',
    `zmodload zsh/zpty
     zpty shell zsh -f -i
     zpty -w shell "PS1=; unsetopt prompt_cr prompt_sp; autoload -Uz compinit; compinit -D -u; source ${folder}/script.zsh"
     zpty -w shell 'bitnet-gf3() { print -r -- "ARGS<$*>" }'
     zpty -w shell 'print READY'
     zpty -r shell line '*READY*READY*'
     zpty -w -n shell $'${words.join(' ')}\\t\\n'
     zpty -r shell line $'*ARGS<*>*'
     print -r -- $line
     zpty -d shell`,
  ]);
  return /ARGS<([^>]*)>/.exec(stdout)?.[1] ?? stdout;
}

const OFFERED: readonly (readonly [readonly string[], readonly string[]])[] = [
  [['bitnet-gf3', 'pal'], ['palette']],
  [['bitnet-gf3', 'help', 'conv'], ['convert']],
  [['bitnet-gf3', 'infer', '--trace'], ['--trace-gf3']],
  [
    ['bitnet-gf3', 'infer', '--scheme', 'gay'],
    ['gay-mcp', 'gay.jl'],
  ],
  [['bitnet-gf3', 'infer', 'Once', '--backend', 'w'], ['wasm']],
  [['bitnet-gf3', 'world', 'exp'], ['export']],
  [['bitnet-gf3', 'completion', 'f'], ['fish']],
  [['bitnet-gf3', 'analyze', 'def'], ['default']],
  [['bitnet-gf3-mcp', 'doc'], ['doctor']],
];

for (const shell of SHELLS) if (!isThere(shell)) console.warn(`skipped: ${shell} is not installed`);

describe.skipIf(!isThere('bash'))('bash', () => {
  test.each(OFFERED)('%j', (words, offered) => {
    expect(bashOffers(words).sort()).toEqual([...offered].sort());
  });

  test('offers every flag of every command, and every command', async () => {
    const commands = COMMANDS.filter(({ hidden }) => !hidden);
    expect(bashOffers(['bitnet-gf3', ''])).toEqual([
      ...commands.map(({ name }) => name),
      'help',
      '--help',
      '--version',
    ]);
    for (const entry of commands) {
      const { flags } = await loadCommand(entry);
      const names = [...Object.keys(flags), 'json', 'help'].map((name) => `--${name}`);
      expect(bashOffers(['bitnet-gf3', entry.name, '--']), entry.name).toEqual(names);
    }
  });

  test('files where a file goes, values of flags not counted as arguments, nothing where nothing is known', () => {
    expect(bashOffers(['bitnet-gf3', 'palette', '3', '-o', 'a'])).toEqual(['a picture.png']);
    expect(bashOffers(['bitnet-gf3', 'analyze', '--seed', '7', 'def'])).toEqual(['default']);
    expect(bashOffers(['bitnet-gf3', 'analyze', 'default', ''])).toEqual([]);
    expect(bashOffers(['bitnet-gf3', 'infer', '--max-tokens', ''])).toEqual([]);
    expect(bashOffers(['bitnet-gf3', 'nonsense', ''])).toEqual([]);
  });
});

describe.skipIf(!isThere('fish'))('fish', () => {
  test.each(OFFERED)('%j', (words, offered) => {
    expect(fishOffers(words).sort()).toEqual([...offered].sort());
  });

  test('offers files where a file goes', () => {
    expect(fishOffers(['bitnet-gf3', 'palette', '3', '--out', 'a'])).toEqual(['a picture.png']);
  });
});

describe.skipIf(!isThere('zsh'))('zsh', () => {
  test.each(OFFERED.filter(([words, offered]) => offered.length === 1 && words[0] === 'bitnet-gf3'))(
    '%j',
    (words, [offered]) => {
      expect(zshCompletes(words).trim()).toBe([...words.slice(1, -1), offered].join(' '));
    },
  );

  test('takes the script without a complaint', () => {
    expect(run('zsh', ['-n', 'script.zsh'])).toMatchObject({ status: 0, stderr: '' });
  });
});

test('a shell that has no script is a wrong call', async () => {
  const { code, stderr } = await runCli(['completion', 'zhs']);
  expect(code).toBe(2);
  expect(stderr).toBe('error: there is no completion for "zhs"; did you mean zsh? shells: bash, zsh, fish\n');
});
