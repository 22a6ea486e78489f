// What sampling takes, with the limits that OpenAI's API has. No imports: the command line's flags read it, too.

/** From, to. */
export const LOGIT_BIAS = [-100, 100] as const;
export const PENALTY = [-2, 2] as const;
export const MAX_TOP_LOGPROBS = 20;
/** Keys of `logitBias`. */
export const MAX_BIASES = 1024;
/** Prompts times samples of one call. */
export const MAX_TEXTS = 256;
