import { expect, test } from 'vitest';
import { loadNative } from '../../src/engine/cpu/native.ts';
import { quantizeHeadNative } from '../../src/engine/cpu/quantize-head.ts';
import type { DenseWeight } from '../../src/engine/program.ts';
import { quantizeHead } from '../../src/model/head.ts';
import { randomProgram, SHAPES } from '../kernels/random-program.ts';

const native = await loadNative();

/** Tables with unaligned bytes; row 1 all zeros, row 2 subnormal. */
function table(name: keyof typeof SHAPES): DenseWeight {
  const found = randomProgram(SHAPES[name]!, 3).weights.find((weight) => weight.kind === 'dense');
  if (found?.kind !== 'dense') throw new Error(`no table in ${name}`);
  const size = found.dtype === 'f32' ? 4 : 2;
  const bytes = Uint8Array.from([0, ...found.bytes]).subarray(1);
  bytes.fill(0, found.columns * size, 3 * found.columns * size);
  bytes[2 * found.columns * size] = 1;
  return { ...found, bytes };
}

test.skipIf('reason' in native).each(['odd', 'multiHead', 'tiny'])(
  'the int8 head of %s: the bits of model/head.ts',
  async (name) => {
    const head = table(name);
    for (const threads of [1, 3]) {
      const fast = await quantizeHeadNative(head, undefined, threads);
      expect(fast).toEqual(quantizeHead(head));
    }
  },
);

test.skipIf('reason' in native)('a table with a NaN is left to the code that says where it is', async () => {
  const head = table('odd');
  head.bytes.set([0xc0, 0x7f], 10 * 2 * head.columns + 8);
  expect(await quantizeHeadNative(head)).toBeUndefined();
});
