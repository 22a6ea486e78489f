// A checkpoint seen by the names that a graph's table has: beginnings of names exchanged, tensors of other parts of the
// model (a vision tower, blocks that draft) hidden.

import type { Checkpoint, TensorInfo } from '../formats/checkpoint.ts';
import type { Allocate } from '../tensor/allocate.ts';
import type { TensorView } from '../tensor/tensor-view.ts';
import type { Graph } from './graph.ts';

export class RenamedCheckpoint implements Checkpoint {
  readonly #inner: Checkpoint;
  /** Names here, and those in the file. */
  readonly #names = new Map<string, string>();
  /** What was hidden, each kind once. */
  readonly words: readonly string[];

  constructor(inner: Checkpoint, { prefixes = [], otherParts = [] }: Graph['hf']) {
    this.#inner = inner;
    const words = new Set<string>();
    for (const name of inner.names()) {
      const part = otherParts.find(({ names }) => names.test(name));
      if (part !== undefined) {
        words.add(part.word);
        continue;
      }
      const [from, to] = prefixes.find(([prefix]) => name.startsWith(prefix)) ?? ['', ''];
      const renamed = to + name.slice(from.length);
      const inside = otherParts.find(({ names }) => names.test(renamed));
      if (inside === undefined) this.#names.set(renamed, name);
      else words.add(inside.word);
    }
    this.words = [...words];
  }

  get format(): Checkpoint['format'] {
    return this.#inner.format;
  }

  get path(): string {
    return this.#inner.path;
  }

  get metadata(): ReadonlyMap<string, unknown> {
    return this.#inner.metadata;
  }

  names(): string[] {
    return [...this.#names.keys()];
  }

  has(name: string): boolean {
    return this.#names.has(name);
  }

  #inFile(name: string): string {
    return this.#names.get(name) ?? name;
  }

  info(name: string): TensorInfo {
    return { ...this.#inner.info(this.#inFile(name)), name };
  }

  async read(name: string, allocate?: Allocate): Promise<TensorView> {
    return { ...(await this.#inner.read(this.#inFile(name), allocate)), name };
  }

  readBytes(name: string, allocate?: Allocate): Promise<Uint8Array<ArrayBuffer>> {
    return this.#inner.readBytes(this.#inFile(name), allocate);
  }

  readRange(name: string, start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    return this.#inner.readRange(this.#inFile(name), start, end);
  }

  readInto(name: string, start: number, out: Uint8Array): Promise<void> {
    return this.#inner.readInto(this.#inFile(name), start, out);
  }

  [Symbol.dispose](): void {
    this.#inner[Symbol.dispose]();
  }
}
