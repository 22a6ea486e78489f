// A start takes the addon's place from the builder's note, and looks again whenever anything that decides it has changed.
// In a copy of the package whose addon is an empty file of the right name.

import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeEach, expect, test, vi } from 'vitest';
import { loadNative } from '../../src/engine/cpu/native.ts';
import { stampedAddon } from '../../src/engine/cpu/native-stamp.ts';
import { packageRoot } from '../../src/hub/package-root.ts';

const native = await loadNative();
const home = mkdtempSync(join(tmpdir(), 'stamp-'));
afterAll(() => rmSync(home, { recursive: true }));

let root: string;
let builder: { findNative(): string | undefined };
let copies = 0;
const THEN = new Date('2026-01-01T00:00:00Z');
beforeEach(async () => {
  vi.stubEnv('XDG_CACHE_HOME', join(home, 'cache'));
  root = join(home, `package-${copies++}`);
  cpSync(join(packageRoot(), 'kernels'), join(root, 'kernels'), { recursive: true });
  mkdirSync(join(root, 'scripts'));
  cpSync(join(packageRoot(), 'scripts', 'build-native.mjs'), join(root, 'scripts', 'build-native.mjs'));
  utimesSync(join(root, 'kernels', 'cpu', 'engine.cc'), THEN, THEN);
  builder = await import(pathToFileURL(join(root, 'scripts', 'build-native.mjs')).href);
  if ('path' in native) put(join(root, 'build', 'native', native.path.replace(/^.*[/\\]/, '')));
});
afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

function put(path: string) {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, '');
}

/** The builder's look, some time after the last write. */
function look(): string | undefined {
  const later = Date.now() + 60_000;
  vi.spyOn(Date, 'now').mockReturnValue(later);
  return builder.findNative();
}

const addon = () =>
  join(root, 'build', 'native', readdirSync(join(root, 'build', 'native')).find((name) => name.endsWith('.node'))!);

test.skipIf('reason' in native)('the note leads to the addon that the builder found', () => {
  expect(stampedAddon(root)).toBeUndefined();
  expect(look()).toBe(addon());
  expect(stampedAddon(root)).toBe(addon());
});

test.skipIf('reason' in native).each<[string, () => void]>([
  [
    'a source of the same length and time',
    () => {
      const path = join(root, 'kernels', 'cpu', 'engine.cc');
      const text = readFileSync(path, 'latin1');
      const { ctimeMs } = statSync(path);
      // Until the clock of the file system, which may tick every few milliseconds only, has gone on.
      do {
        writeFileSync(path, text.replace('// ', '/// ').replace('\n\n', '\n'), 'latin1');
        utimesSync(path, THEN, THEN);
      } while (statSync(path).ctimeMs === ctimeMs);
      expect(statSync(path)).toMatchObject({ size: text.length, mtime: THEN });
    },
  ],
  ['a header', () => appendFileSync(join(root, 'kernels', 'include', 'engine.h'), '\n')],
  ['one source more', () => put(join(root, 'kernels', 'cpu', 'isa_new.cc'))],
  ['one source less', () => rmSync(join(root, 'kernels', 'cpu', 'pool.cc'))],
  ['the builder with its flags', () => appendFileSync(join(root, 'scripts', 'build-native.mjs'), '\n')],
  ['no addon', () => rmSync(addon())],
  [
    'another place of the package',
    () => {
      renameSync(root, `${root}-moved`);
      root = `${root}-moved`;
    },
  ],
])('it does not hold for %s', (_, change) => {
  look();
  expect(stampedAddon(root)).toBe(addon());
  change();
  expect(stampedAddon(root)).toBeUndefined();
});

test.skipIf('reason' in native)('nor for another kind of machine', () => {
  look();
  const { platform } = process;
  vi.spyOn(process, 'platform', 'get').mockReturnValue(platform === 'linux' ? 'freebsd' : 'linux');
  expect(stampedAddon(root)).toBeUndefined();
});

test.skipIf('reason' in native)('a damaged note is none, and the builder writes it anew', () => {
  look();
  const folder = join(root, 'build', 'native');
  const note = join(folder, readdirSync(folder).find((name) => name.startsWith('stamp-'))!);
  for (const text of ['', '{', '[]', 'null', '{"root":1}']) {
    writeFileSync(note, text);
    expect(stampedAddon(root), text).toBeUndefined();
  }
  look();
  expect(stampedAddon(root)).toBe(addon());
});

test.skipIf('reason' in native)(
  'sources written a moment ago are not noted: a second write could look the same',
  () => {
    appendFileSync(join(root, 'kernels', 'cpu', 'kernel_bench.cc'), '');
    const touched = join(root, 'kernels', 'cpu', 'engine.cc');
    writeFileSync(touched, readFileSync(touched));
    // However long the look takes.
    vi.spyOn(Date, 'now').mockReturnValue(statSync(touched).ctimeMs + 1000);
    expect(builder.findNative()).toBe(addon());
    expect(existsSync(join(root, 'build', 'native'))).toBe(true);
    expect(stampedAddon(root)).toBeUndefined();
  },
);
