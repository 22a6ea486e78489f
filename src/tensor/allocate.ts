// Where the bytes of a tensor go: whoever reads or makes them may be told by whoever uses them.

/** Gives memory, aligned for any element type, with anything in it. */
export type Allocate = (bytes: number) => Promise<Uint8Array<ArrayBuffer>>;

export const plainMemory: Allocate = async (bytes) => new Uint8Array(bytes);
