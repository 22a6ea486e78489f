// A reader with a fault that guessing does not reach: each byte of the word opens the way to the next.

export function fuzz(bytes: Uint8Array): void {
  if (bytes[0] !== 0x67) return;
  if (bytes[1] !== 0x9b) return;
  if (bytes[2] !== 0xc3) return;
  if (bytes[3] !== 0x1e) return;
  throw new TypeError('the fault');
}

export const SEEDS: readonly Uint8Array[] = [Buffer.from('nothing of it')];
