// Several texts in one call. They share the steps of the scheduler, so that weights are read once for all of them, and the
// samples of one prompt share the reading of it. Each text is to the bit what a call of its own would write.

import { ArgumentError, BitnetError } from '../errors.ts';
import { now } from './clock.ts';
import { Engine } from './engine.ts';
import { begin, checkRequest, DEFAULT_MAX_TOKENS, run } from './generate.ts';
import { MAX_TEXTS } from './sampling-limits.ts';
import type { Start, TokenSource } from './token-source.ts';
import type { GenerateRequest, GenerateResult, ManyHooks, ManyRequest, ManyResult } from './types.ts';

/** Generates with an engine of its own. A caller that generates more than once keeps an `Engine`. */
export async function generateMany(request: ManyRequest, hooks: ManyHooks = {}): Promise<ManyResult> {
  using engine = new Engine();
  return await generateManyWith(engine, request, hooks);
}

/**
 * All texts, or an error before the first token: a prompt that cannot be read refuses the call, with its place. A fired
 * signal ends all of them. `maxSeconds` holds for the whole call; a text that did not begin before it was over has one token.
 */
export async function generateManyWith(
  engine: Engine,
  request: ManyRequest,
  hooks: ManyHooks = {},
): Promise<ManyResult> {
  const startedAt = now();
  const requests = requestsOf(request);
  for (const one of requests) checkRequest(one);
  const backend = engine.backendOf(request);
  const wanted = {
    model: request.model,
    backend,
    ...(request.threads === undefined ? {} : { threads: request.threads }),
    ...(request.head === undefined ? {} : { head: request.head }),
    ...(hooks.signal === undefined ? {} : { signal: hooks.signal }),
  };
  return await engine.useSource(wanted, async (source) => {
    const texts = await beginAll(source, request, requests, hooks.signal);
    const written = await writeAll(source, texts, hooks, startedAt);
    return together(source, written, now() - startedAt);
  });
}

/** One for each prompt. */
function requestsOf(request: ManyRequest): GenerateRequest[] {
  const { prompts, messages, n = 1, ...rest } = request;
  if (!Number.isInteger(n) || n < 1) throw new ArgumentError({ what: `n is ${n}`, fix: 'give a whole number from 1' });
  if (prompts === undefined) return [{ ...rest, ...(messages !== undefined && { messages }) }];
  if (prompts.length === 0) throw new ArgumentError({ what: 'prompts is empty', fix: 'give at least one' });
  if (prompts.length * n > MAX_TEXTS) {
    throw new ArgumentError({
      what: `${prompts.length} prompts with ${n} ${n === 1 ? 'text' : 'texts'} each are more than ${MAX_TEXTS}`,
      fix: 'share them out over several calls',
    });
  }
  return prompts.map((prompt) =>
    messages === undefined
      ? { ...rest, prompt }
      : { ...rest, messages: [...messages, { role: 'user', content: prompt }] },
  );
}

type Text = { readonly request: GenerateRequest; readonly start: Start };

async function beginAll(
  source: TokenSource,
  { n = 1, prompts }: ManyRequest,
  requests: readonly GenerateRequest[],
  signal: AbortSignal | undefined,
): Promise<Text[]> {
  if (n > MAX_TEXTS) throw new ArgumentError({ what: `n is ${n}`, fix: `give ${MAX_TEXTS} at most` });
  const texts: Text[] = [];
  for (const [i, request] of requests.entries()) {
    const start = await begin(source, request, signal).catch((error: unknown) => {
      if (prompts === undefined || !(error instanceof BitnetError) || error.fault !== 'call') throw error;
      throw new ArgumentError({ ...error.text, what: `prompts[${i}]: ${error.text.what}` }, { cause: error });
    });
    if (n > 1 && start.temperature === 0) {
      throw new ArgumentError({
        what: `n is ${n} at temperature 0: every text would be the same`,
        fix: 'give a temperature above 0, or leave n out',
      });
    }
    for (let j = 0; j < n; j += 1) {
      const sampleSeed = BigInt.asUintN(64, start.sampleSeed + BigInt(j));
      texts.push({ request, start: { ...start, tokens: [...start.tokens], sampleSeed } });
    }
  }
  return texts;
}

type Written = { readonly result: GenerateResult; readonly begunMs: number };

/** In order, as many at once as the source has room for. */
async function writeAll(
  source: TokenSource,
  texts: readonly Text[],
  { signal, onToken, continuable }: ManyHooks,
  startedAt: number,
): Promise<Written[]> {
  const written = new Array<Written>(texts.length);
  // Where one fails, the others end, before the model may go.
  const failure = new AbortController();
  const ends = signal === undefined ? failure.signal : AbortSignal.any([signal, failure.signal]);
  let [next, running, positions] = [0, 0, 0];
  await new Promise<void>((resolve, reject) => {
    let failed: { readonly error: unknown } | undefined;
    const go = () => {
      if (running === 0 && failed !== undefined) reject(failed.error);
      else if (running === 0 && next === texts.length) resolve();
      while (next < texts.length && failed === undefined) {
        const { request, start } = texts[next]!;
        const size = sizeOf(start, request);
        const fits = running < source.room.texts && positions + size <= source.room.positions;
        if (running > 0 && !fits) return;
        const place = next;
        next += 1;
        running += 1;
        positions += size;
        write(place, request, start)
          .catch((error: unknown) => {
            failed ??= { error };
            failure.abort();
          })
          .finally(() => {
            running -= 1;
            positions -= size;
            go();
          });
      }
    };
    go();
  });
  return written;

  async function write(place: number, request: GenerateRequest, start: Start): Promise<void> {
    const begunMs = now() - startedAt;
    const { maxSeconds } = request;
    const left = maxSeconds === undefined ? request : { ...request, maxSeconds: maxSeconds - begunMs / 1000 };
    const result = await run(source, start, left, {
      signal: ends,
      ...(continuable !== undefined && { continuable }),
      ...(onToken !== undefined && { onStep: onToken, onThought: onToken }),
    });
    written[place] = { result, begunMs };
  }
}

function sizeOf(start: Start, { maxTokens = DEFAULT_MAX_TOKENS }: GenerateRequest): number {
  return start.tokens.length + maxTokens;
}

function together(source: TokenSource, written: readonly Written[], wholeMs: number): ManyResult {
  const results = written.map(({ result }) => result);
  const sum = (of: (usage: GenerateResult['usage']) => number) =>
    results.reduce((total, { usage }) => total + of(usage), 0);
  const completionTokens = sum((usage) => usage.completionTokens);
  const reasoningTokens = sum((usage) => usage.reasoningTokens ?? 0);
  const { model, seed, scheme, engine } = results[0]!;
  const warnings = source.warnings ?? [];
  return {
    model,
    results,
    seed,
    scheme,
    usage: {
      ...(results.every(({ usage }) => usage.promptTokens !== undefined) && {
        promptTokens: sum((usage) => usage.promptTokens ?? 0),
      }),
      completionTokens,
      ...(reasoningTokens > 0 && { reasoningTokens }),
    },
    timings: {
      promptMs: Math.max(...written.map(({ result, begunMs }) => begunMs + result.timings.promptMs)),
      firstTokenMs: Math.min(...written.map(({ result, begunMs }) => begunMs + result.timings.firstTokenMs)),
      tokensPerSecond: wholeMs > 0 ? (1000 * (completionTokens + reasoningTokens)) / wholeMs : 0,
    },
    engine,
    ...(warnings.length > 0 && { warnings }),
  };
}
