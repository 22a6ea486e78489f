// Arguments as clients send them at times: numbers, lists and booleans as text, a single value for a list, null for what
// is left out. Where only one meaning is possible, that is taken; an argument that takes text keeps its text.

import type { JsonSchema } from './define-tool.ts';

type Fields = Readonly<Record<string, unknown>>;

const NUMBER = /^-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?$/;
/** Lists and objects in longer texts are not looked for: no model writes them. */
const MAX_TEXT = 1 << 18;

/** The value as the schema wants it, where that is certain; else the value itself. */
export function takeValue(value: unknown, schema: JsonSchema | undefined): unknown {
  switch (schema?.type) {
    case 'integer':
    case 'number':
      return typeof value === 'string' ? numberIn(value, schema.type) : value;
    case 'boolean':
      return typeof value === 'string' && /^(true|false)$/i.test(value) ? value.toLowerCase() === 'true' : value;
    case 'array':
      return takeList(value, schema.items);
    case 'object':
      return takeObject(value, schema);
    default:
      return value;
  }
}

function numberIn(text: string, type: 'integer' | 'number'): unknown {
  if (!NUMBER.test(text)) return text;
  const value = Number(text);
  return (type === 'integer' ? Number.isSafeInteger(value) : Number.isFinite(value)) ? value : text;
}

function takeList(value: unknown, items: JsonSchema | undefined): unknown {
  const list = typeof value === 'string' ? listIn(value, items) : value;
  if (Array.isArray(list)) return list.map((one) => takeValue(one, items));
  const one = takeValue(list, items);
  return fits(one, items) ? [one] : value;
}

/** The list that a text is. In a list of texts, one whose elements are none is a text as any other. */
function listIn(text: string, items: JsonSchema | undefined): unknown {
  const list = /^\s*\[/.test(text) ? parsed(text) : undefined;
  if (!Array.isArray(list)) return text;
  return items?.type === 'string' && !list.every((one) => typeof one === 'string') ? text : list;
}

/** Whether a value is plainly one of those that a list holds; lists of lists have no such values. */
function fits(value: unknown, items: JsonSchema | undefined): boolean {
  switch (items?.type) {
    case 'integer':
      return Number.isSafeInteger(value);
    case 'number':
      return typeof value === 'number';
    case 'string':
      return typeof value === 'string';
    case 'object':
      return isObject(value);
    default:
      return false;
  }
}

function takeObject(value: unknown, { properties = {}, required = [] }: JsonSchema): unknown {
  const object = typeof value === 'string' && /^\s*\{/.test(value) ? (parsed(value) ?? value) : value;
  if (!isObject(object)) return value;
  const taken: [string, unknown][] = [];
  for (const [name, one] of Object.entries(object)) {
    const schema = Object.hasOwn(properties, name) ? properties[name] : undefined;
    if (one === null && schema !== undefined && !required.includes(name)) continue;
    taken.push([name, takeValue(one, schema)]);
  }
  return Object.fromEntries(taken);
}

function parsed(text: string): unknown {
  if (text.length > MAX_TEXT) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
