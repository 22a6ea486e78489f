// Calls in what a model wrote, as data. Two ways of writing them are in use:
//
//   <tool_call>\n{"name": NAME, "arguments": {...}}\n</tool_call>                          Hermes, Qwen2.5, Qwen3
//   <tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call>   Qwen3-Coder, Qwen3.5
//
// A call that is cut or broken stays in the text: a client sees what the model wrote, not nothing.

import { createHash } from 'node:crypto';
import { jsonIn } from '../json-in.ts';
import type { Tool } from './tool-request.ts';
import { valueIn } from './xml-value.ts';

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

const FUNCTION = '<function=';
const FUNCTION_END = '</function>';
const PARAMETER = '<parameter=';
const PARAMETER_END = '</parameter>';

/** By hand, since the time of an expression grows with the square of what a model may write. */
function readXml(text: string, tools: readonly Tool[]): Omit<ParsedCall, 'id'> | undefined {
  const head = markAt(text, FUNCTION);
  if (head === undefined || !text.endsWith(FUNCTION_END)) return undefined;
  const { name } = head;
  const tool = tools.find((one) => one.name === name);
  const given = new Map<string, unknown>();
  let rest = text.slice(head.end, -FUNCTION_END.length).trim();
  while (rest !== '') {
    const parameter = markAt(rest, PARAMETER);
    const end = rest.indexOf(PARAMETER_END);
    if (parameter === undefined || end < parameter.end) return undefined;
    let value = rest.slice(parameter.end, end);
    // The line breaks are the marks' own.
    if (value.startsWith('\n')) value = value.slice(1);
    if (value.endsWith('\n')) value = value.slice(0, -1);
    given.set(parameter.name, valueIn(value, parameter.name, tool?.parameters));
    rest = rest.slice(end + PARAMETER_END.length).trimStart();
  }
  return { name, arguments: JSON.stringify(Object.fromEntries(given)) };
}

/** `<mark=NAME>` at the beginning: its name, and where it ends. */
function markAt(text: string, mark: string): { readonly name: string; readonly end: number } | undefined {
  const close = text.startsWith(mark) ? text.indexOf('>') : -1;
  const name = text.slice(mark.length, Math.max(close, mark.length)).trim();
  return close < 0 || name === '' || name.includes('\n') ? undefined : { name, end: close + 1 };
}
