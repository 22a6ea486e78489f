// A start takes the addon that the last look chose, and looks again whenever anything that decides it has changed. In a
// copy of the package with an addon that was compiled here.

import {
  appendFileSync,
  cpSync,
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
import { basename, join } from 'node:path';
import { afterAll, afterEach, beforeEach, expect, test, vi } from 'vitest';
import { compileAddon } from '../../src/native/compile.ts';
import { lookUp } from '../../src/native/look-up.ts';
import { notesFolder, readChosen, readTried } from '../../src/native/notes.ts';
import { prebuiltFolder } from '../../src/native/prebuilt.ts';
import { packageRoot } from '../../src/package/root.ts';

const built = await compileAddon('bitnet', packageRoot());
const none = built.path === undefined;
const home = mkdtempSync(join(tmpdir(), 'chosen-'));
afterAll(() => rmSync(home, { recursive: true }));

let root: string;
let copies = 0;
const THEN = new Date('2026-01-01T00:00:00Z');
beforeEach(() => {
  vi.stubEnv('XDG_CACHE_HOME', join(home, `cache-${copies}`));
  root = join(home, `package-${copies++}`);
  cpSync(join(packageRoot(), 'kernels'), join(root, 'kernels'), { recursive: true });
  cpSync(join(packageRoot(), 'package.json'), join(root, 'package.json'));
  utimesSync(join(root, 'kernels', 'cpu', 'engine.cc'), THEN, THEN);
  if (built.path !== undefined) {
    mkdirSync(join(root, 'build', 'native'), { recursive: true });
    cpSync(built.path, addon());
  }
});
afterEach(() => {
  vi.unstubAllEnvs();
  vi.restoreAllMocks();
});

/** Some time after the last write, without a compiler. */
async function look(): Promise<string | undefined> {
  const later = Date.now() + 60_000;
  vi.spyOn(Date, 'now').mockReturnValue(later);
  vi.stubEnv('PATH', home);
  vi.stubEnv('CXX', '');
  const found = await lookUp('bitnet', root, { now: true });
  return 'path' in found ? found.path : undefined;
}

const addon = () => join(root, 'build', 'native', basename(built.path!));
const chosen = () => readChosen('bitnet', root)?.path;

test.skipIf(none)('the note leads to the addon that was found', async () => {
  expect(chosen()).toBeUndefined();
  expect(await look()).toBe(addon());
  expect(chosen()).toBe(addon());
  expect(readTried(readChosen('bitnet', root)!.sha256)).toEqual({ note: expect.any(String) });
});

test.skipIf(none).each<[string, () => void]>([
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
  ['one source more', () => writeFileSync(join(root, 'kernels', 'cpu', 'new.cc'), '')],
  ['one source less', () => rmSync(join(root, 'kernels', 'cpu', 'pool.cc'))],
  [
    'other flags',
    () => {
      mkdirSync(join(root, 'dist', 'native'), { recursive: true });
      writeFileSync(join(root, 'dist', 'native', 'recipe.js'), '');
    },
  ],
  ['another version', () => appendFileSync(join(root, 'package.json'), '\n')],
  [
    'a prebuilt binary',
    () => {
      mkdirSync(prebuiltFolder(root), { recursive: true });
      writeFileSync(join(prebuiltFolder(root), 'manifest.json'), '{}');
    },
  ],
  ['no addon', () => rmSync(addon())],
  ['another addon in its place', () => appendFileSync(addon(), '\0')],
  [
    'another place of the package',
    () => {
      renameSync(root, `${root}-moved`);
      root = `${root}-moved`;
    },
  ],
])('it does not hold for %s', async (_, change) => {
  await look();
  expect(chosen()).toBe(addon());
  change();
  expect(chosen()).toBeUndefined();
});

test.skipIf(none)('nor for another kind of machine', async () => {
  await look();
  const { platform } = process;
  vi.spyOn(process, 'platform', 'get').mockReturnValue(platform === 'linux' ? 'freebsd' : 'linux');
  expect(chosen()).toBeUndefined();
});

test.skipIf(none)('a damaged note is none, and the next look writes it anew', async () => {
  await look();
  const note = join(notesFolder(), readdirSync(notesFolder()).find((name) => name.startsWith('chosen-'))!);
  for (const text of ['', '{', '[]', 'null', '{"root":1}']) {
    writeFileSync(note, text);
    expect(chosen(), text).toBeUndefined();
  }
  await look();
  expect(chosen()).toBe(addon());
});

test.skipIf(none)('what was written a moment ago is not noted: a second write could look the same', async () => {
  const touched = join(root, 'kernels', 'cpu', 'engine.cc');
  writeFileSync(touched, readFileSync(touched));
  // However long the look takes.
  const { ctimeMs } = statSync(touched);
  vi.spyOn(Date, 'now').mockReturnValue(ctimeMs + 1000);
  expect(await lookUp('bitnet', root, { now: true })).toEqual({ path: addon() });
  expect(chosen()).toBeUndefined();
});
