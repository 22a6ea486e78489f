import { join } from 'node:path';
import { readSmallFileSync } from '../formats/read-small-file.ts';

/** Those of text models have one to three kilobytes, the largest seen (of several media) 40. */
const MAX_CONFIG_BYTES = 1 << 20;

/** The bytes of `folder`/config.json, or undefined where there is none. Throws FileAccessError for one that cannot be read. */
export function readConfigBytes(folder: string): Buffer | undefined {
  return readSmallFileSync(join(folder, 'config.json'), MAX_CONFIG_BYTES);
}
