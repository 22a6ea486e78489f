// What a model's own files say about sampling, and how it shows in a result.

import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { ArgumentError } from '../../src/errors.ts';
import { type GgufPair, writeGguf } from '../../src/formats/write-gguf.ts';
import { Engine } from '../../src/generate/engine.ts';
import { generateWith } from '../../src/generate/generate.ts';
import { samplingDefaults } from '../../src/generate/sampling-defaults.ts';
import type { GenerateRequest } from '../../src/generate/types.ts';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import { generateResultToJson } from '../../src/tools/generate-result.ts';

const embedded = resolve(import.meta.dirname, '../../models/default');
const folder = mkdtempSync(join(tmpdir(), 'sampling-'));
const engine = new Engine({ maxModels: 20 });
afterAll(() => {
  engine[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

/** The embedded model with another generation_config.json. */
function modelWith(name: string, config: object): string {
  const home = join(folder, name);
  cpSync(embedded, home, {
    recursive: true,
    filter: (path) => !path.endsWith('.safetensors') && !path.includes('master'),
  });
  for (const file of readdirSync(embedded).filter((one) => one.endsWith('.safetensors'))) {
    symlinkSync(join(embedded, file), join(home, file));
  }
  const ends = { bos_token_id: 0, eos_token_id: [1, 2] };
  writeFileSync(join(home, 'generation_config.json'), JSON.stringify({ ...ends, ...config }));
  return home;
}

const run = (request: Partial<GenerateRequest> & Pick<GenerateRequest, 'model'>) =>
  generateWith(engine, { prompt: 'Once upon a time', maxTokens: 16, backend: 'auto', ...request });

describe('reading', () => {
  test.each([
    ['greedy where nothing is said', {}, {}],
    [
      'a temperature without do_sample is not drawn with, the rest waits for one',
      { temperature: 0.6, top_k: 20 },
      { topK: 20 },
    ],
    ['do_sample alone is temperature 1', { do_sample: true }, { temperature: 1 }],
    [
      'as Qwen3 has it',
      { do_sample: true, temperature: 0.6, top_k: 20, top_p: 0.95 },
      { temperature: 0.6, topK: 20, topP: 0.95 },
    ],
    ['what changes nothing is none', { top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1 }, {}],
    ['penalty and min-p', { repetition_penalty: 1.1, min_p: 0.05 }, { repetitionPenalty: 1.1, minP: 0.05 }],
    ['null is nothing', { do_sample: true, temperature: null, top_p: null }, { temperature: 1 }],
  ])('%s', (_, config, defaults) => expect(samplingDefaults(config)).toEqual({ defaults, warnings: [] }));

  test.each([
    ['temperature', -1],
    ['top_p', 1.5],
    ['top_k', 2.5],
    ['min_p', 'low'],
    ['repetition_penalty', 0],
    ['top_p', [0.9]],
  ])('%s %j is said and not used', (key, value) => {
    const { defaults, warnings } = samplingDefaults({ [key]: value });
    expect(defaults).toEqual({});
    expect(warnings).toEqual([`the model's files give ${key} as ${JSON.stringify(value)}, which is not used`]);
  });
});

describe('a model that is to be sampled', () => {
  const config = { do_sample: true, temperature: 0.8, top_k: 7, repetition_penalty: 1.2 };
  const model = modelWith('sampled', config);

  test('is, as if the caller had said so, and the result tells', async () => {
    const byItself = await run({ model });
    const asked = await run({ model: 'default', temperature: 0.8, topK: 7, repetitionPenalty: 1.2 });
    expect(byItself.trace).toEqual(asked.trace);
    expect(byItself.completion).not.toBe((await run({ model: 'default' })).completion);
    expect(generateResultToJson(byItself).sampling).toEqual({
      temperature: 0.8,
      top_k: 7,
      repetition_penalty: 1.2,
      from_model: ['temperature', 'top_k', 'repetition_penalty'],
    });
    expect(asked.sampling).toEqual({ temperature: 0.8, topK: 7, repetitionPenalty: 1.2 });
  });

  test('what the caller says wins, value by value', async () => {
    const { sampling } = await run({ model, temperature: 0.5 });
    expect(sampling).toEqual({
      temperature: 0.5,
      topK: 7,
      repetitionPenalty: 1.2,
      fromModel: ['topK', 'repetitionPenalty'],
    });
    const plain = await run({ model, temperature: 0, repetitionPenalty: 1 });
    expect(plain.trace).toEqual((await run({ model: 'default' })).trace);
    expect(plain).not.toHaveProperty('sampling');
  });

  test('a continuation goes on with the same', async () => {
    const long = await run({ model, maxTokens: 24 });
    const first = await run({ model, maxTokens: 9 });
    const { prompt: _, ...rest } = { prompt: undefined, continuation: first.continuation!, maxTokens: 15, model };
    const second = await generateWith(engine, { ...rest, backend: 'auto' });
    expect([...first.trace, ...second.trace]).toEqual(long.trace);
    expect(second.sampling).toEqual({ temperature: 0.8, topK: 7, repetitionPenalty: 1.2 });
  });
});

test('a value that cannot be is a warning of every result', async () => {
  const { warnings } = await run({ model: modelWith('odd', { do_sample: true, top_p: 7 }), maxTokens: 1 });
  expect(warnings).toContain("the model's files give top_p as 7, which is not used");
});

test('a GGUF says it in its own words', async () => {
  const { ggufVocabularyPairs } = await import('../../src/tokenizer/export-vocabulary.ts');
  const pairs = ggufVocabularyPairs(embedded, await loadTokenizer(embedded), 4096);
  const file = join(folder, 'words.gguf');
  const f32 = (key: string, value: number) => ({ key: `general.sampling.${key}`, type: 'f32', value }) as const;
  const metadata: GgufPair[] = [
    { key: 'general.architecture', type: 'string', value: 'bitnet' },
    f32('temp', 0.6),
    f32('top_p', 0.95),
    f32('penalty_repeat', 1.05),
    { key: 'general.sampling.top_k', type: 'i32', value: 20 },
    { key: 'general.sampling.min_p', type: 'string', value: 'some' },
    ...pairs,
  ];
  await writeGguf(file, { metadata, tensors: [] });
  const { generationConfig } = await loadTokenizer(file);
  const { defaults, warnings } = samplingDefaults(generationConfig);
  expect(defaults).toEqual({ temperature: 0.6, topP: 0.95, topK: 20, repetitionPenalty: 1.05 });
  expect(warnings).toEqual(['the model\'s files give min_p as "some", which is not used']);
});

describe('a request', () => {
  test.each<[string, Partial<GenerateRequest>]>([
    ['min_p', { minP: 1.5 }],
    ['min_p', { minP: -0.1 }],
    ['repetition_penalty', { repetitionPenalty: 0 }],
    ['presence_penalty', { presencePenalty: 2.5 }],
    ['frequency_penalty', { frequencyPenalty: Number.NaN }],
    ['top_logprobs', { topLogprobs: 21 }],
    ['logit_bias', { logitBias: { 5: 101 } }],
    ['logit_bias', { logitBias: { 4096: 1 } }],
    ['logit_bias', { logitBias: { 'no single token of this model': 1 } }],
    ['logit_bias', { logitBias: Object.fromEntries(Array.from({ length: 1025 }, (_, i) => [i, 1])) }],
  ])('with a bad %s is refused', async (name, request) => {
    const refused = run({ model: 'default', ...request });
    await expect(refused).rejects.toBeInstanceOf(ArgumentError);
    await expect(refused).rejects.toThrow(name);
  });

  test('may name a token by its text or by its id, and bans it with -100', async () => {
    const { trace } = await run({ model: 'default', maxTokens: 1 });
    const { token, tokenId } = trace[0]!;
    for (const key of [token, `${tokenId}`]) {
      const other = await run({ model: 'default', maxTokens: 12, logitBias: { [key]: -100 } });
      expect(other.trace.map((one) => one.tokenId)).not.toContain(tokenId);
      expect(other.sampling).toEqual({ temperature: 0 });
    }
    const refused = run({ model: 'default', logitBias: { [token]: 1, [`${tokenId}`]: 1 } });
    await expect(refused).rejects.toThrow(/twice/);
  });

  test('gets the likeliest tokens of each step with their texts', async () => {
    const { trace } = await run({ model: 'default', maxTokens: 6, topLogprobs: 3 });
    for (const { topLogprobs, tokenId, logprob, token } of trace) {
      expect(topLogprobs).toHaveLength(3);
      // Greedy: the first of them was written.
      expect(topLogprobs![0]).toEqual({ token, tokenId, logprob });
      expect(topLogprobs!.map((one) => one.logprob)).toEqual(
        topLogprobs!.map((one) => one.logprob).toSorted((a, b) => b - a),
      );
    }
    expect((await run({ model: 'default', maxTokens: 6 })).trace).toEqual(
      trace.map(({ topLogprobs: _, ...step }) => step),
    );
  });

  test('with penalties writes differently, and never twice the same where that costs most', async () => {
    const plain = await run({ model: 'default', maxTokens: 60 });
    for (const penalty of [{ repetitionPenalty: 1.3 }, { presencePenalty: 2 }, { frequencyPenalty: 2 }]) {
      const other = await run({ model: 'default', maxTokens: 60, ...penalty });
      expect(other.completion).not.toBe(plain.completion);
      expect(other.sampling).toEqual({ temperature: 0, ...penalty });
    }
    const ids = (await run({ model: 'default', maxTokens: 60, repetitionPenalty: 1e6 })).trace.map(
      (one) => one.tokenId,
    );
    expect(new Set(ids).size).toBe(ids.length);
    const repeated = plain.trace.map((one) => one.tokenId);
    expect(new Set(repeated).size).toBeLessThan(repeated.length);
  });
});

test('the embedded model is greedy by its own files', () => {
  const config = JSON.parse(readFileSync(join(embedded, 'generation_config.json'), 'utf8'));
  expect(samplingDefaults(config)).toEqual({ defaults: {}, warnings: [] });
});
