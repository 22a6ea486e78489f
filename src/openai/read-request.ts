// A request of OpenAI's API as one of ours. What is known and cannot be done is refused; what is not known is passed over, as
// servers of this API do, since clients send fields of all makers.

import type { ChatMessage, GenerateRequest } from '../generate/types.ts';
import { OpenAiRequestError } from './openai-error.ts';

export type Wanted = {
  /** One for each prompt. */
  readonly requests: readonly GenerateRequest[];
  /** Texts of each. */
  readonly n: number;
  readonly stream: boolean;
  readonly withUsage: boolean;
  readonly withLogprobs: boolean;
  readonly withTrace: boolean;
  readonly withTokenIds: boolean;
  readonly hasTools: boolean;
};

/** Texts of one request. */
const MAX_TEXTS = 64;
const MAX_STOPS = 16;
const MAX_TOKENS = 1 << 20;
/** Where a client does not say: OpenAI's own number for completions, and what an answer takes. */
const DEFAULT_TOKENS = { completions: 16, chat: 1024 } as const;

type Loose = { readonly [field: string]: unknown };

/** Throws OpenAiRequestError. */
export function readChatRequest(body: unknown): Wanted {
  const given = fieldsOf(body);
  refuse(given, ['functions', 'function_call', 'audio', 'prediction', 'web_search_options']);
  const messages = readMessages(given.messages);
  const tools = given.tools === undefined || given.tools === null ? [] : list(given.tools, 'tools');
  const toolChoice = choiceOf(given.tool_choice);
  const thinking = thinkingOf(given);
  const wantsLogprobs = flag(given, 'logprobs');
  const topLogprobs = whole(given, 'top_logprobs', 0, 20);
  const request: GenerateRequest = {
    ...commonOf(given, DEFAULT_TOKENS.chat),
    messages,
    ...(tools.length > 0 && { tools }),
    ...(toolChoice !== undefined && tools.length > 0 && { toolChoice }),
    ...(given.parallel_tool_calls === false && { parallelToolCalls: false }),
    ...(thinking !== undefined && { thinking }),
    ...(wantsLogprobs && topLogprobs !== undefined && topLogprobs > 0 && { topLogprobs }),
  };
  return { requests: [request], ...answerOf(given), withLogprobs: wantsLogprobs, hasTools: tools.length > 0 };
}

/** Throws OpenAiRequestError. */
export function readCompletionRequest(body: unknown): Wanted {
  const given = fieldsOf(body);
  refuse(given, ['suffix']);
  if (given.echo === true) throw unsupported('echo');
  const bestOf = whole(given, 'best_of', 1, MAX_TEXTS);
  if (bestOf !== undefined && bestOf !== (whole(given, 'n', 1, MAX_TEXTS) ?? 1)) throw unsupported('best_of');
  const { prompt = '' } = given;
  const prompts: readonly unknown[] = Array.isArray(prompt) ? prompt : [prompt];
  if (prompts.length === 0 || !prompts.every((text) => typeof text === 'string')) {
    throw new OpenAiRequestError('prompt is neither a text nor a list of texts', 'send texts, not tokens', 'prompt');
  }
  const logprobs = whole(given, 'logprobs', 0, 20);
  const common = commonOf(given, DEFAULT_TOKENS.completions);
  return {
    requests: prompts.map((text) => ({
      ...common,
      prompt: text,
      ...(logprobs !== undefined && logprobs > 0 && { topLogprobs: logprobs }),
    })),
    ...answerOf(given, prompts.length),
    withLogprobs: logprobs !== undefined,
    hasTools: false,
  };
}

function answerOf(
  given: Loose,
  prompts = 1,
): Pick<Wanted, 'n' | 'stream' | 'withUsage' | 'withTrace' | 'withTokenIds'> {
  const n = whole(given, 'n', 1, MAX_TEXTS) ?? 1;
  if (n * prompts > MAX_TEXTS) {
    throw new OpenAiRequestError(
      `${n * prompts} texts are more than ${MAX_TEXTS}`,
      'share them out over several requests',
      'n',
    );
  }
  const options = asObject(given.stream_options);
  return {
    n,
    stream: flag(given, 'stream'),
    withUsage: options?.include_usage === true,
    withTrace: given.trace !== false,
    withTokenIds: given.return_token_ids === true,
  };
}

