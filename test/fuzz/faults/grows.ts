// A reader that takes a number's word for how much memory it needs, and some time to fill it.

export function fuzz(bytes: Uint8Array): void {
  if (bytes[0] !== 0xff) return;
  const parts: Buffer[] = [];
  while (parts.length < 200) parts.push(Buffer.alloc(10_000_000, parts.length));
}

export const SEEDS: readonly Uint8Array[] = [Buffer.from('nothing of it')];
