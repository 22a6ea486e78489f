// One generation from request to result: checks, tokens in, tokens out, each with its color and trit.

import type { Color } from '../color/color.ts';
import { colorStream } from '../color/palette.ts';
import { DEFAULT_SCHEME, DEFAULT_SEED, maxIndexOf } from '../color/scheme.ts';
import { ArgumentError } from '../errors.ts';
import { gf3Residue, isConserved, tritSum } from '../gf3/sums.ts';
import { now } from './clock.ts';
import type { ContinuationState } from './continuation.ts';
import { Engine } from './engine.ts';
import { isJson } from './json-in.ts';
import { checkSampling, samplingState, toldSampling } from './sampling-request.ts';
import { StopScanner } from './stop-scanner.ts';
import type { Structure, StructureRequest } from './structure/structure.ts';
import type { Answer, BackendChoice, Piece, Start, TokenSource } from './token-source.ts';
import { type Tool, toolsOf } from './tools/tool-request.ts';
import type { GenerateHooks, GenerateRequest, GenerateResult, TraceStep } from './types.ts';

export const DEFAULT_MAX_TOKENS = 100;

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
  await structureIn(request);
  const resumed = request.continuation === undefined ? undefined : await decoded(request.continuation);
  const backend = engine.backendOf(request);
  if (resumed !== undefined) checkMaker(resumed, backend);
  const head = request.head ?? resumed?.head;
  const wanted = {
    model: resumed?.model ?? request.model,
    backend,
    ...(request.threads === undefined ? {} : { threads: request.threads }),
    ...(head === undefined ? {} : { head }),
    ...(hooks.signal === undefined ? {} : { signal: hooks.signal }),
  };
  return await engine.useSource(wanted, async (source) => {
    const start = resumed === undefined ? await begin(source, request, hooks.signal) : resume(source, resumed);
    return await run(source, start, request, hooks);
  });
}

/** Loaded where a handle comes or goes: the compression it needs takes as long to load as a token to compute. */
async function decoded(handle: string): Promise<ContinuationState> {
  const { decodeContinuation } = await import('./continuation.ts');
  return decodeContinuation(handle);
}

async function encoded(state: ContinuationState): Promise<string | undefined> {
  const { encodeContinuation } = await import('./continuation.ts');
  return encodeContinuation(state);
}

