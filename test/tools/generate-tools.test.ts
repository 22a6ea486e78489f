// Tools in generate_with_trace: a call as data, and its result taken back.

import { rmSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Engine } from '../../src/generate/engine.ts';
import { generateWith } from '../../src/generate/generate.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import { generateWithTraceTool } from '../../src/tools/generate-with-trace.ts';
import { toolModel } from '../openai/tool-model.ts';

let engine: Engine;
let model: string;
beforeAll(() => {
  engine = new Engine();
  model = toolModel('json');
});
afterAll(() => {
  engine[Symbol.dispose]();
  rmSync(model, { recursive: true });
});

type Result = { tool_calls?: { id: string; name: string; arguments: string }[]; output: string; finish_reason: string };

const call = async (args: object) => {
  const services = { generate: (request: never, hooks: never) => generateWith(engine, request, hooks) };
  const { structured } = await callTool(generateWithTraceTool, args, { services } as never);
  return structured as Result;
};

test('a call, its result, and what follows', { timeout: 60_000 }, async () => {
  const messages = [{ role: 'user', content: 'How is the weather?' }];
  const parameters = { type: 'object', properties: { city: { enum: ['Rome', 'Oslo'] } }, required: ['city'] };
  const asked = { model, messages, tools: [{ name: 'weather', parameters }], max_tokens: 60 };
  const first = await call({ ...asked, tool_choice: 'weather' });
  expect(first.finish_reason).toBe('stop');
  const [made] = first.tool_calls!;
  expect(made!.name).toBe('weather');
  expect(['{"city":"Rome"}', '{"city":"Oslo"}']).toContain(made!.arguments);
  const turns = [
    ...messages,
    { role: 'assistant', content: '', tool_calls: first.tool_calls },
    { role: 'tool', content: 'sunny', tool_call_id: made!.id },
  ];
  const next = await call({ ...asked, messages: turns, max_tokens: 5, tool_choice: 'none' });
  expect(next.output).toContain(`{"name": "weather", "arguments": ${made!.arguments.replace(':', ': ')}}`);
  expect(next.output).toContain('Tool: sunny');
  expect(next).not.toHaveProperty('tool_calls');
});
