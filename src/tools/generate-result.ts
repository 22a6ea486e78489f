// A generation's result in the contract's spelling. Apart from its tool so that `infer` need not load the schemas.

import type { GenerateResult } from '../generate/types.ts';

/** What `generate_with_trace` returns and `infer --json` prints. */
export function generateResultToJson(result: GenerateResult) {
  return {
    model: result.model,
    output: result.output,
    completion: result.completion,
    ...(result.reasoning !== undefined && { reasoning: result.reasoning }),
    finish_reason: result.finishReason,
    ...(result.continuation !== undefined && { continuation: result.continuation }),
    trace: result.trace.map(({ step, token, tokenId, logprob, merged, tokens, forced, color, trit, activations }) => ({
      step,
      token,
      ...(tokenId !== undefined && { token_id: tokenId }),
      ...(logprob !== undefined && { logprob }),
      ...(merged && { merged }),
      ...(tokens !== undefined && { tokens }),
      ...(forced && { forced }),
      color,
      trit,
      ...(activations && { activations: [...activations] }),
    })),
    trit_sum: result.tritSum,
    gf3_residue: result.gf3Residue,
    gf3_conserved: result.conserved,
    seed: `${result.seed}`,
    usage: {
      ...(result.usage.promptTokens !== undefined && { prompt_tokens: result.usage.promptTokens }),
      completion_tokens: result.usage.completionTokens,
    },
    timings: {
      prompt_ms: result.timings.promptMs,
      first_token_ms: result.timings.firstTokenMs,
      tokens_per_second: result.timings.tokensPerSecond,
    },
    engine: { ...result.engine },
    ...(result.warnings !== undefined && { warnings: [...result.warnings] }),
  };
}
