// Continuation handles: everything a later call needs to go on exactly where a generation stopped, in one opaque text.
// The server keeps nothing, so any server with the same model and the same key can go on. Handles come back from clients:
// a keyed checksum says that one of us wrote it, and its fields are checked like any other input all the same.

import { createHmac, timingSafeEqual } from 'node:crypto';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { SCHEMES, type Scheme } from '../color/scheme.ts';
import { ArgumentError, BitnetError } from '../errors.ts';
import { parseSeed } from '../random/seed.ts';
import { handleKey } from './handle-key.ts';
import { LOGIT_BIAS, MAX_TOP_LOGPROBS, PENALTY } from './sampling-limits.ts';
import type { Structure } from './structure/structure.ts';
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
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly logitBias?: readonly (readonly [id: number, bias: number])[];
  readonly topLogprobs?: number;
  readonly sampleSeed: bigint;
  readonly stop: readonly string[];
  readonly activations: boolean;
  readonly head?: HeadPrecision;
  /** What the text follows. */
  readonly structure?: Structure;
};

const PREFIX = 'c2.';
/** Characters of a handle; a 4096-token state takes about 20 KB. */
export const MAX_HANDLE = 1 << 20;
/** Of the state as JSON. 128k tokens with their text take 2 MB; what is longer gets no handle. */
const MAX_INFLATED = 4 << 20;
/** Characters of the checksum: 132 bits in base64url. */
const CHECK_LENGTH = 22;
const FORM = new RegExp(`^c2\\.([\\w-]{${CHECK_LENGTH}})\\.([\\w-]+)$`);

/** Undefined for a state that is too large to be taken up again. */
export function encodeContinuation(state: ContinuationState, key: Uint8Array = handleKey()): string | undefined {
  const { seed, sampleSeed, ...rest } = state;
  const json = JSON.stringify({ ...rest, seed: `${seed}`, sampleSeed: `${sampleSeed}` });
  if (Buffer.byteLength(json) > MAX_INFLATED) return undefined;
  const body = deflateRawSync(json).toString('base64url');
  const handle = `${PREFIX}${check(body, key)}.${body}`;
  return handle.length > MAX_HANDLE ? undefined : handle;
}

/** Throws ArgumentError for anything that `encodeContinuation` did not make with the same key. */
export function decodeContinuation(handle: string, key: Uint8Array = handleKey()): ContinuationState {
  if (handle.length > MAX_HANDLE) throw badHandle();
  const [, sum, body] = FORM.exec(handle) ?? [];
  if (sum === undefined || body === undefined) throw badHandle();
  if (!timingSafeEqual(Buffer.from(check(body, key)), Buffer.from(sum))) throw badHandle();
  return parseState(Buffer.from(body, 'base64url'));
}

/** The state in a handle's body, whoever wrote it. Throws ArgumentError. */
export function parseState(deflated: Uint8Array): ContinuationState {
  try {
    const value: unknown = JSON.parse(inflateRawSync(deflated, { maxOutputLength: MAX_INFLATED }).toString());
    const state = stateOf(value);
    if (state !== undefined) return state;
  } catch (cause) {
    // The seeds say what is wrong with them in the same class; what zlib and JSON say is no news.
    if (cause instanceof BitnetError) throw badHandle(cause);
  }
  throw badHandle();
}

/** Field by field: nothing else of the value is taken along. Undefined where one does not fit. */
function stateOf(value: unknown): ContinuationState | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { model, backend, tokens, promptTokens, steps, output, seed, scheme, ...more } = value as Fields;
  const { temperature, topK, topP, sampleSeed, stop, activations, head, structure } = more;
  const { minP, repetitionPenalty, presencePenalty, frequencyPenalty, logitBias, topLogprobs } = more;
  const sound =
    typeof model === 'string' &&
    (backend === undefined || backend === 'onnx' || backend === 'openai') &&
    Array.isArray(tokens) &&
    tokens.every(isCount) &&
    isCount(promptTokens) &&
    isCount(steps) &&
    typeof output === 'string' &&
    (SCHEMES as readonly unknown[]).includes(scheme) &&
    isNumber(temperature, 0, Number.MAX_VALUE) &&
    isCount(topK) &&
    isNumber(topP, Number.MIN_VALUE, 1) &&
    (minP === undefined || isNumber(minP, 0, 1)) &&
    (repetitionPenalty === undefined || isNumber(repetitionPenalty, Number.MIN_VALUE, Number.MAX_VALUE)) &&
    [presencePenalty, frequencyPenalty].every((value) => value === undefined || isNumber(value, ...PENALTY)) &&
    (logitBias === undefined || (Array.isArray(logitBias) && logitBias.every(isBias))) &&
    (topLogprobs === undefined || (isCount(topLogprobs) && (topLogprobs as number) <= MAX_TOP_LOGPROBS)) &&
    typeof seed === 'string' &&
    typeof sampleSeed === 'string' &&
    Array.isArray(stop) &&
    stop.every((text) => typeof text === 'string' && text !== '') &&
    typeof activations === 'boolean' &&
    (head === undefined || head === 'full' || head === 'int8') &&
    (structure === undefined || isStructure(structure));
  if (!sound) return undefined;
  return {
    model,
    ...(backend !== undefined && { backend }),
    tokens: tokens as number[],
    promptTokens: promptTokens as number,
    steps: steps as number,
    output,
    seed: parseSeed(seed, 'seed'),
    scheme: scheme as Scheme,
    temperature: temperature as number,
    topK: topK as number,
    topP: topP as number,
    ...(minP !== undefined && { minP: minP as number }),
    ...(repetitionPenalty !== undefined && { repetitionPenalty: repetitionPenalty as number }),
    ...(presencePenalty !== undefined && { presencePenalty: presencePenalty as number }),
    ...(frequencyPenalty !== undefined && { frequencyPenalty: frequencyPenalty as number }),
    ...(logitBias !== undefined && { logitBias: logitBias as [number, number][] }),
    ...(topLogprobs !== undefined && { topLogprobs: topLogprobs as number }),
    sampleSeed: parseSeed(sampleSeed, 'sample_seed'),
    stop: stop as string[],
    activations,
    ...(head !== undefined && { head }),
    ...(structure !== undefined && { structure: structure as Structure }),
  };
}

function isStructure(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { kind, text } = value as Fields;
  return (kind === 'schema' || kind === 'grammar' || kind === 'tools') && typeof text === 'string';
}

type Fields = Readonly<Record<string, unknown>>;

const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;

const isNumber = (value: unknown, least: number, most: number) =>
  typeof value === 'number' && value >= least && value <= most;

const isBias = (entry: unknown) =>
  Array.isArray(entry) && entry.length === 2 && isCount(entry[0]) && isNumber(entry[1], ...LOGIT_BIAS);

function check(body: string, key: Uint8Array): string {
  return createHmac('sha256', key).update(body).digest('base64url').slice(0, CHECK_LENGTH);
}

function badHandle(cause?: unknown): ArgumentError {
  return new ArgumentError(
    {
      what: 'the continuation handle is damaged, not one of ours, or made by another installation',
      where: 'continuation',
      fix: 'pass the `continuation` of an earlier result unchanged, or start again with a prompt',
    },
    { cause },
  );
}
