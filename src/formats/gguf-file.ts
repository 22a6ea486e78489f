// A .gguf file, or the parts of one, open for reading. Opening reads and checks the headers only.

import type { Checkpoint } from './checkpoint.ts';
import { HeaderSyntaxError, TruncatedFileError } from './errors.ts';
import { type GgufEntry, placeTensors, readGgufHeader } from './gguf-header.ts';
import { type GgufPart, openParts } from './gguf-split.ts';
import { GgufArray, type GgufValue } from './gguf-values.ts';
import { type OpenOptions, RandomAccessFile } from './random-access-file.ts';
import { TensorSource } from './tensor-source.ts';

export class GgufFile extends TensorSource implements Checkpoint {
  readonly format = 'gguf';
  readonly version: number;
  /** Tensors begin at multiples of this. */
  readonly alignment: number;
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** Metadata with its types and raw bytes. */
  readonly entries: ReadonlyMap<string, GgufEntry>;

  private constructor(parts: readonly GgufPart[]) {
    super(
      parts.map(({ file }) => file),
      placeTensors(parts),
    );
    // The first part has all metadata.
    const { header } = parts[0]!;
    this.version = header.version;
    this.alignment = header.alignment;
    this.entries = header.entries;
    this.metadata = new Map([...header.entries].map(([key, entry]) => [key, entry.value]));
  }

  /** Any part of a split file opens all of them; `path` is then that of the first. */
  static async open(path: string, options: OpenOptions = {}): Promise<GgufFile> {
    const file = new RandomAccessFile(path, options);
    let parts: readonly GgufPart[] = [];
    try {
      if (file.size < 24) {
        throw new TruncatedFileError({
          file: path,
          offset: 0,
          what: `a GGUF file has at least 24 bytes, this one has ${file.size}`,
        });
      }
      parts = await openParts(file, await readGgufHeader(file), options);
      return new GgufFile(parts);
    } catch (error) {
      file[Symbol.dispose]();
      for (const part of parts) part.file[Symbol.dispose]();
      throw error;
    }
  }

  /** `general.architecture`. */
  get architecture(): string | undefined {
    return this.string('general.architecture');
  }

  /** A string of the metadata, or undefined; another type is an error. */
  string(key: string): string | undefined {
    const value = this.metadata.get(key);
    if (value === undefined || typeof value === 'string') return value;
    return this.#wrongType(key, 'a string');
  }

  number(key: string): number | undefined {
    const value = this.metadata.get(key);
    if (value === undefined || typeof value === 'number') return value;
    return this.#wrongType(key, 'a number');
  }

  boolean(key: string): boolean | undefined {
    const value = this.metadata.get(key);
    if (value === undefined || typeof value === 'boolean') return value;
    return this.#wrongType(key, 'a bool');
  }

  strings(key: string): string[] | undefined {
    const value = this.metadata.get(key);
    if (value === undefined) return undefined;
    if (value instanceof GgufArray && value.elementType === 'string') return value.strings();
    return this.#wrongType(key, 'an array of strings');
  }

  numbers(key: string): number[] | undefined {
    const value = this.metadata.get(key);
    if (value === undefined) return undefined;
    if (value instanceof GgufArray && value.elementType !== 'string' && value.elementType !== 'bool') {
      return value.values().map(Number);
    }
    return this.#wrongType(key, 'an array of numbers');
  }

  #wrongType(key: string, expected: string): never {
    const entry = this.entries.get(key)!;
    const is = entry.value instanceof GgufArray ? `an array of ${entry.value.elementType}` : entry.type;
    throw new HeaderSyntaxError({
      file: this.path,
      what: `the metadata key "${key}" is ${is}, expected ${expected}`,
      fix: 'convert the model again with a current converter',
    });
  }
}
