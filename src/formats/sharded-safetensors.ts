// Several .safetensors files behind an index: {"metadata": {...}, "weight_map": {tensor name: file name}}. The index and
// the files must agree in both directions; `total_size` is not compared, since some writers count parameters there.

import { dirname, join } from 'node:path';
import type { Allocate } from '../tensor/allocate.ts';
import type { TensorView } from '../tensor/tensor-view.ts';
import type { Checkpoint, TensorInfo } from './checkpoint.ts';
import { FileAccessError, ShardIndexError, UnknownTensorError } from './errors.ts';
import { isLfsPointer, LfsPointerError } from './lfs-pointer.ts';
import { readSmallFile } from './read-small-file.ts';
import { SafetensorsFile } from './safetensors-file.ts';
import { MAX_HEADER_BYTES } from './safetensors-header.ts';
import { JsonReader, JsonSyntaxError } from './strict-json.ts';

/** More files than any published model has (a few hundred); each costs a descriptor while open. */
const MAX_SHARDS = 2048;

export const SHARD_INDEX_NAME = 'model.safetensors.index.json';

export type ShardIndex = {
  /** Tensor name to file name. */
  readonly weightMap: ReadonlyMap<string, string>;
  /** File names, each once, in order of first use. */
  readonly files: readonly string[];
};

export async function readShardIndex(path: string): Promise<ShardIndex> {
  const bytes = await readSmallFile(path, MAX_HEADER_BYTES);
  if (bytes === undefined) throw new FileAccessError(path, 'there is no such file');
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new ShardIndexError({ file: path, what: 'the index is not valid UTF-8' }, cause);
  }
  if (isLfsPointer(text)) throw new LfsPointerError(path);
  const reader = new JsonReader(text);
  let weightMap: Map<string, string> | undefined;
  try {
    reader.object((key, keyIndex) => {
      if (key !== 'weight_map') return reader.skip();
      if (weightMap !== undefined) reader.fail('"weight_map" occurs twice', keyIndex);
      const map = new Map<string, string>();
      reader.object((name, nameIndex) => {
        if (map.has(name)) reader.fail(`the tensor ${JSON.stringify(name)} is mapped twice`, nameIndex);
        map.set(name, reader.string());
      });
      weightMap = map;
    });
    reader.end();
  } catch (error) {
    if (!(error instanceof JsonSyntaxError)) throw error;
    const offset = Buffer.byteLength(text.slice(0, error.index));
    throw new ShardIndexError({ file: path, offset, what: `the index is not valid: ${error.message}` }, error);
  }
  if (weightMap === undefined || weightMap.size === 0) {
    throw new ShardIndexError({ file: path, what: 'the index has no "weight_map" with at least one tensor' });
  }
  const files = [...new Set(weightMap.values())];
  for (const file of files) checkShardName(file, path);
  if (files.length > MAX_SHARDS) {
    throw new ShardIndexError({
      file: path,
      what: `the index names ${files.length} files, the limit is ${MAX_SHARDS}`,
    });
  }
  return { weightMap, files };
}

/** A shard lies beside its index: anything that could lead elsewhere is refused. */
function checkShardName(file: string, index: string): void {
  const plain = file !== '' && file !== '.' && file !== '..' && !/[/\\:\0]/.test(file);
  if (plain && file.endsWith('.safetensors')) return;
  throw new ShardIndexError({
    file: index,
    what: `the index maps tensors to ${JSON.stringify(file)}, which is not the plain name of a .safetensors file`,
    fix: 'shards must lie in the folder of the index',
  });
}

export class ShardedSafetensors implements Checkpoint {
  readonly format = 'safetensors';
  readonly path: string;
  readonly metadata: ReadonlyMap<string, string>;
  readonly #home: ReadonlyMap<string, SafetensorsFile>;
  readonly #files: readonly SafetensorsFile[];

  private constructor(path: string, files: readonly SafetensorsFile[], home: ReadonlyMap<string, SafetensorsFile>) {
    this.path = path;
    this.#files = files;
    this.#home = home;
    this.metadata = new Map(files.flatMap((file) => [...file.metadata]));
  }

  static async open(indexPath: string): Promise<ShardedSafetensors> {
    const { weightMap, files: names } = await readShardIndex(indexPath);
    const files: SafetensorsFile[] = [];
    const home = new Map<string, SafetensorsFile>();
    try {
      for (const name of names) {
        const path = join(dirname(indexPath), name);
        const file = await openShard(path, indexPath);
        files.push(file);
        for (const tensor of file.tensors.keys()) {
          const other = home.get(tensor);
          if (other !== undefined) {
            throw new ShardIndexError({
              file: path,
              tensor,
              what: `tensor "${tensor}" is also in ${other.path}`,
            });
          }
          const mapped = weightMap.get(tensor);
          if (mapped !== name) {
            const said = mapped === undefined ? 'does not list it' : `says it is in ${mapped}`;
            throw new ShardIndexError({
              file: path,
              tensor,
              what: `tensor "${tensor}" is in this file, the index ${said}`,
            });
          }
          home.set(tensor, file);
        }
      }
      for (const [tensor, name] of weightMap) {
        if (!home.has(tensor)) {
          throw new ShardIndexError({
            file: indexPath,
            tensor,
            what: `the index says tensor "${tensor}" is in ${name}, it is not`,
          });
        }
      }
      return new ShardedSafetensors(indexPath, files, home);
    } catch (error) {
      for (const file of files) file[Symbol.dispose]();
      throw error;
    }
  }

  names(): string[] {
    return [...this.#home.keys()];
  }

  has(name: string): boolean {
    return this.#home.has(name);
  }

  info(name: string): TensorInfo {
    return this.#fileOf(name).info(name);
  }

  read(name: string, allocate?: Allocate): Promise<TensorView> {
    return this.#fileOf(name).read(name, allocate);
  }

  readBytes(name: string, allocate?: Allocate): Promise<Uint8Array<ArrayBuffer>> {
    return this.#fileOf(name).readBytes(name, allocate);
  }

  readRange(name: string, start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    return this.#fileOf(name).readRange(name, start, end);
  }

  readInto(name: string, start: number, out: Uint8Array): Promise<void> {
    return this.#fileOf(name).readInto(name, start, out);
  }

  [Symbol.dispose](): void {
    for (const file of this.#files) file[Symbol.dispose]();
  }

  #fileOf(name: string): SafetensorsFile {
    const file = this.#home.get(name);
    if (file !== undefined) return file;
    throw new UnknownTensorError({ file: this.path, tensor: name, names: this.names() });
  }
}

async function openShard(path: string, indexPath: string): Promise<SafetensorsFile> {
  try {
    return await SafetensorsFile.open(path);
  } catch (error) {
    if (!(error instanceof FileAccessError) || error.errno !== 'ENOENT') throw error;
    throw new ShardIndexError({ file: indexPath, what: `the index names ${path}, which does not exist` }, error);
  }
}
