// Messages, tools and other variables from JavaScript, as JSON would carry them to Python.

import { JinjaError } from './jinja-error.ts';
import { Dict, type Value } from './values.ts';

/** Lists and objects within each other. Tool schemas nest ten deep. */
const MAX_INPUT_DEPTH = 100;

/** How large an input is; the budget grows with it. */
export type InputSize = { values: number; characters: number };

/**
 * `name`: of the variable, for messages. A whole number becomes an int, as JSON without a point does; beyond 2^53, where
 * a number of JavaScript has lost its last digits, a float. Properties that are undefined are left out.
 */
export function toValue(input: unknown, name: string, size: InputSize, depth = 0): Value {
  size.values++;
  switch (typeof input) {
    case 'string':
      size.characters += input.length;
      return input;
    case 'boolean':
    case 'bigint':
      return input;
    case 'number':
      return Number.isSafeInteger(input) && !Object.is(input, -0) ? BigInt(input) : input;
    case 'object':
      break;
    default:
      throw bad(name, `holds a ${typeof input}, which is not JSON`);
  }
  if (input === null) return null;
  if (depth >= MAX_INPUT_DEPTH) throw bad(name, `nests deeper than ${MAX_INPUT_DEPTH} levels`);
  if (Array.isArray(input)) return Array.from(input, (item) => toValue(item ?? null, name, size, depth + 1));
  const prototype: unknown = Object.getPrototypeOf(input);
  // An object of another realm has another Object.prototype, but none above it.
  if (prototype !== null && Object.getPrototypeOf(prototype) !== null) {
    throw bad(name, `holds a ${input.constructor?.name ?? 'class instance'}, which is not JSON`);
  }
  const entries: [string, Value][] = [];
  for (const [key, item] of Object.entries(input)) {
    if (item === undefined) continue;
    size.characters += key.length;
    entries.push([key, toValue(item, name, size, depth + 1)]);
  }
  return new Dict(entries);
}

function bad(name: string, what: string): JinjaError {
  return new JinjaError('input', `${quotedName(name)} ${what}`);
}

function quotedName(name: string): string {
  return `the variable '${name}'`;
}
