// What a Hub, a mirror or a captive portal may answer when it is asked for a repository's files.

import { posix, win32 } from 'node:path';
import { BitnetError } from '../../src/errors.ts';
import { parseJson } from '../../src/formats/strict-json.ts';
import { readFileList } from '../../src/hub/pull.ts';
import { modelsIn, selectFiles } from '../../src/hub/select-files.ts';

const WHERE = 'https://hub.invalid/api';

/** Throws for what is no refusal of ours, and for a name that leads out of the folder it is joined to. */
export function fuzz(bytes: Uint8Array): void {
  const list = refused(() => readFileList(parseJson(bytes, { where: WHERE }), WHERE));
  if (list === undefined) return;
  const { all } = list;
  for (const { name } of all) {
    const inside =
      posix.join('/cache', name) === `/cache/${name}` && win32.join('C:\\cache', name).startsWith('C:\\cache\\');
    if (!inside) throw new Error(`a name that leads out: ${JSON.stringify(name)}`);
  }
  if (modelsIn(all).flatMap(({ parts }) => parts).length > all.length) throw new Error('a file in two models');
  for (const names of [undefined, all.slice(0, 2).map(({ name }) => name), ['absent']]) {
    const files = refused(() => selectFiles('o/m', all, names))?.files ?? [];
    if (new Set(files).size !== files.length || !files.every((file) => all.includes(file))) {
      throw new Error('a file twice, or one that is not there');
    }
  }
}

const sibling = (rfilename: string) => ({ rfilename, size: 7, blobId: 'b'.repeat(40) });
const large = (rfilename: string) => ({ rfilename, lfs: { sha256: 'a'.repeat(64), size: 1e9 } });

export const SEEDS: readonly Uint8Array[] = [
  { sha: 'c'.repeat(40), siblings: [sibling('config.json'), large('model.safetensors'), sibling('a/b.json')] },
  { sha: 'c'.repeat(40), siblings: [large('m-Q2_0.gguf'), large('m-F16.gguf'), large('mmproj-m.gguf')] },
  { sha: 'c'.repeat(40), siblings: [large('m-00001-of-00002.gguf'), large('m-00002-of-00002.gguf')] },
  { sha: 'c'.repeat(40), siblings: [large('onnx/model.onnx'), large('onnx/model.onnx_data'), sibling('merges.txt')] },
].map((answer) => Buffer.from(JSON.stringify(answer)));

function refused<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (error instanceof BitnetError) {
      if (error.message.length > 10_000) throw new Error('a message without end', { cause: error });
      return undefined;
    }
    throw error;
  }
}
