// Which files of a repository are taken. The lists are those of published repositories, sizes rounded.

import { describe, expect, test } from 'vitest';
import { HubSelectionError } from '../../src/hub/hub-errors.ts';
import { modelsIn, selectFiles } from '../../src/hub/select-files.ts';

const files = (sizes: Readonly<Record<string, number>>) =>
  Object.entries(sizes).map(([name, size], i) => ({ name, size, etag: i.toString(16).padStart(40, '0') }));

const chosen = (sizes: Readonly<Record<string, number>>, names?: readonly string[]) => {
  const { files: taken, choice } = selectFiles('org/model', files(sizes), names);
  return { names: taken.map(({ name }) => name), choice };
};

describe('of several GGUF models', () => {
  test('the exact trits in the smallest download, and says so', () => {
    const { names, choice } = chosen({
      'README.md': 5,
      'Ternary-Bonsai-1.7B-F16.gguf': 3450,
      'Ternary-Bonsai-1.7B-Q2_0.gguf': 457,
      'Ternary-Bonsai-1.7B-Q2_0_g64.gguf': 484,
      'Ternary-Bonsai-1.7B-TQ2_0.gguf': 444,
      'Ternary-Bonsai-1.7B-mmproj-Q8_0.gguf': 1,
    });
    expect(names).toEqual(['README.md', 'Ternary-Bonsai-1.7B-Q2_0.gguf']);
    expect(choice).toBe(
      'chose Ternary-Bonsai-1.7B-Q2_0.gguf of 4 GGUF models (exact trits, the smallest download); --file takes another: ' +
        'Ternary-Bonsai-1.7B-F16.gguf, Ternary-Bonsai-1.7B-Q2_0_g64.gguf, Ternary-Bonsai-1.7B-TQ2_0.gguf',
    );
  });

  test.each<[string, Record<string, number>, string]>([
    ['PQ2_0 before g64', { 'm-F16.gguf': 90, 'm-Q2_g64.gguf': 50, 'm-PQ2_0.gguf': 40 }, 'm-PQ2_0.gguf'],
    ['PTQ1_0, smaller still', { 'm-PQ2_0.gguf': 40, 'm-PTQ1_0.gguf': 30 }, 'm-PTQ1_0.gguf'],
    [
      'g64 where it is all there is',
      { 'm-F16.gguf': 90, 'm-Q2_0_g64.gguf': 50, 'm-Q4_K_M.gguf': 9 },
      'm-Q2_0_g64.gguf',
    ],
    ['I2_S in small letters', { 'ggml-model-i2_s.gguf': 9, 'ggml-model-f32.gguf': 99 }, 'ggml-model-i2_s.gguf'],
    ['TQ2_0 before floats', { 'm-TQ2_0.gguf': 44, 'm-BF16.gguf': 90 }, 'm-TQ2_0.gguf'],
    ['floats last', { 'm-F16.gguf': 90, 'm-Q4_K_M.gguf': 30, 'm-Q2_K.gguf': 20 }, 'm-F16.gguf'],
    ['not what says that it runs elsewhere', { 'm-Q2_0-prism-fork-required.gguf': 1, 'm-F16.gguf': 9 }, 'm-F16.gguf'],
    ['the only one beside a vision tower', { 'm-Q4_K.gguf': 30, 'mmproj-m-BF16.gguf': 2 }, 'm-Q4_K.gguf'],
    ['beside statistics of a quantizer', { 'm.gguf': 30, 'imatrix.gguf': 2 }, 'm.gguf'],
  ])('%s', (_, sizes, expected) => {
    expect(chosen(sizes).names).toEqual([expected]);
  });

  test('no choice is told where there was none', () => {
    expect(chosen({ 'm-Q2_0.gguf': 1 }).choice).toBeUndefined();
  });

  test('a list where no name tells the type, and not all of a long one', () => {
    const many = Object.fromEntries(Array.from({ length: 3000 }, (_, i) => [`m${i}-Q4_K_M.gguf`, 1]));
    expect(() => chosen(many)).toThrow(HubSelectionError);
    expect(() => chosen(many)).toThrow(/--file: m0-Q4_K_M.gguf, .*\(3000 in all\)$/);
  });

  test('in subfolders where there is none on top', () => {
    expect(chosen({ 'PQ2_0/m-PQ2_0.gguf': 4, 'F16/m-F16.gguf': 9 }).names).toEqual(['PQ2_0/m-PQ2_0.gguf']);
  });

  test('--file picks another', () => {
    expect(chosen({ 'm-Q2_0.gguf': 1, 'm-F16.gguf': 9 }, ['m-F16.gguf']).names).toEqual(['m-F16.gguf']);
  });
});

describe('a model in parts', () => {
  const parts = { 'm-PQ2_0-00002-of-00002.gguf': 20, 'm-PQ2_0-00001-of-00002.gguf': 20, 'm-F16.gguf': 90 };
  const both = ['m-PQ2_0-00001-of-00002.gguf', 'm-PQ2_0-00002-of-00002.gguf'];

  test('comes whole, also when one part is named', () => {
    expect(chosen(parts).names).toEqual(both);
    expect(chosen(parts, [both[1]!]).names).toEqual(both);
  });

  test('is not chosen without one of them, and refused by name', () => {
    const { [both[0]!]: _, ...cut } = parts as Record<string, number>;
    expect(chosen(cut).names).toEqual(['m-F16.gguf']);
    expect(() => chosen(cut, [both[1]!])).toThrow(/holds 1 of the 2 parts of m-PQ2_0-00002-of-00002.gguf/);
    expect(() => chosen({ [both[1]!]: 1 })).toThrow(/holds 1 of the 2 parts/);
  });

  test('counts as one model', () => {
    expect(modelsIn(files(parts)).map(({ parts: all, count }) => [all.length, count])).toEqual([
      [2, 2],
      [1, 1],
    ]);
  });
});

test('named chat templates come with a model, other folders do not', () => {
  const sizes = {
    'chat_template.jinja': 1,
    'additional_chat_templates/tool_use.jinja': 1,
    'additional_chat_templates/old/rag.jinja': 1,
    'additional_chat_templates/notes.txt': 1,
    'original/tokenizer.json': 1,
    'model.safetensors': 1,
  };
  expect(chosen(sizes).names).toEqual([
    'chat_template.jinja',
    'additional_chat_templates/tool_use.jinja',
    'model.safetensors',
  ]);
});

test('safetensors win over GGUF', () => {
  expect(chosen({ 'model.safetensors': 1, 'm-Q2_0.gguf': 1 }).names).toEqual(['model.safetensors']);
});
