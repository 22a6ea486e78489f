// The bundled program keeps the code that V8 made of it, and whatever becomes of what it kept, it runs the same.

import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import { ROOT } from '../mcp/server-process.ts';

const copy = mkdtempSync(join(tmpdir(), 'kept-code-'));
const bundle = join(copy, 'dist', 'bundle');
const code = join(bundle, 'code');
const cache = join(copy, 'cache');
const probe = join(copy, 'probe.cjs');
// Not what is kept there: other tests start the program meanwhile, which writes files there and renames them.
const filter = (path: string) => !path.startsWith(join(ROOT, 'dist', 'bundle', 'code'));
cpSync(join(ROOT, 'dist'), join(copy, 'dist'), { recursive: true, filter });
cpSync(join(ROOT, 'package.json'), join(copy, 'package.json'));
// Tells on stderr what V8 did with the code that it was given.
writeFileSync(
  probe,
  `const vm = require('node:vm');
   const { Script } = vm;
   const { basename } = require('node:path');
   vm.Script = class extends Script {
     constructor(text, options) {
       super(text, options);
       const use = options.cachedData === undefined ? 'compiled' : this.cachedDataRejected ? 'refused' : 'kept';
       process.stderr.write(basename(options.filename) + ' ' + use + '\\n');
     }
   };`,
);
afterAll(() => rmSync(copy, { recursive: true }));
beforeEach(() => {
  rmSync(code, { recursive: true, force: true });
  rmSync(cache, { recursive: true, force: true });
});

/** What one start did with the file that holds the program's entry. */
function start(env: Record<string, string> = {}, flags: readonly string[] = []) {
  const stderr = join(copy, 'stderr');
  const script = `"${process.execPath}" ${flags.join(' ')} -r "${probe}" "${join(copy, 'dist/cli/main.js')}" color 1 2> "${stderr}"`;
  const stdout = execFileSync('sh', ['-c', script], {
    encoding: 'utf8',
    env: { PATH: process.env.PATH, HOME: copy, XDG_CACHE_HOME: cache, NO_COLOR: '1', ...env },
  });
  expect(stdout).toContain('#6404C3');
  const uses = new Map(
    readFileSync(stderr, 'utf8')
      .split('\n')
      .map((line) => line.split(' ') as [string, string]),
  );
  return uses.get('infer.cjs');
}

const keptFile = () => {
  const files = readdirSync(code);
  expect(files).toHaveLength(1);
  expect(files[0]).toMatch(/^color-v\d+\.\d+\.\d+-\w+/);
  return join(code, files[0]!);
};

test('a first start keeps its code, a second compiles nothing', () => {
  expect(start()).toBe('compiled');
  expect(start()).toBe('kept');
  // Written under another name first, and that one is gone.
  expect(basename(keptFile())).toMatch(/\.bin$/);
});

/** Changes what stands in both copies: the comparison holds, and what is in them decides. */
const inBoth = (file: Buffer, at: number, change: (byte: number) => number) => {
  const changed = Buffer.from(file);
  for (const half of [0, file.length / 2]) changed[half + at] = change(changed[half + at]!);
  return changed;
};

describe('kept code that is damaged is made anew:', () => {
  const codeBegins = (file: Buffer) => 4 + file.readUInt32LE(0);
  test.each<[string, (file: Buffer) => Buffer, string]>([
    ['nothing in the file', () => Buffer.alloc(0), 'compiled'],
    ['other text', () => Buffer.from('not code'), 'compiled'],
    ['zeros', (file) => Buffer.alloc(file.length), 'compiled'],
    ['the first half', (file) => file.subarray(0, file.length / 2), 'compiled'],
    ['one byte less', (file) => file.subarray(0, -1), 'compiled'],
    [
      'a byte changed in the middle of the code',
      (file) => {
        const changed = Buffer.from(file);
        changed[Math.floor(file.length / 4)]! ^= 1;
        return changed;
      },
      'compiled',
    ],
    ['a length beyond the file', (file) => inBoth(file, 3, () => 0x7f), 'compiled'],
    ['the code of another version of V8', (file) => inBoth(file, codeBegins(file) + 4, (byte) => byte ^ 1), 'refused'],
  ])('%s', (_, damage, use) => {
    start();
    const path = keptFile();
    const sound = readFileSync(path);
    writeFileSync(path, damage(sound));
    expect(start()).toBe(use);
    expect(start()).toBe('kept');
    expect(readFileSync(keptFile()).length).toBeGreaterThan(1000);
  });
});

test('the code of another build is not used', () => {
  start();
  const program = join(bundle, 'start.cjs');
  const text = readFileSync(program, 'utf8');
  writeFileSync(program, text.replace(/(\bBUILD=")[0-9a-f]+"/, '$1another"'));
  try {
    expect(readFileSync(program, 'utf8')).not.toBe(text);
    expect(start()).toBe('compiled');
  } finally {
    writeFileSync(program, text);
  }
});

test('other flags of V8 have code of their own', () => {
  start();
  expect(start({}, ['--no-opt'])).toBe('compiled');
  expect(start({}, ['--no-opt'])).toBe('kept');
  expect(start()).toBe('kept');
});

describe('where nothing can be written beside the program', () => {
  test("the code lies in the user's cache", () => {
    writeFileSync(code, 'in the way');
    expect(start()).toBe('compiled');
    expect(start()).toBe('kept');
    expect(readdirSync(join(cache, 'bitnet-gf3-mcp', 'code'))).toHaveLength(1);
  });

  test('code of builds that nobody has used for a month goes', () => {
    writeFileSync(code, 'in the way');
    const builds = join(cache, 'bitnet-gf3-mcp', 'code');
    for (const [name, days] of [
      ['old', 31],
      ['recent', 29],
    ] as const) {
      mkdirSync(join(builds, name), { recursive: true });
      const then = new Date(Date.now() - days * 24 * 60 * 60 * 1000);
      utimesSync(join(builds, name), then, then);
    }
    start();
    const left = readdirSync(builds);
    expect(left).toHaveLength(2);
    expect(left).toContain('recent');
  });

  test('nor there, every start compiles', () => {
    writeFileSync(code, 'in the way');
    writeFileSync(cache, 'in the way');
    expect(start()).toBe('compiled');
    expect(start()).toBe('compiled');
  });
});

test('a coverage report gets functions that were compiled', () => {
  start();
  expect(start({ NODE_V8_COVERAGE: join(copy, 'coverage') })).toBe('compiled');
});
