// The header of a GGUF file, version 3 (and 2, which is laid out alike):
//
//     "GGUF"  u32 version  i64 tensors  i64 pairs
//     pairs   x { string key; i32 type; value }
//     tensors x { string name; u32 n; i64 size[n], innermost first; i32 type; u64 offset from the data section }
//     padding to a multiple of general.alignment; data section
//
// A string is a u64 length and UTF-8. The length of the header is stored nowhere, so it is read in growing pieces; every
// count is compared with the bytes that are left before anything of its size is made.

import type { TensorInfo } from './checkpoint.ts';
import {
  DuplicateNameError,
  HeaderLimitError,
  HeaderSyntaxError,
  TensorRangeError,
  TruncatedFileError,
  UnsupportedTypeError,
} from './errors.ts';
import { type GgmlType, ggmlByteLength, ggmlTypeOfId, Q2_0_G128, REFUSED_TYPES } from './ggml-types.ts';
import {
  GgufArray,
  type GgufElementType,
  type GgufValue,
  type GgufValueType,
  ggufTypeOfId,
  minimalBytes,
  readFixed,
} from './gguf-values.ts';
import { isLfsPointer, LfsPointerError } from './lfs-pointer.ts';
import { q2Group } from './q2-group.ts';
import type { RandomAccessFile } from './random-access-file.ts';

/** Largest header we know: 8.4 MB for Llama 3's vocabulary; one of 262,144 tokens takes about 20 MB. */
export const MAX_GGUF_HEADER_BYTES = 256 * 2 ** 20;
/** As in ggml. */
const MAX_STRING_BYTES = 2 ** 30;
const MAX_ARRAY_LENGTH = 2 ** 30;
const MAX_DIMENSIONS = 4;
const MAX_TENSOR_NAME_BYTES = 63;
/** Smallest record of a pair (key of 1 byte, bool) and of a tensor (empty name, no dimension). */
const MIN_PAIR_BYTES = 8 + 1 + 4 + 1;
const MIN_TENSOR_BYTES = 8 + 4 + 4 + 8;

/** Named where a type is unknown: what every converter writes and we read. */
const CONVERT_TO: readonly string[] = ['F16', 'BF16', 'Q8_0', 'TQ2_0', 'Q2_0'];

const FIRST_READ = 2 ** 16;

export type GgufEntry = {
  readonly type: GgufValueType;
  readonly value: GgufValue;
  /** Type id and value as they lie in the file, for copying. */
  readonly raw: Uint8Array;
};

/** A tensor as the table tells of it, before it is known where it lies. */
export type GgufRecord = {
  readonly name: string;
  readonly type: GgmlType;
  /** Outermost first. */
  readonly shape: readonly number[];
  /** From the start of the data section. */
  readonly offset: number;
  /** Of the record in the file, for messages. */
  readonly at: number;
};

/** What a header is read from: a file, or bytes. */
export type HeaderSource = Pick<RandomAccessFile, 'path' | 'size' | 'readInto'>;

export type GgufHeader = {
  readonly version: number;
  readonly alignment: number;
  readonly entries: ReadonlyMap<string, GgufEntry>;
  readonly records: readonly GgufRecord[];
  /** Where the data section begins in the file. */
  readonly dataStart: number;
};

/**
 * Reads a header; where its tensors lie, `placeTensors` says. `architecture`: of the first part, for the other parts of a
 * split file, which do not repeat it.
 */
export async function readGgufHeader(file: HeaderSource, architecture?: string): Promise<GgufHeader> {
  const cursor = new Cursor(file);
  await cursor.need(24, 'the fixed part of the header');
  const version = readVersion(cursor, file);
  const tensorCount = readCount(cursor, file, 'tensors', MIN_TENSOR_BYTES);
  const pairCount = readCount(cursor, file, 'metadata pairs', MIN_PAIR_BYTES);
  const entries = new Map<string, GgufEntry>();
  for (let i = 0; i < pairCount; i++) await readPair(cursor, file, entries);
  const alignment = readAlignment(entries, file);
  const own = entries.get('general.architecture')?.value;
  const named = typeof own === 'string' ? own : architecture;
  const records: GgufRecord[] = [];
  const names = new Set<string>();
  for (let i = 0; i < tensorCount; i++) records.push(await readTensorRecord(cursor, file, names, named));
  return { version, alignment, entries, records, dataStart: padTo(cursor.at, alignment) };
}

