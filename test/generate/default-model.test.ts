// The embedded model writes what Hugging Face transformers writes with it (greedy, float32), on every backend here.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { BACKEND_NAMES } from '../../src/engine/backend.ts';
import { surveyBackends } from '../../src/engine/select.ts';
import { Engine } from '../../src/generate/engine.ts';
import { generateWith } from '../../src/generate/generate.ts';
import { packageRoot } from '../../src/package/root.ts';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';

type Row = { prompt: string; input_ids: number[]; greedy: number[]; top2_margin: number[] };

const folder = join(packageRoot(), 'models', 'default');
const { rows } = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8')) as { rows: Row[] };
const usable = (await surveyBackends()).filter(({ reason }) => reason === undefined).map(({ backend }) => backend);

/** Tokens that are sure: up to the first place where the two likeliest are nearly alike. */
const sure = ({ greedy, top2_margin: margins }: Row) => {
  const close = margins.findIndex((margin) => margin < 0.02);
  return greedy.slice(0, close < 0 ? greedy.length : close);
};

test('there are rows, and tokens to compare in each', () => {
  expect(rows.length).toBeGreaterThanOrEqual(4);
  for (const row of rows) expect(sure(row).length).toBeGreaterThan(3);
  expect(usable).toContain('js');
});

describe.each(BACKEND_NAMES.filter((name) => usable.includes(name)))('%s', (backend) => {
  const engine = new Engine();
  test.each(rows)('$prompt', async (row) => {
    const tokenizer = await loadTokenizer(folder);
    const plain = tokenizer.encode(row.prompt);
    // A chat row's prompt is the rendered conversation.
    expect(plain.join()).toBe(row.input_ids.join());
    const result = await generateWith(engine, {
      model: 'default',
      backend,
      prompt: row.prompt,
      maxTokens: row.greedy.length,
    });
    const stopIds = new Set(tokenizer.stopIds());
    const wanted = sure(row);
    const end = wanted.findIndex((id) => stopIds.has(id));
    const got = result.trace.map(({ tokenId }) => tokenId);
    expect(got.slice(0, wanted.length)).toEqual(end < 0 ? wanted : wanted.slice(0, end));
  });
});
