// Runs a tool on raw arguments. Bad arguments become one error whose text says, per argument, what was wrong, what was
// expected and what to do, in words that a model can act on.

import type { z } from 'zod';
import { ArgumentError } from '../errors.ts';
import { textIn } from './cut-text.ts';
import { checkedSchemaOf, type JsonSchema, type Tool, type ToolContext, type ToolImage } from './define-tool.ts';
import { lostText } from './lost-number.ts';
import { nearest } from './nearest.ts';
import { takeValue } from './take-arguments.ts';

export type ToolResult = {
  readonly structured: Record<string, unknown>;
  readonly text: string;
  readonly images: readonly ToolImage[];
};

/** @throws ArgumentError for arguments that do not fit; whatever the tool throws otherwise. */
export async function callTool(tool: Tool, args: unknown, context: Omit<ToolContext, 'addImage'>): Promise<ToolResult> {
  const schema = checkedSchemaOf(tool.input);
  // A list that is much too long is not looked at element by element, nor one that is wrong in each of them.
  refuseAtSight(tool, args, schema);
  const taken = takeValue(isNothing(args) ? {} : args, schema);
  refuseAtSight(tool, taken, schema);
  const parsed = tool.input.safeParse(taken);
  if (!parsed.success) throw argumentError(tool, taken, parsed.error.issues);
  const images: ToolImage[] = [];
  const structured = await tool.run(parsed.data, { ...context, addImage: (image) => images.push(image) });
  return { structured, text: tool.summarize(structured), images };
}

/** What clients send that have no arguments to give. */
function isNothing(args: unknown): boolean {
  return args === undefined || args === null || (Array.isArray(args) && args.length === 0);
}

/** Elements of all lists of a call, and of lists in them: no tool takes more. */
const MAX_ELEMENTS = 20_000;
/**
 * Characters of all texts of a call. Models of today read a few hundred thousand at most, and a handle has no more; what
 * is longer would be refused by the engine, after it was sent there.
 */
const MAX_CHARACTERS = 1 << 20;
/** Of a list that has more of them, only the first element that is wrong is told. */
const MANY = 4096;

/** What zod would take long to tell: it looks at every element, and makes an issue for each. Throws ArgumentError. */
function refuseAtSight(tool: Tool, args: unknown, schema: JsonSchema): void {
  if (typeof args !== 'object' || args === null || Array.isArray(args)) return;
  const { characters, cut: unread } = textIn(args);
  if (unread.length > 0) {
    throw new ArgumentError({
      what: `${tool.name}: the arguments have a text of ${Math.max(...unread)} bytes, more than any call takes (${MAX_CHARACTERS} characters)`,
      fix: 'send less text',
    });
  }
  if (characters > MAX_CHARACTERS) {
    throw new ArgumentError({
      what: `${tool.name}: the arguments have ${characters} characters of text, more than any call takes (${MAX_CHARACTERS})`,
      fix: 'send less text',
    });
  }
  let elements = 0;
  for (const [name, list] of Object.entries(args as Record<string, unknown>)) {
    if (!Array.isArray(list)) continue;
    const { maxItems = MAX_ELEMENTS, items } = schema.properties?.[name] ?? {};
    const refuse = (...path: (string | number)[]) => {
      throw argumentError(tool, args, [{ code: 'too_big', path } as unknown as z.core.$ZodIssue]);
    };
    if (list.length > maxItems) refuse(name);
    elements += list.reduce((sum: number, one) => sum + (Array.isArray(one) ? one.length : 1), 0);
    if (elements > MAX_ELEMENTS) {
      throw new ArgumentError({
        what: `${tool.name}: ${name} has ${elements} values, more than any call takes (${MAX_ELEMENTS})`,
        fix: `a call that works: ${JSON.stringify(tool.example)}`,
      });
    }
    for (const [at, inner, kind] of [
      [[name], list, items],
      ...list.map((one, i) => [[name, i], one, items?.items]),
    ] as [(string | number)[], unknown, JsonSchema | undefined][]) {
      if (!Array.isArray(inner) || inner.length <= MANY) continue;
      const bad = inner.findIndex((one) => !mayBe(one, kind));
      if (bad >= 0) refuse(...at, bad);
    }
  }
}

/** Whether a value is, or may be taken for, one of the schema's type. */
function mayBe(value: unknown, schema: JsonSchema | undefined): boolean {
  switch (schema?.type) {
    case 'integer':
    case 'number':
      return typeof takeValue(value, schema) === 'number';
    case 'string':
      return typeof value === 'string' && value.length >= (schema.minLength ?? 0);
    default:
      return true;
  }
}

/** Problems that are told in full: who corrects these has seen what the others are like. */
const MAX_PROBLEMS = 8;
/** Characters of a name or value that the caller sent. */
const MAX_SHOWN = 60;

