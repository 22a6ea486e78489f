// Memory for tensors that are read only to be turned into something else: kept for the next one, so that a model costs a
// few of them and not one a tensor, each with page faults of its own.

export class Scratch {
  readonly #idle: Uint8Array<ArrayBuffer>[] = [];

  /** Lends `byteLength` bytes, with anything in them, to `work`, which must not keep them. */
  async lend<T>(byteLength: number, work: (memory: Uint8Array<ArrayBuffer>) => Promise<T>): Promise<T> {
    const idle = this.#idle.pop();
    const memory = idle !== undefined && idle.byteLength >= byteLength ? idle : new Uint8Array(byteLength);
    try {
      return await work(memory.subarray(0, byteLength));
    } finally {
      this.#idle.push(memory);
    }
  }
}