const padTo = (size: number, alignment: number): number => Math.ceil(size / alignment) * alignment;

/** Reads forward; the bytes read so far stay, because arrays are views of them. */
class Cursor {
  at = 0;
  bytes: Buffer = Buffer.alloc(0);
  readonly #file: HeaderSource;

  constructor(file: HeaderSource) {
    this.#file = file;
  }

  /** Makes `count` bytes available at `at`. */
  need(count: number, what: string): Promise<void> | undefined {
    return this.at + count <= this.bytes.length ? undefined : this.#grow(this.at + count, what);
  }

  get left(): number {
    return this.#file.size - this.at;
  }

  async #grow(end: number, what: string): Promise<void> {
    const { path, size } = this.#file;
    if (end > size) {
      throw new TruncatedFileError({ file: path, offset: this.at, what: `the file ends inside ${what}` });
    }
    if (end > MAX_GGUF_HEADER_BYTES) {
      const limit = `the limit is ${MAX_GGUF_HEADER_BYTES}`;
      throw new HeaderLimitError({ file: path, offset: this.at, what: `the header needs ${end} bytes, ${limit}` });
    }
    const length = Math.min(size, MAX_GGUF_HEADER_BYTES, Math.max(end, FIRST_READ, 2 * this.bytes.length));
    const grown = Buffer.from(new Uint8Array(length).buffer);
    this.bytes.copy(grown);
    await this.#file.readInto(grown.subarray(this.bytes.length), this.bytes.length);
    this.bytes = grown;
  }

  u32(): number {
    const value = this.bytes.readUInt32LE(this.at);
    this.at += 4;
    return value;
  }

  /** A 64-bit integer as number; beyond 2^53 (and below 0) it is inexact, which every caller's limit refuses. */
  i64(): number {
    const value = this.bytes.readUInt32LE(this.at) + this.bytes.readInt32LE(this.at + 4) * 4294967296;
    this.at += 8;
    return value;
  }

  u64(): number {
    const value = this.bytes.readUInt32LE(this.at) + this.bytes.readUInt32LE(this.at + 4) * 4294967296;
    this.at += 8;
    return value;
  }
}

function malformed(file: HeaderSource, offset: number, what: string, fix?: string): HeaderSyntaxError {
  return new HeaderSyntaxError({ file: file.path, offset, what, ...(fix === undefined ? {} : { fix }) });
}

function readVersion(cursor: Cursor, file: HeaderSource): number {
  const magic = cursor.bytes.toString('latin1', 0, 4);
  if (magic !== 'GGUF') {
    if (isLfsPointer(cursor.bytes)) throw new LfsPointerError(file.path);
    throw malformed(file, 0, `a GGUF file begins with "GGUF", this one with ${JSON.stringify(magic)}`);
  }
  cursor.at = 4;
  const version = cursor.u32();
  if (version === 2 || version === 3) return version;
  if (version !== 0 && (version & 0xffff) === 0) {
    throw malformed(
      file,
      4,
      'the file is big-endian',
      'convert it on a little-endian machine, or download that variant',
    );
  }
  throw malformed(
    file,
    4,
    `GGUF version ${version}; versions 2 and 3 can be read`,
    'convert it with a current llama.cpp',
  );
}

function readCount(cursor: Cursor, file: HeaderSource, what: string, recordBytes: number): number {
  const offset = cursor.at;
  const count = cursor.i64();
  if (count < 0 || count * recordBytes > cursor.left) {
    throw malformed(
      file,
      offset,
      `the header claims ${count} ${what}, the file has ${cursor.left} bytes left for them`,
    );
  }
  return count;
}

async function readString(cursor: Cursor, file: HeaderSource, what: string): Promise<Buffer> {
  await cursor.need(8, what);
  const offset = cursor.at;
  const length = cursor.u64();
  if (length > MAX_STRING_BYTES || length > cursor.left) {
    const limit =
      length > MAX_STRING_BYTES ? `the limit is ${MAX_STRING_BYTES}` : `${cursor.left} are left in the file`;
    throw malformed(file, offset, `${what} claims ${length} bytes, ${limit}`);
  }
  await cursor.need(length, what);
  const bytes = cursor.bytes.subarray(cursor.at, cursor.at + length);
  cursor.at += length;
  return bytes;
}

/** Keys and names must be UTF-8: they are compared and printed. */
async function readName(cursor: Cursor, file: HeaderSource, what: string): Promise<string> {
  const offset = cursor.at;
  const bytes = await readString(cursor, file, what);
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw malformed(file, offset + 8, `${what} is not valid UTF-8`);
  }
}

