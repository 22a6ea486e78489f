import { expect, test } from 'vitest';
import { ArgumentError } from '../../src/errors.ts';
import { balanceTriadTool } from '../../src/tools/balance-triad.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import { colorAtTool } from '../../src/tools/color-at.ts';
import type { Tool } from '../../src/tools/define-tool.ts';
import { generateWithTraceTool } from '../../src/tools/generate-with-trace.ts';
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
  [colorAtTool, { index: '1' }, 'index must be an integer >= 0, got the string "1"'],
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
  [colorAtTool, { index: 1, seed: null }, 'seed must'],
  [colorAtTool, { index: 1, seed: { a: 1 } }, 'seed must'],
  [colorAtTool, { index: 99_999_999, scheme: 'gay-mcp' }, 'past the limit'],
  [colorAtTool, [1], 'the arguments must be an object with index, seed, scheme, got [1]'],
  [paletteTool, { n: 5000 }, 'n must be an integer from 1 to 4096, got 5000'],
  [paletteTool, { n: 1, image: 'yes' }, 'image must be true or false, got the string "yes"'],
  [generateWithTraceTool, { prompt: 'a', stop: ['a', ''] }, 'stop.1 must be a non-empty string'],
  [generateWithTraceTool, { prompt: 'a', stop: 'x' }, 'stop must be a list of each a non-empty string, got'],
  [
    balanceTriadTool,
    { trits: Array(4097).fill(1) },
    'trits must be a list of 1 to 4096, each one of -1, 0, 1, got [1,',
  ],
  [balanceTriadTool, { skills: ['x'.repeat(65)] }, 'skills.0 must be a non-empty string of at most 64 characters, got'],
  [generateWithTraceTool, { prompt: 'a', top_p: 2 }, 'top_p must be a number > 0 and <= 1, got 2'],
  [generateWithTraceTool, { messages: [{ role: 'boss', content: '' }] }, 'messages.0.role must be one of system'],
  [generateWithTraceTool, { messages: [{ role: 'user', content: 'a', x: 1 }] }, 'unknown argument messages.0.x'],
  [generateWithTraceTool, {}, 'give exactly one of prompt, messages, continuation'],
  [generateWithTraceTool, { prompt: 'a', continuation: 'b' }, 'prompt and continuation together'],
])('%# says what is wrong', async (tool, args, message) => {
  expect(await refusal(tool, args)).toContain(message);
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
