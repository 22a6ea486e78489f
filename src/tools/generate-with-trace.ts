import { z } from 'zod';
import { ArgumentError } from '../errors.ts';
import { LOGIT_BIAS, MAX_TEXTS, MAX_TOP_LOGPROBS, PENALTY } from '../generate/sampling-limits.ts';
import type { ChatMessage, GenerateHooks, GenerateRequest, ManyRequest } from '../generate/types.ts';
import { defineTool, type ToolContext } from './define-tool.ts';
import { hex, modelField, residue, schemeField, seedField, trit, tritCounts, uint64 } from './fields.ts';
import { generateResultToJson, manyResultToJson } from './generate-result.ts';
import { inTurn } from './in-turn.ts';
import { fittingSteps } from './result-budget.ts';

/** Ends a call before the shortest time-out that clients are known to have, 60 s. */
const DEFAULT_MAX_SECONDS = 45;
/** What is left of a call's time after a long wait: enough for some tokens and a handle to go on with. */
const LEAST_SECONDS = 1;

const message = z.strictObject({
  role: z.enum(['system', 'user', 'assistant', 'tool']),
  content: z.string(),
  tool_calls: z
    .array(z.strictObject({ id: z.string().optional(), name: z.string(), arguments: z.string() }))
    .optional()
    .describe('Of an earlier result'),
  tool_call_id: z.string().optional(),
});

const penalty = z.number().min(PENALTY[0]).max(PENALTY[1]).optional();

const input = z.strictObject({
  prompt: z.string().optional().describe('Text to continue'),
  messages: z.array(message).optional().describe('Chat turns'),
  prompts: z
    .array(z.string())
    .min(1)
    .max(MAX_TEXTS)
    .optional()
    .describe('Written together, faster than one by one; with messages, each is the next user turn'),
  n: z.int().min(1).max(MAX_TEXTS).optional().describe('Samples of each prompt'),
  model: modelField,
  max_tokens: z.int().min(1).default(100),
  seed: seedField,
  scheme: schemeField,
  temperature: z.number().min(0).optional().describe("0: always the likeliest token. Default: the model's own, or 0"),
  top_k: z.int().min(1).optional().describe('Sample among the k likeliest'),
  top_p: z.number().gt(0).max(1).optional().describe('Above 0: sample within this probability mass'),
  min_p: z.number().min(0).max(1).optional().describe('Least share of the likeliest'),
  repetition_penalty: z.number().gt(0).optional().describe('1: none'),
  presence_penalty: penalty,
  frequency_penalty: penalty,
  logit_bias: z
    .record(z.string(), z.number().min(LOGIT_BIAS[0]).max(LOGIT_BIAS[1]))
    .optional()
    .describe('By token id or text'),
  sample_seed: uint64('sample_seed').optional().describe('Seed of the sampling'),
  stop: z.array(z.string().min(1).max(1024)).max(64).optional().describe('Ends before the first of these'),
  response_schema: z.record(z.string(), z.unknown()).optional().describe('JSON Schema that the completion fits'),
  grammar: z.string().min(1).optional().describe('EBNF (root ::= ...) that it follows'),
  tools: z
    .array(z.record(z.string(), z.unknown()))
    .max(128)
    .optional()
    .describe('Functions for messages: name, description, parameters (JSON Schema), strict'),
  tool_choice: z.string().min(1).optional().describe('auto, none, required or a name; default auto'),
  thinking: z
    .union([z.enum(['on', 'off']), z.int().min(0)])
    .optional()
    .describe('on, off, or the tokens of a thought at most'),
  top_logprobs: z.int().min(0).max(MAX_TOP_LOGPROBS).optional().describe('Likeliest tokens to tell at each step'),
  trace: z.boolean().default(true).describe('false: only the text'),
  activations: z.boolean().default(false).describe("Count each layer's trits"),
  max_seconds: z.number().gt(0).default(DEFAULT_MAX_SECONDS).describe('Above 0'),
  continuation: z.string().min(1).optional().describe('Of an earlier result'),
});

