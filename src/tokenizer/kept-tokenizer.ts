// What a tokenizer.json was parsed to, kept in the user's cache for the next start: reading it back takes a tenth of the
// time. It counts only while the file's size and times are what they were (ctime, too, which nobody sets), and only
// whole: it is written twice and compared, which is quicker than a hash in a program that has loaded none.
//
//     u32 length of the head | head, padded to 4 bytes | ends | slots | left | right | merged | ranks | units
//
// The head is JSON; the rest are arrays of int32, the last one of uint16. All of it comes twice.

import { readdirSync, readFileSync, rmSync, type Stats, statSync } from 'node:fs';
import { join } from 'node:path';
import { BitnetError } from '../errors.ts';
import { writeFileAtomically } from '../formats/atomic-file.ts';
import { makeFolder } from '../formats/make-folder.ts';
import { cacheFolder } from '../package/cache-folder.ts';
import { isObject, type JsonObject } from './json-file.ts';
import { PackedRanks, PackedTokens } from './packed-tokens.ts';
import type { BpeTables } from './tokenizer-json.ts';

/** Of the file's form and of the tables' hash functions. */
const FORMAT = 2;
/** A file system's clock may be this coarse: a file written within it could change and look the same. */
const CLOCK_MS = 2000;
const FORGET_MS = 30 * 24 * 60 * 60 * 1000;

type Head = {
  readonly format: number;
  readonly file: string;
  readonly state: string;
  /** tokenizer.json without its vocabulary and merges. */
  readonly json: JsonObject;
  /** Elements of each array. */
  readonly lengths: readonly number[];
};

export type KeptTokenizer = { readonly json: JsonObject; readonly tables: BpeTables };

/** Size and times of a regular file; undefined where there is none to be had, and for one written a moment ago. */
export function settledState(file: string): string | undefined {
  let info: Stats | undefined;
  try {
    info = statSync(file, { throwIfNoEntry: false });
  } catch {
    // A link to itself, say: whoever reads the file tells what is wrong.
    return undefined;
  }
  if (info === undefined || !info.isFile() || Date.now() - info.ctimeMs < CLOCK_MS) return undefined;
  return `${info.size} ${info.mtimeMs} ${info.ctimeMs}`;
}

/** Undefined when nothing is kept of the file as it is now. */
export function readKeptTokenizer(file: string): KeptTokenizer | undefined {
  try {
    const both = readFileSync(keptPath(file));
    const body = both.subarray(0, both.length / 2);
    if (!body.equals(both.subarray(both.length / 2))) return undefined;
    const headEnd = 4 + body.readUInt32LE(0);
    const head = JSON.parse(body.toString('utf8', 4, headEnd)) as Head;
    if (head.format !== FORMAT || head.file !== file || head.state !== settledState(file)) return undefined;
    let at = body.byteOffset + headEnd;
    const int32s = (length: number) => {
      const array = new Int32Array(body.buffer, at, length);
      at += array.byteLength;
      return array;
    };
    const [ends, slots, left, right, merged, ranks] = head.lengths.slice(0, -1).map(int32s);
    const units = new Uint16Array(body.buffer, at, head.lengths.at(-1));
    return {
      json: head.json,
      tables: {
        tokens: new PackedTokens(units, ends!, slots!),
        merges: { left: left!, right: right!, merged: merged!, ranks: new PackedRanks(left!, right!, ranks!) },
      },
    };
  } catch {
    // Nothing there, or of another form: the file itself has it all.
    return undefined;
  }
}

/** Keeps what was parsed from the file when it had that state. Where nothing can be written, nothing is kept. */
export async function keepTokenizer(file: string, state: string, { json, tables }: KeptTokenizer): Promise<void> {
  const { left, right, merged } = tables.merges;
  const tokens = PackedTokens.pack(Array.from({ length: tables.tokens.size }, (_, id) => tables.tokens.token(id)));
  const ranks = PackedRanks.pack(left, right);
  if (tokens === undefined || ranks === undefined) return;
  const arrays = [tokens.ends, tokens.slots, left, right, merged, ranks.slots, tokens.units];
  const model = isObject(json.model) ? { ...json.model, vocab: {}, merges: [] } : json.model;
  const { added_tokens, normalizer, pre_tokenizer, post_processor, decoder } = json;
  const rest = { model, added_tokens, normalizer, pre_tokenizer, post_processor, decoder };
  const lengths = arrays.map(({ length }) => length);
  let head: Buffer;
  try {
    head = Buffer.from(JSON.stringify({ format: FORMAT, file, state, json: rest, lengths }));
  } catch {
    // Objects in each other some thousand deep, in fields that nobody asks for.
    return;
  }
  const padded = Buffer.alloc(4 * Math.ceil(head.length / 4), ' ');
  head.copy(padded);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(padded.length);
  const parts = [length, padded, ...arrays.map((a) => new Uint8Array(a.buffer, a.byteOffset, a.byteLength))];
  try {
    await makeFolder(keptFolder(), { mode: 0o700 });
    await writeFileAtomically(keptPath(file), async (sink) => {
      for (const part of [...parts, ...parts]) await sink.write(part);
    });
  } catch (error) {
    // A read-only home, a full disk: every start parses.
    tellOnce(error);
    return;
  }
  try {
    forgetOld();
  } catch {
    // Another process forgets at the same time.
  }
}

let told = false;

function tellOnce(error: unknown): void {
  if (told) return;
  told = true;
  const reason = error instanceof BitnetError ? error.text.what : String(error);
  process.stderr.write(
    `nothing is kept between starts, which are slower for it: ${reason} (${keptFolder()}; XDG_CACHE_HOME names another folder)\n`,
  );
}

function keptFolder(): string {
  return cacheFolder(['tokenizers']);
}

function keptPath(file: string): string {
  return join(keptFolder(), `${file.replace(/\W+/g, '-').slice(-120)}.bin`);
}

/** Models come and go; one that is used after all is kept again. */
function forgetOld(): void {
  for (const name of readdirSync(keptFolder())) {
    const path = join(keptFolder(), name);
    if (Date.now() - statSync(path).mtimeMs > FORGET_MS) rmSync(path, { force: true });
  }
}
