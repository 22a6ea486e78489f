// The small files around a tokenizer, as a folder may hold them: what is loaded from them, encoded, and put into chats.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BitnetError } from '../../src/errors.ts';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import type { Tokenizer } from '../../src/tokenizer/tokenizer.ts';
import { stageCase } from '../tokenizer/stage-cases.ts';

const MAX_MESSAGE = 10_000;

const FILES = [
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'config.json',
  'generation_config.json',
  'chat_template.jinja',
] as const;

let folder: string | undefined;

/** The bytes are the files one after the other, each ended by a zero byte. Throws for what is no refusal of ours. */
export async function fuzz(bytes: Uint8Array): Promise<void> {
  folder ??= newFolder();
  let rest = Buffer.from(bytes);
  for (const name of FILES) {
    const end = rest.indexOf(0);
    const part = end < 0 ? rest : rest.subarray(0, end);
    if (part.length === 0) rmSync(join(folder, name), { force: true });
    else writeFileSync(join(folder, name), part);
    rest = end < 0 ? rest.subarray(rest.length) : rest.subarray(end + 1);
  }
  const path = folder;
  await orRefused(async () => use(await loadTokenizer(path)));
}

/** What a server does with a tokenizer. */
export function use(tokenizer: Tokenizer): void {
  const text = 'Once <s> upon </s> 12 日本 🐸<|im_end|>';
  const ids = tokenizer.encode(text);
  for (const id of ids) if (tokenizer.token(id) === undefined) throw new Error(`id ${id} has no token`);
  if (tokenizer.leastTokens(text) > ids.length) throw new Error('fewer tokens than there can be');
  const stops = tokenizer.stopTest({ eos_token_id: [1, 2] });
  for (const id of [...ids, ...tokenizer.stopIds()]) stops(id);
  tokenizer.decode(ids, { skipSpecial: true });
  const messages = [
    { role: 'user', content: 'Hi <s>' },
    { role: 'assistant', content: 'Yes' },
  ];
  tokenizer.encodeChat(messages, { addGenerationPrompt: true });
}

export async function orRefused(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof BitnetError)) throw error;
    if (error.message.length > MAX_MESSAGE) throw new Error('a message without end', { cause: error });
  }
}

function newFolder(): string {
  const path = mkdtempSync(join(tmpdir(), 'fuzz-folder-'));
  process.once('exit', () => rmSync(path, { recursive: true, force: true }));
  writeFileSync(join(path, 'tokenizer.json'), JSON.stringify(stageCase(3).tokenizer));
  return path;
}

const TEMPLATE =
  "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{{ eos_token }}";

function files(...contents: readonly (object | string)[]): Uint8Array {
  return Buffer.from(contents.map((file) => (typeof file === 'string' ? file : JSON.stringify(file))).join('\0'));
}

/** Folders that are sound, for a fuzzer to begin from. */
export const SEEDS: readonly Uint8Array[] = [
  files(
    {
      ...{ bos_token: '<s>', eos_token: { content: '</s>', special: true }, add_bos_token: true, add_eos_token: false },
      added_tokens_decoder: { 3: { content: '<|im_end|>', special: true, normalized: false, lstrip: true } },
      additional_special_tokens: ['<|im_end|>'],
      chat_template: TEMPLATE,
    },
    { pad_token: '</s>' },
    { '<extra>': 900 },
    { bos_token_id: 1, eos_token_id: [2, 3], vocab_size: 1000 },
    { eos_token_id: 2 },
    TEMPLATE,
  ),
  files(
    {
      chat_template: [
        { name: 'default', template: TEMPLATE },
        { name: 'tool_use', template: 'x' },
      ],
    },
    '',
    '',
    {},
  ),
  files({ chat_template: { default: TEMPLATE } }, '', '', { eos_token_id: 2 }),
  files('', '', '', '', '', TEMPLATE),
];
