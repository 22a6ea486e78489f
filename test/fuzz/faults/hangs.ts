// A reader that does not end.

export function fuzz(bytes: Uint8Array): void {
  while (bytes[0] === 0xff) if (bytes[1] === 0x100) return;
}

export const SEEDS: readonly Uint8Array[] = [Buffer.from('nothing of it')];
