// onnxruntime as an independent oracle: a BitLinear as an ONNX graph (absmax quantization, rounding half to even, product
// with the trits), built here, against ours. onnxruntime-node is there on request (npm run onnx); without it these tests
// say that they skip.

import { describe, expect, test } from 'vitest';
import { onnxModel } from '../../scripts/onnx-model.mjs';
import * as ops from '../../src/engine/js/ops.ts';
import { findOnnxRuntime } from '../../src/generate/onnx/runtime.ts';
import { packRowquad } from '../../src/quant/rowquad.ts';
import { SplitMix64 } from '../../src/random/splitmix64.ts';

const runtime = await findOnnxRuntime();
const missing = typeof runtime === 'string' ? runtime : undefined;
if (missing !== undefined) console.warn(`skipped, onnxruntime-node: ${missing} (npm run onnx installs it)`);

/** x (T, C) -> codes and y (T, R) = trits . codes * weightScale / scale, as the paper writes it. */
function bitLinearModel(trits: Int8Array, R: number, C: number, weightScale: number): Uint8Array {
  const transposed = new Float32Array(C * R);
  for (let r = 0; r < R; r += 1) for (let c = 0; c < C; c += 1) transposed[c * R + r] = trits[r * C + c]!;
  const scalar = (name: string, value: number) =>
    ({ name, shape: [], type: 'f32', values: Float32Array.of(value) }) as const;
  return onnxModel({
    constants: [
      { name: 'trits', shape: [C, R], type: 'f32', values: transposed },
      scalar('floor', 1e-5),
      scalar('top', 127),
      scalar('low', -128),
      scalar('weight_scale', weightScale),
    ],
    nodes: [
      { op: 'Abs', inputs: ['x'], outputs: ['magnitude'] },
      // Without axes the whole input is reduced: a run is one row.
      { op: 'ReduceMax', inputs: ['magnitude'], outputs: ['absmax'], ints: { keepdims: 1 } },
      { op: 'Max', inputs: ['absmax', 'floor'], outputs: ['floored'] },
      { op: 'Div', inputs: ['top', 'floored'], outputs: ['scale'] },
      { op: 'Mul', inputs: ['x', 'scale'], outputs: ['scaled'] },
      { op: 'Round', inputs: ['scaled'], outputs: ['rounded'] },
      { op: 'Clip', inputs: ['rounded', 'low', 'top'], outputs: ['codes'] },
      { op: 'MatMul', inputs: ['codes', 'trits'], outputs: ['sums'] },
      { op: 'Div', inputs: ['weight_scale', 'scale'], outputs: ['factor'] },
      { op: 'Mul', inputs: ['sums', 'factor'], outputs: ['y'] },
    ],
    inputs: { x: 2 },
    outputs: { codes: 2, sums: 2, y: 2 },
  });
}

describe.skipIf(missing !== undefined)('BitLinear equals onnxruntime', () => {
  test.each([
    [8, 16],
    [7, 33],
    [172, 64],
    [64, 172],
    [37, 257],
  ])('R %i, C %i: codes, sums and outputs exactly', async (R, C) => {
    if (typeof runtime === 'string') throw new Error(runtime);
    const random = new SplitMix64(BigInt(R * 1000 + C));
    const trits = Int8Array.from({ length: R * C }, () => Math.floor(random.nextFloat() * 3) - 1);
    const weightScale = Math.fround(0.01 + random.nextFloat());
    const session = await runtime.InferenceSession.create(bitLinearModel(trits, R, C, weightScale));
    const packed = packRowquad(trits, R, C);
    for (let round = 0; round < 8; round += 1) {
      const x = Float32Array.from({ length: C }, () => (random.nextFloat() - 0.5) * 10 ** (round - 4));
      // Ties: with a largest magnitude of exactly 127 the scale is 1 and halves stay halves.
      if (round === 7) x.set(x.map((_, i) => (i === 0 ? 127 : (i % 9) - 4.5)));
      const result = await session.run({ x: new runtime.Tensor('float32', x, [1, C]) });
      const codes = new Int8Array(C);
      const scale = new Float32Array(1);
      expect(ops.quantizeRows(x, 1, C, codes, scale)).toBe(-1);
      expect(Array.from(codes)).toEqual(Array.from(result.codes!.data as Float32Array, (value) => value + 0));
      const y = new Float32Array(R);
      ops.ternaryMatmul(packed, weightScale, codes, scale, 1, R, C, y);
      expect(Array.from(y, (value) => value + 0)).toEqual(
        Array.from(result.y!.data as Float32Array, (value) => value + 0),
      );
    }
  });
});

describe.skipIf(missing !== undefined)("2-bit MatMulNBits, onnxruntime's own ternary product", () => {
  test('agrees on unquantized activations within float32 rounding', async () => {
    if (typeof runtime === 'string') throw new Error(runtime);
    const [R, C, block] = [32, 64, 32];
    const random = new SplitMix64(5n);
    const trits = Int8Array.from({ length: R * C }, () => Math.floor(random.nextFloat() * 3) - 1);
    // Four codes a byte along C, lowest bits first; code = trit + 1 with zero point 1.
    const packed = new Uint8Array((R * C) / 4);
    trits.forEach((trit, i) => {
      packed[i >> 2]! |= (trit + 1) << (2 * (i & 3));
    });
    const blocks = C / block;
    const zeroPoints = new Uint8Array(R * Math.ceil(blocks / 4));
    for (let r = 0; r < R; r += 1) zeroPoints[r] = 0b0101 & ((1 << (2 * blocks)) - 1);
    const model = onnxModel({
      constants: [
        { name: 'B', shape: [R, blocks, block / 4], type: 'u8', values: packed },
        { name: 'scales', shape: [R * blocks], type: 'f32', values: new Float32Array(R * blocks).fill(0.5) },
        { name: 'zero_points', shape: [zeroPoints.length], type: 'u8', values: zeroPoints },
      ],
      nodes: [
        {
          op: 'MatMulNBits',
          domain: 'com.microsoft',
          inputs: ['x', 'B', 'scales', 'zero_points'],
          outputs: ['y'],
          ints: { K: C, N: R, bits: 2, block_size: block },
        },
      ],
      inputs: { x: 2 },
      outputs: { y: 2 },
    });
    const session = await runtime.InferenceSession.create(model);
    const x = Float32Array.from({ length: C }, () => random.nextFloat() - 0.5);
    const { y } = await session.run({ x: new runtime.Tensor('float32', x, [1, C]) });
    for (let r = 0; r < R; r += 1) {
      const exact = x.reduce((sum, value, c) => sum + 0.5 * trits[r * C + c]! * value, 0);
      expect(Math.abs((y!.data as Float32Array)[r]! - exact)).toBeLessThan(1e-5);
    }
  });
});
