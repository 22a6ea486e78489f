// A command that is printed must work when pasted.

import { execFileSync } from 'node:child_process';
import { delimiter } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { commandLine, quoted } from '../../src/cli/next-command.ts';
import { promptOf } from '../../src/cli/train.ts';

const linux = { path: ['/usr/bin', '/opt/bin'].join(delimiter), cwd: '/home/me', platform: 'linux' } as const;

test.each([
  ['/opt/bin/bitnet-gf3', 'bitnet-gf3 doctor'],
  ['/elsewhere/bitnet-gf3-mcp', '/elsewhere/bitnet-gf3-mcp doctor'],
  ['/home/me/.npm/_npx/1a/node_modules/.bin/bitnet-gf3', 'npx bitnet-gf3-mcp doctor'],
  ['/home/me/app/node_modules/.bin/bitnet-gf3', 'npx bitnet-gf3 doctor'],
  ['/home/me/dist/cli/main.js', 'node dist/cli/main.js doctor'],
  ['/home/my clone/dist/cli/main.js', "node '/home/my clone/dist/cli/main.js' doctor"],
])('started as %s: %s', (script, line) => {
  expect(commandLine(['doctor'], { ...linux, script })).toBe(line);
});

test('words for cmd and PowerShell', () => {
  expect(quoted('C:\\models\\a', 'win32')).toBe('C:\\models\\a');
  expect(quoted('C:\\my models\\a', 'win32')).toBe('"C:\\my models\\a"');
  expect(quoted('', 'win32')).toBe('""');
});

test.runIf(process.platform !== 'win32')('a shell reads the words that were quoted', () => {
  const word = fc.oneof(fc.string(), fc.constantFrom("it's", '$(id)', '`id`', 'a\nb', '!!', '~', '*', '#', ''));
  fc.assert(
    fc.property(fc.array(word, { minLength: 1, maxLength: 4 }), (words) => {
      const asked = words.map((text) => text.replaceAll('\0', ''));
      const line = asked.map((text) => quoted(text, 'linux')).join(' ');
      const script = `for word in ${line}; do printf '%s\\0' "$word"; done`;
      expect(execFileSync('sh', ['-c', script], { encoding: 'utf8' })).toBe(asked.map((text) => `${text}\0`).join(''));
    }),
    { numRuns: 30 },
  );
});

test.each([
  [[{ kind: 'text', text: 'The fox\nran home, and\nslept.' }], ['The fox ran home,']],
  [[{ kind: 'completion', prompt: 'What is gold?', completion: ' A metal.' }], ['What is gold?']],
  [[{ kind: 'chat', messages: [{ role: 'user', content: 'Hi there' }] }], ['Hi there', '--chat']],
  [[{ kind: 'chat', messages: [{ role: 'system', content: 'Be kind' }] }], ['Once upon a time']],
  [[{ kind: 'text', text: '--help me' }], ['Once upon a time']],
  [[{ kind: 'text', text: 'a \u001b[31m b' }], ['Once upon a time']],
  [[{ kind: 'text', text: ' ' }], ['Once upon a time']],
  [[{ kind: 'completion', prompt: 'x'.repeat(100), completion: 'y' }], ['Once upon a time']],
  [[], ['Once upon a time']],
] as const)('%j is tried with %j', (records, words) => {
  expect(promptOf(records)).toEqual(words);
});
