// What the pages claim about other files: links, environment variables, the repository's own files.

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ownerOf } from '../../scripts/release.mjs';
import { ROOT } from '../mcp/server-process.ts';
import { PAGES, textOf } from './examples.ts';

const packageJson = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'));

/** Targets of links and pictures, without blocks of code. */
const linksIn = (markdown: string) => {
  const prose = markdown.replace(/^```[\s\S]*?^```/gm, '').replace(/`[^`]*`/g, '');
  return [
    ...[...prose.matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1]!),
    ...[...prose.matchAll(/<(?:img|a)\s[^>]*(?:src|href)="([^"]+)"/g)].map((match) => match[1]!),
  ];
};

const anchorsIn = (markdown: string) =>
  [...markdown.matchAll(/^#+ (.*)$/gm)].map((match) =>
    match[1]!
      .toLowerCase()
      .replace(/[^\w\s-]/g, '')
      .replace(/\s/g, '-'),
  );

describe.each([...PAGES, 'CHANGELOG.md'].map((page) => ({ page })))('$page', ({ page }) => {
  test('links to what is there', () => {
    for (const link of linksIn(textOf(page))) {
      if (/^https:\/\/[\w.-]+\//.test(link)) continue;
      expect(link, 'not absolute, so a path').not.toMatch(/^[a-z]+:|^\//);
      const [path, anchor] = link.split('#') as [string, string?];
      const target = path === '' ? page : posix.join(dirname(page), path);
      expect(existsSync(join(ROOT, target)), `${link} in ${page}`).toBe(true);
      if (anchor !== undefined) expect(anchorsIn(textOf(target)), link).toContain(anchor);
    }
  });
});

test('on npm, where only the package is, the links of the README hold', () => {
  const pack = spawnSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: ROOT,
    encoding: 'utf8',
    shell: process.platform === 'win32',
  });
  const [{ files }] = Object.values(JSON.parse(pack.stdout)) as [{ files: { path: string }[] }];
  const packed = files.map(({ path }) => path);
  const links = linksIn(textOf('README.md')).filter((link) => !link.startsWith('https://'));
  expect(links).toContain('docs/trace.png');
  for (const link of links) {
    const path = link.split('#')[0]!.replace(/\/$/, '');
    expect(
      packed.some((file) => file === path || file.startsWith(`${path}/`)),
      `${link} in the package`,
    ).toBe(true);
  }
});

describe('environment variables', () => {
  /** Names in the first column. */
  const told = textOf('docs/environment.md')
    .split('\n')
    .filter((line) => line.startsWith('| `'))
    .flatMap((line) => [...line.split(' | ')[0]!.matchAll(/`([A-Z_]+)`/g)].map((match) => match[1]!));

  const source = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && file !== join('app', 'view-html.ts'))
    .map((file) => readFileSync(join(ROOT, 'src', file), 'utf8'))
    .join('\n');

  test('every BITNET_ variable of the source is told, and no other', () => {
    const read = new Set(source.match(/\bBITNET_[A-Z_]+\b/g));
    // A kind of template and macros of the kernels, not variables.
    for (const word of NOT_VARIABLES) expect(read.delete(word), word).toBe(true);
    expect([...read].sort()).toEqual(told.filter((name) => name.startsWith('BITNET_')).sort());
  });

  test('so is everything else that is read from the environment', () => {
    const read = new Set(
      [...source.matchAll(/\b(?:process\.)?env(?:ironment)?\??\.([A-Z][A-Z_]+)\b/g)].map(([, name]) => name!),
    );
    // By names that are looked up elsewhere, and by Node itself.
    for (const [, name] of source.matchAll(/'((?:HF|HUGGING_FACE|TRANSFORMERS)_[A-Z_]+)'/g)) read.add(name!);
    for (const [, name] of source.matchAll(/'((?:https?|no|all)_proxy)'/g)) read.add(name!.toUpperCase());
    if (source.includes('NODE_EXTRA_CA_CERTS')) read.add('NODE_EXTRA_CA_CERTS');
    // The system's own: whether the next command that is printed will be found.
    read.delete('PATH');
    expect([...read].filter((name) => !told.includes(name))).toEqual([]);
    expect(told.filter((name) => !name.startsWith('BITNET_') && !read.has(name))).toEqual([]);
  });
});

/** Constants of the source that look like variables. */
const NOT_VARIABLES = [
  'BITNET_TEMPLATE',
  'BITNET_WITH_AMX',
  'BITNET_WITH_AVXVNNI',
  'BITNET_WITH_NEON',
  'BITNET_WITH_NEON_DOT',
];

describe('the repository', () => {
  test('package.json says where it is and what it is about', () => {
    expect(ownerOf(packageJson)).toMatch(/^[\w-]+$/);
    // The registry of MCP servers takes the name's owner for the repository's.
    expect(packageJson.mcpName).toBe(`io.github.${ownerOf(packageJson)}/bitnet-gf3-mcp`);
    expect(packageJson.keywords).toEqual(expect.arrayContaining(['mcp', 'bitnet', 'ternary']));
  });

  test('the change log has this version, newest first', () => {
    const versions = [...textOf('CHANGELOG.md').matchAll(/^## (\S+)/gm)].map((match) => match[1]!);
    expect(versions[0]).toBe('Unreleased');
    expect(versions).toContain(packageJson.version);
  });

  test('binaries for one C library are marked so in the lock file, or both would be installed', () => {
    const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as {
      packages: Record<string, { readonly libc?: readonly string[] }>;
    };
    const marked = Object.entries(packages).filter(([name]) => /-(gnu|musl)$/.test(name) && /linux/.test(name));
    expect(marked.length).toBeGreaterThan(0);
    for (const [name, { libc }] of marked) expect(libc, name).toEqual([name.endsWith('musl') ? 'musl' : 'glibc']);
    expect(Object.keys(packages).filter((name) => name.includes('onnxruntime'))).toEqual([]);
  });

  test('there are issue forms, and workflows for three systems', () => {
    const forms = readdirSync(join(ROOT, '.github/ISSUE_TEMPLATE'));
    expect(forms).toEqual(expect.arrayContaining(['bug.yml', 'config.yml', 'idea.yml', 'model.yml']));
    for (const name of ['linux', 'windows', 'macos']) {
      const text = readFileSync(join(ROOT, `.github/workflows/${name}.yml`), 'utf8');
      // Every test folder and script that it names is there.
      for (const [path] of text.matchAll(/\b(?:test|scripts)\/[\w./-]*\w\b(?![-*])/g)) {
        if (!path.startsWith('dist/')) expect(existsSync(join(ROOT, path)), path).toBe(true);
      }
      expect(statSync(join(ROOT, '.ci/run')).mode & 0o100).toBe(0o100);
    }
  });
});
