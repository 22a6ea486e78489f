// Tokens chosen here from a model's logits: our own engine's, or those of an ONNX graph.

import { dirname, sep } from 'node:path';
import { ArgumentError, CancelledError } from '../errors.ts';
import { leastTokens } from '../tokenizer/least-tokens.ts';
import type { ContinuationState } from './continuation.ts';
import type { LoadedModel } from './loaded-model.ts';
import { biasById } from './logit-bias.ts';
import { LONG_PROMPT, promptLength, readPrompt, tooLong } from './prompt.ts';
import type { PromptHost } from './prompt-host.ts';
import {
  asksHistory,
  type Choice,
  chooseFromTop,
  chooseToken,
  type Likely,
  type LogitRow,
  TokenHistory,
  topNeeded,
} from './sampler.ts';
import type { StructuredWriter } from './structure/structured-writer.ts';
import { ThoughtReader } from './thought.ts';
import type { Answer, Ending, Prompt, Start, Task, TokenSource } from './token-source.ts';
import { styleOf } from './tools/tool-request.ts';
import type { Alternative, FinishReason, GenerateRequest, TritCounts } from './types.ts';

type Asked = GenerateRequest & { readonly signal?: AbortSignal | undefined };

/** With more in a step, a text waits longer for its next token and none are written faster. */
const TEXTS_AT_ONCE = 64;
/** Their caches take memory: no more than one long text's, or a few hundred megabytes. */
const POSITIONS_AT_ONCE = 16_384;

/** With `prompts`, long ones are read there and not in this process. */
export function localSource(model: LoadedModel, prompts?: PromptHost): TokenSource {
  return {
    model: model.name,
    info: model.info,
    threadsUsed: () => threadsUsed(model),
    warnings: warningsOf(model),
    room: { texts: TEXTS_AT_ONCE, positions: Math.max(POSITIONS_AT_ONCE, model.contextLength) },
    sampling: model.sampling,
    get toolStyle() {
      const { chatTemplates } = model.tokenizer;
      return styleOf(chatTemplates.get('tool_use') ?? chatTemplates.get('default'));
    },
    biasOf: (bias) => biasById(bias, model),
    prompt: (request, signal) => promptOf(model, prompts, { ...request, signal }),
    checkContinuation: (state) => checkFits(model, state),
    write: (start, task) => write(model, start, task),
  };
}

/** What generation has come to where the number was left to the backend. */
export function threadsUsed({ info, executable }: Pick<LoadedModel, 'info' | 'executable'>): number | undefined {
  return executable.threadsUsed?.().generation ?? info.threads;
}

/** What a person should know of the model's files. Whoever reads a result need not know the folders of this machine. */
export function warningsOf({ warnings, tokenizer, home }: LoadedModel): string[] {
  return [...warnings, ...tokenizer.warnings].map((text) => text.replaceAll(`${dirname(home)}${sep}`, ''));
}

async function promptOf(model: LoadedModel, prompts: PromptHost | undefined, asked: Asked): Promise<Prompt> {
  const { tokenizer, info, contextLength } = model;
  const { signal, ...request } = asked;
  if (request.activations && info.backend === 'onnx') {
    throw new ArgumentError({
      what: 'the trits of the layers cannot be counted with the backend "onnx": the runtime shows only the logits',
      fix: 'leave activations out, or convert the model and use a backend of our own',
    });
  }
  const { model: name, prompt, messages, thinking, tools, toolChoice } = request;
  const wanted = {
    model: name,
    ...(prompt === undefined ? {} : { prompt }),
    ...(messages === undefined ? {} : { messages }),
    ...(thinking === undefined ? {} : { thinking }),
    ...(tools === undefined ? {} : { tools }),
    ...(toolChoice === undefined ? {} : { toolChoice }),
  };
  if (prompts === undefined || promptLength(wanted) <= LONG_PROMPT) {
    return readPrompt(tokenizer, wanted, { contextLength });
  }
  // Before it is sent anywhere. Of a chat, only the template knows what is left.
  if (leastTokens(tokenizer, prompt ?? '', contextLength) > contextLength) throw tooLong(name, { contextLength });
  return await prompts.read({ ...wanted, home: model.home, contextLength }, signal);
}

function checkFits(model: LoadedModel, state: ContinuationState): void {
  const { tokens, promptTokens, output } = state;
  const foreign = tokens.some((token) => token >= model.vocabSize);
  // Its text is what its tokens say, so that it cannot be longer than they are.
  const spoken = foreign || leastTokens(model.tokenizer, output, tokens.length) <= tokens.length;
  if (!foreign && spoken && promptTokens <= tokens.length && tokens.length > 0) return;
  throw new ArgumentError({
    what: `the continuation does not fit the model "${model.name}"`,
    where: 'continuation',
    fix: 'it belongs to another model of that name: start again with a prompt',
  });
}

