import { expect, test } from 'vitest';
import { ArgumentError } from '../../src/errors.ts';
import { balanceTriadTool } from '../../src/tools/balance-triad.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import { colorAtTool } from '../../src/tools/color-at.ts';
import type { Tool } from '../../src/tools/define-tool.ts';
import { generateWithTraceTool } from '../../src/tools/generate-with-trace.ts';
import { lostNumber } from '../../src/tools/lost-number.ts';
import { morphismStepTool } from '../../src/tools/morphism-step.ts';
import { paletteTool } from '../../src/tools/palette.ts';

const services = { generate: () => Promise.reject(new Error('not called')) };

async function refusal(tool: Tool, args: unknown): Promise<string> {
  const error = await callTool(tool, args, { services }).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(ArgumentError);
  return (error as Error).message;
}

test.each([
  [colorAtTool, {}, 'color_at: index is missing (expected an integer >= 0); a call that works: {"index":1}'],
  [colorAtTool, undefined, 'index is missing'],
  [colorAtTool, { index: '1x' }, 'index must be an integer >= 0, got the string "1x"'],
  [colorAtTool, { index: '0x1' }, 'index must be an integer >= 0, got the string "0x1"'],
  [colorAtTool, { index: '1.5' }, 'index must be an integer >= 0, got the string "1.5"'],
  [colorAtTool, { index: '9007199254740993' }, 'got the string "9007199254740993"'],
  [colorAtTool, { index: 1 / 0 }, 'index must be an integer >= 0, got Infinity'],
  [colorAtTool, { index: lostNumber('9007199254740993') }, 'index must be an integer >= 0, got 9007199254740993'],
  [colorAtTool, { index: lostNumber('1e400') }, 'index must be an integer >= 0, got 1e400'],
  [colorAtTool, { index: 1, seed: lostNumber('18446744073709551616') }, 'seed as a number above 2^53-1'],
  [colorAtTool, { index: 1, seed: lostNumber('9007199254740993') }, 'pass "9007199254740993" as text'],
  [colorAtTool, { index: 1, seed: lostNumber('-1e400') }, 'seed must be an unsigned 64-bit integer, got -1e400'],
  [
    generateWithTraceTool,
    { prompt: 'a', temperature: lostNumber('1e400') },
    'temperature must be a number >= 0, got 1e400',
  ],
  [
    balanceTriadTool,
    { trits: [1, lostNumber('9007199254740993')] },
    'trits.1 must be one of -1, 0, 1, got 9007199254740993',
  ],
  [balanceTriadTool, { trits: '1,0' }, 'trits must be a list of 1 to 4096, each one of -1, 0, 1, got the string "1,0"'],
  [balanceTriadTool, { trits: Array(100_000).fill('x') }, 'trits must be a list of 1 to 4096'],
  [generateWithTraceTool, { prompt: null }, 'give exactly one of prompt, messages, prompts, continuation'],
  [
    generateWithTraceTool,
    { prompt: 'a', activations: 'yes' },
    'activations must be true or false, got the string "yes"',
  ],
  [colorAtTool, { index: -1 }, 'index must be an integer >= 0, got -1'],
  [colorAtTool, { index: 1.5 }, 'index must be an integer >= 0, got 1.5'],
  [colorAtTool, { index: 2 ** 53 }, 'index must be an integer >= 0, got 9007199254740992'],
  [colorAtTool, { index: null }, 'index must be an integer >= 0, got null'],
  [colorAtTool, { index: 1, sede: 5 }, 'unknown argument sede (did you mean seed? allowed: index, seed, scheme)'],
  [colorAtTool, { index: 1, scheme: 'gay' }, 'scheme must be one of trace, gay-mcp, gay.jl, got the string "gay"'],
  [colorAtTool, { index: 1, seed: -1 }, 'seed must'],
  [colorAtTool, { index: 1, seed: 1e300 }, 'seed'],
  [colorAtTool, { index: 1, seed: 2 ** 53 }, 'pass it as text'],
  [colorAtTool, { index: 1, seed: '18446744073709551616' }, 'seed must'],
  [colorAtTool, { index: 1, seed: { a: 1 } }, 'seed must'],
  [colorAtTool, { index: 99_999_999, scheme: 'gay-mcp' }, 'past the limit'],
  [colorAtTool, [1], 'the arguments must be an object with index, seed, scheme, got [1]'],
  [paletteTool, { n: 5000 }, 'n must be an integer from 1 to 4096, got 5000'],
  [paletteTool, { n: 1, image: 'yes' }, 'image must be true or false, got the string "yes"'],
  [generateWithTraceTool, { prompt: 'a', stop: ['a', ''] }, 'stop.1 must be a non-empty string'],
  [
    generateWithTraceTool,
    { prompt: 'a', stop: 7 },
    'stop must be a list of 0 to 64, each a non-empty string of at most',
  ],
  [
    balanceTriadTool,
    { trits: Array(4097).fill(1) },
    'trits must be a list of 1 to 4096, each one of -1, 0, 1, got [1,',
  ],
  [balanceTriadTool, { skills: ['x'.repeat(65)] }, 'skills.0 must be a non-empty string of at most 64 characters, got'],
  [generateWithTraceTool, { prompt: 'a', top_p: 2 }, 'top_p must be a number > 0 and <= 1, got 2'],
  [generateWithTraceTool, { messages: [{ role: 'boss', content: '' }] }, 'messages.0.role must be one of system'],
  [generateWithTraceTool, { messages: [{ role: 'user', content: 'a', x: 1 }] }, 'unknown argument messages.0.x'],
  [generateWithTraceTool, {}, 'give exactly one of prompt, messages, prompts, continuation'],
  [generateWithTraceTool, { prompt: 'a', continuation: 'b' }, 'prompt and continuation together'],
])('%# says what is wrong', async (tool, args, message) => {
  expect(await refusal(tool, args)).toContain(message);
});

