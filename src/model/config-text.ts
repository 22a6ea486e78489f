// The text of a model's config.json, read with a limit: a model folder may come from anyone.

import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ConfigError } from './config.ts';

/** Real ones have one to three kilobytes. */
const MAX_CONFIG_BYTES = 1 << 20;

/** The text of `folder`/config.json, or undefined where there is none. Throws ConfigError for one that cannot be read. */
export async function readConfigText(folder: string): Promise<string | undefined> {
  const file = join(folder, 'config.json');
  const fail = (what: string, fix: string, cause?: unknown): never => {
    throw new ConfigError({ what, where: file, fix }, { cause });
  };
  try {
    // Asked before reading: a pipe would be waited for, and a file of gigabytes read whole.
    const info = await stat(file);
    if (!info.isFile()) fail('config.json is not a regular file', "replace it with the model's own file");
    if (info.size > MAX_CONFIG_BYTES) {
      const what = `config.json has ${info.size} bytes, the limit is ${MAX_CONFIG_BYTES}`;
      fail(what, 'this is not the config of a model: download it again');
    }
    return await readFile(file, 'utf8');
  } catch (cause) {
    if (cause instanceof ConfigError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') return undefined;
    return fail(`config.json cannot be read: ${code ?? String(cause)}`, 'check its permissions and links', cause);
  }
}