/** Throws ArgumentError. */
export function checkRequest(request: GenerateRequest): void {
  const number = (name: string, value: number | undefined, ok: (value: number) => boolean, expected: string) => {
    if (value === undefined || (Number.isFinite(value) && ok(value))) return;
    throw new ArgumentError({ what: `${name} is ${value}`, fix: `give ${expected}` });
  };
  const whole = (value: number) => Number.isInteger(value) && value >= 0;
  number('max_tokens', request.maxTokens, (value) => whole(value) && value > 0, 'a whole number from 1');
  checkSampling(request);
  number('max_seconds', request.maxSeconds, (value) => value > 0, 'a number above 0');
  if (typeof request.thinking === 'number') {
    number('thinking', request.thinking, whole, 'on, off, or the tokens of a thought at most (0 and up)');
  }
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

/** Before a model is loaded: what is wrong with a schema or grammar is said at once. */
export async function structureIn(request: StructureRequest): Promise<Structure | undefined> {
  if (request.responseSchema === undefined && request.grammar === undefined) return undefined;
  const { structureOf } = await import('./structure/structure.ts');
  return structureOf(request);
}

/** Throws ArgumentError for tools that this source cannot tell its model of. */
function checkTools({ toolStyle, model }: TokenSource, request: GenerateRequest): Tool[] {
  const tools = toolsOf(request);
  if (tools.length === 0) return tools;
  if (request.messages === undefined) {
    throw new ArgumentError({ what: 'tools without messages', fix: 'give messages: tools are part of a chat' });
  }
  if (toolStyle === undefined) {
    throw new ArgumentError({
      what: `the chat template of the model "${model}" knows no tools`,
      fix: 'use a model that was made for tools, or ask for JSON with response_schema',
    });
  }
  return tools;
}

/** What holds a model to a call, or to the schemas of calls it makes of its own will. */
async function toolStructure(
  { toolStyle }: TokenSource,
  { toolChoice = 'auto', parallelToolCalls = true, stop = [] }: GenerateRequest,
  tools: readonly Tool[],
): Promise<Structure | undefined> {
  const mustCall = toolChoice === 'required' || typeof toolChoice === 'object';
  if (tools.length === 0 || toolStyle === undefined || toolStyle === 'server') return undefined;
  if (!mustCall && !tools.some(({ strict }) => strict)) return undefined;
  const called = tools
    .filter(({ name }) => typeof toolChoice !== 'object' || name === toolChoice.name)
    .map(({ name, parameters, strict }) => ({
      name,
      // A tool that asks for no more gets an object.
      parameters: mustCall || strict ? parameters : { type: 'object' },
    }));
  const { structureOfTools } = await import('./structure/structure.ts');
  return structureOfTools({ style: toolStyle, mustCall, many: parallelToolCalls, tools: called }, stop);
}

/** Reads the prompt of a request that was checked. Throws ArgumentError for one that cannot be read. */
export async function begin(source: TokenSource, request: GenerateRequest, signal?: AbortSignal): Promise<Start> {
  const tools = checkTools(source, request);
  const structure = (await structureIn(request)) ?? (await toolStructure(source, request, tools));
  const { text, tokens } = await source.prompt(request, signal);
  const backend = foreignName(source.info.backend);
  const bias = request.logitBias === undefined ? undefined : source.biasOf(request.logitBias);
  return {
    model: request.model,
    tokens,
    promptTokens: tokens.length,
    steps: 0,
    output: text,
    seed: request.seed ?? DEFAULT_SEED,
    scheme: request.scheme ?? DEFAULT_SCHEME,
    ...samplingState(request, source.sampling, bias),
    sampleSeed: request.sampleSeed ?? 0n,
    stop: request.stop ?? [],
    activations: request.activations ?? false,
    ...(structure === undefined ? {} : { structure }),
    ...(request.head === undefined ? {} : { head: request.head }),
    ...(backend === undefined ? {} : { backend }),
  };
}

function resume(source: TokenSource, state: ContinuationState): Start {
  source.checkContinuation(state);
  return { ...state, tokens: [...state.tokens] };
}

/** A handle of another kind of source names another kind of model: its state would mean nothing here. */
function checkMaker({ backend: maker }: ContinuationState, here: BackendChoice): void {
  if (maker === foreignName(here)) return;
  throw new ArgumentError({
    what: `the continuation was made by ${maker === undefined ? 'an engine of our own' : `the backend "${maker}"`}, this is "${here}"`,
    where: 'continuation',
    fix: `go on with the backend "${maker ?? 'auto'}", or start again with a prompt`,
  });
}

/** The name under which a handle can be taken up again, where that is not any of our own backends. */
function foreignName(backend: BackendChoice): 'onnx' | 'openai' | undefined {
  return backend === 'onnx' || backend === 'openai' ? backend : undefined;
}

/** Writes until something ends it. */
export async function run(
  source: TokenSource,
  start: Start,
  request: GenerateRequest,
  { signal, onStep, onThought, onPrompt, continuable: wanted = true }: GenerateHooks,
): Promise<GenerateResult> {
  const startedAt = now();
  const { seed, scheme, steps: firstStep } = start;
  const maxTokens = request.maxTokens ?? DEFAULT_MAX_TOKENS;
  const scanner = new StopScanner(start.stop, (step) => onStep?.(step));
  const deadline = request.maxSeconds === undefined ? Infinity : startedAt + 1000 * request.maxSeconds;
  const nextColor = colorsFrom({ seed, scheme, firstStep, maxTokens });

  let written = 0;
  let thought = 0;
  let promptMs: number | undefined;
  let firstTokenMs = 0;

  const interrupted = () => {
    if (signal?.aborted) return 'cancelled';
    // At least one token, so that a caller who continues always gets on.
    return written + thought > 0 && now() >= deadline ? 'time' : undefined;
  };
  const write = ({ text, tokenId, logprob, merged, tokens, forced, topLogprobs, activations }: Piece) => {
    const { hex, trit } = nextColor();
    const step: TraceStep = {
      step: firstStep + written,
      token: text,
      ...(tokenId === undefined ? {} : { tokenId }),
      ...(logprob === undefined ? {} : { logprob }),
      ...(merged === undefined ? {} : { merged }),
      ...(tokens === undefined ? {} : { tokens }),
      ...(forced === undefined ? {} : { forced }),
      ...(topLogprobs === undefined ? {} : { topLogprobs }),
      color: hex,
      trit,
      ...(activations === undefined ? {} : { activations }),
    };
    written += 1;
    tokenCame();
    if (scanner.push(step)) return 'stop';
    return atLimit();
  };
  const think = (text: string) => {
    thought += 1;
    tokenCame();
    onThought?.(text);
    return atLimit();
  };
  const tokenCame = () => {
    if (written + thought === 1) firstTokenMs = now() - startedAt;
  };
  const atLimit = () => (written + thought === maxTokens ? 'length' : undefined);
  const promptRead = () => {
    promptMs ??= now() - startedAt;
  };

  const { finishReason, rest, continuable, promptTokens, answer } = await source.write(start, {
    maxTokens,
    signal,
    deadline,
    interrupted,
    write,
    think,
    thinking: request.thinking,
    logprobs: request.logprobs ?? true,
    promptRead,
    onPrompt,
    messages: request.messages,
    tools:
      request.tools === undefined
        ? undefined
        : {
            list: request.tools,
            choice: request.toolChoice ?? 'auto',
            parallel: request.parallelToolCalls ?? true,
          },
  });
  const endedAt = now();
  const { trace: steps, completion } = scanner.end(rest);
  const trace = settled(steps, firstStep, answer);
  const output = start.output + completion;
  const sum = tritSum(trace.map(({ trit }) => trit));
  const goesOn = wanted && (finishReason === 'length' || finishReason === 'time') && continuable;
  // `start.tokens` has grown by what was written.
  const continuation = goesOn ? await encoded({ ...start, output, steps: firstStep + written }) : undefined;
  const warnings = [...(source.warnings ?? []), ...(answer?.warnings ?? [])];
  if (start.backend === 'openai' && start.structure !== undefined && finishReason === 'stop' && !isJson(completion)) {
    warnings.push('the server did not hold to the schema: its answer is not JSON');
  }
  // A server that tells calls apart need not be asked for them.
  const tools = toolsOf(request);
  const parsed =
    answer?.toolCalls !== undefined
      ? { content: completion, calls: answer.toolCalls }
      : tools.length > 0
        ? (await import('./tools/tool-calls.ts')).parseToolCalls(completion, tools, output)
        : undefined;
  const decodeMs = endedAt - startedAt - firstTokenMs;
  const isNew = request.continuation === undefined;
  const threads = source.threadsUsed?.();
  const sampling = toldSampling(start, isNew ? { request, defaults: source.sampling } : undefined);
  return {
    model: answer?.model ?? source.model,
    output,
    completion,
    ...(answer?.reasoning === undefined ? {} : { reasoning: answer.reasoning }),
    ...(parsed === undefined || parsed.calls.length === 0 ? {} : { toolCalls: parsed.calls, content: parsed.content }),
    finishReason,
    ...(continuation === undefined ? {} : { continuation }),
    trace,
    tritSum: sum,
    gf3Residue: gf3Residue(sum),
    conserved: isConserved(sum),
    seed,
    scheme,
    ...(sampling === undefined ? {} : { sampling }),
    usage: {
      ...(promptTokens === undefined ? {} : { promptTokens }),
      completionTokens: answer?.completionTokens ?? trace.length,
      ...(answer?.reasoningTokens === undefined ? {} : { reasoningTokens: answer.reasoningTokens }),
    },
    timings: {
      ...(threads === undefined ? {} : { threads }),
      promptMs: promptMs ?? 0,
      firstTokenMs,
      tokensPerSecond: written + thought > 1 && decodeMs > 0 ? (1000 * (written + thought - 1)) / decodeMs : 0,
    },
    engine: source.info,
    ...(warnings.length === 0 ? {} : { warnings }),
  };
}

/** The trace without numbers that turned out to be another token's. */
function settled(trace: readonly TraceStep[], firstStep: number, answer: Answer | undefined): readonly TraceStep[] {
  const { merged, unsure } = answer ?? {};
  if (!merged?.size && !unsure?.size) return trace;
  return trace.map((step) => {
    const place = step.step - firstStep;
    if (!merged?.has(place) && !unsure?.has(place)) return step;
    const { tokenId: _, logprob: __, topLogprobs: ___, ...rest } = step;
    if (!merged?.has(place)) return rest;
    const tokens = merged.get(place);
    return { ...rest, merged: true as const, ...(tokens === undefined ? {} : { tokens }) };
  });
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