export const generateWithTraceTool = defineTool({
  name: 'generate_with_trace',
  title: 'Generate with a GF(3) trace',
  description:
    'Writes text with a ternary (BitNet b1.58) model. Each token comes with its log-probability, and with the color and ' +
    'trit of its place in a seeded stream, whatever it says; the result tells whether the trits sum to 0 mod 3. Give ' +
    'exactly one of prompt, messages (chat models), prompts (many short jobs; results are in results) or continuation. ' +
    'Repeatable. When finish_reason is "time" or "length", call again with the continuation handle to go on.',
  input,
  output: z.strictObject({
    model: z.string(),
    results: z
      .array(z.looseObject({ completion: z.string() }))
      .optional()
      .describe('Of prompts or n: for each text the fields below'),
    output: z.string().optional().describe('Prompt + completion'),
    completion: z.string().optional(),
    reasoning: z.string().optional().describe('Thought before; not in the trace'),
    tool_calls: z
      .array(z.strictObject({ id: z.string(), name: z.string(), arguments: z.string().describe('JSON') }))
      .optional(),
    finish_reason: z.enum(['stop', 'length', 'time', 'cancelled']).optional(),
    continuation: z.string().optional(),
    trace: z
      .array(
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
          top_logprobs: z
            .array(z.strictObject({ token: z.string(), token_id: z.int().optional(), logprob: z.number() }))
            .optional(),
          activations: z.array(tritCounts).optional().describe('Per layer'),
        }),
      )
      .optional(),
    trit_sum: z.int().optional(),
    gf3_residue: residue.optional(),
    gf3_conserved: z.boolean().optional(),
    seed: z.string(),
    sampling: z
      .looseObject({ temperature: z.number() })
      .optional()
      .describe("from_model: what the model's files decided"),
    usage: z.strictObject({
      prompt_tokens: z.int().optional(),
      completion_tokens: z.int(),
      reasoning_tokens: z.int().optional(),
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
    checkBeginning(args);
    return args.prompts === undefined && (args.n ?? 1) === 1
      ? await runOne(args, context)
      : await runMany(args, context);
  },
  summarize: (result) => {
    const { output = '', usage, finish_reason, continuation, trit_sum = 0, gf3_residue, gf3_conserved } = result;
    const { warnings = [], results } = result;
    const told = warnings.map((line) => `warning: ${line}`);
    if (results !== undefined) {
      const speed = `${result.timings.tokens_per_second.toFixed(0)} tokens/s`;
      return [
        ...results.map(({ completion }, i) => `[${i}] ${completion}`),
        '',
        ...told,
        `${results.length} texts, ${tokenCount(usage.completion_tokens)}, ${speed}`,
      ].join('\n');
    }
    return [
      output,
      '',
      ...told,
      `${tokenCount(usage.completion_tokens)}, ended by ${finish_reason}; GF(3) trit sum ${trit_sum} mod 3 = ${gf3_residue}, ` +
        `${gf3_conserved ? 'conserved' : 'not conserved'}`,
      ...(continuation === undefined ? [] : [`to go on: {"continuation": "${continuation}"}`]),
    ].join('\n');
  },
});

function tokenCount(tokens: number): string {
  return `${tokens} ${tokens === 1 ? 'token' : 'tokens'}`;
}

type Args = z.output<typeof input>;

/** Throws ArgumentError unless there is exactly one thing to begin from. */
function checkBeginning(args: Args): void {
  const given = (['prompt', 'messages', 'prompts', 'continuation'] as const).filter((name) => args[name] !== undefined);
  const isChat = given.length === 2 && args.prompts !== undefined && args.messages !== undefined;
  if (given.length !== 1 && !isChat) {
    throw new ArgumentError({
      what: `generate_with_trace: ${given.length === 0 ? 'no prompt, messages, prompts or continuation' : `${given.join(' and ')} together`}`,
      fix: 'give exactly one of prompt, messages, prompts, continuation (messages may stand before prompts)',
    });
  }
  if (args.messages?.length === 0 && !isChat) {
    throw new ArgumentError({ what: 'generate_with_trace: messages is empty', fix: 'give at least one turn' });
  }
  if (args.continuation !== undefined && (args.n ?? 1) > 1) {
    throw new ArgumentError({
      what: 'generate_with_trace: n with a continuation',
      fix: 'go on with one text, or sample from the prompt',
    });
  }
}

function choiceOf(name: string): NonNullable<GenerateRequest['toolChoice']> {
  return name === 'auto' || name === 'none' || name === 'required' ? name : { name };
}

/** A turn as chat templates have it. */
function turnOf({ role, content, tool_calls: calls, tool_call_id: id }: z.output<typeof message>): ChatMessage {
  return {
    role,
    content,
    ...(calls !== undefined && {
      tool_calls: calls.map(({ id: call, name, arguments: given }) => ({
        id: call,
        type: 'function',
        function: { name, arguments: given },
      })),
    }),
    ...(id !== undefined && { tool_call_id: id }),
  };
}

/** What is asked for beside where to begin and for how long. */
function requestOf(args: Args): GenerateRequest {
  return {
    model: args.model,
    seed: args.seed,
    scheme: args.scheme,
    ...(args.temperature !== undefined && { temperature: args.temperature }),
    ...(args.top_k !== undefined && { topK: args.top_k }),
    ...(args.top_p !== undefined && { topP: args.top_p }),
    ...(args.min_p !== undefined && { minP: args.min_p }),
    ...(args.repetition_penalty !== undefined && { repetitionPenalty: args.repetition_penalty }),
    ...(args.presence_penalty !== undefined && { presencePenalty: args.presence_penalty }),
    ...(args.frequency_penalty !== undefined && { frequencyPenalty: args.frequency_penalty }),
    ...(args.logit_bias !== undefined && { logitBias: args.logit_bias }),
    ...(args.top_logprobs !== undefined && { topLogprobs: args.top_logprobs }),
    ...(args.sample_seed !== undefined && { sampleSeed: args.sample_seed }),
    ...(args.stop !== undefined && { stop: args.stop }),
    ...(args.response_schema !== undefined && { responseSchema: args.response_schema }),
    ...(args.grammar !== undefined && { grammar: args.grammar }),
    ...(args.tools !== undefined && { tools: args.tools }),
    ...(args.tool_choice !== undefined && { toolChoice: choiceOf(args.tool_choice) }),
    activations: args.activations,
    ...(args.thinking !== undefined && { thinking: args.thinking }),
  };
}

async function runOne(args: Args, context: ToolContext) {
  const { services, signal, progress, resultBudget } = context;
  const { trace, activations, top_logprobs: topLogprobs } = args;
  // A trace that would not fit ends early, with a handle to go on.
  const maxTokens = Math.min(args.max_tokens, fittingSteps(resultBudget, { trace, activations, topLogprobs }));
  // A sampled prompt whose \`n\` is 1 may have been written for several: its text is in \`prompt\` or \`messages\` all the same.
  const request: GenerateRequest = {
    ...requestOf(args),
    ...(args.prompt !== undefined && { prompt: args.prompt }),
    ...(args.messages !== undefined && { messages: args.messages.map(turnOf) }),
    ...(args.continuation !== undefined && { continuation: args.continuation }),
    maxTokens,
  };
  const hooks = { ...(signal && { signal }), ...hooksFor(progress, maxTokens) };
  const result = await inTurn('engine', context, (waitedSeconds) =>
    services.generate({ ...request, maxSeconds: secondsLeft(args, waitedSeconds) }, hooks),
  );
  return generateResultToJson(result, { trace });
}

async function runMany(args: Args, context: ToolContext) {
  const { services, signal, progress, resultBudget } = context;
  const { activations, top_logprobs: topLogprobs, prompt, n } = args;
  const prompts = prompt === undefined ? args.prompts : [prompt];
  const texts = (prompts?.length ?? 1) * (n ?? 1);
  const fitting = (trace: boolean) => fittingSteps(resultBudget, { trace, activations, topLogprobs, texts });
  // The texts are what was asked for: where their traces would not fit, they come without.
  const trace = args.trace && fitting(true) >= args.max_tokens;
  const maxTokens = Math.min(args.max_tokens, fitting(trace));
  const request: ManyRequest = {
    ...requestOf(args),
    ...(prompts !== undefined && { prompts }),
    ...(args.messages !== undefined && { messages: args.messages.map(turnOf) }),
    ...(n !== undefined && { n }),
    maxTokens,
  };
  const total = texts * maxTokens;
  const hooks = {
    ...(signal && { signal }),
    ...(progress && { onTokens: (done: number) => progress(done, total, `${done} tokens of ${texts} texts`) }),
  };
  const result = await inTurn('engine', context, (waitedSeconds) => {
    if (services.generateMany === undefined) throw new TypeError('this process generates no texts together');
    return services.generateMany({ ...request, maxSeconds: secondsLeft(args, waitedSeconds) }, hooks);
  });
  const left =
    args.trace && !trace ? ['the traces are left out, they would not fit: ask for fewer texts or tokens'] : [];
  return manyResultToJson(result, { trace }, left);
}

/** The limit is there for the caller's time-out, which has been running since the call. */
function secondsLeft(args: Args, waitedSeconds: number): number {
  return Math.max(args.max_seconds - waitedSeconds, Math.min(args.max_seconds, LEAST_SECONDS));
}

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
