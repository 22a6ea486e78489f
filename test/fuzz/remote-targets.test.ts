// The fuzz targets of answers from outside on their seeds, and on each of these with some bytes changed.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as hubAnswer from './hub-answer.ts';
import * as sse from './sse.ts';
import * as strictJson from './strict-json.ts';
import * as structure from './structure.ts';

type Target = { readonly fuzz: (bytes: Uint8Array) => void | Promise<void>; readonly SEEDS: readonly Uint8Array[] };

const TARGETS: readonly (readonly [string, Target])[] = [
  ['hub-answer', hubAnswer],
  ['sse', sse],
  ['strict-json', strictJson],
  ['structure', structure],
];

describe.each(TARGETS)('%s', (_, { fuzz, SEEDS }) => {
  test('takes its seeds', async () => {
    for (const seed of SEEDS) expect(await fuzz(seed)).toBeUndefined();
  });

  test('refuses what is near to them, or anything else, as it should', async () => {
    const change = fc.record({
      at: fc.nat(),
      byte: fc.oneof(fc.constantFrom(...Buffer.from('-"[]{}:,09eE.\n\r\\ N/')), fc.nat(255)),
    });
    const near = fc
      .tuple(fc.constantFrom(...SEEDS), fc.array(change, { maxLength: 5 }), fc.nat(400))
      .map(([seed, changes, end]) => {
        const bytes = Buffer.from(seed);
        for (const { at, byte } of changes) bytes[at % bytes.length] = byte;
        return new Uint8Array(end < 100 ? bytes.subarray(0, end) : bytes);
      });
    const bytes = fc.oneof({ weight: 5, arbitrary: near }, fc.uint8Array({ maxLength: 60 }));
    await fc.assert(
      fc.asyncProperty(bytes, async (input) => {
        await fuzz(input);
      }),
      { numRuns: 1500 },
    );
  });
});
