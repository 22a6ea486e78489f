// Tokens of any OpenAI-compatible server: a prompt goes to /completions, messages to /chat/completions. The server
// samples; we get text, with log-probabilities and ids where it tells them.

import { ArgumentError, CancelledError } from '../../errors.ts';
import { now } from '../clock.ts';
import type { LoadRequest } from '../engine.ts';
import { jsonObjectIn } from '../json-in.ts';
import type { Structure } from '../structure/structure.ts';
import type { Answer, Ending, Prompt, Start, Task, TokenSource } from '../token-source.ts';
import type { ParsedCall } from '../tools/tool-calls.ts';
import type { ToolChoice } from '../tools/tool-request.ts';
import type { ChatMessage, FinishReason, GenerateRequest } from '../types.ts';
import { END_OF_ANSWER } from './answer-body.ts';
import { type AnswerPart, type CallPart, readAnswerPart } from './chunk.ts';
import { OpenAiClient, openAiEndpoint, shortList } from './client.ts';
import { OpenAiConnectionError, OpenAiResponseError } from './errors.ts';
import { TokenAccount } from './token-account.ts';
import { oneLine } from './words.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/** Requests to a server that belong to one call: as many as servers take with their own settings. */
const REQUESTS_AT_ONCE = 8;
/** More than this many stop strings are refused by OpenAI; ours are looked for here anyway. */
const MAX_SERVER_STOPS = 4;
/** How long the count of prompt tokens, which comes last, is waited for when the text is complete. */
const USAGE_MS = 1000;
/** Longest delay of a timer. */
const MAX_DELAY_MS = 2 ** 31 - 1;

/** What a server may do without: an answer of 400 or the like is asked again without these. */
export async function openAiSource(request: LoadRequest, env: Environment): Promise<TokenSource> {
  for (const name of ['threads', 'head'] as const) {
    if (request[name] === undefined) continue;
    throw new ArgumentError({
      what: `${name} has no meaning with the backend "openai": another program computes`,
      fix: `leave ${name} out, or set it where the server is started`,
    });
  }
  const client = new OpenAiClient(openAiEndpoint(env));
  const model = request.model === 'default' ? await onlyModel(client, request.signal) : request.model;
  return {
    model,
    toolStyle: 'server',
    info: { backend: 'openai', endpoint: client.endpoint.baseUrl },
    room: { texts: REQUESTS_AT_ONCE, positions: Number.POSITIVE_INFINITY },
    // A server has its own.
    sampling: {},
    biasOf,
    prompt: readPrompt,
    // Any text can be sent again.
    checkContinuation: () => {},
    write: (start, task) => write(client, { model, start, task }),
  };
}

/** The model of a server that has one; `default` is no name there. */
async function onlyModel(client: OpenAiClient, signal: AbortSignal = new AbortController().signal): Promise<string> {
  const names = await client.models(signal).catch((error: unknown) => {
    throw signal.aborted ? new CancelledError('the generation was cancelled') : error;
  });
  if (names.length === 1) return names[0]!;
  throw new ArgumentError({
    what: names.length === 0 ? 'the server lists no model' : `the server has ${names.length} models`,
    where: client.endpoint.baseUrl,
    fix: names.length === 0 ? 'load one there, or name it with --model' : `name one with --model: ${shortList(names)}`,
  });
}

function biasOf(bias: Readonly<Record<string, number>>): [number, number][] {
  return Object.entries(bias).map(([key, value]) => {
    if (/^\d{1,9}$/.test(key)) return [Number(key), value];
    throw new ArgumentError({
      what: `logit_bias of ${JSON.stringify(key.slice(0, 60))}: the backend "openai" does not know the server's tokens`,
      fix: 'give ids of tokens',
    });
  });
}

function readPrompt({ prompt = '', messages, activations, grammar }: GenerateRequest): Prompt {
  if (grammar !== undefined) {
    throw new ArgumentError({
      what: 'the backend "openai" cannot hold a text to a grammar: servers differ in how they are asked for one',
      fix: 'give response_schema, or use a backend of our own',
    });
  }
  if (activations) {
    throw new ArgumentError({
      what: 'the trits of the layers cannot be counted with the backend "openai": a server shows only its text',
      fix: 'leave activations out, or use a backend of our own',
    });
  }
  if (messages === undefined) return { text: prompt, tokens: [] };
  // How the server's template writes them is not told; this is for reading.
  const turns = messages.map(({ role, content, tool_calls }) => `${role}: ${readable(content ?? tool_calls)}\n`);
  return { text: `${turns.join('')}assistant: `, tokens: [] };
}

