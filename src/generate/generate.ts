// One generation from request to result: checks, tokens in, tokens out, each with its color and trit.

import type { Color } from '../color/color.ts';
import { colorStream } from '../color/palette.ts';
import { DEFAULT_SCHEME, DEFAULT_SEED, maxIndexOf } from '../color/scheme.ts';
import { ArgumentError, CancelledError } from '../errors.ts';
import { gf3Residue, isConserved, tritSum } from '../gf3/sums.ts';
import { type ContinuationState, decodeContinuation, encodeContinuation } from './continuation.ts';
import { Engine, type LoadedModel } from './engine.ts';
import { chooseToken, type SamplingOptions } from './sampler.ts';
import { StopScanner } from './stop-scanner.ts';
import type {
  FinishReason,
  GenerateHooks,
  GenerateRequest,
  GenerateResult,
  HeadPrecision,
  TraceStep,
  TritCounts,
} from './types.ts';

const DEFAULT_MAX_TOKENS = 100;

/** What a generation starts from, whichever way it was asked for. */
type Start = Omit<ContinuationState, 'tokens' | 'head'> & {
  readonly tokens: number[];
  readonly head: HeadPrecision | undefined;
};

/** Generates with an engine of its own. A caller that generates more than once keeps an `Engine`. */
export async function generate(request: GenerateRequest, hooks: GenerateHooks = {}): Promise<GenerateResult> {
  using engine = new Engine();
  return await generateWith(engine, request, hooks);
}

/**
 * Generates. A fired signal ends it within one token: the result then says `cancelled` and holds what there is.
 * Throws ArgumentError for a request that cannot be run, and what loading and the backend throw.
 */
export async function generateWith(
  engine: Engine,
  request: GenerateRequest,
  hooks: GenerateHooks = {},
): Promise<GenerateResult> {
  checkRequest(request);
  const resumed = request.continuation === undefined ? undefined : decodeContinuation(request.continuation);
  const head = request.head ?? resumed?.head;
  const wanted = {
    model: resumed?.model ?? request.model,
    ...(request.backend === undefined ? {} : { backend: request.backend }),
    ...(request.threads === undefined ? {} : { threads: request.threads }),
    ...(head === undefined ? {} : { head }),
    ...(hooks.signal === undefined ? {} : { signal: hooks.signal }),
  };
  return await engine.use(wanted, async (model) => {
    const start = resumed === undefined ? begin(model, request, head) : resume(model, resumed);
    return await run(model, start, request, hooks);
  });
}

function checkRequest(request: GenerateRequest): void {
  const number = (name: string, value: number | undefined, ok: (value: number) => boolean, expected: string) => {
    if (value === undefined || (Number.isFinite(value) && ok(value))) return;
    throw new ArgumentError({ what: `${name} is ${value}`, fix: `give ${expected}` });
  };
  const whole = (value: number) => Number.isInteger(value) && value >= 0;
  number('max_tokens', request.maxTokens, (value) => whole(value) && value > 0, 'a whole number from 1');
  number('temperature', request.temperature, (value) => value >= 0, 'a number from 0 (greedy)');
  number('top_k', request.topK, whole, 'a whole number from 0 (off)');
  number('top_p', request.topP, (value) => value > 0 && value <= 1, 'a number above 0, at most 1');
  number('max_seconds', request.maxSeconds, (value) => value > 0, 'a number above 0');
  number('threads', request.threads, (value) => whole(value) && value > 0, 'a whole number from 1');
  if (request.stop?.some((text) => text === '')) {
    throw new ArgumentError({ what: 'an empty stop string', fix: 'every entry of stop needs at least one character' });
  }
  const given = [request.prompt, request.messages, request.continuation].filter((value) => value !== undefined);
  if (given.length !== 1) {
    throw new ArgumentError({
      what: given.length === 0 ? 'nothing to start from' : 'more than one thing to start from',
      fix: 'give exactly one of prompt, messages, continuation',
    });
  }
}

function begin(model: LoadedModel, request: GenerateRequest, head: HeadPrecision | undefined): Start {
  const { tokenizer } = model;
  const tokens =
    request.messages === undefined ? tokenizer.encode(request.prompt ?? '') : tokenizer.encodeChat(request.messages);
  if (tokens.length === 0) {
    throw new ArgumentError({
      what: 'the prompt is empty and this model has no token to begin a text with',
      fix: 'give at least one character',
    });
  }
  return {
    model: request.model,
    tokens,
    promptTokens: tokens.length,
    output: request.messages === undefined ? (request.prompt ?? '') : tokenizer.renderChat(request.messages),
    seed: request.seed ?? DEFAULT_SEED,
    scheme: request.scheme ?? DEFAULT_SCHEME,
    temperature: request.temperature ?? 0,
    topK: request.topK ?? 0,
    topP: request.topP ?? 1,
    sampleSeed: request.sampleSeed ?? 0n,
    stop: request.stop ?? [],
    activations: request.activations ?? false,
    head,
  };
}

function resume(model: LoadedModel, state: ContinuationState): Start {
  const foreign = state.tokens.some((token) => token >= model.vocabSize);
  if (foreign || state.promptTokens > state.tokens.length || state.tokens.length === 0) {
    throw new ArgumentError({
      what: `the continuation does not fit the model "${model.name}"`,
      where: 'continuation',
      fix: 'it belongs to another model of that name: start again with a prompt',
    });
  }
  return { ...state, tokens: [...state.tokens], head: state.head };
}

