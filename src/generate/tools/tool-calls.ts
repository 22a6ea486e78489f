// Calls in what a model wrote, as data. Two ways of writing them are in use:
//
//   <tool_call>\n{"name": NAME, "arguments": {...}}\n</tool_call>                          Hermes, Qwen2.5, Qwen3
//   <tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call>   Qwen3-Coder, Qwen3.5
//
// A call that is cut or broken stays in the text: a client sees what the model wrote, not nothing.

import { createHash } from 'node:crypto';
import type { Tool } from './tool-request.ts';

export type ParsedCall = {
  readonly id: string;
  readonly name: string;
  /** A JSON object as text, as chat APIs pass it on. */
  readonly arguments: string;
};

export type Parsed = {
  /** What stands beside the calls. */
  readonly content: string;
  readonly calls: readonly ParsedCall[];
};

export const CALL_BEGIN = '<tool_call>';
const CALL_END = '</tool_call>';

/** `salt`: what tells the calls of this answer from those of others, since ids are made of it and of the call's place. */
export function parseToolCalls(text: string, tools: readonly Tool[], salt: string): Parsed {
  const calls: ParsedCall[] = [];
  let content = '';
  let at = 0;
  for (;;) {
    const begin = text.indexOf(CALL_BEGIN, at);
    if (begin < 0) break;
    const inner = begin + CALL_BEGIN.length;
    const end = endOfCall(text, inner);
    const call = end < 0 ? undefined : readCall(text.slice(inner, end).trim(), tools);
    if (call === undefined) {
      content += text.slice(at, inner);
      at = inner;
      continue;
    }
    content += text.slice(at, begin);
    at = end + CALL_END.length;
    calls.push({ id: idOf(salt, calls.length), ...call });
  }
  content += text.slice(at);
  return calls.length === 0 ? { content: text, calls } : { content: content.trim(), calls };
}

/** Where the call ends: not at a mark within a JSON string. */
function endOfCall(text: string, from: number): number {
  const isJson = /^\s*\{/.test(text.slice(from, from + 100));
  for (let end = text.indexOf(CALL_END, from); end >= 0; end = text.indexOf(CALL_END, end + 1)) {
    if (!isJson || jsonIn(text.slice(from, end)) !== undefined) return end;
  }
  return -1;
}

function idOf(salt: string, place: number): string {
  return `call_${createHash('sha256').update(`${place}\n${salt}`).digest('base64url').replace(/\W|_/g, '').slice(0, 24)}`;
}

function readCall(text: string, tools: readonly Tool[]): Omit<ParsedCall, 'id'> | undefined {
  return text.startsWith('{') ? readJson(text) : readXml(text, tools);
}

function readJson(text: string): Omit<ParsedCall, 'id'> | undefined {
  const value = jsonIn(text) as { name?: unknown; arguments?: unknown; parameters?: unknown } | undefined;
  if (typeof value?.name !== 'string' || value.name === '') return undefined;
  let given = value.arguments ?? value.parameters ?? {};
  // Some write the arguments as JSON within JSON.
  if (typeof given === 'string') given = jsonIn(given) ?? given;
  if (typeof given !== 'object' || given === null || Array.isArray(given)) return undefined;
  return { name: value.name, arguments: JSON.stringify(given) };
}

const FUNCTION = /^<function=([^>\n]+)>\s*([\s\S]*?)\s*<\/function>$/;
const PARAMETER = /<parameter=([^>\n]+)>\n?([\s\S]*?)\n?<\/parameter>/g;

function readXml(text: string, tools: readonly Tool[]): Omit<ParsedCall, 'id'> | undefined {
  const [, called, body = ''] = FUNCTION.exec(text) ?? [];
  if (called === undefined) return undefined;
  const name = called.trim();
  const properties = tools.find((tool) => tool.name === name)?.parameters.properties;
  const given = new Map<string, unknown>();
  for (const [, key = '', value = ''] of body.matchAll(PARAMETER)) {
    const schema = (properties as Record<string, unknown> | undefined)?.[key.trim()];
    given.set(key.trim(), valueIn(value, schema));
  }
  if (body.replace(PARAMETER, '').trim() !== '') return undefined;
  return { name, arguments: JSON.stringify(Object.fromEntries(given)) };
}

/** A text where the schema takes one; else its JSON, if it is any. */
function valueIn(text: string, schema: unknown): unknown {
  const listed = (schema as { readonly enum?: unknown } | undefined)?.enum;
  if (Array.isArray(listed)) {
    if (listed.includes(text)) return text;
    const found: unknown = listed.find((value) => JSON.stringify(value) === text.trim());
    if (found !== undefined) return found;
  }
  const types = typesOf(schema);
  const value = jsonIn(text);
  if (value === undefined) return text;
  if (typeof value === 'string') return types === undefined || types.includes('string') ? text : value;
  if (types === undefined) return /^\s*[[{]/.test(text) ? value : text;
  const type = value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value;
  const isWanted = types.includes(type) || (type === 'number' && types.includes('integer'));
  return isWanted || !types.includes('string') ? value : text;
}

/** Types that a schema takes at its top, as far as it says so there. */
function typesOf(schema: unknown): string[] | undefined {
  if (typeof schema !== 'object' || schema === null) return undefined;
  const { type, anyOf, oneOf, enum: values } = schema as { [keyword: string]: unknown };
  if (typeof type === 'string') return [type];
  if (Array.isArray(type)) return type.filter((one) => typeof one === 'string');
  if (Array.isArray(values)) return [...new Set(values.map((one) => (one === null ? 'null' : typeof one)))];
  const parts = Array.isArray(anyOf) ? anyOf : Array.isArray(oneOf) ? oneOf : [];
  const found = parts.map(typesOf);
  return found.length > 0 && found.every((one) => one !== undefined) ? found.flat() : undefined;
}

function jsonIn(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Messages with the arguments of calls as objects, which templates write out in their own way. */
export function withParsedArguments<M extends { readonly tool_calls?: unknown }>(messages: readonly M[]): readonly M[] {
  if (!messages.some(({ tool_calls }) => Array.isArray(tool_calls) && tool_calls.length > 0)) return messages;
  return messages.map((message) => {
    if (!Array.isArray(message.tool_calls)) return message;
    const calls = message.tool_calls.map((call: { readonly function?: { readonly arguments?: unknown } }) => {
      const given = call.function?.arguments;
      const parsed = typeof given === 'string' ? jsonIn(given) : undefined;
      const isObject = typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed);
      return isObject ? { ...call, function: { ...call.function, arguments: parsed } } : call;
    });
    return { ...message, tool_calls: calls };
  });
}