function readable(value: unknown): string {
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? '');
}

/** A call's arguments as the API wants them: JSON as text. */
function asSent(message: ChatMessage): ChatMessage {
  const calls = message.tool_calls ?? [];
  if (calls.length === 0) return message;
  const sent = calls.map(({ function: { name, arguments: given }, ...call }, index) => ({
    id: `call_${index}`,
    type: 'function',
    ...call,
    function: { name, arguments: readable(given) },
  }));
  return { content: null, ...message, tool_calls: sent };
}

type Job = {
  readonly model: string;
  readonly start: Start;
  readonly task: Task;
};

async function write(client: OpenAiClient, job: Job): Promise<Ending> {
  const { task } = job;
  const abort = new AbortController();
  const cancel = () => abort.abort();
  task.signal?.addEventListener('abort', cancel, { once: true });
  if (task.signal?.aborted) cancel();
  const timeLeft = task.deadline - now();
  const timer = timeLeft > MAX_DELAY_MS ? undefined : setTimeout(cancel, Math.max(0, timeLeft));
  let usageTimer: NodeJS.Timeout | undefined;

  let ended: FinishReason | undefined;
  let reason: 'stop' | 'length' | undefined;
  const heard = new Heard();
  const wanted = job.start.topLogprobs ?? 0;
  const text = new WholeCharacters();
  try {
    answer: for await (const object of await ask(client, job, heard, abort.signal)) {
      if (object === END_OF_ANSWER) {
        reason ??= 'stop';
        break;
      }
      const part = readAnswerPart(object);
      heard.take(part);
      reason = part.finish ?? reason;
      if (part.pieces.length > 0 || part.reasoning !== undefined) task.promptRead();
      for (const { topLogprobs, ...piece } of part.pieces) {
        ended ??= task.interrupted();
        if (ended !== undefined) break answer;
        heard.account.add(piece);
        const likely = wanted === 0 || topLogprobs === undefined ? {} : { topLogprobs: topLogprobs.slice(0, wanted) };
        ended = task.write({ ...piece, ...likely, text: text.push(piece.text) });
      }
      if (ended === 'stop') break;
      // The server, too, counts its tokens: what is still to come is the usage. Some leave the connection open.
      if (ended === 'length' || reason !== undefined) usageTimer ??= setTimeout(cancel, USAGE_MS);
    }
    if (ended === undefined && reason === undefined) {
      throw new OpenAiConnectionError({
        what: 'the answer broke off: it ended without finish_reason or [DONE]',
        where: client.endpoint.baseUrl,
        fix: "look into the server's log, then ask again",
      });
    }
  } catch (error) {
    const isWhole = ended !== undefined || reason !== undefined;
    // A connection that ends when the answer has its reason took nothing with it but the usage.
    if (!abort.signal.aborted && !(isWhole && error instanceof OpenAiConnectionError)) throw error;
    if (task.signal?.aborted) ended ??= 'cancelled';
    else if (!isWhole) ended = 'time';
  } finally {
    task.signal?.removeEventListener('abort', cancel);
    clearTimeout(timer);
    clearTimeout(usageTimer);
    // Ends the request if it has not ended, so that the server does not write for nobody.
    abort.abort();
  }
  const finishReason = ended ?? reason!;
  return {
    finishReason,
    rest: text.end(),
    // A chat cannot be taken up in the middle of a turn on every server, a text can.
    continuable: task.messages === undefined,
    promptTokens: heard.promptTokens,
    answer: heard.answer({ asked: job.model, finishReason, byServer: reason !== undefined }),
  };
}

/** Calls as servers stream them: the name with the first part, the arguments piece by piece. */
class CallParts {
  readonly #calls = new Map<number, { id: string; name: string; arguments: string }>();

  add({ index, id, name, text }: CallPart): void {
    const call = this.#calls.get(index) ?? { id: '', name: '', arguments: '' };
    call.id ||= id ?? '';
    // Some repeat it with every part.
    call.name ||= name ?? '';
    call.arguments += text ?? '';
    this.#calls.set(index, call);
  }

