// What a sequence holds beside a KV cache that can be cut to any length.

import type { Program } from './program.ts';

/** Bytes of a sequence's recurrent states: what the program asks for. */
export function recurrentBytes({ recurrent = [] }: Pick<Program, 'recurrent'>): number {
  return recurrent.reduce((sum, { width }) => sum + 4 * width, 0);
}

/** Bytes of keys and values that layers with a window hold at most. */
function windowBytes({ kv, contextLength }: Pick<Program, 'kv' | 'contextLength'>): number {
  const positions = (kv.windows ?? []).reduce((sum, window) => sum + Math.min(window, contextLength), 0);
  return 2 * 4 * positions * kv.kvHeads * kv.headDim;
}

/**
 * Bytes that a copy of a sequence takes of its own; 0 where sequences can be cut to any length. `kept`: of recurrent states, where
 * the backend says so (`ExecutableInfo.recurrentBytes`).
 */
export function stateBytes(
  program: Pick<Program, 'kv' | 'recurrent' | 'contextLength'>,
  kept: number = recurrentBytes(program),
): number {
  return kept + windowBytes(program);
}