const ids = [3, 14, 15];

/** What a tool's own schema makes of arguments. */
const TAKEN: readonly (readonly [string, Tool, Record<string, unknown>, Record<string, unknown>])[] = [
  ['a number', paletteTool, { n: '3' }, { n: 3 }],
  ['a number with a point', paletteTool, { n: '3.0', start: '0' }, { n: 3, start: 0 }],
  [
    'a fraction',
    generateWithTraceTool,
    { prompt: 'Hi', temperature: '0', top_p: '1e-1' },
    { temperature: 0, top_p: 0.1 },
  ],
  ['true and false', paletteTool, { n: 1, image: 'true' }, { image: true }],
  ['what Python says', generateWithTraceTool, { prompt: 'Hi', activations: 'False' }, { activations: false }],
  ['a list', balanceTriadTool, { skills: '["worlding"]' }, { skills: ['worlding'] }],
  ['a list of numbers', balanceTriadTool, { trits: ' [1, 0, "-1"]' }, { trits: [1, 0, -1] }],
  ['numbers in a list', balanceTriadTool, { trits: ['1', '0'] }, { trits: [1, 0] }],
  [
    'lists in a list',
    morphismStepTool,
    { tokens: '[[3,14],["15",9]]' },
    {
      tokens: [
        [3, 14],
        [15, 9],
      ],
    },
  ],
  ['one text for a list', generateWithTraceTool, { prompt: 'Hi', stop: '.' }, { stop: ['.'] }],
  ['a text that begins as a list', generateWithTraceTool, { prompt: 'Hi', stop: '[' }, { stop: ['['] }],
  ['a text that is a list of something else', morphismStepTool, { text: '[1]' }, { text: ['[1]'] }],
  ['one skill', balanceTriadTool, { skills: 'worlding' }, { skills: ['worlding'] }],
  ['one number for a list', balanceTriadTool, { trits: 1 }, { trits: [1] }],
  ['one number as text for a list', balanceTriadTool, { trits: '-1' }, { trits: [-1] }],
  [
    'objects in a list',
    generateWithTraceTool,
    { messages: '[{"role":"user","content":"[1]"}]' },
    { messages: [{ role: 'user', content: '[1]' }] },
  ],
  [
    'one object for a list',
    generateWithTraceTool,
    { messages: { role: 'user', content: 'Hi' } },
    { messages: [{ role: 'user', content: 'Hi' }] },
  ],
  [
    'null for what is optional',
    colorAtTool,
    { index: 1, seed: null, scheme: null },
    { index: 1, seed: 1069n, scheme: 'trace' },
  ],
  ['null for a list', balanceTriadTool, { trits: [1], skills: null }, { trits: [1] }],
  [
    'text that is a number where text is wanted',
    generateWithTraceTool,
    { prompt: '3', model: 'true' },
    { prompt: '3', model: 'true' },
  ],
  ['text that is a list where text is wanted', generateWithTraceTool, { prompt: '["a"]' }, { prompt: '["a"]' }],
  ['a seed as text', colorAtTool, { index: '0', seed: '0xff' }, { index: 0, seed: 255n }],
];

