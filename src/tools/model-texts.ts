// What a model folder says of itself.

import { join } from 'node:path';
import { FileAccessError } from '../formats/errors.ts';
import { readTextFile } from '../formats/read-small-file.ts';

/** These texts are small; one that is larger is not what it says. */
const MAX_BYTES = 256 * 1024;

export type ModelText = { readonly file: string; readonly mimeType: string; readonly text: string };

/** Config and card, as far as they are there and can be read. */
export async function modelTexts(folder: string): Promise<ModelText[]> {
  const texts: ModelText[] = [];
  for (const [file, mimeType] of [
    ['config.json', 'application/json'],
    ['README.md', 'text/markdown'],
  ] as const) {
    const text = await readTextFile(join(folder, file), MAX_BYTES).catch((error: unknown) => {
      if (error instanceof FileAccessError) return undefined;
      throw error;
    });
    if (text !== undefined) texts.push({ file, mimeType, text });
  }
  return texts;
}