function argumentError(tool: Tool, args: unknown, issues: readonly z.core.$ZodIssue[]): ArgumentError {
  const schema = checkedSchemaOf(tool.input);
  // Not of thousands of issues: a list may be wrong in every element.
  const problems = issues.slice(0, MAX_PROBLEMS + 1).flatMap((issue) => describeIssue(issue, args, schema));
  const told = problems.slice(0, MAX_PROBLEMS);
  const more = problems.length > told.length ? '; and more' : '';
  return new ArgumentError({
    what: `${tool.name}: ${told.join('; ')}${more}`,
    fix: `a call that works: ${JSON.stringify(tool.example)}`,
  });
}

function describeIssue(issue: z.core.$ZodIssue, args: unknown, schema: JsonSchema): string[] {
  const path = issue.path.map(String);
  if (issue.code === 'unrecognized_keys') {
    const allowed = Object.keys(schemaAt(schema, path)?.properties ?? {});
    return issue.keys.slice(0, MAX_PROBLEMS + 1).map((key) => {
      const guess = nearest(key, allowed);
      const hint = guess === undefined ? '' : `did you mean ${guess}? `;
      return `unknown argument ${cut([...path, key].join('.'))} (${hint}allowed: ${allowed.join(', ')})`;
    });
  }
  const name = path.length === 0 ? 'the arguments' : path.join('.');
  if (issue.code === 'custom') return [issue.message];
  const expected = expectation(schemaAt(schema, path)) ?? issue.message;
  const actual = valueAt(args, path);
  if (actual === undefined) return [`${name} is missing (expected ${expected})`];
  return [`${name} must be ${expected}, got ${show(actual)}`];
}

/** What a value of this schema looks like, in a few words. */
export function expectation(schema: JsonSchema | undefined): string | undefined {
  if (schema === undefined) return undefined;
  if (schema.enum !== undefined) return `one of ${schema.enum.join(', ')}`;
  const { minimum, exclusiveMinimum, maximum } = schema;
  const low = minimum !== undefined ? `>= ${minimum}` : exclusiveMinimum !== undefined ? `> ${exclusiveMinimum}` : '';
  const range =
    minimum !== undefined && maximum !== undefined
      ? ` from ${minimum} to ${maximum}`
      : maximum !== undefined
        ? ` ${[low, `<= ${maximum}`].filter(Boolean).join(' and ')}`
        : low === ''
          ? ''
          : ` ${low}`;
  switch (schema.type) {
    case 'integer':
      return `an integer${range}`;
    case 'number':
      return `a number${range}`;
    case 'string': {
      const most = schema.maxLength === undefined ? '' : ` of at most ${schema.maxLength} characters`;
      return `${schema.minLength === undefined ? 'a string' : 'a non-empty string'}${most}`;
    }
    case 'boolean':
      return 'true or false';
    case 'array': {
      const item = expectation(schema.items);
      const { minItems = 0, maxItems } = schema;
      const length =
        maxItems !== undefined ? `${minItems} to ${maxItems},` : minItems > 0 ? `at least ${minItems},` : '';
      return ['a list of', length, item === undefined ? 'values' : `each ${item}`].filter(Boolean).join(' ');
    }
    case 'object':
      return `an object with ${Object.keys(schema.properties ?? {}).join(', ')}`;
    default:
      return undefined;
  }
}

function schemaAt(schema: JsonSchema, path: readonly string[]): JsonSchema | undefined {
  let at: JsonSchema | undefined = schema;
  for (const key of path) at = at?.items ?? at?.properties?.[key];
  return at;
}

function valueAt(value: unknown, path: readonly string[]): unknown {
  let at = value;
  for (const key of path) at = typeof at === 'object' && at !== null ? (at as Record<string, unknown>)[key] : undefined;
  return at;
}

/** A value as it may stand in a message: cut when long, its type named when its looks could mislead. */
function show(value: unknown): string {
  const lost = lostText(value);
  if (lost !== undefined) return cut(lost);
  let text: string;
  try {
    // JSON has no word for a number that is none, or has no end.
    text = typeof value === 'number' ? String(value) : (JSON.stringify(value, shownNumber) ?? String(value));
  } catch {
    // Parsing JSON takes no stack, writing it does.
    text = `${Array.isArray(value) ? 'a list' : 'an object'} that nests too deep to show`;
  }
  return typeof value === 'string' ? `the string ${cut(text)}` : cut(text);
}

function shownNumber(_: string, value: unknown): unknown {
  return lostText(value) ?? (typeof value === 'number' && !Number.isFinite(value) ? String(value) : value);
}

function cut(text: string): string {
  return text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN - 3)}...` : text;
}
