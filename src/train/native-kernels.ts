// The training kernels in native code (kernels/train): prebuilt or compiled at first use, the same bits as `ops/`.

import { availableParallelism } from 'node:os';
import { BitnetError } from '../errors.ts';
import { loadAddon } from '../native/load.ts';
import { JS_KERNELS, type TrainKernels } from './kernels.ts';
import { quantizeMatrices } from './ops/bit-linear.ts';
import type { GateFunction } from './ops/gated-activation.ts';

type Addon = Readonly<Record<string, (...args: unknown[]) => unknown>> & {
  configure(threads: number, isa: string): { readonly threads: number; readonly isa: string };
  isas(): string[];
};

/** The native kernels were asked for and cannot be had. */
export class TrainKernelsError extends BitnetError {
  readonly code = 'NO_NATIVE_TRAINING';
  readonly fault = 'job';
}

export type KernelOptions = {
  /** Default `auto`: native where it can be had, else js. */
  readonly kernels?: 'auto' | 'native' | 'js';
  /** Default: one per core. */
  readonly threads?: number;
  /** One of the addon's instruction sets (avx512, avx2, neon, scalar); default the best here. */
  readonly isa?: string;
  /** Whether a compiler is not waited for but begun, and js does it this time. */
  readonly now?: boolean;
  /** Hears why `auto` settled for js. */
  readonly onFallback?: (reason: string) => void;
};

const GATES: Readonly<Record<GateFunction, number>> = { relu2: 0, silu: 1 };

/** Kernels for a run; the results are the same whichever they are. */
export async function loadTrainKernels(options: KernelOptions = {}): Promise<TrainKernels> {
  if (options.kernels === 'js') return JS_KERNELS;
  const loaded = await loadAddon<Addon>('train', { now: options.now === true });
  if ('reason' in loaded) {
    const { reason } = loaded;
    if (options.kernels === 'native') {
      throw new TrainKernelsError({
        what: `native training kernels are not there: ${reason}`,
        fix: 'install a C++ compiler, or train without --backend native (slow)',
      });
    }
    options.onFallback?.(reason);
    return JS_KERNELS;
  }
  const { addon } = loaded;
  const isas = addon.isas();
  if (options.isa !== undefined && !isas.includes(options.isa)) {
    throw new TrainKernelsError({
      what: `instruction set ${options.isa} is not usable here`,
      fix: `one of ${isas.join(', ')}`,
    });
  }
  return nativeKernels(addon, options.threads ?? availableParallelism(), options.isa ?? '');
}

function nativeKernels(addon: Addon, threadCount: number, isaName: string): TrainKernels {
  const { threads, isa } = addon.configure(threadCount, isaName);
  // Each of these takes the arguments of the type it is given here; the addon checks them again.
  const native = <Name extends keyof TrainKernels>(name: Name) => addon[name] as TrainKernels[Name];
  const { rope, attentionForward, attentionBackward, gatedActivationForward, gatedActivationBackward } = addon;
  const rotate =
    (direction: number): TrainKernels['ropeForward'] =>
    (...args) => {
      rope!(...args, direction);
    };
  return {
    name: 'native',
    isa,
    threads,
    quantizeMatrices: (matrices) => {
      const w = matrices.map((matrix) => matrix.w);
      const trits = matrices.map((matrix) => matrix.trits);
      const scales = addon.quantizeMatrices!(w, trits) as number[];
      // The readable kernel says what is wrong with a matrix that has no scale.
      scales.forEach((scale, i) => {
        if (Number.isNaN(scale)) quantizeMatrices([matrices[i]!]);
      });
      return scales;
    },
    quantizeRows: native('quantizeRows'),
    bitLinearForward: native('bitLinearForward'),
    bitLinearBackwardInput: native('bitLinearBackwardInput'),
    bitLinearBackwardWeight: native('bitLinearBackwardWeight'),
    denseForward: native('denseForward'),
    denseBackwardInput: native('denseBackwardInput'),
    denseBackwardWeight: native('denseBackwardWeight'),
    rmsNormForward: native('rmsNormForward'),
    rmsNormBackward: native('rmsNormBackward'),
    ropeForward: rotate(1),
    ropeBackward: rotate(-1),
    attentionForward: (q, k, v, starts, { heads, kvHeads, headDim, scale }, out) => {
      attentionForward!(q, k, v, starts, heads, kvHeads, headDim, scale, out);
    },
    attentionBackward: (q, k, v, out, dOut, starts, { heads, kvHeads, headDim, scale }, dq, dk, dv) => {
      attentionBackward!(q, k, v, out, dOut, starts, heads, kvHeads, headDim, scale, dq, dk, dv);
    },
    gatedActivationForward: (fn, gate, up, n, out) => {
      gatedActivationForward!(GATES[fn], gate, up, n, out);
    },
    gatedActivationBackward: (fn, gate, up, dOut, n, dGate, dUp) => {
      gatedActivationBackward!(GATES[fn], gate, up, dOut, n, dGate, dUp);
    },
    // Copies of rows and sums into a few of them: nothing to gain.
    embeddingForward: JS_KERNELS.embeddingForward,
    embeddingBackward: JS_KERNELS.embeddingBackward,
    crossEntropyInPlace: native('crossEntropyInPlace'),
    addInPlace: native('addInPlace'),
    sgdUpdate: (p, g, { lr, keep, gradScale }) => {
      addon.sgdUpdate!(p, g, lr, keep, gradScale);
    },
    adamWUpdate: (p, g, m, v, { beta1, beta2, eps, keep, stepSize, secondScale, gradScale }) => {
      const rest = [beta1, beta2, 1 - beta1, 1 - beta2, eps, keep, stepSize, secondScale, gradScale];
      addon.adamWUpdate!(p, g, m, v, ...rest);
    },
    sumSquares: native('sumSquares'),
  };
}
