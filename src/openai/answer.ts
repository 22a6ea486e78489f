// Results as answers of OpenAI's API: whole, or in chunks. What is ours and not theirs, the trace, stands in a field of its own.

import type { GenerateResult, TraceStep } from '../generate/types.ts';
import { generateResultToJson } from '../tools/generate-result.ts';
import type { Wanted } from './read-request.ts';

export type Head = { readonly id: string; readonly created: number; readonly model: string };

type Shown = Pick<Wanted, 'withLogprobs' | 'withTrace' | 'withTokenIds'>;

export function chatAnswer(head: Head, results: readonly GenerateResult[], wanted: Shown) {
  return {
    ...head,
    object: 'chat.completion',
    system_fingerprint: fingerprint(results[0]),
    choices: results.map((result, index) => ({
      index,
      message: {
        role: 'assistant',
        content: result.toolCalls === undefined ? result.completion : result.content || null,
        refusal: null,
        ...(result.reasoning !== undefined && { reasoning_content: result.reasoning }),
        ...(result.toolCalls !== undefined && { tool_calls: result.toolCalls.map(callToJson) }),
      },
      logprobs: wanted.withLogprobs ? chatLogprobs(result.trace) : null,
      finish_reason: finishOf(result),
      ...extras(result, wanted),
    })),
    usage: usageOf(results),
    ...warningsOf(results),
  };
}

export function completionAnswer(head: Head, results: readonly GenerateResult[], wanted: Shown) {
  return {
    ...head,
    object: 'text_completion',
    system_fingerprint: fingerprint(results[0]),
    choices: results.map((result, index) => ({
      index,
      text: result.completion,
      logprobs: wanted.withLogprobs ? textLogprobs(result.trace, 0) : null,
      finish_reason: finishOf(result),
      ...extras(result, wanted),
    })),
    usage: usageOf(results),
    ...warningsOf(results),
  };
}

/** A part of the choice `index`. */
export function chatChunk(head: Head, index: number, delta: object, more: object = {}) {
  return {
    ...head,
    object: 'chat.completion.chunk',
    choices: [{ index, delta, logprobs: null, finish_reason: null, ...more }],
  };
}

export function completionChunk(head: Head, index: number, text: string, more: object = {}) {
  return {
    ...head,
    object: 'text_completion',
    choices: [{ index, text, logprobs: null, finish_reason: null, ...more }],
  };
}

/** The last chunk of those that asked for it. */
export function usageChunk(head: Head, object: string, results: readonly GenerateResult[]) {
  return { ...head, object, choices: [], usage: usageOf(results) };
}

export function finishOf({ finishReason, toolCalls }: GenerateResult): 'stop' | 'length' | 'tool_calls' {
  if (toolCalls !== undefined) return 'tool_calls';
  return finishReason === 'stop' ? 'stop' : 'length';
}

export function usageOf(results: readonly GenerateResult[]) {
  const sum = (of: (usage: GenerateResult['usage']) => number | undefined) =>
    results.reduce((total, { usage }) => total + (of(usage) ?? 0), 0);
  const prompt = sum(({ promptTokens }) => promptTokens);
  const thought = sum(({ reasoningTokens }) => reasoningTokens);
  const completion = sum(({ completionTokens }) => completionTokens) + thought;
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    ...(thought > 0 && { completion_tokens_details: { reasoning_tokens: thought } }),
  };
}

export function callToJson({ id, name, arguments: given }: NonNullable<GenerateResult['toolCalls']>[number]) {
  return { id, type: 'function', function: { name, arguments: given } };
}

export function chatLogprobs(steps: readonly TraceStep[]) {
  return {
    content: steps.map(({ token, tokenId, logprob, topLogprobs = [] }) => ({
      ...entry(token, logprob),
      ...(tokenId !== undefined && { id: tokenId }),
      top_logprobs: topLogprobs.map((other) => ({
        ...entry(other.token, other.logprob),
        ...(other.tokenId !== undefined && { id: other.tokenId }),
      })),
    })),
    refusal: null,
  };
}

/** What a log-probability is where it is not known, and the least that JSON and clients take for one. */
const UNKNOWN = -9999;

function entry(token: string, logprob = UNKNOWN) {
  return { token, logprob: Math.max(logprob, UNKNOWN), bytes: [...Buffer.from(token)] };
}

/** `offset`: characters of the text before these steps. */
export function textLogprobs(steps: readonly TraceStep[], offset: number) {
  let at = offset;
  return {
    tokens: steps.map(({ token }) => token),
    token_logprobs: steps.map(({ logprob }) => (logprob === undefined ? null : Math.max(logprob, UNKNOWN))),
    top_logprobs: steps.map(({ topLogprobs = [] }) =>
      Object.fromEntries(topLogprobs.map(({ token, logprob }) => [token, Math.max(logprob, UNKNOWN)])),
    ),
    text_offset: steps.map(({ token }) => {
      const before = at;
      at += token.length;
      return before;
    }),
  };
}

/** What stands beside a whole choice. */
export function extras(result: GenerateResult, { withTrace, withTokenIds }: Shown) {
  const { trace, trit_sum, gf3_residue, gf3_conserved, seed } = generateResultToJson(result);
  return {
    ...(withTokenIds && { token_ids: result.trace.map(({ tokenId }) => tokenId ?? null) }),
    ...(withTrace && { trace: { seed, scheme: result.scheme, trit_sum, gf3_residue, gf3_conserved, steps: trace } }),
  };
}

/** What stands beside a chunk's steps. */
export function stepExtras(steps: readonly TraceStep[], { withTrace, withTokenIds }: Shown) {
  return {
    ...(withTokenIds && { token_ids: steps.map(({ tokenId }) => tokenId ?? null) }),
    ...(withTrace && {
      trace: {
        steps: steps.map(({ step, token, color, trit, forced }) => ({
          step,
          token,
          color,
          trit,
          ...(forced && { forced }),
        })),
      },
    }),
  };
}

function warningsOf(results: readonly GenerateResult[]) {
  const warnings = [...new Set(results.flatMap((result) => result.warnings ?? []))];
  return warnings.length > 0 ? { warnings } : {};
}

/** What computed it: the same fingerprint, seed and request give the same text. */
function fingerprint(result: GenerateResult | undefined): string {
  const { backend, isa = '', head = '' } = result?.engine ?? { backend: '' };
  return ['bitnet-gf3', backend, isa, head].filter((part) => part !== '').join('-');
}
