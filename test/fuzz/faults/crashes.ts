// A reader that takes the process with it.

export function fuzz(bytes: Uint8Array): void {
  if (bytes[0] === 0xff) process.abort();
}

export const SEEDS: readonly Uint8Array[] = [Buffer.from('nothing of it')];
