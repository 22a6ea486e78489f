// `verify`: a checkpoint against what other people's code computed from it. A case folder holds config.json and
// model.safetensors, or model.gguf, which the engine loads, and expected.json and expected.safetensors, which it must
// reproduce.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { BackendName, Executable } from '../engine/backend.ts';
import { loadOn, weightMemory, weightPreparation } from '../engine/select.ts';
import { BitnetError, CancelledError } from '../errors.ts';
import { openCheckpoint } from '../formats/open-checkpoint.ts';
import { readTextFile } from '../formats/read-small-file.ts';
import { parseJson } from '../formats/strict-json.ts';
import { type ModelFiles, openModel } from '../model/open-model.ts';
import { toFloat32 } from '../quant/to-float32.ts';
import { allLogits, type ForwardOptions, negativeLogLikelihood } from './forward.ts';
import { chooseToken } from './sampler.ts';
import { type BackendChoice, ownBackend } from './token-source.ts';
import type { HeadPrecision } from './types.ts';

export type VerifyOptions = {
  readonly backend?: BackendChoice;
  readonly threads?: number;
  /** Default `full`. */
  readonly head?: HeadPrecision;
  readonly signal?: AbortSignal;
  /** Told of every token that was computed, of all that will be; and of each layer while the model is loaded. */
  readonly onProgress?: (done: number, total: number, doing: string) => void;
};

export type VerifyReport = {
  readonly case: string;
  readonly backend: BackendName;
  /** Largest |logit - expected|. */
  readonly maxAbsErr: number;
  /** Largest |logit - expected| over the largest |expected|. */
  readonly maxRelErr: number;
  /** Limit on maxAbsErr that the case requires. */
  readonly tolerance: number;
  /** Greedy tokens equal before the first difference, of how many, and how many of them are required. */
  readonly greedyMatch: number;
  readonly greedyTotal: number;
  readonly greedyCertain: number;
  /** The prompt in pieces through the KV cache gives the same logits, bit for bit. */
  readonly chunkedEqual: boolean;
  /** Largest and mean difference of -ln p over the case's perplexity tokens, with their limits; if it has any. */
  readonly nll?: {
    readonly maxAbsErr: number;
    readonly meanAbsErr: number;
    readonly maxTolerance: number;
    readonly meanTolerance: number;
  };
  readonly ok: boolean;
};

/** The case folder's expected.json is missing or not what a case needs. */
export class CaseError extends BitnetError {
  readonly code = 'BAD_CASE';
  readonly fault = 'call';
}

type Expected = {
  readonly input_ids: readonly number[];
  readonly greedy: readonly number[];
  readonly greedy_certain: number;
  readonly tolerance: {
    readonly logits_max_abs: number;
    readonly token_nll_max_abs?: number;
    readonly mean_nll_abs?: number;
  };
  readonly perplexity?: {
    readonly input_ids: readonly number[];
    readonly token_nll: readonly number[];
    readonly mean_nll: number;
  };
  readonly chunked_prefill?: { readonly chunks: readonly number[] };
};

/** What rounding activations to int16 may cost, where a case's own tolerance is that of float32 activations. */
const INT16_TOLERANCE = 0.02;

/** What kind of case a folder holds: one of inference, or one training step (which `train/` verifies). */
export async function caseKind(dir: string): Promise<'inference' | 'qat'> {
  const expected = await readExpected(dir);
  const ids = (expected as { input_ids?: unknown }).input_ids;
  return Array.isArray(ids) && Array.isArray(ids[0]) ? 'qat' : 'inference';
}

