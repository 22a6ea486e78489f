// What is computed in another process is what would be computed here, errors included. Needs the compiled files.

import { setImmediate as otherEvents } from 'node:timers/promises';
import { afterAll, describe, expect, test } from 'vitest';
import { ArgumentError, CancelledError } from '../../src/errors.ts';
import { ALL_TOOLS } from '../../src/tools/all-tools.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import { DeskDiedError, DeskHost } from '../../src/tools/desk-host.ts';
import { traceColors } from '../../src/tools/trace-colors.ts';
import { tritWindowText } from '../../src/tools/trit-window.ts';

const desk = new DeskHost();
afterAll(() => desk.close());

const services = { generate: () => Promise.reject(new Error('not called')) };
const toolOf = (name: string) => ALL_TOOLS.find((tool) => tool.name === name)!;

const CALLS: readonly (readonly [string, Record<string, unknown>])[] = [
  ['palette', { n: 4096, seed: '18446744073709551615' }],
  ['palette', { n: 12, image: true }],
  ['palette', { n: '100' }],
  ['color_at', { index: 30_000, scheme: 'gay-mcp' }],
  ['balance_triad', { trits: Array(100).fill(1) }],
  ['analyze_layer', { layer: 'model.layers.0.mlp.*', image: true }],
];

test.each(CALLS)('%s %j', async (name, args) => {
  const tool = toolOf(name);
  expect(tool.isAside!(args)).toBe(true);
  expect(tool.isInstant?.(args) ?? false).toBe(false);
  const here = await callTool(tool, args, { services });
  const there = await desk.call(name, args, {});
  expect(JSON.parse(there.json)).toEqual(here.structured);
  expect(there.text).toBe(here.text);
  expect(there.images.map(({ png, caption }) => [Buffer.from(png).toString('base64'), caption])).toEqual(
    here.images.map(({ png, caption }) => [Buffer.from(png).toString('base64'), caption]),
  );
});

test.each<[string, Record<string, unknown>]>([
  ['palette', { n: 1 }],
  ['palette', { n: 64, image: false, scheme: 'gay.jl' }],
  ['color_at', { index: 2 ** 53 - 1 }],
  ['balance_triad', { trits: [1, 1] }],
])('%s %j is answered on the spot', (name, args) => {
  expect(toolOf(name).isInstant!(args)).toBe(true);
  expect(toolOf(name).isAside?.(args) ?? false).toBe(false);
});

test('whether a call goes to the desk is asked of anything that may be sent', () => {
  const values: readonly unknown[] = [
    undefined,
    null,
    {},
    { toString: 1 },
    [],
    [[]],
    '',
    'x',
    true,
    1e308,
    Number.NaN,
    '['.repeat(1000),
  ];
  for (const { isAside, isInstant, input } of ALL_TOOLS) {
    for (const name of Object.keys(input.shape)) {
      for (const value of values) {
        const both = [isAside?.({ [name]: value }), isInstant?.({ [name]: value })].filter(Boolean);
        expect(both.length, `${name} ${String(JSON.stringify(value))}`).toBeLessThanOrEqual(1);
        isAside?.({ [name]: value, scheme: 'gay-mcp' });
      }
    }
  }
});

test('a page for clients with limits, and progress', async () => {
  const { json } = await desk.call('palette', { n: 4096 }, { resultBudget: 5000 });
  expect(JSON.parse(json).next).toBeDefined();
  const told: string[] = [];
  await desk.call(
    'analyze_layer',
    { layer: 'model.layers.0.mlp.*' },
    { progress: (_d, _t, message) => told.push(message) },
  );
  expect(told).toHaveLength(3);
});

test('refusals, and what was cancelled', async () => {
  await expect(desk.call('palette', { n: 5000 }, {})).rejects.toThrow('n must be an integer from 1 to 4096, got 5000');
  await expect(desk.call('palette', { n: 5000 }, {})).rejects.toBeInstanceOf(ArgumentError);
  await expect(desk.call('palette', { n: 70, start: 2 ** 53 - 1 }, {})).rejects.toThrow('end past the largest index');
  await expect(desk.call('analyze_layer', {}, { signal: AbortSignal.abort() })).rejects.toBeInstanceOf(CancelledError);
});

test('weights and pictures that resources show', async () => {
  const window = { model: 'default', layer: 'model.layers.0.mlp.up_proj.weight', row: 0, column: 0 };
  expect(await desk.tritWindow(window)).toBe(await tritWindowText(window, { services }));
  const colors = { scheme: 'trace', seed: '1069', tokens: 12 };
  expect([...(await desk.traceColors(colors))]).toEqual([...(await traceColors(colors, { services }))]);
});

test('folders that may not be read are not read there either', async () => {
  const closed = new DeskHost({ allowedRoots: [] });
  await expect(closed.call('analyze_layer', { model: '/etc' }, {})).rejects.toThrow('outside the folders');
  await closed.close();
});

test('large results come one in each round of the event loop', async () => {
  const rounds: number[] = [];
  let round = 0;
  let done = false;
  const counting = (async () => {
    for (; !done; round += 1) await otherEvents();
  })();
  await Promise.all(
    Array.from({ length: 6 }, () => desk.call('palette', { n: 4096 }, {}).then(() => rounds.push(round))),
  );
  done = true;
  await counting;
  expect(new Set(rounds).size).toBe(6);
});

describe('its process', () => {
  test('may end: the call fails, and the next starts another', async () => {
    const running = desk.call('color_at', { index: 999_999, scheme: 'gay-mcp' }, {});
    process.kill(desk.pid!, 'SIGKILL');
    await expect(running).rejects.toBeInstanceOf(DeskDiedError);
    expect(JSON.parse((await desk.call('palette', { n: 65 }, {})).json).colors).toHaveLength(65);
  });
});