test.each(TAKEN)('%s is taken', async (_, tool, args, wanted) => {
  let seen: unknown;
  const spy = {
    ...tool,
    run: async (taken: unknown) => {
      seen = taken;
      return {};
    },
    summarize: () => '',
  };
  await callTool(spy, args, { services });
  expect(seen).toMatchObject(wanted);
});

test.each([[null], [[]], [undefined], ['{}'], [{}]])('%j is no arguments', async (args) => {
  expect(await refusal(colorAtTool, args)).toContain('index is missing');
});

test('a call whose arguments are text all together', async () => {
  expect((await callTool(colorAtTool, '{"index":"1"}', { services })).structured.index).toBe(1);
});

test.each([
  [generateWithTraceTool, { prompt: 'x'.repeat(2 ** 20 + 1) }],
  [generateWithTraceTool, { messages: Array(5).fill({ role: 'user', content: 'x'.repeat(2 ** 18) }) }],
  [morphismStepTool, { text: Array(5).fill('x'.repeat(2 ** 18)) }],
  [colorAtTool, { index: 1, other: 'x'.repeat(3_900_000) }],
])('%# more text than any call takes is refused before anybody reads it', async (tool, args) => {
  expect(await refusal(tool, args)).toMatch(
    /^\w+: the arguments have \d+ characters of text, more than any call takes/,
  );
});

test('of many values that are wrong, the first is told; of more than any call takes, none', async () => {
  const list = Array(16_000).fill(1);
  list[12_345] = 'x';
  list[12_346] = 'y';
  const message = await refusal(morphismStepTool, { tokens: [[1, 2], list] });
  expect(message).toContain('tokens.1.12345 must be an integer >= 0, got the string "x"');
  expect(message).not.toContain('12346');
  expect(await refusal(morphismStepTool, { tokens: Array(3).fill(list) })).toContain('tokens has 48000 values');
});

test('no argument is taken for another: a list of lists wants lists', async () => {
  expect(await refusal(morphismStepTool, { tokens: ids })).toContain('tokens.0 must be a list');
  expect(await refusal(morphismStepTool, { tokens: '7' })).toContain('tokens must be a list');
  expect(await refusal(colorAtTool, { index: ['1'] })).toContain('index must be an integer >= 0, got ["1"]');
  expect(await refusal(colorAtTool, { index: true })).toContain('got true');
});

test('names every wrong argument at once', async () => {
  const message = await refusal(paletteTool, { n: 0, start: 'x', seed: 'y' });
  expect(message).toContain('n must be');
  expect(message).toContain('start must be');
  expect(message).toContain('seed must be');
});

test('long values are cut in messages', async () => {
  expect((await refusal(colorAtTool, { index: 'x'.repeat(100_000) })).length).toBeLessThan(300);
});

test('a value that nests without end is refused as any other', async () => {
  const index: unknown = JSON.parse('['.repeat(100_000) + ']'.repeat(100_000));
  const message = await refusal(colorAtTool, { index });
  expect(message).toMatch(
    /^color_at: index must be an integer >= 0, got (a list that nests too deep to show|\[+\.{3});/,
  );
  expect(await refusal(colorAtTool, { index: { index } })).toContain('index must be an integer');
});

test('a list that is wrong in every element, or a name without end, makes no endless message', async () => {
  const wrong = await refusal(balanceTriadTool, { trits: Array(4096).fill('x') });
  expect(wrong).toContain('trits.0 must be one of -1, 0, 1, got the string "x"; trits.1');
  expect(wrong).toContain('; and more; a call that works');
  const unknown = await refusal(colorAtTool, { index: 1, ['n'.repeat(100_000)]: 1 });
  expect(unknown).toContain(`unknown argument ${'n'.repeat(57)}... (allowed`);
  const many = await refusal(colorAtTool, Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`k${i}`, i])));
  expect(many).toContain('; and more; a call that works');
  for (const message of [wrong, unknown, many]) expect(message.length).toBeLessThan(1000);
});
