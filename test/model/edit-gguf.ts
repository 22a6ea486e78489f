// A GGUF with other metadata, for tests.

import { GgufFile } from '../../src/formats/gguf-file.ts';
import { GgufArray } from '../../src/formats/gguf-values.ts';
import { type GgufPair, type GgufTensorToWrite, writeGguf } from '../../src/formats/write-gguf.ts';

/** A value with its type, arrays as arrays; `type` of an array is that of its elements. */
export type Entry = { readonly type: string; readonly value: unknown };

/** Copies a file, with what `edit` does to its metadata and tensors. */
export async function editGguf(
  from: string,
  to: string,
  edit: (entries: Map<string, Entry>) => void,
  editTensors: (tensors: GgufTensorToWrite[]) => GgufTensorToWrite[] = (tensors) => tensors,
): Promise<void> {
  using file = await GgufFile.open(from);
  const entries = new Map<string, Entry>();
  for (const [key, { type, value }] of file.entries) {
    entries.set(key, value instanceof GgufArray ? { type: value.elementType, value: value.values() } : { type, value });
  }
  edit(entries);
  const metadata = [...entries].map(([key, { type, value }]) =>
    Array.isArray(value) ? { key, type: 'array', elementType: type, value } : { key, type, value },
  ) as GgufPair[];
  const tensors: GgufTensorToWrite[] = [];
  for (const name of file.names()) {
    const { dtype, shape } = file.info(name);
    tensors.push({ name, type: dtype, shape, bytes: await file.readBytes(name) });
  }
  await writeGguf(to, { metadata, tensors: editTensors(tensors) });
}
