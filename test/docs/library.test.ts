// docs/library.md: every example compiles and runs as a program of a user's, far from this repository's settings.

import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ROOT } from '../mcp/server-process.ts';
import { blocksIn, textOf } from './examples.ts';

const examples = blocksIn(textOf('docs/library.md')).filter(({ language }) => language === 'ts');
const asked = process.env.TEST_INSTALLS === '1';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'bitnet-library-'));
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(ROOT, join(folder, 'node_modules/bitnet-gf3-mcp'), 'junction');
  symlinkSync(join(ROOT, 'node_modules/@types'), join(folder, 'node_modules/@types'), 'junction');
  writeFileSync(join(folder, 'package.json'), '{ "private": true, "type": "module" }');
  for (const { line, text } of examples) writeFileSync(join(folder, `line-${line}.ts`), text);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Errors of the compiler for all examples, in a user's settings. */
function compile(compiler: string, { skipLibCheck = false, emit = false } = {}): string {
  const compilerOptions = {
    strict: true,
    target: 'ES2022',
    lib: ['ES2022', 'ESNext.Disposable'],
    module: 'NodeNext',
    moduleResolution: 'NodeNext',
    types: ['node'],
    outDir: 'out',
    rootDir: '.',
    noEmit: !emit,
    skipLibCheck,
  };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*.ts'] }));
  const { stdout, stderr } = spawnSync(process.execPath, [compiler, '-p', folder], { encoding: 'utf8' });
  return stdout + stderr;
}

describe('examples of the library', () => {
  test('compile with every check, those of our own declarations included', () => {
    expect(examples.length).toBeGreaterThan(5);
    expect(compile(join(ROOT, 'node_modules/typescript/bin/tsc'), { emit: true })).toBe('');
  });

  const said: Readonly<Record<string, RegExp>> = {
    'onStep:': /^#6404C3 -1 .*\n#EB6AF7 -1 /,
    'new Engine()': /^Lily found/m,
    'new EngineHost()': /\S/,
    'tokenizer.encode': /^\[\s*0,\s*1645,\s*690,\s*261,\s*516\s*\] /,
    'openCheckpoint(': /model\.\S+ \w+ \d+/,
    'generateMany(': /^( .*\n)[\s\S]*\d+ tokens\/s\n$/,
    'swatchPng(': /^#6404C3 .*\n0\n1\n$/,
    'callTool(': /layers/,
    'instanceof BitnetError': /^[A-Z_]+ (call|job) /,
  };

  test.each(examples)('line $line runs', ({ line, text }) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [join(folder, `out/line-${line}.js`)], {
      cwd: folder,
      encoding: 'utf8',
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const [mark, expected] = Object.entries(said).find(([word]) => text.includes(word)) ?? [];
    expect(mark, 'a word by which this test knows the example').toBeDefined();
    expect(stdout).toMatch(expected!);
  });
});

test('every public name is a value or type that a consumer can import', async () => {
  const names = [...textOf('src/index.ts').matchAll(/^export \{([^}]*)\}/gm)].flatMap((match) =>
    match[1]!
      .split(',')
      .map((name) => name.trim())
      .filter((name) => name !== '' && !name.startsWith('type ')),
  );
  const library = (await import('../../dist/index.js' as string)) as Record<string, unknown>;
  expect(Object.keys(library).sort()).toEqual(names.sort());
});

if (!asked) console.warn('skipped: older TypeScripts; TEST_INSTALLS=1 asks for them');
describe.skipIf(!asked)('the TypeScript that docs/library.md names', () => {
  test.each([
    ['5.7', false],
    ['5.4', true],
  ])(
    '%s takes the types (skipLibCheck: %s)',
    (version, skipLibCheck) => {
      const tools = mkdtempSync(join(tmpdir(), 'bitnet-typescript-'));
      try {
        writeFileSync(join(tools, 'package.json'), '{ "private": true }');
        const install = spawnSync('npm', ['install', '--no-audit', '--no-fund', `typescript@${version}`], {
          cwd: tools,
          encoding: 'utf8',
          shell: process.platform === 'win32',
        });
        expect(install.status, install.stderr).toBe(0);
        expect(compile(join(tools, 'node_modules/typescript/bin/tsc'), { skipLibCheck })).toBe('');
      } finally {
        rmSync(tools, { recursive: true, force: true });
      }
    },
    600_000,
  );
});
