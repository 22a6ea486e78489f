// One request of OpenAI's API from its body to its answer, whole or in events.

import { randomUUID } from 'node:crypto';
import { CancelledError } from '../errors.ts';
import type { GenerateRequest, GenerateResult, TraceStep } from '../generate/types.ts';
import { inTurn } from '../tools/in-turn.ts';
import type { Services } from '../tools/services.ts';
import {
  callToJson,
  chatAnswer,
  chatChunk,
  chatLogprobs,
  completionAnswer,
  completionChunk,
  finishOf,
  type Head,
  stepExtras,
  textLogprobs,
  usageChunk,
} from './answer.ts';
import { readChatRequest, readCompletionRequest, type Wanted } from './read-request.ts';
import { StreamedText } from './streamed-text.ts';

export type Kind = 'chat' | 'completions';

export type CompleteHooks = {
  readonly services: Services;
  readonly signal: AbortSignal;
  /** Takes an event of a stream; not called for whole answers. */
  readonly onEvent: (event: object) => void;
};

/** Texts of one request that are written at once. */
const AT_ONCE = 16;

/**
 * The answer, or undefined when it has gone out in events. Throws OpenAiRequestError for a request that cannot be used,
 * CancelledError when the client has gone, and what generating throws.
 */
export async function complete(kind: Kind, body: unknown, hooks: CompleteHooks): Promise<object | undefined> {
  const wanted = kind === 'chat' ? readChatRequest(body) : readCompletionRequest(body);
  const prefix = kind === 'chat' ? 'chatcmpl' : 'cmpl';
  const head: Head = {
    id: `${prefix}-${randomUUID().replaceAll('-', '')}`,
    created: Math.floor(Date.now() / 1000),
    model: wanted.requests[0]!.model,
  };
  const writers = wanted.stream ? streamWriters(kind, wanted, head, hooks.onEvent) : undefined;
  const results = await inTurn('engine', hooks, () => writeAll(wanted, hooks, writers));
  if (writers === undefined) {
    const whole = { ...head, model: results[0]!.model };
    return kind === 'chat' ? chatAnswer(whole, results, wanted) : completionAnswer(whole, results, wanted);
  }
  if (wanted.withUsage) {
    hooks.onEvent(usageChunk(head, kind === 'chat' ? 'chat.completion.chunk' : 'text_completion', results));
  }
  return undefined;
}

type Writer = {
  readonly onStep: (step: TraceStep) => void;
  readonly onThought: (text: string) => void;
  readonly end: (result: GenerateResult) => void;
};

/** All texts, those of the first prompt first. Where one fails, the others end. */
async function writeAll(
  { requests, n }: Wanted,
  { services, signal }: CompleteHooks,
  writers: ((index: number) => Writer) | undefined,
): Promise<GenerateResult[]> {
  const jobs = requests.flatMap((request) => Array.from({ length: n }, (_, i) => withSeed(request, i)));
  const results = new Array<GenerateResult>(jobs.length);
  const failure = new AbortController();
  const ends = AbortSignal.any([signal, failure.signal]);
  let next = 0;
  const work = async () => {
    while (next < jobs.length) {
      const index = next++;
      const writer = writers?.(index);
      const result = await services.generate(jobs[index]!, {
        signal: ends,
        continuable: false,
        ...(writer && { onStep: writer.onStep, onThought: writer.onThought }),
      });
      if (result.finishReason === 'cancelled') throw new CancelledError();
      writer?.end(result);
      results[index] = result;
    }
  };
  const workers = Array.from({ length: Math.min(AT_ONCE, jobs.length) }, () =>
    work().catch((error: unknown) => {
      failure.abort();
      throw error;
    }),
  );
  const ended = await Promise.allSettled(workers);
  // The first cause, not the cancellations that followed from it.
  const causes = ended.flatMap((one) => (one.status === 'rejected' ? [one.reason as unknown] : []));
  const cause = causes.find((error) => !(error instanceof CancelledError)) ?? causes[0];
  if (cause !== undefined) throw cause;
  return results;
}

function withSeed(request: GenerateRequest, i: number): GenerateRequest {
  if (i === 0) return request;
  return { ...request, sampleSeed: BigInt.asUintN(64, (request.sampleSeed ?? 0n) + BigInt(i)) };
}

function streamWriters(
  kind: Kind,
  wanted: Wanted,
  head: Head,
  onEvent: (event: object) => void,
): (index: number) => Writer {
  return (index) =>
    kind === 'chat' ? chatWriter(index, wanted, head, onEvent) : textWriter(index, wanted, head, onEvent);
}

function chatWriter(index: number, wanted: Wanted, head: Head, onEvent: (event: object) => void): Writer {
  const text = new StreamedText(wanted.hasTools);
  let isBegun = false;
  let sent = '';
  const send = (delta: object, more: object = {}) => {
    // The role comes once, with whatever is first.
    onEvent(chatChunk(head, index, isBegun ? delta : { role: 'assistant', ...delta }, more));
    isBegun = true;
  };
  const sendSteps = (steps: readonly TraceStep[]) => {
    if (steps.length === 0) return;
    const content = steps.map(({ token }) => token).join('');
    sent += content;
    send({ content }, { ...(wanted.withLogprobs && { logprobs: chatLogprobs(steps) }), ...stepExtras(steps, wanted) });
  };
  return {
    onStep: (step) => sendSteps(text.push(step)),
    onThought: (thought) => {
      if (thought !== '') send({ reasoning_content: thought });
    },
    end: (result) => {
      const { toolCalls = [], completion } = result;
      const before = text.beforeCall();
      sendSteps(text.end(toolCalls.length > 0));
      if (toolCalls.length > 0 && before.trim() !== '') {
        send({ content: before.trimEnd() });
      } else if (toolCalls.length === 0 && completion.length > sent.length) {
        // What became certain only at the end: the bytes of a cut character.
        send({ content: completion.slice(sent.length) });
      }
      toolCalls.forEach((call, i) => {
        send({ tool_calls: [{ index: i, ...callToJson(call) }] });
      });
      send({}, { finish_reason: finishOf(result), ...endOf(result, wanted) });
    },
  };
}

function textWriter(index: number, wanted: Wanted, head: Head, onEvent: (event: object) => void): Writer {
  let sent = '';
  return {
    onStep: (step) => {
      const logprobs = wanted.withLogprobs ? textLogprobs([step], sent.length) : null;
      sent += step.token;
      onEvent(completionChunk(head, index, step.token, { logprobs, ...stepExtras([step], wanted) }));
    },
    onThought: () => {},
    end: (result) => {
      const rest = result.completion.slice(sent.length);
      onEvent(completionChunk(head, index, rest, { finish_reason: finishOf(result), ...endOf(result, wanted) }));
    },
  };
}

/** The sums of the whole trace, whose steps have gone out. */
function endOf(result: GenerateResult, { withTrace }: Wanted) {
  if (!withTrace) return {};
  return {
    trace: {
      seed: `${result.seed}`,
      scheme: result.scheme,
      trit_sum: result.tritSum,
      gf3_residue: result.gf3Residue,
      gf3_conserved: result.conserved,
      steps: [],
    },
    ...(result.warnings !== undefined && { warnings: result.warnings }),
  };
}
