// Writes a .safetensors file. Tensors go out one after the other and may be streamed, so a model that is converted
// need not fit in memory.

import { DTYPES, type Dtype, elementCount } from '../tensor/tensor-view.ts';
import { type AtomicSink, type WriteOptions, writeFileAtomically } from './atomic-file.ts';
import { WriteError } from './errors.ts';

/** A `TensorView`, or the same with its bytes in pieces that are made when they are due. */
export type TensorToWrite = {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
} & ({ readonly bytes: Uint8Array } | { readonly chunks: () => Iterable<Uint8Array> | AsyncIterable<Uint8Array> });

/**
 * Writes `path` atomically. Widest dtype first, then by name, as the reference writer sorts; the header is padded so
 * that data begins at a multiple of 8 and every tensor is aligned for its dtype. Equal input gives equal bytes.
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorToWrite>,
  metadata: Readonly<Record<string, string>> = {},
  options: WriteOptions = {},
): Promise<void> {
  const sorted = [...tensors].sort(
    (a, b) => DTYPES[b.dtype] - DTYPES[a.dtype] || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0),
  );
  const header = encodeHeader(path, sorted, metadata);
  await writeFileAtomically(
    path,
    async (sink) => {
      await sink.write(header);
      for (const [i, tensor] of sorted.entries()) {
        await writeTensor(sink, path, tensor);
        options.onTensor?.(i + 1, sorted.length);
      }
    },
    options.signal,
  );
}

function byteLengthOf(tensor: TensorToWrite): number {
  return elementCount(tensor.shape) * DTYPES[tensor.dtype];
}

function encodeHeader(
  path: string,
  sorted: readonly TensorToWrite[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const entries: string[] = [];
  const keys = Object.keys(metadata).sort();
  if (keys.length > 0) {
    const pairs = keys.map((key) => `${JSON.stringify(key)}:${JSON.stringify(metadata[key])}`);
    entries.push(`"__metadata__":{${pairs.join(',')}}`);
  }
  let offset = 0;
  const seen = new Set<string>();
  for (const tensor of sorted) {
    const { name, dtype, shape } = tensor;
    if (name === '__metadata__' || seen.has(name)) {
      const what = `two tensors cannot both be called ${JSON.stringify(name)}`;
      const reserved = `${JSON.stringify(name)} is not a possible tensor name`;
      throw new WriteError({
        file: path,
        tensor: name,
        what: name === '__metadata__' ? reserved : what,
        fix: 'rename it',
      });
    }
    seen.add(name);
    const end = offset + byteLengthOf(tensor);
    entries.push(
      `${JSON.stringify(name)}:{"dtype":"${dtype}","shape":[${shape.join(',')}],"data_offsets":[${offset},${end}]}`,
    );
    offset = end;
  }
  const json = new TextEncoder().encode(`{${entries.join(',')}}`);
  const padded = Math.ceil(json.byteLength / 8) * 8;
  const header = new Uint8Array(8 + padded).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true);
  header.set(json, 8);
  return header;
}

async function writeTensor(sink: AtomicSink, path: string, tensor: TensorToWrite): Promise<void> {
  const start = sink.written;
  if ('bytes' in tensor) await sink.write(tensor.bytes);
  else for await (const chunk of tensor.chunks()) await sink.write(chunk);
  const expected = byteLengthOf(tensor);
  if (sink.written - start === expected) return;
  throw new WriteError({
    file: path,
    tensor: tensor.name,
    offset: start,
    what: `tensor "${tensor.name}" is ${expected} bytes as ${tensor.dtype} [${tensor.shape.join(', ')}], ${sink.written - start} were given`,
    fix: 'give bytes that fit the shape',
  });
}