export async function verifyCase(dir: string, options: VerifyOptions = {}): Promise<VerifyReport> {
  const choice = ownBackend(options.backend ?? 'auto', 'verify a checkpoint');
  const expected = checkExpected(await readExpected(dir), dir);
  const { signal, onProgress } = options;
  const cancelled = signal === undefined ? {} : { signal };
  const ids = expected.input_ids;
  const total = 2 * ids.length + expected.greedy.length + (expected.perplexity?.input_ids.length ?? 0);
  /** Tells of tokens of one part of the work; `before` are those of the parts before it. */
  const counting = (before: number, doing: string) => (tokens: number) => onProgress?.(before + tokens, total, doing);
  const model = {
    name: dir,
    head: options.head ?? 'full',
    allocate: weightMemory(choice),
    prepare: weightPreparation,
    onLayer: (layer: number, layers: number) => onProgress?.(0, total, `loading layer ${layer} of ${layers}`),
    ...cancelled,
  };
  const { program } = await openModel(modelOf(dir), model);
  using executable = await loadOn(choice, program, options.threads === undefined ? {} : { threads: options.threads });
  const { vocabSize } = program;
  const whole = { chunk: ids.length, onChunk: counting(0, 'logits'), ...cancelled };
  const logits = await allLogits(executable, ids, vocabSize, whole);

  using reference = await openCheckpoint(join(dir, 'expected.safetensors'));
  const wanted = toFloat32(await reference.read('logits'));
  if (wanted.length !== logits.length) {
    throw new CaseError({
      what: `expected logits have ${wanted.length} elements, the model gives ${logits.length}`,
      where: join(dir, 'expected.safetensors'),
      fix: 'config.json and the expected files belong to different models',
    });
  }
  let maxAbsErr = 0;
  let largest = 0;
  for (let i = 0; i < wanted.length; i += 1) {
    const error = Math.abs(logits[i]! - wanted[i]!);
    // A NaN on either side is the largest error there is.
    maxAbsErr = Math.max(maxAbsErr, Number.isNaN(error) ? Number.POSITIVE_INFINITY : error);
    largest = Math.max(largest, Math.abs(wanted[i]!));
  }

  const greedy = await greedyTokens(executable, ids, expected.greedy.length, vocabSize, {
    onToken: counting(ids.length, 'greedy tokens'),
    ...cancelled,
  });
  const different = greedy.findIndex((token, i) => token !== expected.greedy[i]);
  const greedyMatch = different < 0 ? greedy.length : different;
  const chunkedEqual = await sameInPieces(executable, ids, vocabSize, logits, expected.chunked_prefill?.chunks, {
    onToken: counting(ids.length + greedy.length, 'the prompt in pieces'),
    ...cancelled,
  });
  const nll = await compareNll(executable, vocabSize, expected, {
    onChunk: counting(2 * ids.length + greedy.length, 'log-probabilities'),
    ...cancelled,
  });
  const tolerance = expected.tolerance.logits_max_abs;
  return {
    case: dir,
    backend: executable.info.backend,
    maxAbsErr,
    maxRelErr: largest === 0 ? maxAbsErr : maxAbsErr / largest,
    tolerance,
    greedyMatch,
    greedyTotal: expected.greedy.length,
    greedyCertain: expected.greedy_certain,
    chunkedEqual,
    ...(nll === undefined ? {} : { nll }),
    ok:
      maxAbsErr <= tolerance &&
      greedyMatch >= expected.greedy_certain &&
      chunkedEqual &&
      (nll === undefined || (nll.maxAbsErr <= nll.maxTolerance && nll.meanAbsErr <= nll.meanTolerance)),
  };
}

function modelOf(dir: string): ModelFiles {
  const gguf = join(dir, 'model.gguf');
  const isGguf = existsSync(gguf) && !existsSync(join(dir, 'config.json'));
  return isGguf ? { kind: 'gguf', path: gguf } : { kind: 'folder', path: dir };
}

/** Largest expected.json read: some numbers for each token of a prompt. */
const MAX_EXPECTED_BYTES = 16 * 2 ** 20;

async function readExpected(dir: string): Promise<unknown> {
  const refuse = (what: string, cause?: unknown) => {
    const fix =
      'a case holds config.json and model.safetensors (or model.gguf), expected.json and expected.safetensors';
    return new CaseError({ what, where: dir, fix }, { cause });
  };
  try {
    const text = await readTextFile(join(dir, 'expected.json'), MAX_EXPECTED_BYTES);
    if (text !== undefined) return parseJson(text, { where: join(dir, 'expected.json') });
  } catch (cause) {
    const reason = cause instanceof BitnetError ? cause.text.what : (cause as Error).message;
    throw refuse(`expected.json cannot be read: ${reason}`, cause);
  }
  throw refuse('there is no expected.json');
}

function checkExpected(json: unknown, dir: string): Expected {
  const numbers = (value: unknown): value is number[] =>
    Array.isArray(value) && value.length > 0 && value.every((item) => typeof item === 'number');
  const found = usualForm(json) as Partial<Expected> | null;
  const sound =
    typeof found === 'object' &&
    found !== null &&
    numbers(found.input_ids) &&
    numbers(found.greedy) &&
    typeof found.tolerance?.logits_max_abs === 'number' &&
    (found.perplexity === undefined ||
      (numbers(found.perplexity.input_ids) &&
        numbers(found.perplexity.token_nll) &&
        found.perplexity.token_nll.length < found.perplexity.input_ids.length &&
        typeof found.perplexity.mean_nll === 'number'));
  if (!sound) {
    throw new CaseError({
      what: 'expected.json lacks input_ids, greedy or tolerance.logits_max_abs, or its perplexity is incomplete',
      where: join(dir, 'expected.json'),
      fix: 'input_ids and greedy are lists of token ids, tolerance.logits_max_abs a number',
    });
  }
  const expected = found as Expected;
  return { ...expected, greedy_certain: expected.greedy_certain ?? expected.greedy.length };
}

