// A .safetensors file, open for reading. Opening reads and checks the header only.

import type { Checkpoint } from './checkpoint.ts';
import { TruncatedFileError } from './errors.ts';
import { isLfsPointer, LFS_POINTER_BYTES, LfsPointerError } from './lfs-pointer.ts';
import { type OpenOptions, RandomAccessFile } from './random-access-file.ts';
import { headerLength, parseSafetensorsHeader, type SafetensorsHeader } from './safetensors-header.ts';
import { TensorSource } from './tensor-source.ts';

export class SafetensorsFile extends TensorSource implements Checkpoint {
  readonly format = 'safetensors';
  readonly metadata: ReadonlyMap<string, string>;

  private constructor(file: RandomAccessFile, header: SafetensorsHeader) {
    super([file], header.tensors);
    this.metadata = header.metadata;
  }

  static async open(path: string, options: OpenOptions = {}): Promise<SafetensorsFile> {
    const file = new RandomAccessFile(path, options);
    try {
      if (file.size < 8) {
        throw new TruncatedFileError({
          file: path,
          offset: 0,
          what: `a safetensors file has at least 8 bytes, this one has ${file.size}`,
        });
      }
      const prefix = new Uint8Array(Math.min(file.size, LFS_POINTER_BYTES));
      await file.readInto(prefix, 0);
      if (isLfsPointer(prefix)) throw new LfsPointerError(path);
      const json = new Uint8Array(headerLength(prefix, file));
      await file.readInto(json, 8);
      return new SafetensorsFile(file, parseSafetensorsHeader(json, file));
    } catch (error) {
      file[Symbol.dispose]();
      throw error;
    }
  }

  /** Rows [start, end) of a tensor's first dimension, as bytes. */
  readRows(name: string, start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    const info = this.info(name);
    const rows = info.shape[0] ?? 1;
    const stride = rows === 0 ? 0 : info.byteLength / rows;
    return this.readRange(name, start * stride, end * stride);
  }
}
