// Continuation handles: everything a later call needs to go on exactly where a generation stopped, in one opaque text.
// The server keeps nothing, so any server with the same model can go on. Handles come back from clients: they are
// checked like any other input.

import { createHash } from 'node:crypto';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { SCHEMES, type Scheme } from '../color/scheme.ts';
import { ArgumentError } from '../errors.ts';
import { parseSeed } from '../random/seed.ts';
import type { HeadPrecision } from './types.ts';

export type ContinuationState = {
  readonly model: string;
  /** Which kind of source made it, unless it is an engine of our own. */
  readonly backend?: 'onnx' | 'openai';
  /** Prompt + all tokens written so far; empty where only a server knows them. */
  readonly tokens: readonly number[];
  readonly promptTokens: number;
  /** Steps of the trace so far. */
  readonly steps: number;
  /** Text of the prompt and all completions. */
  readonly output: string;
  readonly seed: bigint;
  readonly scheme: Scheme;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly sampleSeed: bigint;
  readonly stop: readonly string[];
  readonly activations: boolean;
  readonly head?: HeadPrecision;
};

const PREFIX = 'c1.';
/** Characters of a handle; a 4096-token state takes about 20 KB. */
const MAX_HANDLE = 1 << 20;
const MAX_INFLATED = 8 << 20;
const CHECK_LENGTH = 16;

export function encodeContinuation(state: ContinuationState): string {
  const { seed, sampleSeed, ...rest } = state;
  const json = JSON.stringify({ ...rest, seed: `${seed}`, sampleSeed: `${sampleSeed}` });
  const body = deflateRawSync(json).toString('base64url');
  return `${PREFIX}${check(body)}.${body}`;
}

/** Throws ArgumentError for anything that `encodeContinuation` did not make. */
export function decodeContinuation(handle: string): ContinuationState {
  const [sum, body] = handle.slice(PREFIX.length).split('.');
  if (
    handle.length > MAX_HANDLE ||
    !handle.startsWith(PREFIX) ||
    sum === undefined ||
    body === undefined ||
    check(body) !== sum
  ) {
    throw badHandle();
  }
  try {
    const json = inflateRawSync(Buffer.from(body, 'base64url'), { maxOutputLength: MAX_INFLATED }).toString();
    const state = JSON.parse(json) as Omit<ContinuationState, 'seed' | 'sampleSeed'> & {
      seed: string;
      sampleSeed: string;
    };
    const whole = (value: unknown) => Number.isInteger(value) && (value as number) >= 0;
    if (!Array.isArray(state.tokens) || !state.tokens.every(whole) || !whole(state.promptTokens)) throw badHandle();
    if (!whole(state.steps) || typeof state.output !== 'string' || typeof state.model !== 'string') throw badHandle();
    // The checksum has no key: whoever wants to can make a handle, so every field is as untrusted as an argument.
    const isNumber = (value: unknown, least: number, most: number) =>
      typeof value === 'number' && value >= least && value <= most;
    const sound =
      isNumber(state.temperature, 0, Number.MAX_VALUE) &&
      whole(state.topK) &&
      isNumber(state.topP, Number.MIN_VALUE, 1) &&
      (SCHEMES as readonly unknown[]).includes(state.scheme) &&
      Array.isArray(state.stop) &&
      state.stop.every((text) => typeof text === 'string' && text !== '') &&
      typeof state.activations === 'boolean' &&
      (state.head === undefined || state.head === 'full' || state.head === 'int8');
    if (!sound) throw badHandle();
    return {
      ...state,
      seed: parseSeed(state.seed, 'seed'),
      sampleSeed: parseSeed(state.sampleSeed, 'sample_seed'),
    };
  } catch (cause) {
    throw cause instanceof ArgumentError ? cause : badHandle();
  }
}

function check(body: string): string {
  return createHash('sha256').update(body).digest('hex').slice(0, CHECK_LENGTH);
}

function badHandle(): ArgumentError {
  return new ArgumentError({
    what: 'the continuation handle is damaged or not one of ours',
    where: 'continuation',
    fix: 'pass the `continuation` of an earlier result unchanged, or start again with a prompt',
  });
}
