// What the text of an XML parameter is. Strings stand there without quotes and everything else as JSON, so that "42" of a
// parameter which may be a string or an integer could be either. The rule: of its readings, the first that fits the schema.
//
//   1. the text, where an enum or const lists it
//   2. its JSON, unless that is a string, or a number that says less than its digits ("1.10", "12345678901234567890")
//   3. the text
//   4. its JSON, whatever it is
//
// So an optional string can be null, a version stays "1.10", and what was held to a schema is always read as a value that
// fits it. Others decide by the schema alone: llama.cpp and SGLang read text wherever a string is possible, and null or a
// number can then not be given; vLLM's parsers have read JSON wherever anyOf stands.

import { jsonIn } from '../json-in.ts';
import { type Schema, SchemaReader, saysAnything } from '../structure/schema-keywords.ts';

type Parameters = { readonly [keyword: string]: unknown };

/** What a schema says, as far as it can be followed. */
type Reading = {
  /** Nothing is said of what it may be. */
  readonly isFree: boolean;
  readonly takesText: boolean;
  readonly lists: (text: string) => boolean;
  readonly fits: (value: unknown) => boolean;
};

/** `parameters`: the schema of all parameters; undefined for a tool that nobody knows. */
export function valueIn(text: string, name: string, parameters: Parameters | undefined): unknown {
  const value = jsonIn(text);
  if (value === undefined || (typeof value === 'number' && !Number.isFinite(value))) return text;
  const properties = parameters?.properties as { readonly [name: string]: Schema } | undefined;
  const schema = properties !== undefined && Object.hasOwn(properties, name) ? properties[name]! : true;
  try {
    return firstThatFits(text, value, ofAlternatives(readerOf(parameters), schema));
  } catch {
    // What no text can be held to is still read by what it says of types.
    return firstThatFits(text, value, ofTypes(typesOf(schema)));
  }
}

function firstThatFits(text: string, value: unknown, { isFree, takesText, lists, fits }: Reading): unknown {
  // A bare word or number is more often text.
  if (isFree) return typeof value === 'object' && value !== null ? value : text;
  if (lists(text)) return text;
  const isWhole = typeof value !== 'number' || JSON.stringify(value) === text.trim();
  if (typeof value !== 'string' && isWhole && fits(value)) return value;
  if (fits(text)) return text;
  if (fits(value)) return value;
  // Nothing fits: what comes nearest.
  return takesText ? text : value;
}

/** By the schema of all parameters: calls of a tool come again and again. */
const readers = new WeakMap<Parameters, SchemaReader>();

function readerOf(parameters: Parameters | undefined): SchemaReader {
  if (parameters === undefined) return new SchemaReader(true);
  const reader = readers.get(parameters) ?? new SchemaReader(parameters);
  readers.set(parameters, reader);
  return reader;
}

function ofAlternatives(reader: SchemaReader, schema: Schema): Reading {
  const all = reader.alternatives(schema);
  return {
    isFree: all.length > 0 && !all.some(saysAnything),
    takesText: all.some(({ values, types }) =>
      values === undefined ? types?.has('string') !== false : values.some((value) => typeof value === 'string'),
    ),
    lists: (text) => all.some((plain) => plain.values?.includes(text) === true && reader.fitsBeside(plain, text)),
    fits: (value) => all.some((plain) => reader.fitsPlain(plain, value)),
  };
}

function ofTypes(types: readonly string[] | undefined): Reading {
  return {
    isFree: types === undefined,
    takesText: types?.includes('string') !== false,
    lists: () => false,
    fits: (value) => {
      const type = value === null ? 'null' : Array.isArray(value) ? 'array' : typeof value;
      return types?.includes(type) !== false || (Number.isInteger(value) && types.includes('integer'));
    },
  };
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
