// Writes a GGUF file, version 3. Tensors go out in the order given and may be streamed.

import { type AtomicSink, type WriteOptions, writeFileAtomically } from './atomic-file.ts';
import { WriteError } from './errors.ts';
import { ggmlByteLength, ggmlTypeNames, ggmlTypeOfName } from './ggml-types.ts';
import { GGUF_VALUE_TYPES, type GgufElementType } from './gguf-values.ts';

export type GgufPair = { readonly key: string } & (
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: Exclude<GgufElementType, 'string' | 'bool'>; readonly value: number | bigint }
  | { readonly type: 'array'; readonly elementType: 'string'; readonly value: readonly string[] }
  | { readonly type: 'array'; readonly elementType: 'bool'; readonly value: readonly boolean[] }
  | {
      readonly type: 'array';
      readonly elementType: Exclude<GgufElementType, 'string' | 'bool'>;
      readonly value: ArrayLike<number | bigint>;
    }
  /** Type id and value as another file had them (`GgufEntry.raw`). */
  | { readonly raw: Uint8Array }
);

export type GgufTensorToWrite = {
  /** At most 63 bytes of UTF-8. */
  readonly name: string;
  /** A ggml type name such as `TQ2_0`. */
  readonly type: string;
  /** Outermost first, as everywhere here; the file lists it the other way round. */
  readonly shape: readonly number[];
} & ({ readonly bytes: Uint8Array } | { readonly chunks: () => Iterable<Uint8Array> | AsyncIterable<Uint8Array> });

/** Writes `path` atomically. `general.alignment` is respected where given, else tensors begin at multiples of 32. */
export async function writeGguf(
  path: string,
  contents: { readonly metadata: readonly GgufPair[]; readonly tensors: readonly GgufTensorToWrite[] },
  options: WriteOptions = {},
): Promise<void> {
  const alignment = alignmentOf(path, contents.metadata);
  const sizes = contents.tensors.map((tensor) => byteLengthOf(path, tensor));
  const header = encodeHeader(path, contents, sizes, alignment);
  await writeFileAtomically(
    path,
    async (sink) => {
      await sink.write(header);
      for (const [i, tensor] of contents.tensors.entries()) {
        await writeTensor(sink, path, tensor, sizes[i]!, alignment);
        options.onTensor?.(i + 1, contents.tensors.length);
      }
    },
    options.signal,
  );
}

const padded = (size: number, alignment: number): number => Math.ceil(size / alignment) * alignment;

function alignmentOf(path: string, metadata: readonly GgufPair[]): number {
  const pair = metadata.find(({ key }) => key === 'general.alignment');
  if (pair === undefined) return 32;
  let value: unknown;
  if ('raw' in pair) value = Buffer.from(pair.raw).readUInt32LE(4);
  else if (pair.type === 'u32') value = Number(pair.value);
  if (typeof value === 'number' && value > 0 && Number.isInteger(Math.log2(value))) return value;
  throw new WriteError({ file: path, what: 'general.alignment must be a u32 and a power of two', fix: 'use 32' });
}

function byteLengthOf(path: string, tensor: GgufTensorToWrite): number {
  const type = ggmlTypeOfName(tensor.type);
  if (type === undefined) {
    const what = `tensor "${tensor.name}" has the unknown type ${tensor.type}`;
    throw new WriteError({ file: path, tensor: tensor.name, what, fix: `use one of ${ggmlTypeNames().join(', ')}` });
  }
  const size = ggmlByteLength(type, tensor.shape);
  if (typeof size === 'number') return size;
  const what = `tensor "${tensor.name}" [${tensor.shape.join(', ')}] cannot be ${tensor.type}: ${size}`;
  throw new WriteError({ file: path, tensor: tensor.name, what, fix: 'use a type without blocks, such as F16' });
}

function encodeHeader(
  path: string,
  { metadata, tensors }: { readonly metadata: readonly GgufPair[]; readonly tensors: readonly GgufTensorToWrite[] },
  sizes: readonly number[],
  alignment: number,
): Uint8Array {
  const out = new ByteBuilder();
  out.bytes(Buffer.from('GGUF'));
  out.fixed('u32', 3);
  out.fixed('u64', tensors.length);
  out.fixed('u64', metadata.length);
  const seen = new Set<string>();
  for (const pair of metadata) {
    if (pair.key === '' || seen.has(pair.key)) {
      const what = `the metadata key ${JSON.stringify(pair.key)} is empty or given twice`;
      throw new WriteError({ file: path, what, fix: 'give each key once' });
    }
    seen.add(pair.key);
    out.string(pair.key);
    encodeValue(out, pair);
  }
  seen.clear();
  let offset = 0;
  for (const [i, { name, type, shape }] of tensors.entries()) {
    const nameBytes = Buffer.byteLength(name);
    if (nameBytes > 63 || seen.has(name) || shape.length > 4) {
      const what = `tensor ${JSON.stringify(name)} [${shape.join(', ')}] has a name of ${nameBytes} bytes`;
      const fix = 'names are unique and at most 63 bytes long, and there are at most 4 dimensions';
      throw new WriteError({ file: path, tensor: name, what, fix });
    }
    seen.add(name);
    out.string(name);
    out.fixed('u32', shape.length);
    for (const size of shape.toReversed()) out.fixed('u64', size);
    out.fixed('u32', ggmlTypeOfName(type)!.id);
    out.fixed('u64', offset);
    offset = padded(offset + sizes[i]!, alignment);
  }
  return out.finish(alignment);
}

