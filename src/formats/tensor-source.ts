// Tensors at known places of open files: what a .safetensors and a .gguf file have in common.

import type { Allocate } from '../tensor/allocate.ts';
import { DTYPES, type Dtype, type TensorView } from '../tensor/tensor-view.ts';
import type { TensorInfo } from './checkpoint.ts';
import { TensorRangeError, UnknownTensorError, UnsupportedTypeError } from './errors.ts';
import type { RandomAccessFile } from './random-access-file.ts';

export class TensorSource implements Disposable {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly path: string;
  readonly #files: ReadonlyMap<string, RandomAccessFile>;

  /** `path` is that of the first file. */
  constructor(files: readonly RandomAccessFile[], tensors: ReadonlyMap<string, TensorInfo>) {
    this.#files = new Map(files.map((file) => [file.path, file]));
    this.path = files[0]!.path;
    this.tensors = tensors;
  }

  names(): string[] {
    return [...this.tensors.keys()];
  }

  has(name: string): boolean {
    return this.tensors.has(name);
  }

  info(name: string): TensorInfo {
    const info = this.tensors.get(name);
    if (info !== undefined) return info;
    throw new UnknownTensorError({ file: this.path, tensor: name, names: this.names() });
  }

  async read(name: string, allocate?: Allocate): Promise<TensorView> {
    const dtype = this.#plainDtype(name);
    const { shape, offset, byteLength, file } = this.info(name);
    const options = { alignment: DTYPES[dtype], ...(allocate !== undefined && { allocate }) };
    return { name, dtype, shape, bytes: await this.#files.get(file)!.read(offset, byteLength, options) };
  }

  readSync(name: string): TensorView {
    const dtype = this.#plainDtype(name);
    const info = this.info(name);
    const bytes = new Uint8Array(info.byteLength);
    this.#files.get(info.file)!.readIntoSync(bytes, info.offset);
    return { name, dtype, shape: info.shape, bytes };
  }

  readBytes(name: string, allocate?: Allocate): Promise<Uint8Array<ArrayBuffer>> {
    const { offset, byteLength, file } = this.info(name);
    return this.#files.get(file)!.read(offset, byteLength, allocate === undefined ? {} : { allocate });
  }

  async readRange(name: string, start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    const info = this.info(name);
    this.#checkRange(info, start, end);
    return await this.#files.get(info.file)!.read(info.offset + start, end - start);
  }

  async readInto(name: string, start: number, out: Uint8Array): Promise<void> {
    const info = this.info(name);
    this.#checkRange(info, start, start + out.byteLength);
    await this.#files.get(info.file)!.readInto(out, info.offset + start);
  }

  [Symbol.dispose](): void {
    for (const file of this.#files.values()) file[Symbol.dispose]();
  }

  #plainDtype(name: string): Dtype {
    const info = this.info(name);
    if (Object.hasOwn(DTYPES, info.dtype)) return info.dtype as Dtype;
    throw new UnsupportedTypeError({
      file: info.file,
      offset: info.offset,
      tensor: name,
      type: info.dtype,
      supported: Object.keys(DTYPES),
    });
  }

  #checkRange(info: TensorInfo, start: number, end: number): void {
    if (Number.isInteger(start) && start >= 0 && end >= start && end <= info.byteLength) return;
    throw new TensorRangeError({
      file: info.file,
      offset: info.offset,
      tensor: info.name,
      what: `bytes ${start} to ${end} of tensor "${info.name}" were asked for, it has ${info.byteLength}`,
    });
  }
}
