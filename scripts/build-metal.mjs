// Compiles kernels/metal/addon.mm on macOS with the command line tools' clang++ (no Xcode project). The kernels
// themselves are compiled by Metal when the addon opens the device.
//
//   node scripts/build-metal.mjs             builds unless up to date, prints the file or why there is none
//   node scripts/build-metal.mjs --strict    the same, but no file is an error
//
// The file's name holds a hash of all that went into it, as in build-native.mjs.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const source = join(root, 'kernels', 'metal', 'addon.mm');

const FLAGS = [
  '-x',
  'objective-c++',
  '-std=c++17',
  '-O2',
  '-fvisibility=hidden',
  '-DNAPI_VERSION=8',
  '-mmacosx-version-min=12.0',
];
// MTLCreateSystemDefaultDevice finds no device in a program that does not link Core Graphics.
const LINK = [
  '-bundle',
  '-undefined',
  'dynamic_lookup',
  '-framework',
  'Foundation',
  '-framework',
  'Metal',
  '-framework',
  'CoreGraphics',
];

/** {path} of the addon, or {reason}. */
export function buildMetal() {
  if (process.platform !== 'darwin') return { reason: 'the Metal addon is built on macOS only' };
  const name = `metal-${createHash('sha256')
    .update(JSON.stringify([process.arch, FLAGS, LINK]))
    .update(readFileSync(source))
    .digest('hex')
    .slice(0, 16)}.node`;
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), 'Library', 'Caches');
  const folders = [join(root, 'build', 'native'), join(cache, 'bitnet-gf3-mcp', 'native')];
  const existing = folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
  if (existing) return { path: existing };
  let include;
  try {
    include = createRequire(import.meta.url)('node-api-headers').include_dir;
  } catch {
    return { reason: 'the package node-api-headers is not installed' };
  }
  for (const folder of folders) {
    let work;
    try {
      mkdirSync(folder, { recursive: true });
      work = mkdtempSync(join(folder, '.work-'));
    } catch {
      continue; // a read-only installation: the user's cache is next
    }
    try {
      const made = join(work, name);
      const command = process.env.CXX || 'clang++';
      const done = spawnSync(command, [...FLAGS, '-isystem', include, source, '-o', made, ...LINK], {
        encoding: 'utf8',
      });
      if (done.error) return { reason: `no compiler (${done.error.message}): run xcode-select --install` };
      if (done.status !== 0)
        return {
          reason: `${command} could not compile addon.mm: ${done.stderr.trim().split('\n').slice(0, 3).join(' | ')}`,
        };
      const path = join(folder, name);
      renameSync(made, path);
      return { path };
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }
  return { reason: `no writable folder for the build: ${folders.join(', ')}` };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const built = buildMetal();
  process.stderr.write(`${built.path ?? `Metal addon not built: ${built.reason}`}\n`);
  if (built.path === undefined && process.argv.includes('--strict')) process.exit(1);
}