function commonOf(given: Loose, defaultTokens: number): GenerateRequest {
  const { model, grammar } = given;
  if (typeof model !== 'string' || model === '') {
    throw new OpenAiRequestError('model is missing', 'send its name: "default", or one of /v1/models', 'model');
  }
  if (grammar !== undefined && grammar !== null && typeof grammar !== 'string') {
    throw new OpenAiRequestError('grammar is no text', 'send EBNF whose rule root is the whole', 'grammar');
  }
  const tokens =
    whole(given, 'max_completion_tokens', 1, MAX_TOKENS) ?? whole(given, 'max_tokens', 1, MAX_TOKENS) ?? defaultTokens;
  const seed = integer(given, 'seed');
  const colorSeed = integer(given, 'color_seed');
  const stop = stopsOf(given.stop);
  const topP = number(given, 'top_p', 0, 1);
  const schema = schemaOf(given.response_format);
  const bias = biasOf(given.logit_bias);
  const numbers = {
    temperature: number(given, 'temperature', 0, 100),
    // 0 is what some clients send for the likeliest token alone.
    topP: topP === 0 ? Number.MIN_VALUE : topP,
    topK: whole(given, 'top_k', -1, 1 << 24),
    minP: number(given, 'min_p', 0, 1),
    presencePenalty: number(given, 'presence_penalty', -2, 2),
    frequencyPenalty: number(given, 'frequency_penalty', -2, 2),
    repetitionPenalty: number(given, 'repetition_penalty', 0.01, 100),
  };
  if (numbers.topK === -1) numbers.topK = 0;
  return {
    model,
    maxTokens: tokens,
    ...(Object.fromEntries(Object.entries(numbers).filter(([, value]) => value !== undefined)) as object),
    // Negative ones are taken as 64 bits, too.
    ...(seed !== undefined && { sampleSeed: BigInt.asUintN(64, seed) }),
    ...(colorSeed !== undefined && { seed: BigInt.asUintN(64, colorSeed) }),
    ...(stop.length > 0 && { stop }),
    ...(schema !== undefined && { responseSchema: schema }),
    ...(typeof grammar === 'string' && { grammar }),
    ...(bias !== undefined && { logitBias: bias }),
  };
}

const ROLES = ['system', 'developer', 'user', 'assistant', 'tool'];

function readMessages(value: unknown): ChatMessage[] {
  const messages = list(value, 'messages');
  if (messages.length === 0) throw new OpenAiRequestError('messages is empty', 'send at least one turn', 'messages');
  return messages.map((entry, i) => {
    const where = `messages[${i}]`;
    const message = asObject(entry);
    if (message === undefined || !ROLES.includes(message.role as string)) {
      throw new OpenAiRequestError(`${where} has no known role`, `use ${ROLES.join(', ')}`, `${where}.role`);
    }
    const { role, content, tool_calls: calls, reasoning_content: thought, tool_call_id: id, name } = message;
    return {
      // Templates know the older name.
      role: role === 'developer' ? 'system' : (role as string),
      content: contentOf(content, where),
      ...(typeof thought === 'string' && { reasoning_content: thought }),
      ...(Array.isArray(calls) &&
        calls.length > 0 && { tool_calls: calls.map((call, j) => callOf(call, `${where}.tool_calls[${j}]`)) }),
      ...(typeof id === 'string' && { tool_call_id: id }),
      ...(typeof name === 'string' && { name }),
    };
  });
}

function contentOf(content: unknown, where: string): string {
  if (typeof content === 'string') return content;
  if (content === undefined || content === null) return '';
  const parts = list(content, `${where}.content`);
  return parts
    .map((entry) => {
      const part = asObject(entry);
      if (typeof entry === 'string') return entry;
      if ((part?.type === 'text' || part?.type === 'refusal') && typeof (part.text ?? part.refusal) === 'string') {
        return String(part.text ?? part.refusal);
      }
      throw new OpenAiRequestError(
        `${where} has a part of type ${show(part?.type)}`,
        'send text: these models read nothing else',
        `${where}.content`,
      );
    })
    .join('');
}

function callOf(entry: unknown, where: string) {
  const call = asObject(entry);
  const called = asObject(call?.function);
  if (typeof called?.name !== 'string') {
    throw new OpenAiRequestError(
      `${where} names no function`,
      'send {"id", "type": "function", "function": {"name", "arguments"}}',
      where,
    );
  }
  return {
    ...(typeof call?.id === 'string' && { id: call.id }),
    type: 'function',
    function: { name: called.name, arguments: called.arguments ?? '{}' },
  };
}

