// Every loop of a training step whose cost grows with the model, behind one interface with two implementations: the
// readable one of `ops/`, and native code that gives the same bits (kernels/train).

import { addInPlace, quantizeRows } from '../engine/js/ops.ts';
import { attentionBackward, attentionForward } from './ops/attention.ts';
import {
  bitLinearBackwardInput,
  bitLinearBackwardWeight,
  bitLinearForward,
  quantizeMatrices,
} from './ops/bit-linear.ts';
import { crossEntropyInPlace } from './ops/cross-entropy.ts';
import { denseBackwardInput, denseBackwardWeight, denseForward } from './ops/dense.ts';
import { embeddingBackward, embeddingForward } from './ops/embedding.ts';
import { gatedActivationBackward, gatedActivationForward } from './ops/gated-activation.ts';
import { adamWUpdate, sgdUpdate, sumSquares } from './ops/optimizers.ts';
import { rmsNormBackward, rmsNormForward } from './ops/rms-norm.ts';
import { ropeBackward, ropeForward } from './ops/rope.ts';

/** Shapes and meanings: the functions of the same names in `ops/`. */
export type TrainKernels = {
  readonly name: 'js' | 'native';
  /** Instruction set of the native code; `js` has none. */
  readonly isa: string;
  readonly threads: number;
  readonly quantizeMatrices: typeof quantizeMatrices;
  readonly quantizeRows: typeof quantizeRows;
  readonly bitLinearForward: typeof bitLinearForward;
  readonly bitLinearBackwardInput: typeof bitLinearBackwardInput;
  readonly bitLinearBackwardWeight: typeof bitLinearBackwardWeight;
  readonly denseForward: typeof denseForward;
  readonly denseBackwardInput: typeof denseBackwardInput;
  readonly denseBackwardWeight: typeof denseBackwardWeight;
  readonly rmsNormForward: typeof rmsNormForward;
  readonly rmsNormBackward: typeof rmsNormBackward;
  readonly ropeForward: typeof ropeForward;
  readonly ropeBackward: typeof ropeBackward;
  readonly attentionForward: typeof attentionForward;
  readonly attentionBackward: typeof attentionBackward;
  readonly gatedActivationForward: typeof gatedActivationForward;
  readonly gatedActivationBackward: typeof gatedActivationBackward;
  readonly embeddingForward: typeof embeddingForward;
  readonly embeddingBackward: typeof embeddingBackward;
  readonly crossEntropyInPlace: typeof crossEntropyInPlace;
  readonly addInPlace: typeof addInPlace;
  readonly sgdUpdate: typeof sgdUpdate;
  readonly adamWUpdate: typeof adamWUpdate;
  readonly sumSquares: typeof sumSquares;
};

export const JS_KERNELS: TrainKernels = {
  name: 'js',
  isa: 'js',
  threads: 1,
  quantizeMatrices,
  quantizeRows,
  bitLinearForward,
  bitLinearBackwardInput,
  bitLinearBackwardWeight,
  denseForward,
  denseBackwardInput,
  denseBackwardWeight,
  rmsNormForward,
  rmsNormBackward,
  ropeForward,
  ropeBackward,
  attentionForward,
  attentionBackward,
  gatedActivationForward,
  gatedActivationBackward,
  embeddingForward,
  embeddingBackward,
  crossEntropyInPlace,
  addInPlace,
  sgdUpdate,
  adamWUpdate,
  sumSquares,
};
