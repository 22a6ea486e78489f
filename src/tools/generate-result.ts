// A generation's result in the contract's spelling. Apart from its tool so that `infer` need not load the schemas.

import type { GenerateResult, ManyResult, Sampling } from '../generate/types.ts';

export type ResultOptions = {
  /** False: without the steps. Default true. */
  readonly trace?: boolean;
};

/** What `generate_with_trace` returns and `infer --json` prints. */
export function generateResultToJson(result: GenerateResult, options: ResultOptions = {}) {
  return {
    model: result.model,
    output: result.output,
    ...textToJson(result, options),
    seed: `${result.seed}`,
    ...(result.sampling !== undefined && { sampling: samplingToJson(result.sampling) }),
    usage: usageToJson(result.usage),
    timings: timingsToJson(result.timings),
    engine: { ...result.engine },
    ...(result.warnings !== undefined && { warnings: [...result.warnings] }),
  };
}

/** The same of several texts; what holds for all of them is told once. `warnings`: what the caller adds. */
export function manyResultToJson(many: ManyResult, options: ResultOptions = {}, warnings: readonly string[] = []) {
  const shared = many.warnings ?? [];
  const sampling = many.results[0]?.sampling;
  const all = [...shared, ...warnings];
  return {
    model: many.model,
    results: many.results.map((result) => {
      const own = (result.warnings ?? []).filter((warning) => !shared.includes(warning));
      return {
        ...textToJson(result, options),
        usage: usageToJson(result.usage),
        ...(own.length > 0 && { warnings: own }),
      };
    }),
    seed: `${many.seed}`,
    ...(sampling !== undefined && { sampling: samplingToJson(sampling) }),
    usage: usageToJson(many.usage),
    timings: timingsToJson(many.timings),
    engine: { ...many.engine },
    ...(all.length > 0 && { warnings: all }),
  };
}

function textToJson(result: GenerateResult, { trace = true }: ResultOptions) {
  return {
    completion: result.completion,
    ...(result.reasoning !== undefined && { reasoning: result.reasoning }),
    ...(result.toolCalls !== undefined && { tool_calls: result.toolCalls.map((call) => ({ ...call })) }),
    finish_reason: result.finishReason,
    ...(result.continuation !== undefined && { continuation: result.continuation }),
    ...(trace && { trace: result.trace.map(stepToJson) }),
    trit_sum: result.tritSum,
    gf3_residue: result.gf3Residue,
    gf3_conserved: result.conserved,
  };
}

function stepToJson(given: GenerateResult['trace'][number]) {
  const { step, token, tokenId, logprob, merged, tokens, forced, topLogprobs, color, trit, activations } = given;
  return {
    step,
    token,
    ...(tokenId !== undefined && { token_id: tokenId }),
    ...(logprob !== undefined && { logprob }),
    ...(merged && { merged }),
    ...(tokens !== undefined && { tokens }),
    ...(forced && { forced }),
    color,
    trit,
    ...(topLogprobs && {
      top_logprobs: topLogprobs.map((one) => ({
        token: one.token,
        ...(one.tokenId !== undefined && { token_id: one.tokenId }),
        logprob: one.logprob,
      })),
    }),
    ...(activations && { activations: [...activations] }),
  };
}

const SAMPLING_NAMES = {
  temperature: 'temperature',
  topK: 'top_k',
  topP: 'top_p',
  minP: 'min_p',
  repetitionPenalty: 'repetition_penalty',
  presencePenalty: 'presence_penalty',
  frequencyPenalty: 'frequency_penalty',
} as const satisfies Record<Exclude<keyof Sampling, 'fromModel'>, string>;

type SamplingName = keyof typeof SAMPLING_NAMES;

/** In the contract's spelling; `from_model` names what the model's files decided. */
export function samplingToJson(sampling: Sampling) {
  const named: Partial<Record<(typeof SAMPLING_NAMES)[SamplingName], number>> = {};
  for (const [name, key] of Object.entries(SAMPLING_NAMES) as [SamplingName, (typeof SAMPLING_NAMES)[SamplingName]][]) {
    const value = sampling[name];
    if (value !== undefined) named[key] = value;
  }
  const { fromModel } = sampling;
  return {
    ...named,
    temperature: sampling.temperature,
    ...(fromModel && { from_model: fromModel.map((name) => SAMPLING_NAMES[name]) }),
  };
}

function usageToJson({ promptTokens, completionTokens, reasoningTokens }: GenerateResult['usage']) {
  return {
    ...(promptTokens !== undefined && { prompt_tokens: promptTokens }),
    completion_tokens: completionTokens,
    ...(reasoningTokens !== undefined && { reasoning_tokens: reasoningTokens }),
  };
}

function timingsToJson({ promptMs, firstTokenMs, tokensPerSecond }: GenerateResult['timings']) {
  return { prompt_ms: promptMs, first_token_ms: firstTokenMs, tokens_per_second: tokensPerSecond };
}
