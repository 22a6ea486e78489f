// Chat templates as a model's file may bring them, rendered with conversations of usual and of odd shapes.

import { readFileSync } from 'node:fs';
import { BitnetError } from '../../src/errors.ts';
import { ChatTemplate } from '../../src/tokenizer/chat-template.ts';
import { JinjaError } from '../../src/tokenizer/jinja/jinja-error.ts';
import { JinjaTemplate } from '../../src/tokenizer/jinja/jinja-template.ts';

const MAX_MESSAGE = 10_000;
const NOW = () => new Date(Date.UTC(2026, 0, 2, 3, 4, 5));

type Features = {
  readonly context: Readonly<Record<string, unknown>>;
  readonly features: readonly { readonly template: string }[];
};
const { context, features } = golden<Features>('features');

const TOOL = {
  type: 'function',
  function: { name: 'look_up', parameters: { type: 'object', properties: { q: { type: 'string' } }, required: ['q'] } },
};
const CONVERSATIONS = [
  [{ role: 'user', content: 'Hi' }],
  [
    { role: 'system', content: '' },
    { role: 'user', content: [{ type: 'text', text: 'naïve 🙂' }, { type: 'image' }] },
    { role: 'assistant', content: null, tool_calls: [{ function: { name: 'look_up', arguments: { q: 1e300 } } }] },
    { role: 'tool', content: '<think>{"a":1}</think>', tool_call_id: '1' },
  ],
];

/** Throws for what is no refusal of a template, and for a refusal that is no sentence. */
export function fuzz(bytes: Uint8Array): void {
  const source = Buffer.from(bytes).toString('utf8');
  refused(() => {
    const text = new JinjaTemplate(source).render(context, NOW);
    if (typeof text !== 'string') throw new Error('what is rendered is no text');
  });
  const template = new ChatTemplate(source, 'fuzz');
  for (const messages of CONVERSATIONS) {
    refused(() => template.render(messages, { tools: [TOOL], bos_token: '<s>', add_generation_prompt: true }));
  }
}

function refused(work: () => void): void {
  try {
    work();
  } catch (error) {
    // A JinjaError stays within the tokenizer, which makes a sentence of it.
    if (error instanceof JinjaError) return;
    if (!(error instanceof BitnetError)) throw error;
    if (error.message.length > MAX_MESSAGE) throw new Error('a message without end', { cause: error });
  }
}

function golden<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`../golden/tokenizer/jinja/${name}.json`, import.meta.url), 'utf8')) as T;
}

/** Every feature by itself, and whole templates, for a fuzzer to begin from. */
export const SEEDS: readonly Uint8Array[] = [
  ...features.map(({ template }) => template),
  ...Object.values(golden<{ templates: Record<string, string> }>('chats').templates),
].map((template) => Buffer.from(template));
