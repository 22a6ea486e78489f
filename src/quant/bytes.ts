// Typed views of little-endian bytes as they lie in files: a file may put a tensor at any offset, while a typed
// array wants its own alignment. The machines Node runs on are little endian.

type WideArray = Uint16Array | Uint32Array | Int32Array | Float32Array | Float64Array | BigInt64Array;

type WideArrayConstructor<T extends WideArray> = {
  readonly BYTES_PER_ELEMENT: number;
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): T;
};

/** The whole elements of `bytes` as a typed array: a view where the alignment allows, else of a copy. */
export function elementsOf<T extends WideArray>(bytes: Uint8Array, Type: WideArrayConstructor<T>): T {
  const size = Type.BYTES_PER_ELEMENT;
  const length = Math.floor(bytes.byteLength / size);
  if (bytes.byteOffset % size === 0) return new Type(bytes.buffer, bytes.byteOffset, length);
  const copy = new Uint8Array(length * size);
  copy.set(bytes.subarray(0, length * size));
  return new Type(copy.buffer, 0, length);
}
