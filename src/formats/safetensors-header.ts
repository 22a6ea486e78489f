// The header of a .safetensors file: `u64 N`, then N bytes of JSON, then data. Each entry gives dtype, shape and
// data_offsets [begin, end) relative to byte 8 + N. The rules are those of the reference reader (huggingface/safetensors
// 0.8), plus two the written format asks for and readers skip: a tensor name occurs once, and the first byte is "{".

import type { TensorInfo } from './checkpoint.ts';
import {
  DuplicateNameError,
  HeaderLimitError,
  HeaderSyntaxError,
  TensorRangeError,
  TruncatedFileError,
} from './errors.ts';
import { JsonReader, JsonSyntaxError } from './strict-json.ts';

/** Same cap as the reference. The largest header we know of (2,000 shard-less expert tensors) is under 1 MB. */
export const MAX_HEADER_BYTES = 100_000_000;

/** A longer header is not turned into objects before it is known to be sound: a hostile one makes many out of few bytes. */
const MAX_PLAIN_LENGTH = 1 << 20;

/** Bits per element of every dtype of the format; those without an entry in `DTYPES` can be listed but not read. */
const BITS: ReadonlyMap<string, number> = new Map([
  ['F4', 4],
  ['F6_E2M3', 6],
  ['F6_E3M2', 6],
  ['BOOL', 8],
  ['U8', 8],
  ['I8', 8],
  ['F8_E5M2', 8],
  ['F8_E4M3', 8],
  ['F8_E8M0', 8],
  ['F8_E4M3FNUZ', 8],
  ['F8_E5M2FNUZ', 8],
  ['I16', 16],
  ['U16', 16],
  ['F16', 16],
  ['BF16', 16],
  ['I32', 32],
  ['U32', 32],
  ['F32', 32],
  ['C64', 64],
  ['F64', 64],
  ['I64', 64],
  ['U64', 64],
]);

const MAX_INTEGER = Number.MAX_SAFE_INTEGER;

type Entry = { readonly name: string; dtype: string; shape: number[]; begin: number; end: number };

export type SafetensorsHeader = {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: ReadonlyMap<string, string>;
};

/** Length of the JSON, checked against the file before anything of that size is allocated. */
export function headerLength(prefix: Uint8Array, file: { readonly path: string; readonly size: number }): number {
  const view = new DataView(prefix.buffer, prefix.byteOffset, prefix.byteLength);
  const length = view.getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw new HeaderLimitError({
      file: file.path,
      offset: 0,
      what: `the header claims ${length} bytes, the limit is ${MAX_HEADER_BYTES}`,
    });
  }
  if (8 + Number(length) > file.size) {
    throw new TruncatedFileError({
      file: file.path,
      offset: 0,
      what: `the header claims ${length} bytes, the file has ${file.size - 8} after the length field`,
    });
  }
  return Number(length);
}

/** Parses and validates the JSON part; `fileSize` is that of the whole file. */
export function parseSafetensorsHeader(
  json: Uint8Array,
  file: { readonly path: string; readonly size: number },
): SafetensorsHeader {
  const text = decodeHeader(json, file.path);
  const plain = readPlainHeader(text);
  if (plain !== undefined) {
    return { tensors: placeTensors(plain.entries, 8 + json.byteLength, file), metadata: plain.metadata };
  }
  const reader = new JsonReader(text);
  const at = (index: number): number => 8 + Buffer.byteLength(text.slice(0, index));
  const entries = new Map<string, Entry>();
  let metadata: Map<string, string> | undefined;
  try {
    reader.object((key, keyIndex) => {
      if (key === '__metadata__') {
        if (metadata !== undefined) {
          throw new DuplicateNameError({ file: file.path, offset: at(keyIndex), name: key, kind: 'metadata key' });
        }
        metadata = readMetadata(reader);
        return;
      }
      if (entries.has(key)) {
        throw new DuplicateNameError({ file: file.path, offset: at(keyIndex), tensor: key, name: key, kind: 'tensor' });
      }
      entries.set(key, readEntry(reader, key, keyIndex));
    });
    reader.end();
  } catch (error) {
    if (!(error instanceof JsonSyntaxError)) throw error;
    throw new HeaderSyntaxError(
      { file: file.path, offset: at(error.index), what: `the safetensors header is not valid: ${error.message}` },
      error,
    );
  }
  return { tensors: placeTensors([...entries.values()], 8 + json.byteLength, file), metadata: metadata ?? new Map() };
}

/**
 * A header in the one form that writers give, read in a tenth of the time; undefined for any other, which may be valid or
 * not. JSON.parse is too kind (it takes the last of two equal keys, rounds integers), but what it makes of a text that
 * `JSON.stringify` writes again to the letter is all that the text says.
 */
