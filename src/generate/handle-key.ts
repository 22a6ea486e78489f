// The secret under which continuation handles are signed. It is made once an installation and kept beside the worlds, so
// that a handle is good after a restart; where nothing can be kept, as long as the process lives. Servers that share
// their handles share BITNET_HANDLE_KEY.

import { createHash, randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fstatSync,
  linkSync,
  mkdirSync,
  openSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';

type Environment = Readonly<Record<string, string | undefined>>;

const KEY_BYTES = 32;

let known: Uint8Array | undefined;

/** The key of this process. */
export function handleKey(): Uint8Array {
  known ??= findKey(process.env);
  return known;
}

/** 32 bytes: of BITNET_HANDLE_KEY, of the file that keeps them, or new. */
export function findKey(env: Environment): Uint8Array {
  if (env.BITNET_HANDLE_KEY) return createHash('sha256').update(env.BITNET_HANDLE_KEY).digest();
  const fresh = randomBytes(KEY_BYTES);
  const file = keyFile(env);
  try {
    return readKey(file) ?? keepKey(file, fresh) ?? fresh;
  } catch {
    // A read-only home: handles end with this process.
    return fresh;
  }
}

function keyFile(env: Environment): string {
  if (process.platform === 'win32' && env.LOCALAPPDATA) return join(env.LOCALAPPDATA, 'bitnet-gf3', 'handle.key');
  return join(env.XDG_DATA_HOME || join(homedir(), '.local', 'share'), 'bitnet-gf3', 'handle.key');
}

/** Undefined where there is none, or something else lies in its place. */
function readKey(file: string): Uint8Array | undefined {
  let handle: number;
  try {
    handle = openSync(file, 'r');
  } catch {
    return undefined;
  }
  try {
    const info = fstatSync(handle);
    if (!info.isFile() || info.size !== KEY_BYTES) return undefined;
    const key = new Uint8Array(KEY_BYTES);
    return readSync(handle, key, 0, KEY_BYTES, 0) === KEY_BYTES ? key : undefined;
  } finally {
    closeSync(handle);
  }
}

/** Of several processes that start at once, one makes the file, and all read what it made. */
function keepKey(file: string, key: Uint8Array): Uint8Array | undefined {
  makeFolder(dirname(file));
  const temporary = `${file}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    writeFileSync(temporary, key, { flag: 'wx', mode: 0o600 });
    linkSync(temporary, file);
  } catch {
    // There is one by now, or links are not to be had here: then it is read, or not kept.
  } finally {
    rmSync(temporary, { force: true });
  }
  return readKey(file);
}

/** Node's own `recursive` never ends where the system says ENOENT of a folder that does exist, as in /proc. */
function makeFolder(path: string): void {
  if (existsSync(path)) return;
  if (dirname(path) !== path) makeFolder(dirname(path));
  mkdirSync(path, { mode: 0o700 });
}
