// How tokens are chosen, as flags: those of `infer` and `chat`.

import { ArgumentError } from '../errors.ts';
import { LOGIT_BIAS, MAX_TOP_LOGPROBS, PENALTY } from '../generate/sampling-limits.ts';
import type { GenerateRequest } from '../generate/types.ts';

const penalty = { type: 'number', min: PENALTY[0], max: PENALTY[1], placeholder: 'P' } as const;

export const SAMPLING_FLAGS = {
  temperature: {
    type: 'number',
    min: 0,
    placeholder: 'T',
    description: "0 takes the likeliest token (default: as the model's files say, else 0)",
  },
  'top-k': { type: 'integer', min: 1, placeholder: 'K', description: 'Sample among the K likeliest' },
  'top-p': { type: 'number', min: 0, max: 1, placeholder: 'P', description: 'Sample within this probability mass' },
  'min-p': {
    type: 'number',
    min: 0,
    max: 1,
    placeholder: 'P',
    description: 'Sample among tokens at least this share as likely as the likeliest',
  },
  'repetition-penalty': {
    type: 'number',
    min: 0,
    placeholder: 'R',
    description: 'Weaken tokens that prompt or text have: above 1; 1 is off',
  },
  'presence-penalty': { ...penalty, description: 'Take this from the logits of tokens that the text has' },
  'frequency-penalty': { ...penalty, description: 'The same, for each time that it has them' },
  'logit-bias': {
    type: 'strings',
    placeholder: 'TOKEN=B',
    description: `Add B (${LOGIT_BIAS[0]} to ${LOGIT_BIAS[1]}) to a token's logit; TOKEN is its id or its text (may be repeated)`,
  },
  'sample-seed': {
    type: 'seed',
    placeholder: 'S',
    description: 'Seed of the sampling: another one, another text (default 0)',
  },
} as const;

export const TOP_LOGPROBS_FLAG = {
  type: 'integer',
  min: 0,
  max: MAX_TOP_LOGPROBS,
  placeholder: 'N',
  description: 'With --json or -o: the N likeliest tokens at each step',
} as const;

/** The values of these flags as the parser gives them. */
export type SamplingValues = {
  readonly temperature?: number | undefined;
  readonly 'top-k'?: number | undefined;
  readonly 'top-p'?: number | undefined;
  readonly 'min-p'?: number | undefined;
  readonly 'repetition-penalty'?: number | undefined;
  readonly 'presence-penalty'?: number | undefined;
  readonly 'frequency-penalty'?: number | undefined;
  readonly 'logit-bias'?: readonly string[] | undefined;
  readonly 'sample-seed'?: bigint | undefined;
};

/** Throws ArgumentError for a bias that is none. */
export function samplingOf(flags: SamplingValues): Partial<GenerateRequest> {
  const bias = flags['logit-bias'];
  const named = {
    temperature: flags.temperature,
    topK: flags['top-k'],
    topP: flags['top-p'],
    minP: flags['min-p'],
    repetitionPenalty: flags['repetition-penalty'],
    presencePenalty: flags['presence-penalty'],
    frequencyPenalty: flags['frequency-penalty'],
    sampleSeed: flags['sample-seed'],
    logitBias: bias === undefined ? undefined : Object.fromEntries(bias.map(biasOf)),
  };
  return Object.fromEntries(Object.entries(named).filter(([, value]) => value !== undefined));
}

/** What stands before the last `=` is the token: a text may have some itself. */
function biasOf(text: string): [token: string, bias: number] {
  const at = text.lastIndexOf('=');
  const value = text.slice(at + 1).trim();
  if (at > 0 && value !== '' && Number.isFinite(Number(value))) return [text.slice(0, at), Number(value)];
  throw new ArgumentError({
    what: `--logit-bias ${text}`,
    fix: 'write the token, = and a number: --logit-bias " the=-5" or --logit-bias 262=-5',
  });
}
