// Trit patterns of the pinned byte vectors. A is irregular, B sparse.

export function patternA(count: number): Int8Array<ArrayBuffer> {
  return Int8Array.from({ length: count }, (_, i) => ((i * i + Math.floor(i / 7)) % 3) - 1);
}

export function patternB(count: number): Int8Array<ArrayBuffer> {
  return Int8Array.from({ length: count }, (_, i) => (i % 5 === 0 ? 1 : i % 5 === 1 ? -1 : 0));
}

export function hex(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text.trim().split(/\s+/), (byte) => Number.parseInt(byte, 16));
}
