// The gated unit of the feed-forward part, elementwise, and its gradient.
//
//   relu2: a = max(g, 0)^2,  da/dg = 2 max(g, 0)        silu: a = g s(g),  da/dg = s(g) (1 + g (1 - s(g)))
//   out = a(g) * u;  du = dOut * a(g);  dg = (dOut * u) * da/dg
// Source: arXiv:2504.12285 (squared ReLU), arXiv:2002.05202 (gated units).

import { expF32 } from '../../engine/js/math.ts';
import { relu2Gate, siluGate } from '../../engine/js/ops.ts';

const fround = Math.fround;

export type GateFunction = 'relu2' | 'silu';

/** out = a(gate) * up over n elements, as the engine's gatedActivation. */
export function gatedActivationForward(
  fn: GateFunction,
  gate: Float32Array,
  up: Float32Array,
  n: number,
  out: Float32Array,
): void {
  if (fn === 'relu2') relu2Gate(gate, up, n, out);
  else siluGate(gate, up, n, out);
}

/** Overwrites dGate and dUp; either may be dOut. */
export function gatedActivationBackward(
  fn: GateFunction,
  gate: Float32Array,
  up: Float32Array,
  dOut: Float32Array,
  n: number,
  dGate: Float32Array,
  dUp: Float32Array,
): void {
  for (let i = 0; i < n; i += 1) {
    const d = dOut[i]!;
    const u = up[i]!;
    let a: number;
    let slope: number;
    if (fn === 'relu2') {
      const g = Math.max(gate[i]!, 0);
      a = fround(g * g);
      slope = fround(2 * g);
    } else {
      const g = gate[i]!;
      const s = fround(1 / fround(1 + expF32(-g)));
      a = fround(g / fround(1 + expF32(-g)));
      slope = fround(s * fround(1 + fround(g * fround(1 - s))));
    }
    dUp[i] = d * a;
    dGate[i] = fround(d * u) * slope;
  }
}