export function readPlainHeader(text: string): { entries: Entry[]; metadata: Map<string, string> } | undefined {
  // An escape may spell half a surrogate pair, which has no place in a name.
  if (text.length > MAX_PLAIN_LENGTH || text.includes('\\')) return undefined;
  let header: Readonly<Record<string, unknown>>;
  try {
    header = JSON.parse(text) as Readonly<Record<string, unknown>>;
    if (JSON.stringify(header) !== text.trimEnd()) return undefined;
  } catch {
    // No JSON, or nested too deeply to be written.
    return undefined;
  }
  const entries: Entry[] = [];
  let metadata = new Map<string, string>();
  const whole = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
  for (const [name, value] of Object.entries(header)) {
    if (typeof value !== 'object' || value === null) return undefined;
    if (name === '__metadata__') {
      if (Array.isArray(value) || !Object.values(value).every((one) => typeof one === 'string')) return undefined;
      metadata = new Map(Object.entries(value as Readonly<Record<string, string>>));
      continue;
    }
    const { dtype, shape, data_offsets: offsets, ...more } = value as Readonly<Record<string, unknown>>;
    if (typeof dtype !== 'string' || !BITS.has(dtype) || !Array.isArray(shape) || !shape.every(whole)) return undefined;
    if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(whole)) return undefined;
    if (Object.keys(more).length > 0) return undefined;
    entries.push({ name, dtype, shape, begin: offsets[0]!, end: offsets[1]! });
  }
  return { entries, metadata };
}

function decodeHeader(json: Uint8Array, file: string): string {
  if (json[0] !== 0x7b) {
    const what =
      json.length === 0
        ? 'the safetensors header is empty'
        : `the safetensors header must begin with "{", it begins with byte 0x${json[0]!.toString(16).padStart(2, '0')}`;
    throw new HeaderSyntaxError({ file, offset: 8, what });
  }
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(json);
  } catch (cause) {
    throw new HeaderSyntaxError({ file, offset: 8, what: 'the safetensors header is not valid UTF-8' }, cause);
  }
}

function readMetadata(reader: JsonReader): Map<string, string> {
  const metadata = new Map<string, string>();
  if (reader.null()) return metadata;
  reader.object((key) => {
    metadata.set(key, reader.string());
  });
  return metadata;
}

function readEntry(reader: JsonReader, name: string, nameIndex: number): Entry {
  let dtype: string | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  const label = `of tensor ${JSON.stringify(name)}`;
  reader.object((field, fieldIndex) => {
    if ((field === 'dtype' && dtype) || (field === 'shape' && shape) || (field === 'data_offsets' && offsets)) {
      reader.fail(`the field "${field}" ${label} occurs twice`, fieldIndex);
    }
    if (field === 'dtype') {
      const index = reader.index;
      dtype = reader.string();
      if (!BITS.has(dtype)) {
        reader.fail(`the dtype ${JSON.stringify(dtype)} ${label} is none of ${[...BITS.keys()].join(', ')}`, index);
      }
    } else if (field === 'shape') {
      const sizes: number[] = [];
      reader.array(() => sizes.push(reader.unsigned(MAX_INTEGER, `a size ${label}`)));
      shape = sizes;
    } else if (field === 'data_offsets') {
      const pair: number[] = [];
      const index = reader.index;
      reader.array(() => pair.push(reader.unsigned(MAX_INTEGER, `an offset ${label}`)));
      if (pair.length !== 2) reader.fail(`data_offsets ${label} has ${pair.length} numbers, it needs 2`, index);
      offsets = pair;
    } else reader.skip();
  });
  if (dtype === undefined || shape === undefined || offsets === undefined) {
    const missing = dtype === undefined ? 'dtype' : shape === undefined ? 'shape' : 'data_offsets';
    reader.fail(`the field "${missing}" ${label} is missing`, nameIndex);
  }
  return { name, dtype, shape, begin: offsets[0]!, end: offsets[1]! };
}

/** Walks the tensors by offset: together they must cover the data section exactly once. */
function placeTensors(
  entries: Entry[],
  dataStart: number,
  file: { readonly path: string; readonly size: number },
): Map<string, TensorInfo> {
  entries.sort((a, b) => a.begin - b.begin || a.end - b.end);
  const fail = (entry: Entry, what: string): never => {
    throw new TensorRangeError({
      file: file.path,
      offset: dataStart + Math.min(entry.begin, MAX_INTEGER - dataStart),
      tensor: entry.name,
      what: `tensor "${entry.name}" ${what}`,
    });
  };
  const tensors = new Map<string, TensorInfo>();
  let expected = 0;
  for (const entry of entries) {
    const { name, dtype, shape, begin, end } = entry;
    if (end < begin) fail(entry, `ends at ${end}, before it begins at ${begin}`);
    if (begin > expected) fail(entry, `begins at ${begin} and leaves a gap of ${begin - expected} bytes before it`);
    if (begin < expected) fail(entry, `begins at ${begin} and overlaps its predecessor by ${expected - begin} bytes`);
    let bits = BITS.get(dtype)!;
    for (const size of shape) {
      bits *= size;
      if (bits > MAX_INTEGER) fail(entry, `has the shape [${shape.join(', ')}], whose size overflows`);
    }
    if (bits % 8 !== 0) fail(entry, `has ${bits} bits as ${dtype} [${shape.join(', ')}], not a whole number of bytes`);
    if (bits / 8 !== end - begin) {
      fail(entry, `needs ${bits / 8} bytes as ${dtype} [${shape.join(', ')}], its offsets give ${end - begin}`);
    }
    tensors.set(name, { name, dtype, shape, byteLength: end - begin, file: file.path, offset: dataStart + begin });
    expected = end;
  }
  const dataLength = file.size - dataStart;
  if (expected > dataLength) {
    throw new TruncatedFileError({
      file: file.path,
      offset: file.size,
      what: `the tensors need ${expected} bytes of data, the file has ${dataLength}`,
    });
  }
  if (expected < dataLength) {
    throw new TensorRangeError({
      file: file.path,
      offset: dataStart + expected,
      what: `${dataLength - expected} bytes after the last tensor belong to none`,
    });
  }
  return tensors;
}