async function readPair(cursor: Cursor, file: HeaderSource, entries: Map<string, GgufEntry>): Promise<void> {
  const offset = cursor.at;
  const key = await readName(cursor, file, 'a metadata key');
  if (key === '') throw malformed(file, offset, 'a metadata key is empty');
  if (entries.has(key)) throw new DuplicateNameError({ file: file.path, offset, name: key, kind: 'metadata key' });
  await cursor.need(4, `the type of "${key}"`);
  const start = cursor.at;
  const type = valueType(cursor, file, key);
  const value = type === 'array' ? await readArray(cursor, file, key) : await readScalar(cursor, file, key, type);
  entries.set(key, { type, value, raw: cursor.bytes.subarray(start, cursor.at) });
}

function valueType(cursor: Cursor, file: HeaderSource, key: string): GgufValueType {
  const offset = cursor.at;
  const id = cursor.u32();
  const type = ggufTypeOfId(id);
  if (type === undefined) throw malformed(file, offset, `the metadata key "${key}" has the unknown value type ${id}`);
  return type;
}

async function readScalar(cursor: Cursor, file: HeaderSource, key: string, type: GgufElementType): Promise<GgufValue> {
  const what = `the value of "${key}"`;
  if (type === 'string') return (await readString(cursor, file, what)).toString('utf8');
  const size = minimalBytes(type);
  await cursor.need(size, what);
  cursor.at += size;
  return readFixed(cursor.bytes, cursor.at - size, type);
}

async function readArray(cursor: Cursor, file: HeaderSource, key: string): Promise<GgufArray> {
  const what = `the array "${key}"`;
  await cursor.need(12, what);
  const offset = cursor.at;
  const elementType = valueType(cursor, file, key);
  if (elementType === 'array') throw malformed(file, offset, `${what} holds arrays, which GGUF readers refuse`);
  const length = cursor.u64();
  const least = length * minimalBytes(elementType);
  if (length > MAX_ARRAY_LENGTH || least > cursor.left) {
    throw malformed(file, offset + 4, `${what} claims ${length} elements, the file has ${cursor.left} bytes left`);
  }
  await cursor.need(least, what);
  const start = cursor.at;
  if (elementType !== 'string') cursor.at += least;
  else {
    for (let i = 0; i < length; i++) {
      // Twice, so that the common case (all bytes are there already) costs no await: there are 400,000 of these.
      if (cursor.at + 8 > cursor.bytes.length) await cursor.need(8, what);
      const bytes = cursor.u64();
      if (bytes > cursor.left) {
        throw malformed(file, cursor.at - 8, `string ${i} of ${what} claims ${bytes} bytes, ${cursor.left} are left`);
      }
      cursor.at += bytes;
    }
    await cursor.need(0, what);
  }
  return new GgufArray(elementType, length, cursor.bytes.subarray(start, cursor.at));
}

function readAlignment(entries: ReadonlyMap<string, GgufEntry>, file: HeaderSource): number {
  const entry = entries.get('general.alignment');
  if (entry === undefined) return 32;
  const { type, value } = entry;
  if (type === 'u32' && typeof value === 'number' && value > 0 && (value & (value - 1)) === 0) return value;
  const shown = value instanceof GgufArray ? '' : ` ${value}`;
  throw malformed(file, 0, `general.alignment is ${type}${shown}; it must be a u32 and a power of two`);
}

async function readTensorRecord(
  cursor: Cursor,
  file: HeaderSource,
  names: Set<string>,
  architecture: string | undefined,
): Promise<GgufRecord> {
  const at = cursor.at;
  const name = await readName(cursor, file, 'a tensor name');
  const nameBytes = cursor.at - at - 8;
  if (nameBytes > MAX_TENSOR_NAME_BYTES) {
    throw malformed(file, at, `a tensor name has ${nameBytes} bytes, the limit is ${MAX_TENSOR_NAME_BYTES}`);
  }
  if (names.has(name))
    throw new DuplicateNameError({ file: file.path, offset: at, tensor: name, name, kind: 'tensor' });
  names.add(name);
  const what = `the entry of tensor "${name}"`;
  await cursor.need(4, what);
  const dimensions = cursor.u32();
  if (dimensions > MAX_DIMENSIONS) {
    throw malformed(
      file,
      cursor.at - 4,
      `tensor "${name}" has ${dimensions} dimensions, the limit is ${MAX_DIMENSIONS}`,
    );
  }
  await cursor.need(8 * dimensions + 12, what);
  const shape = readShape(cursor, file, name, dimensions);
  const typeOffset = cursor.at;
  const id = cursor.u32();
  const type = ggmlTypeOfId(id, architecture);
  if (type === undefined) {
    const named = REFUSED_TYPES.get(id);
    throw new UnsupportedTypeError({
      file: file.path,
      offset: typeOffset,
      tensor: name,
      type: named === undefined ? `${id} (unknown)` : `${id} (${named})`,
      supported: CONVERT_TO,
    });
  }
  // That of type 42 is not known yet, but both its blocks are multiples of 64.
  tensorBytes({ name, type, shape, at }, file.path);
  return { name, type, shape, offset: cursor.u64(), at };
}

