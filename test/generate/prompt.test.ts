// Prompts that are too long are refused before they are taken apart, and long ones are read elsewhere.

import { afterAll, describe, expect, test } from 'vitest';
import { ArgumentError, CancelledError } from '../../src/errors.ts';
import { EngineHost } from '../../src/generate/engine-host.ts';
import { promptLength, readPrompt } from '../../src/generate/prompt.ts';
import { PromptHost, PromptReadError } from '../../src/generate/prompt-host.ts';
import { packageRoot } from '../../src/package/root.ts';
import { leastTokens } from '../../src/tokenizer/least-tokens.ts';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts';

const home = `${packageRoot()}/models/default`;
const tokenizer = await loadTokenizer(home);

const TEXTS = [
  '',
  ' '.repeat(5000),
  'Once upon a time there was a little fox. '.repeat(200),
  'a'.repeat(3000),
  '<|begin_of_text|>'.repeat(500),
  'e\u0301'.repeat(1000),
  '\u{1f98a}'.repeat(1000),
  '\u200b'.repeat(1000),
  '狐'.repeat(1000),
  '\n\n\t'.repeat(1000),
];

describe('the least number of tokens', () => {
  test.each(TEXTS.map((text) => [JSON.stringify(text.slice(0, 20)), text]))(
    'of %s is not above the true one',
    (_, text) => {
      expect(leastTokens(tokenizer, text, 1e6)).toBeLessThanOrEqual(
        tokenizer.encode(text, { addSpecial: false }).length,
      );
    },
  );

  test('is reached by a text of the longest token, and no more is counted than was asked for', () => {
    const text = '<|begin_of_text|>'.repeat(1000);
    expect(leastTokens(tokenizer, text, 1e6)).toBe(1000);
    expect(leastTokens(tokenizer, text, 10)).toBe(11);
  });
});

/** One that must not be asked. */
const untouched = new Proxy(tokenizer, {
  get: (target, name) => {
    if (name === 'encode' || name === 'encodeChat') throw new Error('it was tokenized');
    const value = Reflect.get(target, name, target);
    return typeof value === 'function' ? value.bind(target) : value;
  },
}) as Tokenizer;

test('what is far too long is refused without tokenizing it; what is a little too long, with its number', () => {
  const long = { model: 'default', prompt: 'Once upon a time. '.repeat(200_000) };
  expect(() => readPrompt(untouched, long, { contextLength: 1024 })).toThrow(
    /^the prompt has more than 1024 tokens, the model "default" holds 1024 with its answer; shorten the prompt$/,
  );
  const words = { model: 'default', prompt: 'fox '.repeat(1500) };
  const count = tokenizer.encode(words.prompt).length;
  expect(() => readPrompt(tokenizer, words, { contextLength: 1024 })).toThrow(`the prompt has ${count} tokens`);
});

test('a short one is not asked how few tokens it may have, which takes a look at all there are', () => {
  const asked: string[] = [];
  const counted = new Proxy(tokenizer, {
    get: (target, name) => {
      asked.push(String(name));
      const value = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  }) as Tokenizer;
  const read = (prompt: string, contextLength: number) => {
    asked.length = 0;
    try {
      readPrompt(counted, { model: 'default', prompt }, { contextLength });
    } catch (error) {
      expect(error).toBeInstanceOf(ArgumentError);
    }
    return asked;
  };
  expect(read('Once upon a time', 16)).toEqual(['encode']);
  expect(read('Once upon a time.', 16)).toEqual(['leastTokens', 'encode']);
  // By its bytes, not by its characters.
  expect(read('狐'.repeat(6), 17)).toContain('leastTokens');
});

describe('in a process of its own', () => {
  const prompts = new PromptHost({ readMs: 20_000 });
  afterAll(() => prompts.close());
  const read = (prompt: string, signal?: AbortSignal) =>
    prompts.read({ model: 'default', prompt, home, contextLength: 100_000 }, signal);

  test('a prompt has the same tokens', async () => {
    const text = 'The fox ran. '.repeat(5000);
    expect(await read(text)).toEqual({ text, tokens: tokenizer.encode(text) });
  });

  test('refusals come over as they are', async () => {
    await expect(read('The fox ran. '.repeat(100_000))).rejects.toBeInstanceOf(ArgumentError);
  });

  test('a cancelled one gives way to the next', async () => {
    const controller = new AbortController();
    const first = read('The fox ran. '.repeat(20_000), controller.signal);
    const second = read('A fox.');
    controller.abort();
    await expect(first).rejects.toBeInstanceOf(CancelledError);
    expect((await second).tokens).toEqual(tokenizer.encode('A fox.'));
  });

  test('one that does not come to an end is given up', async () => {
    const hasty = new PromptHost({ readMs: 1 });
    const request = { model: 'default', prompt: 'The fox ran. '.repeat(20_000), home, contextLength: 100_000 };
    await expect(hasty.read(request)).rejects.toBeInstanceOf(PromptReadError);
    hasty.close();
  });
});

test('an engine that gets eight prompts of megabytes refuses them and writes for others', async () => {
  const host = new EngineHost();
  const huge = 'Once upon a time. '.repeat(200_000);
  const asked = Array.from({ length: 4 }, (_, i) => [
    host.generate({ model: 'default', prompt: `${i} ${huge}` }),
    host.generate({ model: 'default', messages: [{ role: 'user', content: `${i} ${huge}` }] }),
  ]).flat();
  const refused = Promise.allSettled(asked);
  const written = await host.generate({ model: 'default', prompt: 'Once', maxTokens: 3 });
  expect(written.usage.completionTokens).toBe(3);
  for (const result of await refused) expect(result).toMatchObject({ reason: { fault: 'call' } });
  await host.close();
});

test('a message without text, and one of parts, have a length', () => {
  const calls = [{ function: { name: 'dice', arguments: { text: 'x'.repeat(5000) } } }];
  const messages = [
    { role: 'assistant', tool_calls: calls },
    { role: 'tool', content: [{ type: 'text', text: 'y'.repeat(3000) }] },
  ];
  expect(promptLength({ model: 'm', messages })).toBeGreaterThan(8000);
  expect(promptLength({ model: 'm', messages: [{ role: 'user', content: null }] })).toBe(64);
});

test("tools' turns reach the template", () => {
  const messages = [
    { role: 'user', content: 'Roll' },
    { role: 'assistant', content: 'dice' },
    { role: 'tool', content: '3', tool_call_id: 'call_0' },
  ];
  expect(readPrompt(tokenizer, { model: 'm', messages }, { contextLength: 1000 }).text).toContain('Tool: 3<|eot_id|>');
});
