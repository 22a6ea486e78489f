// `eval`: logits of given token ids, or the cross-entropy of a text.

import { NonFiniteError } from '../engine/backend.ts';
import { ArgumentError } from '../errors.ts';
import { Engine, type EngineOptions, type LoadedModel, loadProgram, locateModel } from './engine.ts';
import { allLogits, type ForwardOptions, forwardTokens, negativeLogLikelihood } from './forward.ts';
import { warningsOf } from './local-source.ts';
import type { BackendChoice } from './token-source.ts';
import type { HeadPrecision } from './types.ts';

export type EvaluateOptions = EngineOptions &
  ForwardOptions & {
    readonly backend?: BackendChoice;
    readonly threads?: number;
    /** Default `full`. */
    readonly head?: HeadPrecision;
  };

export type IdsEvaluation = {
  readonly model: string;
  readonly vocabSize: number;
  /** (ids, vocabSize) float32, row-major. */
  readonly logits: Float32Array;
  /** Likeliest next token after each id. */
  readonly argmax: readonly number[];
  /** Mean -ln p(ids[i + 1] | ids[0..i]) in nats; undefined for a single id. */
  readonly meanNll: number | undefined;
  /** What a person should know of the model's files. */
  readonly warnings: readonly string[];
};

export type TextEvaluation = {
  readonly model: string;
  /** Tokens that were predicted. */
  readonly tokens: number;
  readonly bytes: number;
  /** Nats per token. */
  readonly crossEntropy: number;
  readonly perplexity: number;
  readonly bitsPerByte: number;
  /** Windows the text was cut into, each read from an empty context. */
  readonly windows: number;
  /** What a person should know of the model's files. */
  readonly warnings: readonly string[];
};

/** Logits of ids (T,), at least one, as one text without any token added. */
export async function evaluateIds(
  name: string,
  ids: readonly number[],
  options: EvaluateOptions = {},
): Promise<IdsEvaluation> {
  const request = { model: name, ...loadOptions(options) };
  // Ids need no tokenizer, and some checkpoints come without one.
  const { executable, contextLength, vocabSize, warnings } = await loadProgram(
    await locateModel(request, options),
    request,
  );
  using _ = executable;
  if (ids.length === 0 || ids.length > contextLength) {
    throw new ArgumentError({
      what: `${ids.length} token ids`,
      where: '--ids',
      fix: `give 1 to ${contextLength} ids, the model's context`,
    });
  }
  const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
  if (bad !== undefined) {
    throw new ArgumentError({
      what: `${bad} is not a token id of this model`,
      where: '--ids',
      fix: `ids are integers from 0 to ${vocabSize - 1}`,
    });
  }
  const logits = await allLogits(executable, ids, vocabSize, options);
  const row = (i: number) => logits.subarray(i * vocabSize, (i + 1) * vocabSize);
  if (!logits.every(Number.isFinite)) throw new NonFiniteError(`${name}, output logits`);
  const argmax = ids.map((_, i) => row(i).reduce((best, value, id, all) => (value > all[best]! ? id : best), 0));
  let total = 0;
  for (let i = 0; i + 1 < ids.length; i += 1) total += negativeLogLikelihood(row(i), ids[i + 1]!);
  const meanNll = ids.length > 1 ? total / (ids.length - 1) : undefined;
  return { model: name, vocabSize, logits, argmax, meanNll, warnings };
}

/**
 * Cross-entropy of a text: tokenized whole, cut into windows that fill the context, each begun with the model's BOS (or,
 * without one, with its own first token, which is then not predicted).
 */
export async function evaluateText(name: string, text: string, options: EvaluateOptions = {}): Promise<TextEvaluation> {
  using engine = new Engine(options);
  return await engine.use({ model: name, ...loadOptions(options) }, (model) => crossEntropyOf(model, text, options));
}

async function crossEntropyOf(model: LoadedModel, text: string, options: EvaluateOptions): Promise<TextEvaluation> {
  const ids = model.tokenizer.encode(text, { addSpecial: false, parseSpecial: false });
  const { bosId } = model.tokenizer;
  if (ids.length < (bosId === undefined ? 2 : 1)) {
    throw new ArgumentError({
      what: `the text has ${ids.length} tokens: nothing to predict`,
      fix: 'give a longer text',
    });
  }
  const prefix = bosId === undefined ? [] : [bosId];
  const size = model.contextLength - prefix.length;
  let nll = 0;
  let predicted = 0;
  let windows = 0;
  for (let from = 0; from < ids.length; from += size) {
    const window = [...prefix, ...ids.slice(from, from + size)];
    if (window.length < 2) continue;
    windows += 1;
    const use = (logits: Float32Array, first: number, rows: number) => {
      for (let i = 0; i < rows && first + i + 1 < window.length; i += 1) {
        const row = logits.subarray(i * model.vocabSize, (i + 1) * model.vocabSize);
        nll += negativeLogLikelihood(row, window[first + i + 1]!);
        predicted += 1;
      }
    };
    const { signal, chunk } = options;
    await forwardTokens(model.executable, window, use, {
      ...(signal === undefined ? {} : { signal }),
      ...(chunk === undefined ? {} : { chunk }),
      onChunk: (done) => options.onChunk?.(from + done, ids.length),
    });
  }
  if (!Number.isFinite(nll)) throw new NonFiniteError(`${model.name}, output logits`);
  const crossEntropy = nll / predicted;
  const bytes = Buffer.byteLength(text);
  return {
    model: model.name,
    tokens: predicted,
    bytes,
    crossEntropy,
    perplexity: Math.exp(crossEntropy),
    bitsPerByte: nll / Math.LN2 / bytes,
    windows,
    warnings: warningsOf(model),
  };
}

function loadOptions({ backend, threads, head, signal }: EvaluateOptions) {
  return {
    ...(backend === undefined ? {} : { backend }),
    ...(threads === undefined ? {} : { threads }),
    head: head ?? ('full' as const),
    ...(signal === undefined ? {} : { signal }),
  };
}
