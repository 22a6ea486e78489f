// Fuzz target: any bytes as tokenizer.model, with a few texts through what it describes.

import { readFileSync } from 'node:fs';
import { BitnetError } from '../../src/errors.ts';
import { loadPieces } from '../../src/tokenizer/load-pieces.ts';
import { atOnce } from '../../src/tokenizer/text-encoding.ts';
import { openStream } from '../../src/tokenizer/token-decoder.ts';
import { TEXTS } from './tokenizer-json.ts';

/** Returns for what is read or refused; throws anything that is no BitnetError. */
export function fuzz(bytes: Uint8Array): void {
  try {
    const pieces = loadPieces(bytes, 'fuzz', [], ['<s>', '</s>']);
    const least = pieces.encoding.least?.();
    for (const text of TEXTS) {
      for (const parseSpecial of [true, false]) {
        const ids = atOnce(pieces.encoding.encode(text, { parseSpecial }));
        if (least !== undefined && ids.length * least.bytesPerId < text.replace(/[\p{White_Space}▁]/gu, '').length) {
          throw new Error(`${ids.length} ids of at most ${least.bytesPerId} bytes for ${JSON.stringify(text)}`);
        }
        const stream = openStream(pieces.decoder, pieces.vocabulary);
        for (const id of ids) stream.push(id);
        stream.end();
      }
    }
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
  }
}

/** The models of the golden folders, for a fuzzer to begin from. */
export const SEEDS: readonly Uint8Array[] = ['sentencepiece', 'sentencepiece-symbols'].map((name) =>
  readFileSync(new URL(`../golden/tokenizer/${name}/tokenizer.model`, import.meta.url)),
);
