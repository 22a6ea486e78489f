// Tokens chosen here from a model's logits: our own engine's, or those of an ONNX graph.

import { ArgumentError, CancelledError } from '../errors.ts';
import type { ContinuationState } from './continuation.ts';
import type { LoadedModel } from './engine.ts';
import { chooseToken } from './sampler.ts';
import type { Ending, Prompt, Start, Task, TokenSource } from './token-source.ts';
import type { FinishReason, GenerateRequest, TritCounts } from './types.ts';

export function localSource(model: LoadedModel): TokenSource {
  return {
    model: model.name,
    info: model.info,
    prompt: (request) => readPrompt(model, request),
    checkContinuation: (state) => checkFits(model, state),
    write: (start, task) => write(model, start, task),
  };
}

function readPrompt({ tokenizer, info }: LoadedModel, request: GenerateRequest): Prompt {
  const { prompt = '', messages } = request;
  if (request.activations && info.backend === 'onnx') {
    throw new ArgumentError({
      what: 'the trits of the layers cannot be counted with the backend "onnx": the runtime shows only the logits',
      fix: 'leave activations out, or convert the model and use a backend of our own',
    });
  }
  const tokens = messages === undefined ? tokenizer.encode(prompt) : tokenizer.encodeChat(messages);
  if (tokens.length === 0) {
    throw new ArgumentError({
      what: 'the prompt is empty and this model has no token to begin a text with',
      fix: 'give at least one character',
    });
  }
  return { text: messages === undefined ? prompt : tokenizer.renderChat(messages), tokens };
}

function checkFits(model: LoadedModel, state: ContinuationState): void {
  const foreign = state.tokens.some((token) => token >= model.vocabSize);
  if (!foreign && state.promptTokens <= state.tokens.length && state.tokens.length > 0) return;
  throw new ArgumentError({
    what: `the continuation does not fit the model "${model.name}"`,
    where: 'continuation',
    fix: 'it belongs to another model of that name: start again with a prompt',
  });
}

async function write(model: LoadedModel, start: Start, task: Task): Promise<Ending> {
  const { tokenizer, contextLength, scheduler, isStop } = model;
  const { tokens } = start;
  if (tokens.length >= contextLength) {
    throw new ArgumentError({
      what: `the prompt has ${tokens.length} tokens, the model "${model.name}" holds ${contextLength} with its answer`,
      fix: 'shorten the prompt',
    });
  }
  const decoder = tokenizer.streamDecoder({ after: tokens, skipSpecial: true });
  let ended: FinishReason | undefined;

  const next = (logits: Float32Array, tritCounts: Int32Array): number | undefined => {
    task.promptRead();
    ended = task.interrupted();
    if (ended !== undefined) return undefined;
    const { token, logprob } = chooseToken(logits, tokens.length - start.promptTokens, start);
    if (isStop(token)) {
      ended = 'stop';
      return undefined;
    }
    tokens.push(token);
    ended = task.write({
      text: decoder.push(token),
      tokenId: token,
      logprob,
      ...(start.activations ? { activations: layerCounts(tritCounts) } : {}),
    });
    if (tokens.length === contextLength) ended ??= 'length';
    return ended === undefined ? token : undefined;
  };

  try {
    await scheduler.run([...tokens], {
      next,
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
  };
}

function layerCounts(counts: Int32Array): TritCounts[] {
  const layers: TritCounts[] = [];
  for (let at = 0; at + 2 < counts.length; at += 3) {
    layers.push({ minus: counts[at]!, ergodic: counts[at + 1]!, plus: counts[at + 2]! });
  }
  return layers;
}