function choiceOf(value: unknown): GenerateRequest['toolChoice'] {
  if (value === undefined || value === null) return undefined;
  if (value === 'auto' || value === 'none' || value === 'required') return value;
  const { name } = asObject(asObject(value)?.function) ?? asObject(value) ?? {};
  if (typeof name === 'string') return { name };
  throw new OpenAiRequestError(
    `tool_choice is ${show(value)}`,
    'use auto, none, required or a function by its name',
    'tool_choice',
  );
}

function schemaOf(value: unknown): unknown {
  const format = asObject(value);
  if (value === undefined || value === null || format?.type === 'text') return undefined;
  if (format?.type === 'json_object') return { type: 'object', ...(asObject(format.schema) ?? {}) };
  const schema = asObject(asObject(format?.json_schema)?.schema) ?? asObject(format?.schema);
  if (format?.type === 'json_schema' && schema !== undefined) return schema;
  throw new OpenAiRequestError(
    `response_format is ${show(value)}`,
    'use {"type": "json_schema", "json_schema": {"name": "...", "schema": {...}}}, json_object or text',
    'response_format',
  );
}

/** As OpenAI, llama-server and vLLM have it, and our own word for it. */
function thinkingOf(given: Loose): GenerateRequest['thinking'] {
  const { thinking, reasoning_effort: effort } = given;
  if (thinking === 'on' || thinking === 'off') return thinking;
  if (typeof thinking === 'number') return whole(given, 'thinking', 0, MAX_TOKENS);
  const enabled = asObject(given.chat_template_kwargs)?.enable_thinking;
  if (typeof enabled === 'boolean') return enabled ? 'on' : 'off';
  return effort === 'none' || effort === 'minimal' ? 'off' : undefined;
}

function stopsOf(value: unknown): readonly string[] {
  if (value === undefined || value === null) return [];
  const stops = typeof value === 'string' ? [value] : list(value, 'stop');
  if (stops.length > MAX_STOPS || !stops.every((text) => typeof text === 'string' && text !== '')) {
    throw new OpenAiRequestError(
      'stop is no text or list of texts',
      `send up to ${MAX_STOPS}, none of them empty`,
      'stop',
    );
  }
  return stops as string[];
}

function biasOf(value: unknown): Record<string, number> | undefined {
  if (value === undefined || value === null) return undefined;
  const bias = asObject(value);
  if (bias === undefined || !Object.values(bias).every((one) => typeof one === 'number' && Math.abs(one) <= 100)) {
    throw new OpenAiRequestError(
      'logit_bias is no object of numbers from -100 to 100',
      'send {"TOKEN ID": number}',
      'logit_bias',
    );
  }
  return bias as Record<string, number>;
}

function fieldsOf(body: unknown): Loose {
  const given = asObject(body);
  if (given !== undefined) return given;
  throw new OpenAiRequestError('the body is no JSON object', 'send {"model": "default", ...} as application/json');
}

function refuse(given: Loose, names: readonly string[]): void {
  for (const name of names) if (given[name] !== undefined && given[name] !== null) throw unsupported(name);
}

function unsupported(name: string): OpenAiRequestError {
  return new OpenAiRequestError(`${name} is not supported here`, `leave ${name} out`, name);
}

function number(given: Loose, name: string, least: number, most: number): number | undefined {
  const value = given[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'number' && value >= least && value <= most) return value;
  throw new OpenAiRequestError(`${name} is ${show(value)}`, `send a number from ${least} to ${most}`, name);
}

function whole(given: Loose, name: string, least: number, most: number): number | undefined {
  const value = number(given, name, least, most);
  if (value === undefined || Number.isInteger(value)) return value;
  throw new OpenAiRequestError(`${name} is ${value}`, 'send a whole number', name);
}

function integer(given: Loose, name: string): bigint | undefined {
  const value = given[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'number' && Number.isSafeInteger(value)) return BigInt(value);
  if (typeof value === 'string' && /^-?(\d{1,20}|0x[0-9a-f]{1,16})$/i.test(value)) return BigInt(value);
  throw new OpenAiRequestError(`${name} is ${show(value)}`, 'send a whole number; above 2^53 as text', name);
}

function flag(given: Loose, name: string): boolean {
  const value = given[name];
  if (value === undefined || value === null) return false;
  if (typeof value === 'boolean') return value;
  throw new OpenAiRequestError(`${name} is ${show(value)}`, 'send true or false', name);
}

function list(value: unknown, name: string): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw new OpenAiRequestError(`${name} is ${show(value)}`, 'send a list', name);
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? 'missing';
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}

function asObject(value: unknown): Loose | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Loose) : undefined;
}
