// What is doubtful about a model's files is told where the model is used, not only known.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import type { Logger } from '../../src/logger.ts';
import { answerCall } from '../../src/mcp/tool-registration.ts';
import { defineTool } from '../../src/tools/define-tool.ts';
import { generateWithTraceTool } from '../../src/tools/generate-with-trace.ts';
import { runCli } from '../cli/run-cli.ts';
import { folderOf } from './model-folder.ts';

/** The embedded model as GGUF, its key tokenizer.ggml.pre under another name: what older converters leave out. */
let file: string;
let text: string;
const WARNING = 'does not say how it splits words';

beforeAll(async () => {
  file = join(folderOf({}), 'm.gguf');
  expect((await runCli(['convert', 'default', file])).code).toBe(0);
  const bytes = readFileSync(file);
  text = join(file, '../story.txt');
  writeFileSync(text, 'Once upon a time');
  bytes.write('prx', bytes.indexOf('tokenizer.ggml.pre') + 'tokenizer.ggml.'.length);
  writeFileSync(file, bytes);
}, 120_000);

test('infer, eval and tokenize say it on standard error', async () => {
  for (const args of [
    ['tokenize', file, "It's 12345"],
    ['infer', 'Once', '--model', file, '--max-tokens', '2'],
    ['infer', 'Once', '--model', file, '--max-tokens', '2', '--trace-gf3'],
    ['eval', file, '--text', text],
  ]) {
    const { code, stdout, stderr } = await runCli(args);
    expect(code).toBe(0);
    expect(stderr.replace(/\s+/g, ' ')).toContain(WARNING);
    expect(stdout).not.toContain(WARNING);
  }
}, 120_000);

test('convert notes it: in the folder the guess would look certain', async () => {
  const { stdout } = await runCli(['convert', file, join(text, '../folder')]);
  expect(stdout).toContain(`note: ${file} ${WARNING}`);
}, 120_000);

test('the result has it, in its fields and in its words', async () => {
  const { stdout } = await runCli(['infer', 'Once', '--model', file, '--max-tokens', '2', '--json']);
  const result = generateWithTraceTool.output.parse(JSON.parse(stdout));
  expect(result.warnings).toEqual([expect.stringMatching(`^m\\.gguf ${WARNING}`)]);
  // Once.
  expect(generateWithTraceTool.summarize(result).split(`warning: ${result.warnings![0]}`)).toHaveLength(2);
}, 120_000);

test('what is doubtful about the weights stands beside it', async () => {
  const prism = join(import.meta.dirname, '../golden/qwen3/qwen3_all_layouts_s2601/ptq1_0.gguf');
  const said = /^warning: ptq1_0\.gguf: .* may be rotated$/m;
  const written = await runCli(['infer', 'Once', '--model', prism, '--max-tokens', '2']);
  expect(written.code, written.stderr).toBe(0);
  expect(written.stderr).toMatch(said);
  const evaluated = await runCli(['eval', prism, '--ids', '1,2,3']);
  expect(evaluated.stderr).toMatch(said);
  const { warnings } = JSON.parse((await runCli(['eval', prism, '--ids', '1,2,3', '--json'])).stdout);
  expect(warnings).toEqual([expect.stringContaining('may be rotated')]);
}, 120_000);

test('a model with nothing doubtful has no such field', async () => {
  const { stdout, stderr } = await runCli(['infer', 'Once', '--max-tokens', '2', '--json']);
  expect(JSON.parse(stdout)).not.toHaveProperty('warnings');
  expect(stderr).not.toMatch(/^warning: /m);
}, 120_000);

test('whoever runs a server reads it once in the log', async () => {
  const logged: unknown[] = [];
  const logger = { warn: (message: string, facts: unknown) => logged.push([message, facts]) } as unknown as Logger;
  const tool = defineTool({
    ...{ name: 'doubtful', title: 'Doubtful', description: 'Has something to say of its model.' },
    input: z.strictObject({}),
    output: z.strictObject({ warnings: z.array(z.string()) }),
    hints: { readOnly: true, idempotent: true },
    example: {},
    run: () => ({ warnings: ['m.gguf is doubtful'] }),
    summarize: () => '',
  });
  for (let i = 0; i < 2; i++) await answerCall(tool, {}, { services: {} as never, logger }, { client: '' });
  expect(logged).toEqual([['a model has doubtful files', { warning: 'm.gguf is doubtful' }]]);
});
