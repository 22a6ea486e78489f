// Tables of rotary position embedding: cos and sin of every position, with the scaling that a model asks for.

import type { RopeSpec } from '../engine/program.ts';

/**
 * How positions past a model's first training length are reached. `linear`: positions divided by `factor`. `yarn`: slow
 * frequencies divided, fast ones kept, and cos and sin times `attentionFactor` (default 0.1 ln factor + 1); it holds at
 * every position. Source: arXiv:2309.00071.
 */
export type RopeScaling =
  | { readonly type: 'linear'; readonly factor: number }
  | {
      readonly type: 'yarn';
      readonly factor: number;
      readonly originalContext: number;
      readonly betaFast: number;
      readonly betaSlow: number;
      readonly attentionFactor: number | undefined;
    };

/**
 * cos and sin of position * theta^(-2j/D) for j < D/2, position-major (positions, D/2), computed in double and rounded
 * once. Source: arXiv:2104.09864 section 3.2.2.
 */
export function ropeTables(
  theta: number,
  headDim: number,
  positions: number,
  scaling?: RopeScaling,
): { cos: Float32Array; sin: Float32Array } {
  const { cos, sin } = growingRope(theta, headDim, positions, scaling);
  return { cos, sin };
}

/** As `ropeTables`, computed as far as somebody asks: whoever takes `cos` or `sin` gets all of it. */
export function growingRope(theta: number, rotaryDim: number, positions: number, scaling?: RopeScaling): RopeSpec {
  const half = rotaryDim / 2;
  const { frequencies, factor } = ropeFrequencies(theta, rotaryDim, scaling);
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  let known = 0;
  const upTo = (end: number) => {
    for (; known < Math.min(end, positions); known += 1) {
      for (let j = 0; j < half; j += 1) {
        const angle = known * frequencies[j]!;
        cos[known * half + j] = Math.cos(angle) * factor;
        sin[known * half + j] = Math.sin(angle) * factor;
      }
    }
    return { cos, sin };
  };
  return {
    rotaryDim,
    get cos() {
      return upTo(positions).cos;
    },
    get sin() {
      return upTo(positions).sin;
    },
    upTo,
  };
}

/** Angle of one position per pair j < D/2, and what cos and sin are multiplied with; all in double. */
function ropeFrequencies(theta: number, headDim: number, scaling: RopeScaling | undefined) {
  const plain = Array.from({ length: headDim / 2 }, (_, j) => theta ** ((-2 * j) / headDim));
  if (scaling === undefined) return { frequencies: plain, factor: 1 };
  if (scaling.type === 'linear') return { frequencies: plain.map((f) => f / scaling.factor), factor: 1 };
  const { factor, originalContext, betaFast, betaSlow } = scaling;
  // The pair that turns `rotations` times within the original context.
  const pairOf = (rotations: number) =>
    (headDim * Math.log(originalContext / (2 * Math.PI * rotations))) / (2 * Math.log(theta));
  const low = Math.max(Math.floor(pairOf(betaFast)), 0);
  const high = Math.min(Math.ceil(pairOf(betaSlow)), headDim - 1);
  const frequencies = plain.map((frequency, j) => {
    const ramp = Math.min(Math.max((j - low) / Math.max(high - low, 0.001), 0), 1);
    return frequency * (1 - ramp + ramp / factor);
  });
  return { frequencies, factor: scaling.attentionFactor ?? 0.1 * Math.log(factor) + 1 };
}
