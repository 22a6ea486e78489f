// How a step of a compiled engine ended: `Status` of kernels/include/engine.h, and the error that it becomes.

import { BitnetError } from '../../errors.ts';
import { NonFiniteError, StepError } from '../backend.ts';
import type { Program } from '../program.ts';

export const STATUS = { ok: 0, badProgram: 1, badStep: 2, outOfMemory: 3, nonFinite: 4, badSequence: 5 } as const;

/** 0 is success. `op` is the operation that failed, or -1. */
export type StepStatus = { readonly status: number; readonly op: number; readonly text: string };

/** Memory ran out, or the program is not one the kernels accept. */
export class NativeEngineError extends BitnetError {
  readonly code = 'NATIVE_ENGINE';
  readonly fault = 'job';
}

/** What a failed step of the native or WebAssembly engine becomes. */
export function stepFailure(program: Program, { status, op, text }: StepStatus): BitnetError {
  if (status === STATUS.nonFinite) {
    const failed = program.ops[op];
    const label = failed !== undefined && 'label' in failed ? failed.label : `operation ${op}`;
    return new NonFiniteError(`${program.name}, ${label}`);
  }
  if (status === STATUS.badStep || status === STATUS.badSequence)
    return new StepError({ what: text, where: program.name });
  return new NativeEngineError({ what: text, where: program.name });
}
