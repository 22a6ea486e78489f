// Chat templates: Jinja text that turns a list of messages into one prompt.
//
// A message's text must not be able to end its own turn: "<|eot_id|>" written by a user is ten characters of text,
// never the token. So every special token's literal inside a message gets a guard character after its first character
// before rendering. The guard occurs nowhere else; afterwards the guarded stretches are encoded as plain text. A
// conversation without such literals is rendered and encoded exactly as Hugging Face does it.

import { createRequire } from 'node:module';
import type { Template } from '@huggingface/jinja';
import { ChatTemplateError } from './tokenizer-error.ts';

export type ChatMessage = {
  readonly role: string;
  readonly content: string;
};

export type ChatVariables = {
  readonly addGenerationPrompt: boolean;
  readonly bosToken: string;
  readonly eosToken: string;
  readonly tools?: readonly unknown[];
};

/**
 * The format that BitNet b1.58 2B-4T was trained on. Its official GGUF carries another one, which writes "Human:", runs
 * "BITNETAssistant:" together and puts the end token after the generation prompt; the model's own folder is right.
 */
const BITNET_TEMPLATE =
  "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";

/** The template to use in place of a published one that is known to be wrong; undefined when none is known. */
export function correctedTemplate(source: string): string | undefined {
  return source.includes('BITNETAssistant') ? BITNET_TEMPLATE : undefined;
}

/** A template longer than this is refused. The longest seen has 22 kB. */
const MAX_TEMPLATE_LENGTH = 1 << 20;

/**
 * Our name for strftime_now. The library has a function of that name (and raise_exception) which cannot be replaced; its
 * months are in the language of the machine and it knows few letters, so templates are pointed at ours.
 */
const CLOCK = 'strftime_now_in_english';

export class ChatTemplate {
  readonly source: string;
  readonly #where: string;
  #compiled: Template | undefined;

  /** Compiles on first use, so that a model is not slower to load for a template nobody asks for. */
  constructor(source: string, where: string) {
    this.source = source;
    this.#where = where;
  }

  render(messages: readonly object[], variables: ChatVariables): string {
    const template = this.#compile();
    try {
      return template.render({
        messages: messages as object[],
        add_generation_prompt: variables.addGenerationPrompt,
        bos_token: variables.bosToken,
        eos_token: variables.eosToken,
        ...(variables.tools === undefined ? {} : { tools: variables.tools as unknown[] }),
        [CLOCK]: (format: unknown) => formatTime(new Date(), String(format)),
      });
    } catch (cause) {
      throw new ChatTemplateError(
        {
          what: `the chat template refused the messages: ${(cause as Error).message}`,
          where: this.#where,
          fix: 'check the roles and their order (most templates want user and assistant in turn)',
        },
        { cause },
      );
    }
  }

  #compile(): Template {
    if (this.#compiled !== undefined) return this.#compiled;
    if (this.source.length > MAX_TEMPLATE_LENGTH) {
      throw new ChatTemplateError({
        what: `the chat template has ${this.source.length} characters, more than ${MAX_TEMPLATE_LENGTH}`,
        where: this.#where,
        fix: 'use the model’s published tokenizer_config.json',
      });
    }
    // Loaded here and not above: it takes 6 ms, which a command that only completes a prompt need not spend.
    const jinja = createRequire(import.meta.url)('@huggingface/jinja') as typeof import('@huggingface/jinja');
    try {
      this.#compiled = new jinja.Template(this.source.replace(/\bstrftime_now\b/g, CLOCK));
    } catch (cause) {
      throw new ChatTemplateError(
        {
          what: `the chat template does not parse: ${(cause as Error).message}`,
          where: this.#where,
          fix: 'use the model’s published tokenizer_config.json',
        },
        { cause },
      );
    }
    return this.#compiled;
  }
}

/** The part of C's strftime that templates use; an unknown letter stays as it is. */
export function formatTime(date: Date, format: string): string {
  const two = (n: number): string => String(n).padStart(2, '0');
  const name = (part: 'month' | 'weekday', length: 'long' | 'short'): string =>
    new Intl.DateTimeFormat('en-US', { [part]: length }).format(date);
  return format.replace(/%([-]?)([A-Za-z%])/g, (whole, dash: string, letter: string) => {
    const number = (n: number): string => (dash === '-' ? String(n) : two(n));
    switch (letter) {
      case 'd':
        return number(date.getDate());
      case 'm':
        return number(date.getMonth() + 1);
      case 'Y':
        return String(date.getFullYear());
      case 'y':
        return two(date.getFullYear() % 100);
      case 'B':
        return name('month', 'long');
      case 'b':
        return name('month', 'short');
      case 'A':
        return name('weekday', 'long');
      case 'a':
        return name('weekday', 'short');
      case 'H':
        return number(date.getHours());
      case 'I':
        return number(date.getHours() % 12 || 12);
      case 'M':
        return number(date.getMinutes());
      case 'S':
        return number(date.getSeconds());
      case 'p':
        return date.getHours() < 12 ? 'AM' : 'PM';
      case '%':
        return '%';
      default:
        return whole;
    }
  });
}

/** A character that appears in none of the texts. */
export function chooseGuard(texts: readonly string[]): string {
  // Plane 16 private use: nothing readable lives there, and templates do not treat it as white space or a letter.
  for (let code = 0x10fffd; code > 0x100000; code--) {
    const guard = String.fromCodePoint(code);
    if (!texts.some((text) => text.includes(guard))) return guard;
  }
  throw new ChatTemplateError({ what: 'the messages use every private-use character', fix: 'remove them' });
}

/** Every string inside a message, with `change` applied; other values stay. Messages themselves are not modified. */
export function mapStrings(value: unknown, change: (text: string) => string): unknown {
  if (typeof value === 'string') return change(value);
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, change));
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, mapStrings(item, change)]));
  }
  return value;
}
