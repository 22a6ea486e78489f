// A reader that leaves a promise behind.

export async function fuzz(bytes: Uint8Array): Promise<void> {
  if (bytes[0] === 0xff) void Promise.reject(new RangeError('nobody waits for this'));
  await new Promise((resolve) => setImmediate(resolve));
}

export const SEEDS: readonly Uint8Array[] = [Buffer.from('nothing of it')];
