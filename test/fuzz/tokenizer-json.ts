// Fuzz target: any bytes as tokenizer.json, with a few texts and ids through whatever it describes.

import { BitnetError } from '../../src/errors.ts';
import { parseJson } from '../../src/formats/strict-json.ts';
import { isObject } from '../../src/tokenizer/json-file.ts';
import { textEncoder } from '../../src/tokenizer/text-encoder.ts';
import { atOnce } from '../../src/tokenizer/text-encoding.ts';
import { openStream } from '../../src/tokenizer/token-decoder.ts';
import { parseTokenizerJson } from '../../src/tokenizer/tokenizer-json.ts';
import { stageCase } from '../tokenizer/stage-cases.ts';

export const TEXTS = [
  'a'.repeat(30),
  ' '.repeat(300),
  "It's 12345 naïve  \r\n\n e\u0301 日本 🐸▁<s></s>",
  '▁'.repeat(200).concat('x'),
  '',
] as const;

const MAX_MESSAGE = 10_000;

/** Resolves for what is read or refused; rejects with anything that is no BitnetError. */
export async function fuzz(bytes: Uint8Array): Promise<void> {
  await orRefused(async () => {
    const json = parseJson(Buffer.from(bytes), { where: 'fuzz' });
    if (!isObject(json)) return;
    const parsed = parseTokenizerJson(json, 'fuzz');
    const encoding = await textEncoder(parsed);
    const least = encoding.least?.();
    for (const text of TEXTS) {
      for (const parseSpecial of [true, false]) {
        await orRefused(() => {
          const ids = atOnce(encoding.encode(text, { parseSpecial }));
          for (const id of ids) {
            if (parsed.vocabulary.token(id) === undefined) throw new Error(`id ${id} has no token`);
          }
          if (least !== undefined && ids.length * least.bytesPerId < text.replace(/\p{White_Space}/gu, '').length) {
            throw new Error(`${ids.length} ids of at most ${least.bytesPerId} bytes for ${JSON.stringify(text)}`);
          }
          const stream = openStream(parsed.decoder, parsed.vocabulary);
          for (const id of ids) stream.push(id);
          stream.end();
        });
      }
    }
  });
}

async function orRefused(work: () => void | Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
    if (error.message.length > MAX_MESSAGE) throw new Error(`a message of ${error.message.length} characters`);
  }
}

/** Files of every stage, for a fuzzer to begin from. */
export const SEEDS: readonly Uint8Array[] = Array.from({ length: 24 }, (_, i) =>
  Buffer.from(JSON.stringify(stageCase(i + 1).tokenizer)),
);
