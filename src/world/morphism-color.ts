import { createHash } from 'node:crypto';
import type { Color } from '../color/color.ts';
import { colorAt } from '../color/palette.ts';

/** Index of a batch's color: SHA-256 of its JSON as UTF-8, the first 8 bytes as a big-endian number, mod 1000. */
export function morphismColorIndex(batch: readonly string[] | readonly unknown[]): number {
  const digest = createHash('sha256').update(JSON.stringify(batch), 'utf8').digest();
  return Number(digest.readBigUInt64BE(0) % 1000n);
}

export function morphismColor(batch: readonly string[] | readonly unknown[], seed: bigint): Color {
  return colorAt({ seed, index: morphismColorIndex(batch), scheme: 'trace' });
}
