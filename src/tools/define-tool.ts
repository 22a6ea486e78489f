// One declaration per operation. The MCP registration, the JSON Schemas of schemas/, the flags and help of the command
// line and the README's tool table are all derived from it; a tool knows no transport.

import { z } from 'zod';
import type { ToolContext } from './services.ts';

export type { ToolContext, ToolImage } from './services.ts';

/** What the caller may assume about effects; becomes MCP annotations. */
export type ToolHints = {
  readonly readOnly: boolean;
  readonly idempotent: boolean;
  /** May overwrite or delete; only meaningful when not read-only. */
  readonly destructive?: boolean;
};

/** A result as `run` may give it: the rooms below hand out read-only values. */
type DeepReadonly<T> = T extends object ? { readonly [Key in keyof T]: DeepReadonly<T[Key]> } : T;

type ResultOf<Output extends z.ZodObject> = DeepReadonly<z.input<Output>>;

export type ToolDeclaration<Input extends z.ZodObject, Output extends z.ZodObject> = {
  /** snake_case. */
  readonly name: string;
  readonly title: string;
  /** At most 2 KB; says when to call it, in words a model cannot misread. */
  readonly description: string;
  readonly input: Input;
  readonly output: Output;
  readonly hints: ToolHints;
  /** Whether a call is answered without waiting for anything; `args` were not checked yet. Default: it is not. */
  readonly isInstant?: (args: Readonly<Record<string, unknown>>) => boolean;
  /** Whether a call computes for more than a moment and needs nothing but files; `args` as above. Default: it does not. */
  readonly isAside?: (args: Readonly<Record<string, unknown>>) => boolean;
  /** Arguments of a call that works with the embedded model; help and tests use it. */
  readonly example: z.input<Input>;
  /** @throws BitnetError for everything that can go wrong on purpose. */
  readonly run: (args: z.output<Input>, context: ToolContext) => ResultOf<Output> | Promise<ResultOf<Output>>;
  /** One or a few lines for people; the structured result is the answer. */
  readonly summarize: (result: ResultOf<Output>) => string;
};

/** A tool with its argument types forgotten, so that tools of different shapes fit one list. */
export type Tool = {
  readonly name: string;
  readonly title: string;
  readonly description: string;
  readonly input: z.ZodObject;
  readonly output: z.ZodObject;
  readonly hints: ToolHints;
  readonly isInstant?: (args: Readonly<Record<string, unknown>>) => boolean;
  readonly isAside?: (args: Readonly<Record<string, unknown>>) => boolean;
  readonly example: Record<string, unknown>;
  readonly run: (args: unknown, context: ToolContext) => Promise<Record<string, unknown>>;
  readonly summarize: (result: Record<string, unknown>) => string;
};

export function defineTool<Input extends z.ZodObject, Output extends z.ZodObject>(
  declaration: ToolDeclaration<Input, Output>,
): Tool & ToolDeclaration<Input, Output> {
  // `run` and `summarize` are called with arguments that `input` has parsed and a result that `run` gave
  // (call-tool.ts), which is what makes forgetting the types sound.
  return declaration as unknown as Tool & ToolDeclaration<Input, Output>;
}

export type JsonSchema = {
  readonly type?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly JsonSchema[];
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly required?: readonly string[];
  readonly items?: JsonSchema;
  readonly minimum?: number;
  readonly exclusiveMinimum?: number;
  readonly maximum?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly additionalProperties?: boolean | JsonSchema;
};

/**
 * JSON Schema of a tool's input or output, small and within what MCP clients accept (test/tools/schemas.test.ts lints
 * it): no `$schema`, no bounds that only repeat what a JSON number can hold; and nothing that Gemini's clients refuse the
 * whole request for: an enum of numbers is a range, and a number above a limit is one from there on, which zod checks.
 */
export function jsonSchemaOf(schema: z.ZodObject, io: 'input' | 'output'): JsonSchema {
  return toJsonSchema(schema, io, (part) => {
    if (typeof part.exclusiveMinimum === 'number') {
      part.minimum = part.exclusiveMinimum;
      delete part.exclusiveMinimum;
    }
    if (typeof part.exclusiveMaximum === 'number') {
      part.maximum = part.exclusiveMaximum;
      delete part.exclusiveMaximum;
    }
    const values = part.enum ?? (part.const === undefined ? undefined : [part.const]);
    if (values?.every((value) => typeof value === 'number')) {
      const whole = values.every((value) => Number.isInteger(value));
      part.type = whole ? 'integer' : 'number';
      part.minimum = Math.min(...values);
      part.maximum = Math.max(...values);
      delete part.enum;
      delete part.const;
    }
  });
}

/** The same as it is checked, for messages. */
export function checkedSchemaOf(schema: z.ZodObject): JsonSchema {
  let json = checkedSchemas.get(schema);
  if (json === undefined) {
    json = toJsonSchema(schema, 'input', () => {});
    checkedSchemas.set(schema, json);
  }
  return json;
}

const checkedSchemas = new WeakMap<z.ZodObject, JsonSchema>();

function toJsonSchema(
  schema: z.ZodObject,
  io: 'input' | 'output',
  change: (part: z.core.JSONSchema.BaseSchema) => void,
) {
  const { $schema: _, ...json } = z.toJSONSchema(schema, {
    io,
    reused: 'inline',
    cycles: 'throw',
    override: ({ jsonSchema }) => {
      // All keys of JSON are text.
      delete jsonSchema.propertyNames;
      if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
      if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
      change(jsonSchema);
    },
  });
  return json as JsonSchema;
}
