// Chat templates: Jinja text that turns a list of messages into one prompt.
//
// A message's text must not be able to end its own turn: "<|eot_id|>" written by a user is ten characters of text,
// never the token. So every special token's literal inside a message gets a guard character after its first character
// before rendering. The guard occurs nowhere else; afterwards the guarded stretches are encoded as plain text. A
// conversation without such literals is rendered and encoded exactly as Hugging Face does it.

import { JinjaError } from './jinja/jinja-error.ts';
import { JinjaTemplate } from './jinja/jinja-template.ts';
import { ChatTemplateError } from './tokenizer-error.ts';

/** One part of a message that is not plain text alone; templates read what they know. */
export type ContentPart = { readonly type: string; readonly text?: string; readonly [field: string]: unknown };

/** A call of a tool by the assistant. Arguments are an object, or its JSON as text. */
export type ToolCall = {
  readonly id?: string | undefined;
  readonly type?: string | undefined;
  readonly function: { readonly name: string; readonly arguments: unknown };
};

/** As chat APIs have it. Fields that are not named here reach the template as well. */
export type ChatMessage = {
  readonly role: string;
  readonly content?: string | null | readonly ContentPart[] | undefined;
  /** What the assistant thought before it answered. */
  readonly reasoning_content?: string | null;
  readonly tool_calls?: readonly ToolCall[] | null | undefined;
  /** Of a message with role "tool": which call it answers, and whose result it is. */
  readonly tool_call_id?: string | undefined;
  readonly name?: string | undefined;
};

/**
 * Names and JSON values that a template may read. `messages`, `tools`, `documents` and `add_generation_prompt` are
 * always there: as in transformers, tools and documents are none when they are not given, not undefined.
 */
export type TemplateVariables = Readonly<Record<string, unknown>>;

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

/** Lists and objects within each other in messages and tools. Tool schemas nest ten deep. */
const MAX_INPUT_DEPTH = 100;

export class ChatTemplate {
  readonly source: string;
  readonly #where: string;
  #compiled: JinjaTemplate | undefined;

  /** Compiles on first use, so that a model is not slower to load for a template nobody asks for. */
  constructor(source: string, where: string) {
    this.source = source;
    this.#where = where;
  }

  /**
   * Throws ChatTemplateError, which says whether the source does not parse, the template refused or failed on these
   * messages, needs what is not supported, or met a limit.
   */
  render(messages: readonly object[], variables: TemplateVariables = {}): string {
    checkList(messages, 'messages');
    const { tools = null, documents = null, add_generation_prompt = false } = variables;
    if (tools !== null) checkList(tools, 'tools');
    if (documents !== null) checkList(documents, 'documents');
    try {
      return this.#compile().render({ ...variables, messages, tools, documents, add_generation_prompt });
    } catch (cause) {
      throw this.#explained(cause);
    }
  }

  #compile(): JinjaTemplate {
    if (this.#compiled !== undefined) return this.#compiled;
    if (this.source.length > MAX_TEMPLATE_LENGTH) {
      throw new ChatTemplateError({
        what: `the chat template has ${this.source.length} characters, more than ${MAX_TEMPLATE_LENGTH}`,
        where: this.#where,
        fix: 'use the model’s published chat template',
      });
    }
    this.#compiled = new JinjaTemplate(this.source);
    return this.#compiled;
  }

  #explained(cause: unknown): unknown {
    if (!(cause instanceof JinjaError)) return cause;
    const { message, stop, line } = cause;
    const place = line === undefined ? '' : ` in line ${line}`;
    const { what, fix } = {
      syntax: { what: `the chat template does not parse${place}: ${message}`, fix: PUBLISHED },
      raised: {
        what: `the chat template refused the messages: ${message}`,
        fix: 'check the roles and their order (most templates want user and assistant in turn)',
      },
      runtime: {
        what: `the chat template fails on these messages${place}: ${message}`,
        fix: 'check the fields and roles of the messages against the template',
      },
      unsupported: { what: `the chat template cannot be rendered${place}: ${message}`, fix: PUBLISHED },
      limit: {
        what: `the chat template was stopped${place}: ${message}`,
        fix: 'send less, or use the model’s published chat template',
      },
      input: { what: `the chat template cannot read its input: ${message}`, fix: 'give JSON values only' },
    }[stop];
    return new ChatTemplateError({ what, where: this.#where, fix }, { cause });
  }
}

const PUBLISHED = 'use the model’s published chat template';

function checkList(value: unknown, name: string): void {
  const isList = Array.isArray(value);
  const bad = isList ? value.find((item) => typeof item !== 'object' || item === null || Array.isArray(item)) : value;
  if (isList && bad === undefined && !value.includes(undefined)) return;
  const found = bad === null ? 'null' : Array.isArray(bad) ? 'a list' : typeof bad;
  throw new ChatTemplateError({
    what: `${name} must be a list of objects${isList ? `; one of its items is ${found}` : `, not ${found}`}`,
    fix: name === 'messages' ? 'write [{"role": "user", "content": "…"}]' : 'give one JSON object for each',
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

/**
 * Every string inside a JSON value, names of properties as well, with `change` applied; other values stay. The value
 * itself is not modified. Throws ChatTemplateError when it nests too deep, as one that holds itself does.
 */
export function mapStrings(value: unknown, change: (text: string) => string, depth = 0): unknown {
  if (typeof value === 'string') return change(value);
  if (typeof value !== 'object' || value === null) return value;
  if (depth >= MAX_INPUT_DEPTH) {
    throw new ChatTemplateError({
      what: `messages or tools nest deeper than ${MAX_INPUT_DEPTH} levels`,
      fix: 'send them with less nesting',
    });
  }
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, change, depth + 1));
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [change(key), mapStrings(item, change, depth + 1)]),
  );
}
