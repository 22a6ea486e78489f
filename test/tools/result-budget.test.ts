import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { GenerateRequest } from '../../src/generate/types.ts';
import { analyzeLayerTool } from '../../src/tools/analyze-layer.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import type { Tool } from '../../src/tools/define-tool.ts';
import { generateWithTraceTool } from '../../src/tools/generate-with-trace.ts';
import { paletteTool } from '../../src/tools/palette.ts';
import { fitting } from '../../src/tools/result-budget.ts';

const services = { generate: () => Promise.reject(new Error('not called')) };
const BUDGET = 36_000;

type Page = Record<string, unknown> & { next?: Record<string, number> };

/** Every page of a call, as a caller gets them who follows `next`. */
async function pagesOf(tool: Tool, args: Record<string, unknown>): Promise<Page[]> {
  const pages: Page[] = [];
  let next: Record<string, number> | undefined = {};
  while (next !== undefined) {
    const { structured }: { structured: Page } = await callTool(
      tool,
      { ...args, ...next },
      { services, resultBudget: BUDGET },
    );
    expect(tool.output.safeParse(structured).error).toBeUndefined();
    expect(JSON.stringify(structured).length).toBeLessThan(BUDGET + 2000);
    pages.push(structured);
    next = structured.next;
  }
  return pages;
}

test('programs get all colors at once', async () => {
  const { structured } = await callTool(paletteTool, { n: 4096 }, { services });
  expect(structured.colors).toHaveLength(4096);
  expect(structured.next).toBeUndefined();
});

test('the pages of a palette are the palette', async () => {
  const pages = await pagesOf(paletteTool, { n: 4096, seed: 42 });
  expect(pages.length).toBeGreaterThan(10);
  const { structured } = await callTool(paletteTool, { n: 4096, seed: 42 }, { services });
  expect(pages.flatMap(({ colors }) => colors)).toEqual(structured.colors);
  const sum = pages.reduce((total, { trit_sum }) => total + Number(trit_sum), 0);
  expect(sum).toBe(structured.trit_sum);
});

test('the pages of a list of layers are the list, each with the total of all', async () => {
  const whole = (await callTool(analyzeLayerTool, {}, { services })).structured as { layers: object[]; total: object };
  const budget = JSON.stringify(whole.layers).length / 3;
  const layers: object[] = [];
  let offset: number | undefined = 0;
  for (let page = 0; offset !== undefined; page++) {
    expect(page).toBeLessThan(10);
    const { structured, text } = await callTool(analyzeLayerTool, { offset }, { services, resultBudget: budget });
    layers.push(...(structured.layers as object[]));
    expect(structured.total).toEqual(whole.total);
    offset = (structured.next as { offset: number } | undefined)?.offset;
    if (offset !== undefined) expect(text).toContain(`{"offset": ${offset}}`);
  }
  expect(layers).toEqual(whole.layers);
});

test('a trace that would not fit is asked for in part', async () => {
  const asked: GenerateRequest[] = [];
  const recording = {
    generate: (request: GenerateRequest) => {
      asked.push(request);
      return Promise.reject(new Error('enough'));
    },
  };
  for (const args of [{ max_tokens: 4000 }, { max_tokens: 4000, activations: true }, { max_tokens: 20 }]) {
    const call = callTool(
      generateWithTraceTool,
      { prompt: 'a', ...args },
      { services: recording, resultBudget: BUDGET },
    );
    await expect(call).rejects.toThrow('enough');
  }
  const [plain, activations, short] = asked.map(({ maxTokens }) => maxTokens!);
  expect(plain).toBeLessThan(400);
  expect(plain).toBeGreaterThan(100);
  expect(activations).toBeLessThan(plain!);
  expect(short).toBe(20);
});

test('as many as fit, and never none', () => {
  fc.assert(
    fc.property(fc.array(fc.string()), fc.integer({ min: 0, max: 200 }), (items, budget) => {
      const shown = fitting(items, budget);
      const size = (n: number) => items.slice(0, n).reduce((sum, item) => sum + JSON.stringify(item).length + 1, 0);
      if (items.length > 0) expect(shown).toBeGreaterThanOrEqual(1);
      if (shown > 1) expect(size(shown)).toBeLessThanOrEqual(budget);
      if (shown < items.length) expect(size(shown + 1)).toBeGreaterThan(budget);
    }),
  );
});