/** Cases of newer sets spell two things in other ways: the tolerance by what is done to activations, pieces as a list. */
function usualForm(json: unknown): unknown {
  if (typeof json !== 'object' || json === null) return json;
  const { tolerance, chunked_prefill: chunks } = json as {
    tolerance?: Record<string, unknown>;
    chunked_prefill?: unknown;
  };
  const int16 = (tolerance?.int16_token as { max?: unknown } | undefined)?.max;
  const isFloat32 = typeof tolerance?.logits_f32_activations === 'number';
  return {
    ...json,
    ...(tolerance?.logits_max_abs === undefined &&
      (int16 !== undefined || isFloat32) && { tolerance: { ...tolerance, logits_max_abs: int16 ?? INT16_TOLERANCE } }),
    ...(Array.isArray(chunks) && { chunked_prefill: { chunks } }),
  };
}

type TokenHooks = { readonly signal?: AbortSignal; readonly onToken: (done: number) => void };

async function greedyTokens(
  executable: Executable,
  prompt: readonly number[],
  count: number,
  vocabSize: number,
  { signal, onToken }: TokenHooks,
): Promise<number[]> {
  const sequence = executable.createSequence();
  const written: number[] = [];
  let pending = [...prompt];
  let position = 0;
  while (written.length < count) {
    if (signal?.aborted) throw new CancelledError();
    const rows = pending.length;
    const { logits } = await executable.step({
      tokens: Int32Array.from(pending),
      sequences: new Int32Array(rows).fill(sequence),
      positions: Int32Array.from({ length: rows }, (_, i) => position + i),
      outputRows: Int32Array.of(rows - 1),
    });
    position += rows;
    const greedy = { temperature: 0, topK: 0, topP: 1, sampleSeed: 0n };
    const { token } = chooseToken(logits.subarray(0, vocabSize), written.length, greedy);
    written.push(token);
    onToken(written.length);
    pending = [token];
  }
  executable.freeSequence(sequence);
  return written;
}

/** The case's own pieces, or pieces of 1, 2, 3, ... tokens. */
async function sameInPieces(
  executable: Executable,
  ids: readonly number[],
  vocabSize: number,
  whole: Float32Array,
  chunks: readonly number[] | undefined,
  { signal, onToken }: TokenHooks,
): Promise<boolean> {
  const sequence = executable.createSequence();
  let equal = true;
  let from = 0;
  for (let piece = 0; from < ids.length; piece += 1) {
    if (signal?.aborted) throw new CancelledError();
    const rows = Math.min(Math.max(1, chunks?.[piece] ?? piece + 1), ids.length - from);
    const { logits } = await executable.step({
      tokens: Int32Array.from(ids.slice(from, from + rows)),
      sequences: new Int32Array(rows).fill(sequence),
      positions: Int32Array.from({ length: rows }, (_, i) => from + i),
      outputRows: Int32Array.from({ length: rows }, (_, i) => i),
    });
    const bits = new Uint32Array(logits.buffer, logits.byteOffset, logits.length);
    const wholeBits = new Uint32Array(whole.buffer, whole.byteOffset + 4 * from * vocabSize, logits.length);
    equal &&= bits.every((word, i) => word === wholeBits[i]);
    from += rows;
    onToken(from);
  }
  executable.freeSequence(sequence);
  return equal;
}

async function compareNll(
  executable: Executable,
  vocabSize: number,
  expected: Expected,
  options: ForwardOptions,
): Promise<VerifyReport['nll']> {
  const { perplexity, tolerance } = expected;
  if (perplexity === undefined || tolerance.token_nll_max_abs === undefined || tolerance.mean_nll_abs === undefined) {
    return undefined;
  }
  const ids = perplexity.input_ids;
  const logits = await allLogits(executable, ids, vocabSize, options);
  let maxAbsErr = 0;
  let sum = 0;
  perplexity.token_nll.forEach((wanted, i) => {
    const got = negativeLogLikelihood(logits.subarray(i * vocabSize, (i + 1) * vocabSize), ids[i + 1]!);
    maxAbsErr = Math.max(maxAbsErr, Math.abs(got - wanted));
    sum += got;
  });
  return {
    maxAbsErr,
    meanAbsErr: Math.abs(sum / perplexity.token_nll.length - perplexity.mean_nll),
    maxTolerance: tolerance.token_nll_max_abs,
    meanTolerance: tolerance.mean_nll_abs,
  };
}
