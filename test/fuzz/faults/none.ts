// A reader without fault.

export function fuzz(bytes: Uint8Array): void {
  for (const byte of bytes) if (byte > 0x100) throw new Error('no byte is');
}

export const SEEDS: readonly Uint8Array[] = [Buffer.from('nothing of it')];
