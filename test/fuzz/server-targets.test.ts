// The fuzz targets of handles and records on their seeds, and on each of these with a byte or two changed.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import * as continuationHandle from './continuation-handle.ts';
import * as worldRecord from './world-record.ts';

describe.each([
  ['continuation-handle', continuationHandle],
  ['world-record', worldRecord],
])('%s', (_, { fuzz, SEEDS }) => {
  test('takes its seeds', () => {
    for (const seed of SEEDS) fuzz(seed);
  });

  test('refuses what is near to them, or anything else, as it should', () => {
    const change = fc.record({
      at: fc.nat(),
      byte: fc.oneof(fc.constantFrom(...Buffer.from('-"[]{}:,09eE.')), fc.nat(255)),
    });
    fc.assert(
      fc.property(fc.constantFrom(...SEEDS), fc.array(change, { minLength: 1, maxLength: 4 }), (seed, changes) => {
        const bytes = Buffer.from(seed);
        for (const { at, byte } of changes) bytes[at % bytes.length] = byte;
        fuzz(bytes);
      }),
      { numRuns: 2000 },
    );
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => fuzz(bytes)));
  });

  test('refuses nesting without end', () => {
    const nested = Buffer.from('['.repeat(200_000) + ']'.repeat(200_000));
    expect(() => fuzz(nested)).not.toThrow();
    for (const seed of SEEDS) {
      const text = Buffer.from(seed).toString();
      for (const name of text.match(/"\w+":/g) ?? []) fuzz(Buffer.from(text.replace(name, `${name}${nested},"x":`)));
    }
  });
});