  /** Calls that can be made, and the names of those whose arguments are no JSON object: of a text that was cut. */
  all(): { whole: ParsedCall[]; broken: string[] } {
    const named = [...this.#calls.values()]
      .filter(({ name }) => name !== '')
      .map((call, i) => ({ ...call, id: call.id || `call_${i}`, arguments: call.arguments || '{}' }));
    const isWhole = (call: ParsedCall) => jsonObjectIn(call.arguments) !== undefined;
    return { whole: named.filter(isWhole), broken: named.filter((call) => !isWhole(call)).map(({ name }) => name) };
  }
}

/** What a server tells beside its text. */
class Heard {
  readonly account = new TokenAccount();
  /** Sentences for the user, beside those that the answer gives rise to. */
  readonly warnings: string[] = [];
  promptTokens: number | undefined;
  #completionTokens: number | undefined;
  #reasoningTokens: number | undefined;
  #reasoning = '';
  #model: string | undefined;
  #unusual: string | undefined;
  #hasText = false;
  readonly #calls = new CallParts();

  take(part: AnswerPart): void {
    this.promptTokens = part.promptTokens ?? this.promptTokens;
    this.#completionTokens = part.completionTokens ?? this.#completionTokens;
    this.#reasoningTokens = part.reasoningTokens ?? this.#reasoningTokens;
    this.#reasoning += part.reasoning ?? '';
    this.#model = part.model ?? this.#model;
    for (const call of part.toolCalls ?? []) this.#calls.add(call);
    this.#unusual = part.unusual ?? this.#unusual;
    this.#hasText ||= part.pieces.some(({ text }) => text !== '');
  }

