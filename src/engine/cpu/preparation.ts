// What native code makes of weights while a model is read.

import type { WeightPreparation } from '../weight-preparation.ts';
import { quantizeHeadNative } from './quantize-head.ts';
import { repackGroupedNative } from './repack-grouped.ts';
import { mastersToRowquadNative } from './ternarize-masters.ts';

export const nativePreparation: WeightPreparation = {
  quantizeHead: quantizeHeadNative,
  mastersToRowquad: mastersToRowquadNative,
  repackGrouped: repackGroupedNative,
};
