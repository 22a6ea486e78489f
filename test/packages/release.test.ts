// A version is said in many places; the release refuses while they differ.

import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { disagreements, ownerOf, sectionOf } from '../../scripts/release.mjs';
import { ROOT } from '../mcp/server-process.ts';
import { temporaryFolder } from './packed-program.ts';

const PLACES = [
  'package.json',
  'package-lock.json',
  'server.json',
  '.claude-plugin/plugin.json',
  '.claude-plugin/marketplace.json',
  'CHANGELOG.md',
  'SECURITY.md',
  '.github/ISSUE_TEMPLATE/config.yml',
];

test('all places say the same version and owner', () => {
  expect(disagreements()).toEqual([]);
});

test.each<[string, RegExp, string, RegExp]>([
  [
    'package-lock.json',
    /"version": "[^"]+"/,
    '"version": "9.9.9"',
    /^package-lock\.json says 9\.9\.9, package\.json \d/,
  ],
  ['server.json', /"version": "[^"]+"/, '"version": "9.9.9"', /^server\.json says 9\.9\.9/],
  [
    'server.json',
    /"version": "[^"]+",\n {6}/,
    '"version": "9.9.9",\n      ',
    /^server\.json's npm package says 9\.9\.9/,
  ],
  ['.claude-plugin/plugin.json', /"version": "[^"]+"/, '"version": "9.9.9"', /plugin\.json says 9\.9\.9/],
  ['.claude-plugin/marketplace.json', /"version": "[^"]+"/, '"version": "9.9.9"', /marketplace\.json says 9\.9\.9/],
  ['CHANGELOG.md', /^## \d.*$/m, '## 9.9.9', /^CHANGELOG\.md has no section of \d/],
  ['server.json', /io\.github\.[\w-]+/, 'io.github.somebody', /^server\.json's name says io\.github\.somebody/],
  ['package.json', /io\.github\.[\w-]+/, 'io.github.somebody', /^package\.json's mcpName says/],
  ['SECURITY.md', /github\.com\/[\w-]+/, 'github.com/somebody', /^SECURITY\.md says somebody/],
  ['package.json', /git\+https:\/\/github\.com/, 'git+https://example.org', /is not of the known form$/],
])('%s that says something else is found', (file, from, to, told) => {
  using folder = temporaryFolder();
  for (const place of PLACES) {
    mkdirSync(dirname(join(folder.path, place)), { recursive: true });
    cpSync(join(ROOT, place), join(folder.path, place));
  }
  expect(disagreements(folder.path)).toEqual([]);
  const before = readFileSync(join(folder.path, file), 'utf8');
  const after = before.replace(from, to);
  expect(after).not.toBe(before);
  writeFileSync(join(folder.path, file), after);
  expect(disagreements(folder.path)).toEqual(expect.arrayContaining([expect.stringMatching(told)]));
});

test("a version's notes are its section of the change log", () => {
  const log = '# Changes\n\n## Unreleased\n\n- new\n\n## 1.2.0\n\n- a\n- b\n\n## 1.2\n\nold\n';
  expect(sectionOf(log, '1.2.0')).toBe('- a\n- b');
  expect(sectionOf(log, '1.2')).toBe('old');
  expect(sectionOf(log, 'Unreleased')).toBe('- new');
  expect(sectionOf(log, '2')).toBeUndefined();
});

test('the owner is read from one place', () => {
  const url = (text: string) => ownerOf({ repository: { url: text } });
  expect(url('git+https://github.com/some-body/bitnet-gf3-mcp.git')).toBe('some-body');
  expect(url('https://github.com/a/b.git')).toBeUndefined();
});