async function write(model: LoadedModel, start: Start, task: Task): Promise<Ending> {
  const { tokenizer, contextLength, scheduler, isStop } = model;
  const { tokens } = start;
  // Of a continuation: a prompt has been refused when it was read.
  if (tokens.length >= contextLength) {
    throw tooLong(model.name, { tokens: tokens.length, contextLength });
  }
  const decoder = tokenizer.streamDecoder({ after: tokens, skipSpecial: true });
  const thought = ThoughtReader.for(tokenizer, tokens, typeof task.thinking === 'number' ? task.thinking : Infinity);
  const { promptTokens, structure } = start;
  let room = Math.min(task.maxTokens, contextLength - tokens.length);
  let structured: StructuredWriter | undefined;
  if (structure !== undefined) {
    const { StructuredWriter } = await import('./structure/structured-writer.ts');
    structured = await StructuredWriter.begin(model, {
      structure,
      tokens,
      promptTokens,
      room,
      thought,
      mayThink: task.thinking !== 'off',
    });
  }
  // A structure allows tokens that may be far from the largest.
  const needed = structured === undefined ? topNeeded(start, model.vocabSize) : undefined;
  const history = asksHistory(start) ? new TokenHistory(tokens, start.promptTokens) : undefined;
  let ended: FinishReason | undefined;

  const next = (row: LogitRow, tritCounts: Int32Array): number | undefined => {
    task.promptRead();
    ended = task.interrupted();
    if (ended !== undefined) return undefined;
    const place = tokens.length - promptTokens;
    const forced = thought?.forced();
    const choice: Choice & { readonly forced?: boolean } =
      forced !== undefined
        ? { token: forced, logprob: 0 }
        : structured?.isNext
          ? structured.choose(row, { step: place, options: start, history, left: room })
          : needed !== undefined
            ? chooseFromTop(row.top, place, start)
            : chooseToken(row.logits, place, start, history, row.top.mass);
    const { logprob, top } = choice;
    let { token } = choice;
    // There is an answer to come: a thought that ends the text is closed instead.
    if (structured !== undefined && thought?.isThinking && isStop(token)) {
      thought.limit(0);
      token = thought.forced()!;
    }
    if (token < 0 || isStop(token)) {
      ended = 'stop';
      return undefined;
    }
    tokens.push(token);
    room -= 1;
    history?.add(token);
    const text = decoder.push(token);
    ended =
      thought?.take(token, text) === true
        ? task.think(text)
        : task.write({
            text,
            tokenId: token,
            ...(task.logprobs || start.topLogprobs !== undefined ? { logprob } : {}),
            ...(choice.forced ? { forced: true as const } : {}),
            ...(top === undefined ? {} : { topLogprobs: alternatives(model, top) }),
            ...(start.activations ? { activations: layerCounts(tritCounts) } : {}),
          });
    if (tokens.length === contextLength) ended ??= 'length';
    // A text that is whole has not been cut, whatever limit it ends at.
    if (structured?.isNext && (structured.isOver || (ended === 'length' && structured.isWhole))) ended = 'stop';
    return ended === undefined ? token : undefined;
  };

  try {
    await scheduler.run([...tokens], {
      next,
      top: needed ?? 1,
      withoutLogits: needed !== undefined,
      trace: start.activations,
      ...(task.onPrompt === undefined ? {} : { onPrompt: task.onPrompt }),
      ...(task.signal === undefined ? {} : { signal: task.signal }),
    });
  } catch (error) {
    if (!(error instanceof CancelledError)) throw error;
    ended = 'cancelled';
  }
  return {
    finishReason: ended ?? 'length',
    rest: decoder.end(),
    continuable: tokens.length < contextLength,
    promptTokens: start.promptTokens,
    ...answerOf(thought, structured),
  };
}

function answerOf(thought: ThoughtReader | undefined, structured: StructuredWriter | undefined): { answer?: Answer } {
  const warnings = thought?.isThinking
    ? ['the model was still thinking when it had to end: there is no answer yet (more tokens, or thinking off)']
    : [];
  const forced = structured?.forced ?? 0;
  const ending = `the last ${forced === 1 ? 'token is' : `${forced} tokens are`} the shortest ending that fits the structure`;
  const limit = structured?.limit;
  if (limit !== undefined)
    warnings.push(`${limit.text.what} here, so that the text was ended${forced > 0 ? `: ${ending}` : ''}`);
  else if (forced > 0) warnings.push(`max_tokens was used up: ${ending}`);
  const thoughts =
    thought === undefined || thought.tokens === 0 ? {} : { reasoning: thought.text, reasoningTokens: thought.tokens };
  return warnings.length === 0 && thoughts.reasoning === undefined ? {} : { answer: { ...thoughts, warnings } };
}

function alternatives({ tokenizer }: LoadedModel, top: readonly Likely[]): Alternative[] {
  return top.map(({ token, logprob }) => ({ token: tokenizer.tokenText(token), tokenId: token, logprob }));
}

function layerCounts(counts: Int32Array): TritCounts[] {
  const layers: TritCounts[] = [];
  for (let at = 0; at + 2 < counts.length; at += 3) {
    layers.push({ minus: counts[at]!, ergodic: counts[at + 1]!, plus: counts[at + 2]! });
  }
  return layers;
}
