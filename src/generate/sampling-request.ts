// What a request says about sampling, brought together with what the model's files say.

import { ArgumentError } from '../errors.ts';
import type { ContinuationState } from './continuation.ts';
import { LOGIT_BIAS, MAX_BIASES, MAX_TOP_LOGPROBS, PENALTY } from './sampling-limits.ts';
import type { GenerateRequest, Sampling, SamplingDefaults } from './types.ts';

/** Throws ArgumentError for a value that no sampling has. */
export function checkSampling(request: GenerateRequest): void {
  const number = (name: string, value: number | undefined, ok: (value: number) => boolean, expected: string) => {
    if (value === undefined || (Number.isFinite(value) && ok(value))) return;
    throw new ArgumentError({ what: `${name} is ${value}`, fix: `give ${expected}` });
  };
  const whole = (value: number) => Number.isInteger(value) && value >= 0;
  const between = ([least, most]: readonly [number, number]) =>
    [(value: number) => value >= least && value <= most, `a number from ${least} to ${most}`] as const;
  number('temperature', request.temperature, (value) => value >= 0, 'a number from 0 (greedy)');
  number('top_k', request.topK, whole, 'a whole number from 0 (off)');
  number('top_p', request.topP, (value) => value > 0 && value <= 1, 'a number above 0, at most 1');
  number('min_p', request.minP, ...between([0, 1]));
  number('repetition_penalty', request.repetitionPenalty, (value) => value > 0, 'a number above 0 (1 is off)');
  number('presence_penalty', request.presencePenalty, ...between(PENALTY));
  number('frequency_penalty', request.frequencyPenalty, ...between(PENALTY));
  number(
    'top_logprobs',
    request.topLogprobs,
    (value) => whole(value) && value <= MAX_TOP_LOGPROBS,
    `a whole number from 0 to ${MAX_TOP_LOGPROBS}`,
  );
  const biases = Object.entries(request.logitBias ?? {});
  if (biases.length > MAX_BIASES) {
    throw new ArgumentError({ what: `logit_bias has ${biases.length} entries`, fix: `give ${MAX_BIASES} at most` });
  }
  for (const [key, value] of biases) number(`logit_bias of ${JSON.stringify(key)}`, value, ...between(LOGIT_BIAS));
}

/** The part of a start that says how tokens are chosen. */
export type SamplingState = Pick<
  ContinuationState,
  | 'temperature'
  | 'topK'
  | 'topP'
  | 'minP'
  | 'repetitionPenalty'
  | 'presencePenalty'
  | 'frequencyPenalty'
  | 'logitBias'
  | 'topLogprobs'
>;

/** Off is absent, so that a handle holds only what was asked for. `bias`: `request.logitBias` by ids. */
export function samplingState(
  request: GenerateRequest,
  defaults: SamplingDefaults,
  bias: SamplingState['logitBias'],
): SamplingState {
  const { minP = defaults.minP ?? 0, repetitionPenalty = defaults.repetitionPenalty ?? 1 } = request;
  const { presencePenalty = 0, frequencyPenalty = 0, topLogprobs = 0 } = request;
  return {
    temperature: request.temperature ?? defaults.temperature ?? 0,
    topK: request.topK ?? defaults.topK ?? 0,
    topP: request.topP ?? defaults.topP ?? 1,
    ...(minP !== 0 && { minP }),
    ...(repetitionPenalty !== 1 && { repetitionPenalty }),
    ...(presencePenalty !== 0 && { presencePenalty }),
    ...(frequencyPenalty !== 0 && { frequencyPenalty }),
    ...(bias !== undefined && bias.length > 0 && { logitBias: bias }),
    ...(topLogprobs !== 0 && { topLogprobs }),
  };
}

/**
 * What a result tells of it: undefined where every token was the likeliest. `left`: the request and the defaults, of a
 * generation that does not go on from an earlier one.
 */
export function toldSampling(
  state: SamplingState,
  left?: { readonly request: GenerateRequest; readonly defaults: SamplingDefaults },
): Sampling | undefined {
  const { temperature, topK, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty, logitBias } = state;
  const penalties = {
    ...(repetitionPenalty !== undefined && { repetitionPenalty }),
    ...(presencePenalty !== undefined && { presencePenalty }),
    ...(frequencyPenalty !== undefined && { frequencyPenalty }),
  };
  if (temperature === 0 && Object.keys(penalties).length === 0 && logitBias === undefined) return undefined;
  const drawn = {
    ...(topK > 0 && { topK }),
    ...(topP < 1 && { topP }),
    ...(minP !== undefined && { minP }),
  };
  const told: Sampling = { temperature, ...(temperature > 0 && drawn), ...penalties };
  if (left === undefined) return told;
  const { request, defaults } = left;
  const fromModel = (Object.keys(defaults) as (keyof SamplingDefaults)[]).filter(
    (name) => request[name] === undefined && told[name] !== undefined,
  );
  return fromModel.length === 0 ? told : { ...told, fromModel };
}
