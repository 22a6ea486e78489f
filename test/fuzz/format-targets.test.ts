// A few thousand turns of each target, from its seeds; a fuzzer can go on from there.

import { describe, expect, test } from 'vitest';
import * as gguf from './gguf.ts';
import * as mlxPack from './mlx-pack.ts';
import * as safetensors from './safetensors.ts';

const TURNS = 1500;

/** Bytes flipped, cut, doubled, or set to what limits are made of. */
function mutated(seed: Uint8Array, next: (n: number) => number): Uint8Array {
  let bytes = Uint8Array.from(seed);
  for (let changes = 1 + next(4); changes > 0; changes--) {
    const at = next(bytes.length + 1);
    switch (next(5)) {
      case 0:
        if (at < bytes.length) bytes[at]! ^= 1 << next(8);
        break;
      case 1:
        if (at < bytes.length) bytes[at] = [0, 1, 127, 128, 255, 0x7c, 0xfc][next(7)]!;
        break;
      case 2:
        bytes = bytes.slice(0, at);
        break;
      case 3:
        bytes = Uint8Array.of(...bytes.slice(0, at), ...bytes.slice(next(at + 1), at), ...bytes.slice(at));
        break;
      default:
        bytes.fill(255, at, at + 8);
    }
  }
  return bytes;
}

describe.each([
  ['gguf', gguf],
  ['safetensors', safetensors],
  ['mlx-pack', mlxPack],
] as const)('%s', (_, { fuzz, SEEDS }) => {
  test('refuses only by its own errors, and keeps its promises', async () => {
    let state = 12345;
    const next = (n: number) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return Math.floor((state / 2 ** 32) * n);
    };
    for (const seed of SEEDS) await fuzz(seed);
    for (let turn = 0; turn < TURNS; turn++) {
      const bytes = mutated(SEEDS[next(SEEDS.length)]!, next);
      await expect(Promise.resolve(bytes).then(fuzz), Buffer.from(bytes).toString('hex')).resolves.toBeUndefined();
    }
  });
});

test('the seeds are sound files: the targets go all the way', async () => {
  const { readGgufHeader, placeTensors } = await import('../../src/formats/gguf-header.ts');
  for (const bytes of gguf.SEEDS) {
    const readInto = async (out: Uint8Array, at: number) => out.set(bytes.subarray(at, at + out.byteLength));
    const file = { path: 'x', size: bytes.byteLength, readInto };
    expect([...placeTensors([{ file, header: await readGgufHeader(file) }]).keys()]).toEqual(['w', 'n']);
  }
});