function encodeValue(out: ByteBuilder, pair: GgufPair): void {
  if ('raw' in pair) {
    out.bytes(pair.raw);
    return;
  }
  out.fixed('u32', GGUF_VALUE_TYPES[pair.type]);
  if (pair.type !== 'array') {
    if (pair.type === 'string') out.string(pair.value);
    else out.fixed(pair.type, pair.value);
    return;
  }
  out.fixed('u32', GGUF_VALUE_TYPES[pair.elementType]);
  out.fixed('u64', pair.value.length);
  if (pair.elementType === 'string') for (const value of pair.value) out.string(value);
  else for (let i = 0; i < pair.value.length; i++) out.fixed(pair.elementType, pair.value[i]!);
}

async function writeTensor(
  sink: AtomicSink,
  path: string,
  tensor: GgufTensorToWrite,
  size: number,
  alignment: number,
): Promise<void> {
  const start = sink.written;
  if ('bytes' in tensor) await sink.write(tensor.bytes);
  else for await (const chunk of tensor.chunks()) await sink.write(chunk);
  const given = sink.written - start;
  if (given !== size) {
    const what = `tensor "${tensor.name}" is ${size} bytes as ${tensor.type} [${tensor.shape.join(', ')}], ${given} were given`;
    throw new WriteError({
      file: path,
      tensor: tensor.name,
      offset: start,
      what,
      fix: 'give bytes that fit the shape',
    });
  }
  await sink.write(new Uint8Array(padded(size, alignment) - size));
}

/** Little-endian bytes, appended to a buffer that doubles. */
class ByteBuilder {
  #buffer = Buffer.alloc(4096);
  #length = 0;

  bytes(bytes: Uint8Array): void {
    this.#reserve(bytes.byteLength);
    this.#buffer.set(bytes, this.#length);
    this.#length += bytes.byteLength;
  }

  string(text: string): void {
    const size = Buffer.byteLength(text);
    this.fixed('u64', size);
    this.#reserve(size);
    this.#length += this.#buffer.write(text, this.#length, 'utf8');
  }

  fixed(type: Exclude<GgufElementType, 'string'>, value: number | bigint | boolean): void {
    this.#reserve(8);
    const number = typeof value === 'bigint' ? value : Number(value);
    this.#length = putFixed(this.#buffer, this.#length, type, number);
  }

  finish(alignment: number): Uint8Array {
    const size = padded(this.#length, alignment);
    this.#reserve(size - this.#length);
    this.#buffer.fill(0, this.#length, size);
    return this.#buffer.subarray(0, size);
  }

  #reserve(count: number): void {
    if (this.#length + count <= this.#buffer.length) return;
    const grown = Buffer.alloc(Math.max(2 * this.#buffer.length, this.#length + count));
    this.#buffer.copy(grown);
    this.#buffer = grown;
  }
}

function putFixed(
  buffer: Buffer,
  at: number,
  type: Exclude<GgufElementType, 'string'>,
  value: number | bigint,
): number {
  switch (type) {
    case 'u8':
    case 'bool':
      return buffer.writeUInt8(Number(value), at);
    case 'i8':
      return buffer.writeInt8(Number(value), at);
    case 'u16':
      return buffer.writeUInt16LE(Number(value), at);
    case 'i16':
      return buffer.writeInt16LE(Number(value), at);
    case 'u32':
      return buffer.writeUInt32LE(Number(value), at);
    case 'i32':
      return buffer.writeInt32LE(Number(value), at);
    case 'f32':
      return buffer.writeFloatLE(Number(value), at);
    case 'f64':
      return buffer.writeDoubleLE(Number(value), at);
    case 'u64':
      return buffer.writeBigUInt64LE(BigInt(value), at);
    case 'i64':
      return buffer.writeBigInt64LE(BigInt(value), at);
  }
}