async function run(
  model: LoadedModel,
  start: Start,
  request: GenerateRequest,
  { signal, onStep, onPrompt }: GenerateHooks,
): Promise<GenerateResult> {
  const startedAt = performance.now();
  const { tokenizer, contextLength, scheduler } = model;
  const { tokens, seed, scheme } = start;
  const maxTokens = request.maxTokens ?? DEFAULT_MAX_TOKENS;
  if (tokens.length >= contextLength) {
    throw new ArgumentError({
      what: `the prompt has ${tokens.length} tokens, the model "${model.name}" holds ${contextLength} with its answer`,
      fix: 'shorten the prompt',
    });
  }
  const sampling: SamplingOptions = start;
  const decoder = tokenizer.streamDecoder({ after: tokens, skipSpecial: true });
  const scanner = new StopScanner(start.stop, (step) => onStep?.(step));
  const deadline = request.maxSeconds === undefined ? Infinity : startedAt + 1000 * request.maxSeconds;
  const firstStep = tokens.length - start.promptTokens;
  const nextColor = colorsFrom({ seed, scheme, firstStep, maxTokens });

  let written = 0;
  let finishReason = 'length' as FinishReason;
  let promptMs = 0;
  let firstTokenMs = 0;

  const next = (logits: Float32Array, tritCounts: Int32Array): number | undefined => {
    if (written === 0) promptMs = performance.now() - startedAt;
    if (signal?.aborted) {
      finishReason = 'cancelled';
      return undefined;
    }
    // At least one token, so that a caller who continues always gets on.
    if (written > 0 && performance.now() >= deadline) {
      finishReason = 'time';
      return undefined;
    }
    const { token, logprob } = chooseToken(logits, firstStep + written, sampling);
    if (model.stopIds.has(token)) {
      finishReason = 'stop';
      return undefined;
    }
    const { hex, trit } = nextColor();
    const step: TraceStep = {
      step: firstStep + written,
      token: decoder.push(token),
      tokenId: token,
      logprob,
      color: hex,
      trit,
      ...(start.activations ? { activations: layerCounts(tritCounts) } : {}),
    };
    tokens.push(token);
    written += 1;
    if (written === 1) firstTokenMs = performance.now() - startedAt;
    if (scanner.push(step)) {
      finishReason = 'stop';
      return undefined;
    }
    if (written === maxTokens || tokens.length === contextLength) return undefined;
    return token;
  };

  try {
    await scheduler.run([...tokens], {
      next,
      trace: start.activations,
      ...(onPrompt === undefined ? {} : { onPrompt }),
      ...(signal === undefined ? {} : { signal }),
    });
  } catch (error) {
    if (!(error instanceof CancelledError)) throw error;
    finishReason = 'cancelled';
  }
  const endedAt = performance.now();
  const { trace, completion } = scanner.end(decoder.end());
  const output = start.output + completion;
  const sum = tritSum(trace.map(({ trit }) => trit));
  const goesOn = (finishReason === 'length' || finishReason === 'time') && tokens.length < contextLength;
  const decodeMs = endedAt - startedAt - firstTokenMs;
  const { backend, isa, threads } = model.executable.info;
  return {
    model: model.name,
    output,
    completion,
    finishReason,
    ...(goesOn ? { continuation: encodeContinuation(stateOf(start, output)) } : {}),
    trace,
    tritSum: sum,
    gf3Residue: gf3Residue(sum),
    conserved: isConserved(sum),
    seed,
    scheme,
    usage: { promptTokens: start.promptTokens, completionTokens: trace.length },
    timings: {
      promptMs,
      firstTokenMs,
      tokensPerSecond: written > 1 && decodeMs > 0 ? (1000 * (written - 1)) / decodeMs : 0,
    },
    engine: { backend, ...(isa === undefined ? {} : { isa }), threads, head: model.head },
  };
}

/** `start.tokens` has grown by what was written. */
function stateOf(start: Start, output: string): ContinuationState {
  const { head, ...rest } = start;
  return { ...rest, output, ...(head === undefined ? {} : { head }) };
}

/** Colors of the steps from `firstStep` on; step i takes index i + 1. Fails before the work, not in the middle of it. */
function colorsFrom(options: {
  seed: bigint;
  scheme: GenerateResult['scheme'];
  firstStep: number;
  maxTokens: number;
}): () => Color {
  const { seed, scheme, firstStep, maxTokens } = options;
  if (firstStep + maxTokens > maxIndexOf(scheme)) {
    throw new ArgumentError({
      what: `the scheme ${scheme} has no color for index ${firstStep + maxTokens}`,
      fix: `ask for fewer tokens (its last index is ${maxIndexOf(scheme)})`,
    });
  }
  const colors = colorStream({ seed, scheme, start: firstStep + 1 });
  return () => colors.next().value;
}

function layerCounts(counts: Int32Array): TritCounts[] {
  const layers: TritCounts[] = [];
  for (let at = 0; at + 2 < counts.length; at += 3) {
    layers.push({ minus: counts[at]!, ergodic: counts[at + 1]!, plus: counts[at + 2]! });
  }
  return layers;
}
