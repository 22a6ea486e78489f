// Continuation handles as anybody may send them: text that was never one, and states that were packed right.

import { deflateRawSync } from 'node:zlib';
import { BitnetError } from '../../src/errors.ts';
import { decodeContinuation, encodeContinuation, parseState } from '../../src/generate/continuation.ts';

const KEY = Buffer.alloc(32, 7);

/** Throws for what is no refusal of ours, and for a state that does not survive its own handle. */
export function fuzz(bytes: Uint8Array): void {
  const text = Buffer.from(bytes).toString('utf8');
  refused(() => decodeContinuation(text, KEY));
  refused(() => decodeContinuation(`c2.${text}`, KEY));
  refused(() => parseState(bytes));
  // Past the compression, which random bytes rarely are.
  const state = refused(() => parseState(deflateRawSync(bytes)));
  if (state === undefined) return;
  const handle = encodeContinuation(state, KEY);
  if (handle === undefined) return;
  const again = decodeContinuation(handle, KEY);
  if (again.output !== state.output || again.tokens.length !== state.tokens.length || again.seed !== state.seed) {
    throw new Error('a state is not what its handle says');
  }
}

/** States that are sound, for a fuzzer to begin from. */
export const SEEDS: readonly Uint8Array[] = [
  {
    model: 'default',
    tokens: [1, 2, 3],
    promptTokens: 2,
    steps: 1,
    output: 'Once upon',
    scheme: 'trace',
    temperature: 0.5,
    topK: 4,
    topP: 0.9,
    stop: ['.'],
    activations: false,
    head: 'int8',
    seed: '1069',
    sampleSeed: '18446744073709551615',
  },
].map((state) => Buffer.from(JSON.stringify(state)));

function refused<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (error instanceof BitnetError) return undefined;
    throw error;
  }
}