/** Throws TensorRangeError where the type cannot hold the shape. */
function tensorBytes({ name, type, shape, at }: Omit<GgufRecord, 'offset'>, file: string): number {
  const byteLength = ggmlByteLength(type, shape);
  if (typeof byteLength === 'number') return byteLength;
  const what = `tensor "${name}" cannot be ${type.name} [${shape.join(', ')}]: ${byteLength}`;
  throw new TensorRangeError({ file, offset: at, tensor: name, what });
}

/** Sizes come innermost first and are turned round; their product must stay a safe integer, also in bytes. */
function readShape(cursor: Cursor, file: HeaderSource, name: string, dimensions: number): number[] {
  const offset = cursor.at;
  const shape: number[] = [];
  let count = 1;
  for (let d = 0; d < dimensions; d++) {
    const size = cursor.i64();
    count *= size;
    // Sixteen covers the widest type, 8 bytes an element, twice.
    if (size < 0 || count * 16 > Number.MAX_SAFE_INTEGER || size > Number.MAX_SAFE_INTEGER) {
      throw malformed(
        file,
        offset + 8 * d,
        `dimension ${d} of tensor "${name}" is ${size}, which is negative or overflows`,
      );
    }
    shape.unshift(size);
  }
  return shape;
}

/**
 * The tensors of a model in one file or several. Offsets must be the running sum of the padded sizes, in file order; which
 * blocks type 42 means is decided over all parts together. Throws Q2GroupError, TensorRangeError, TruncatedFileError, and
 * DuplicateNameError for a tensor that two parts hold.
 */
export function placeTensors(
  parts: readonly { readonly file: Omit<HeaderSource, 'readInto'>; readonly header: GgufHeader }[],
): Map<string, TensorInfo> {
  const group = q2Group(
    parts.map(({ file, header: { records, alignment, dataStart } }) => ({
      file: file.path,
      records: records.map((record) => ({ ...record, isQ2: record.type.id === Q2_0_G128.id })),
      dataBytes: Math.max(0, file.size - dataStart),
      alignment,
    })),
  );
  const tensors = new Map<string, TensorInfo>();
  for (const { file, header } of parts) placePart(header, file, group, tensors);
  return tensors;
}

function placePart(
  { records, dataStart, alignment }: GgufHeader,
  file: Omit<HeaderSource, 'readInto'>,
  group: 64 | 128 | undefined,
  tensors: Map<string, TensorInfo>,
): void {
  let expected = 0;
  for (const record of records) {
    const { name, shape, offset, at } = record;
    const type = group === 128 && record.type.id === Q2_0_G128.id ? Q2_0_G128 : record.type;
    const byteLength = tensorBytes({ ...record, type }, file.path);
    if (tensors.has(name)) {
      throw new DuplicateNameError({ file: file.path, offset: at, tensor: name, name, kind: 'tensor' });
    }
    if (offset !== expected) {
      throw new TensorRangeError({
        file: file.path,
        offset: at,
        tensor: name,
        what: `tensor "${name}" is at offset ${offset} of the data, the sizes before it put it at ${expected}`,
      });
    }
    const start = dataStart + offset;
    if (start + byteLength > file.size) {
      throw new TruncatedFileError({
        file: file.path,
        offset: start,
        tensor: name,
        what: `tensor "${name}" needs bytes up to ${start + byteLength}, the file has ${file.size}`,
      });
    }
    tensors.set(name, { name, dtype: type.name, shape, byteLength, file: file.path, offset: start });
    expected = padTo(offset + byteLength, alignment);
  }
}
