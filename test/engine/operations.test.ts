// The C++ header of operations is what the table of src/engine/recorded says.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { encodeProgram } from '../../src/engine/recorded/encode.ts';
import { operationsHeader } from '../../src/engine/recorded/operations.ts';

test('kernels/include/operations.h is the one that the table gives', () => {
  const file = join(import.meta.dirname, '../../kernels/include/operations.h');
  expect(readFileSync(file, 'utf8'), 'run: npm run build && node scripts/operations-header.mjs').toBe(
    operationsHeader(),
  );
});

test('records have their own length: code, then a word for each field, floats as their bits', () => {
  const { words } = encodeProgram({
    name: 'two operations',
    buffers: [
      { name: 'x', dtype: 'f32', rows: 'tokens', width: 8 },
      { name: 'q', dtype: 'i16', rows: 'outputs', width: 8, group: 4 },
    ],
    weights: [],
    ops: [
      { op: 'gatedActivation', fn: 'silu', gate: 0, up: 0, out: 0 },
      { op: 'rmsNormHeads', x: 0, weight: 3, eps: 1, heads: 2, headDim: 4, out: 0 },
    ],
    kv: { layers: 1, kvHeads: 1, headDim: 4 },
    rope: { rotaryDim: 4, cos: new Float32Array(2), sin: new Float32Array(2) },
    recurrent: [
      { name: 'one', width: 6 },
      { name: 'another', width: 9 },
    ],
    choices: 5,
    contextLength: 1,
    vocabSize: 8,
    logits: 0,
    tracePoints: 0,
  });
  // Two buffers of four words; gatedActivation is operation 7, its limit absent, and rmsNormHeads 14; 1.0 is 0x3f800000;
  // the window of the one layer, the widths of two recurrent states.
  const buffers = [0, 0, 8, 0, 2, 1, 8, 4];
  const operations = [7, 1, 0, 0, 0, 0, 14, 0, 3, 0x3f800000, 2, 4, 0];
  expect([...words.subarray(17)]).toEqual([...buffers, ...operations, 0, 6, 9]);
  expect(words[4]).toBe(operations.length);
  expect([...words.subarray(15, 17)]).toEqual([2, 5]);
});