  /** `byServer`: the server said why it ended, so that its count is that of the whole trace. */
  answer(of: { readonly asked: string; readonly finishReason: FinishReason; readonly byServer: boolean }): Answer {
    const { asked, finishReason, byServer } = of;
    const counts = byServer || finishReason === 'length';
    const thought = this.#reasoningTokens ?? (this.#reasoning === '' ? 0 : undefined);
    const counted =
      !counts || this.#completionTokens === undefined || thought === undefined || thought > this.#completionTokens
        ? undefined
        : this.#completionTokens - thought;
    const { tokens, merged, unsure, hidden } = this.account.settle({ counted, withEnd: finishReason === 'stop' });
    const warnings = [...this.warnings];
    if (this.#model !== undefined && this.#model !== asked) {
      warnings.push(`the model "${oneLine(asked, 200)}" was asked for, the server answered with "${this.#model}"`);
    }
    const { whole: toolCalls, broken } = this.#calls.all();
    for (const name of broken) {
      const fix = finishReason === 'length' ? '; give it more tokens' : '';
      warnings.push(`the call of "${oneLine(name, 60)}" is left out: its arguments are no JSON object${fix}`);
    }
    const isSilent = !this.#hasText && toolCalls.length === 0 && broken.length === 0;
    if (isSilent && this.#reasoning !== '') {
      const limit = finishReason === 'length' ? '; give it more tokens' : '';
      warnings.push(`there is no answer: all that the model wrote is thought (see reasoning)${limit}`);
    } else if (isSilent && this.#unusual !== undefined) {
      warnings.push(`there is no answer: the server ended it with "${this.#unusual}"`);
    } else if (this.#unusual === 'content_filter') {
      warnings.push('a filter of the server ended the answer');
    }
    if (hidden) {
      const count = counted === undefined ? 'more tokens than steps' : `${tokens} tokens`;
      warnings.push(
        `some steps stand for several tokens (the server sent ${count}): colors and trit sums count the steps`,
      );
    }
    return {
      ...(counted === undefined && !hidden ? {} : { completionTokens: tokens }),
      ...(this.#reasoningTokens === undefined || this.#reasoning === ''
        ? {}
        : { reasoningTokens: this.#reasoningTokens }),
      ...(this.#reasoning === '' ? {} : { reasoning: mended(this.#reasoning) }),
      ...(this.#model === undefined ? {} : { model: this.#model }),
      ...(toolCalls.length === 0 ? {} : { toolCalls }),
      merged,
      unsure,
      warnings,
    };
  }
}

/** Sends the request; a server that refuses its extras is asked again without them. */
async function ask(
  client: OpenAiClient,
  job: Job,
  heard: Heard,
  signal: AbortSignal,
): Promise<AsyncGenerator<unknown>> {
  const { model, start, task } = job;
  const { messages, tools } = task;
  const { temperature, topK, topP, sampleSeed, stop, structure } = start;
  const { minP, repetitionPenalty, presencePenalty, frequencyPenalty, logitBias, topLogprobs = 1 } = start;
  const body = {
    model,
    ...(messages === undefined ? { prompt: start.output } : { messages: messages.map(asSent) }),
    stream: true,
    max_tokens: task.maxTokens,
    temperature,
    ...(topP < 1 ? { top_p: topP } : {}),
    ...(topK > 0 ? { top_k: topK } : {}),
    ...(minP === undefined ? {} : { min_p: minP }),
    // vLLM's and mlx_lm's name, then llama-server's.
    ...(repetitionPenalty === undefined
      ? {}
      : { repetition_penalty: repetitionPenalty, repeat_penalty: repetitionPenalty }),
    ...(presencePenalty === undefined ? {} : { presence_penalty: presencePenalty }),
    ...(frequencyPenalty === undefined ? {} : { frequency_penalty: frequencyPenalty }),
    ...(logitBias === undefined ? {} : { logit_bias: Object.fromEntries(logitBias) }),
    // 31 bits are what every server takes.
    ...(temperature > 0 ? { seed: Number(BigInt.asUintN(31, sampleSeed)) } : {}),
    ...(stop.length > 0 && stop.length <= MAX_SERVER_STOPS ? { stop } : {}),
    ...(structure === undefined ? {} : { response_format: formatOf(structure) }),
    ...(tools === undefined || tools.list.length === 0
      ? {}
      : {
          tools: tools.list,
          tool_choice: choiceOf(tools.choice),
          ...(tools.parallel ? {} : { parallel_tool_calls: false }),
        }),
  };
  const path = messages === undefined ? '/completions' : '/chat/completions';
  const usage = { stream_options: { include_usage: true } };
  const numbers = {
    return_token_ids: true,
    ...(messages === undefined ? { logprobs: topLogprobs } : { logprobs: true, top_logprobs: topLogprobs }),
  };
  const thinking = thinkingOf(task);
  // llama-server, say, refuses logprobs of a stream with tools, and OpenAI what it does not know.
  const attempts = [
    { ...body, ...usage, ...numbers, ...thinking },
    { ...body, ...usage, ...thinking },
    ...(thinking === undefined ? [] : [{ ...body, ...usage, ...numbers }]),
  ];
  const tell = (attempt: object) => {
    if (thinking === undefined || 'thinking' in attempt) return;
    heard.warnings.push('the server does not take `thinking`: it thinks as it is set up to');
  };
  for (const attempt of attempts) {
    try {
      const answer = await client.post(path, attempt, signal);
      tell(attempt);
      return answer;
    } catch (error) {
      const refused = error instanceof OpenAiResponseError && [400, 422, 501].includes(error.status);
      if (!refused) throw error;
    }
  }
  const answer = await client.post(path, body, signal);
  tell(body);
  return answer;
}

/** How servers are told whether to think: the template's word (llama-server, vLLM, SGLang), llama-server's bound, our own. */
function thinkingOf({ thinking, messages }: Task): object | undefined {
  if (thinking === undefined || messages === undefined) return undefined;
  return {
    chat_template_kwargs: { enable_thinking: thinking !== 'off' && thinking !== 0 },
    ...(typeof thinking === 'number' && { reasoning_budget_tokens: thinking }),
    thinking,
  };
}

function choiceOf(choice: ToolChoice): unknown {
  return typeof choice === 'string' ? choice : { type: 'function', function: { name: choice.name } };
}

/** As the API asks for JSON of a schema; whether it is, is the server's to see to. */
function formatOf({ text }: Structure): object {
  return { type: 'json_schema', json_schema: { name: 'response', schema: JSON.parse(text) as unknown, strict: true } };
}

/** Text in which no piece ends in the middle of a character that two JSON escapes made of halves. */
class WholeCharacters {
  #half = '';

  push(piece: string): string {
    const text = this.#half + piece;
    this.#half = /[\ud800-\udbff]$/.test(text) ? text.slice(-1) : '';
    return mended(this.#half === '' ? text : text.slice(0, -1));
  }

  end(): string {
    return mended(this.#half);
  }
}

/** Halves of pairs as U+FFFD: with the u flag a surrogate that is half of a pair does not match. */
function mended(text: string): string {
  return text.replace(/\p{Surrogate}/gu, '\u{fffd}');
}
