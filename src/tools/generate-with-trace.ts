import { z } from 'zod';
import { ArgumentError } from '../errors.ts';
import type { GenerateHooks, GenerateRequest } from '../generate/types.ts';
import { defineTool, type ToolContext } from './define-tool.ts';
import { hex, modelField, residue, schemeField, seedField, trit, tritCounts, uint64 } from './fields.ts';
import { generateResultToJson } from './generate-result.ts';
import { inTurn } from './in-turn.ts';
import { fittingSteps } from './result-budget.ts';

/** Ends a call before the shortest time-out that clients are known to have, 60 s. */
const DEFAULT_MAX_SECONDS = 45;
/** What is left of a call's time after a long wait: enough for some tokens and a handle to go on with. */
const LEAST_SECONDS = 1;

const message = z.strictObject({ role: z.enum(['system', 'user', 'assistant']), content: z.string() });

export const generateWithTraceTool = defineTool({
  name: 'generate_with_trace',
  title: 'Generate with a GF(3) trace',
  description:
    'Writes text with a ternary (BitNet b1.58) model. Each token comes with its log-probability, and with the color and ' +
    'trit of its place in a seeded stream; the result tells whether the trits sum to 0 mod 3. Give exactly one of prompt, ' +
    'messages (chat models) or continuation. Repeatable, and greedy unless temperature is above 0. When finish_reason is ' +
    '"time" or "length", call again with the continuation handle to go on.',
  input: z.strictObject({
    prompt: z.string().optional().describe('Text to continue'),
    messages: z.array(message).min(1).optional().describe('Chat turns'),
    model: modelField,
    max_tokens: z.int().min(1).default(100),
    seed: seedField,
    scheme: schemeField,
    temperature: z.number().min(0).default(0).describe('0: always the likeliest token'),
    top_k: z.int().min(1).optional().describe('Sample among the k likeliest'),
    top_p: z.number().gt(0).max(1).optional().describe('Above 0: sample within this probability mass'),
    sample_seed: uint64('sample_seed').optional().describe('Seed of the sampling'),
    stop: z.array(z.string().min(1).max(1024)).max(64).optional().describe('Ends before the first of these'),
    response_schema: z.record(z.string(), z.unknown()).optional().describe('JSON Schema that the completion fits'),
    grammar: z.string().min(1).optional().describe('EBNF (root ::= ...) that it follows'),
    thinking: z
      .union([z.enum(['on', 'off']), z.int().min(0)])
      .optional()
      .describe('on, off, or the tokens of a thought at most'),
    activations: z.boolean().default(false).describe("Count each layer's trits"),
    max_seconds: z.number().gt(0).default(DEFAULT_MAX_SECONDS).describe('Above 0'),
    continuation: z.string().min(1).optional().describe('Of an earlier result'),
  }),
  output: z.strictObject({
    model: z.string(),
    output: z.string().describe('Prompt + completion'),
    completion: z.string(),
    reasoning: z.string().optional().describe('Thought before; not in the trace'),
    finish_reason: z.enum(['stop', 'length', 'time', 'cancelled']),
    continuation: z.string().optional(),
    trace: z.array(
      z.strictObject({
        step: z.int(),
        token: z.string(),
        token_id: z.int().optional().describe('Absent where unknown'),
        logprob: z.number().optional(),
        merged: z.boolean().optional(),
        tokens: z.int().optional(),
        forced: z.boolean().optional().describe('The structure left no other'),
        color: hex,
        trit,
        activations: z.array(tritCounts).optional().describe('Per layer'),
      }),
    ),
    trit_sum: z.int(),
    gf3_residue: residue,
    gf3_conserved: z.boolean(),
    seed: z.string(),
    usage: z.strictObject({
      prompt_tokens: z.int().optional(),
      completion_tokens: z.int(),
    }),
    timings: z.strictObject({ prompt_ms: z.number(), first_token_ms: z.number(), tokens_per_second: z.number() }),
    engine: z
      .strictObject({
        backend: z.string(),
        isa: z.string().optional(),
        threads: z.int().optional(),
        head: z.string().optional(),
        endpoint: z.string().optional(),
      })
      .describe('Computed by'),
    warnings: z.array(z.string()).optional(),
  }),
  hints: { readOnly: true, idempotent: true },
  example: { prompt: 'Once upon a time', max_tokens: 12 },
  run: async (args, context) => {
    const { services, signal, progress, resultBudget } = context;
    const begins = (['prompt', 'messages', 'continuation'] as const).filter((name) => args[name] !== undefined);
    if (begins.length !== 1) {
      throw new ArgumentError({
        what: `generate_with_trace: ${begins.length === 0 ? 'no prompt, messages or continuation' : `${begins.join(' and ')} together`}`,
        fix: 'give exactly one of prompt, messages, continuation',
      });
    }
    // A trace that would not fit ends early, with a handle to go on.
    const maxTokens = Math.min(args.max_tokens, fittingSteps(resultBudget, args));
    const request: GenerateRequest = {
      model: args.model,
      ...(args.prompt !== undefined && { prompt: args.prompt }),
      ...(args.messages !== undefined && { messages: args.messages }),
      ...(args.continuation !== undefined && { continuation: args.continuation }),
      maxTokens,
      seed: args.seed,
      scheme: args.scheme,
      temperature: args.temperature,
      ...(args.top_k !== undefined && { topK: args.top_k }),
      ...(args.top_p !== undefined && { topP: args.top_p }),
      ...(args.sample_seed !== undefined && { sampleSeed: args.sample_seed }),
      ...(args.stop !== undefined && { stop: args.stop }),
      ...(args.response_schema !== undefined && { responseSchema: args.response_schema }),
      ...(args.grammar !== undefined && { grammar: args.grammar }),
      activations: args.activations,
      ...(args.thinking !== undefined && { thinking: args.thinking }),
    };
    const hooks = { ...(signal && { signal }), ...hooksFor(progress, maxTokens) };
    const result = await inTurn('engine', context, (waitedSeconds) => {
      // The limit is there for the caller's time-out, which has been running since the call.
      const maxSeconds = Math.max(args.max_seconds - waitedSeconds, Math.min(args.max_seconds, LEAST_SECONDS));
      return services.generate({ ...request, maxSeconds }, hooks);
    });
    return generateResultToJson(result);
  },
  summarize: ({ output, usage, trit_sum, gf3_residue, gf3_conserved, finish_reason, continuation, warnings = [] }) =>
    [
      output,
      '',
      ...warnings.map((line) => `warning: ${line}`),
      `${usage.completion_tokens} ${usage.completion_tokens === 1 ? 'token' : 'tokens'}, ended by ${finish_reason}; GF(3) trit sum ${trit_sum} mod 3 = ${gf3_residue}, ` +
        `${gf3_conserved ? 'conserved' : 'not conserved'}`,
      ...(continuation === undefined ? [] : [`to go on: {"continuation": "${continuation}"}`]),
    ].join('\n'),
});

/** Progress counts the prompt's tokens and then the written ones. */
function hooksFor(progress: ToolContext['progress'], maxTokens: number): Pick<GenerateHooks, 'onPrompt' | 'onStep'> {
  if (progress === undefined) return {};
  let prompt = 0;
  let written = 0;
  return {
    onPrompt: (done, total) => {
      prompt = total;
      progress(done, total + maxTokens, `prompt: ${done} of ${total} tokens`);
    },
    onStep: ({ token }) => {
      written += 1;
      progress(prompt + written, prompt + maxTokens, `token ${written}: ${JSON.stringify(token)}`);
    },
  };
}
