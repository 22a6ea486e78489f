// What takes minutes and a network, so only when asked with TEST_INSTALLS=1 (as continuous integration does): a fresh
// clone under several majors of npm, and what a developer asks for by name, really installed into temporary folders.

import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { OnnxRuntimeMissingError } from '../../src/generate/onnx/errors.ts';
import { toyFolder } from '../generate/onnx/toy-decoder.ts';
import { ROOT } from '../mcp/server-process.ts';

const asked = process.env.TEST_INSTALLS === '1';
if (!asked) console.warn('skipped: installing a fresh clone and onnxruntime-node; TEST_INSTALLS=1 asks for it');

const MINUTES = 60_000;
/** Majors that a newcomer may have; one that this Node is too old or too new for is left out by its own word. */
const NPM_MAJORS = ['10', '11', '12'];

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'bitnet-requests-'));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

type Done = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

function run(command: string, args: readonly string[], cwd: string, path = process.env.PATH ?? ''): Done {
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    // What npm told the tests about itself must not tell another npm.
    env: {
      ...Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_|^TEST_/i.test(name))),
      PATH: path,
    },
    shell: process.platform === 'win32',
    maxBuffer: 1 << 26,
  });
  return { code: status, stdout, stderr };
}

/** The files that git has, as they are now, so that what is about to be committed is tried. */
function clone(name: string): string {
  const to = join(scratch, name);
  const { stdout } = run('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], ROOT);
  for (const file of stdout.split('\0')) {
    if (file === '' || !existsSync(join(ROOT, file))) continue;
    mkdirSync(dirname(join(to, file)), { recursive: true });
    cpSync(join(ROOT, file), join(to, file));
  }
  return to;
}

/** Lines that a newcomer would take for a warning. Complaints about the settings of this machine are not ours. */
const warningsIn = (text: string) =>
  text
    .split('\n')
    .filter((line) => /warn|deprecat|vulnerab|new (major|minor|patch) version|error/i.test(line))
    .filter((line) => !/Unknown (user|global|env|builtin|cli) config/.test(line));

describe.skipIf(!asked)('a fresh clone', () => {
  test.each(NPM_MAJORS)(
    'under npm %s: `npm run demo` writes its story without one warning, and without onnxruntime-node',
    (major) => {
      const tools = join(scratch, `npm-${major}`);
      mkdirSync(tools);
      writeFileSync(join(tools, 'package.json'), '{"private":true}');
      expect(run('npm', ['install', '--no-audit', '--no-fund', `npm@${major}`], tools).code).toBe(0);
      const { engines } = JSON.parse(readFileSync(join(tools, 'node_modules/npm/package.json'), 'utf8'));
      const path = `${join(tools, 'node_modules', '.bin')}${delimiter}${process.env.PATH}`;
      const version = run('npm', ['--version'], tools, path);
      if (/does not support Node/.test(version.stderr)) {
        console.warn(`skipped: npm ${major} wants Node ${engines.node}, this is ${process.version}`);
        return;
      }
      expect(version.stdout.trim().split('.')[0]).toBe(major);

      const folder = clone(`clone-${major}`);
      // Compiled code is the same whatever npm, and a fresh clone that has these tests has compiled it.
      const built = join(ROOT, 'build', 'native');
      for (const name of existsSync(built) ? readdirSync(built) : []) {
        // Other tests build here at the same time, under other names.
        if (!/^(bitnet|train)-[0-9a-f]{16}\..*(node|ok)$/.test(name)) continue;
        mkdirSync(join(folder, 'build', 'native'), { recursive: true });
        cpSync(join(built, name), join(folder, 'build', 'native', name));
      }
      const demo = run('npm', ['run', 'demo'], folder, path);
      expect({ code: demo.code, warnings: warningsIn(demo.stderr + demo.stdout) }).toEqual({ code: 0, warnings: [] });
      expect(demo.stdout).toContain('#6404C3');
      expect(demo.stdout).toMatch(/^GF\(3\) trit sum: .* mod 3 = /m);
      expect(existsSync(join(folder, 'node_modules/onnxruntime-node'))).toBe(false);
      if (major !== NPM_MAJORS[0]) rmSync(folder, { recursive: true });
    },
    20 * MINUTES,
  );

  test(
    '`npm run onnx` puts onnxruntime-node there and changes no file; then a graph runs',
    () => {
      const folder = join(scratch, `clone-${NPM_MAJORS[0]}`);
      const files = ['package.json', 'package-lock.json'].map((name) => readFileSync(join(folder, name), 'utf8'));
      const before = run(process.execPath, ['dist/cli/main.js', 'doctor', '--json'], folder);
      expect(JSON.parse(before.stdout).sources[0]).toEqual({
        name: 'onnx',
        usable: false,
        reason: 'onnxruntime-node: it is not installed',
      });
      expect(run('npm', ['run', 'onnx'], folder).code).toBe(0);
      expect(['package.json', 'package-lock.json'].map((name) => readFileSync(join(folder, name), 'utf8'))).toEqual(
        files,
      );
      const after = run(process.execPath, ['dist/cli/main.js', 'doctor', '--json'], folder);
      expect(JSON.parse(after.stdout).sources[0]).toMatchObject({ name: 'onnx', usable: true });
      expectGraphRuns(process.execPath, [join(folder, 'dist/cli/main.js')]);
    },
    20 * MINUTES,
  );
});

describe.skipIf(!asked)('the package', () => {
  test(
    'runs a graph after the very line of its error message',
    () => {
      const folder = join(scratch, 'user');
      mkdirSync(folder);
      writeFileSync(join(folder, 'package.json'), '{"private":true}');
      const pack = run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], ROOT);
      const [{ filename }] = Object.values(JSON.parse(pack.stdout)) as [{ filename: string }];
      expect(run('npm', ['install', '--no-audit', '--no-fund', `./${filename}`], folder).code).toBe(0);
      expect(existsSync(join(folder, 'node_modules/onnxruntime-node'))).toBe(false);

      const toy = toyFolder();
      const program = join(folder, 'node_modules/bitnet-gf3-mcp/dist/cli/main.js');
      const args = ['infer', 'The little fox', '--backend', 'onnx', '--model', toy, '--max-tokens', '4'];
      const refused = run(process.execPath, [program, ...args], folder);
      rmSync(toy, { recursive: true });
      const told = new OnnxRuntimeMissingError('it is not installed').message;
      expect(refused).toEqual({ code: 1, stdout: '', stderr: `error: ${told}\n` });

      const [command, ...rest] = /`(npm install [^`]+)`/.exec(refused.stderr)![1]!.split(' ');
      expect(run(command!, rest, folder).code).toBe(0);
      expectGraphRuns(process.execPath, [program]);
    },
    20 * MINUTES,
  );
});

function expectGraphRuns(command: string, args: readonly string[]): void {
  const toy = toyFolder();
  const flags = ['--backend', 'onnx', '--model', toy, '--max-tokens', '4', '--json'];
  const { code, stdout, stderr } = run(command, [...args, 'infer', 'The little fox', ...flags], scratch);
  rmSync(toy, { recursive: true });
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(JSON.parse(stdout).trace).toHaveLength(4);
}
