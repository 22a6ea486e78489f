// A command that is the other face of a tool: its flags, defaults and checks are the tool's own.

import { ArgumentError } from '../errors.ts';
import { callTool, type ToolResult } from '../tools/call-tool.ts';
import { checkedSchemaOf, type JsonSchema, type Tool, type ToolContext } from '../tools/define-tool.ts';
import { type Command, type CommandInput, defineCommand, type FlagSpec, type FlagSpecs } from './command.ts';

export type ToolCommand = {
  readonly name: string;
  readonly summary: string;
  readonly tool: Tool;
  /** Fields of the tool's input that come as positional arguments, in order. */
  readonly positionals: readonly string[];
  /** Fields that the command line does not have. */
  readonly leaveOut?: readonly string[];
  /** Flags that the tool does not have. */
  readonly flags?: FlagSpecs;
  /** What those flags mean for the tool's arguments. */
  readonly argsOf?: (flags: CommandInput<FlagSpecs>['flags']) => Record<string, unknown>;
  readonly examples: readonly string[];
  readonly print: (result: ToolResult, input: CommandInput<FlagSpecs>) => void | Promise<void>;
};

export function toolCommand(declaration: ToolCommand): Command<FlagSpecs> {
  const { tool, positionals, leaveOut = [], flags: extra = {} } = declaration;
  const schema = checkedSchemaOf(tool.input);
  const fields = schema.properties ?? {};
  const flagFields = Object.keys(fields).filter((name) => !positionals.includes(name) && !leaveOut.includes(name));
  return defineCommand<FlagSpecs>({
    name: declaration.name,
    summary: declaration.summary,
    positionals: positionals.map((name) => ({
      name: name.toUpperCase(),
      description: fields[name]?.description ?? '',
      ...(schema.required?.includes(name) ? {} : { optional: true }),
    })),
    flags: { ...Object.fromEntries(flagFields.map((name) => [flagName(name), flagOf(fields[name]!)])), ...extra },
    examples: declaration.examples,
    run: async (input) => {
      const args: Record<string, unknown> = { ...declaration.argsOf?.(input.flags) };
      for (const [i, name] of positionals.entries()) {
        const text = input.positionals[i];
        if (text !== undefined) args[name] = positionalValue(name, fields[name]!, text);
      }
      for (const name of flagFields) {
        const value = input.flags[flagName(name)];
        if (value !== undefined) args[name] = typeof value === 'bigint' ? `${value}` : value;
      }
      const result = await callTool(tool, args, { services: NO_SERVICES, signal: input.signal });
      if (input.json) input.output.json(result.structured);
      await declaration.print(result, input);
      return 0;
    },
  });
}

/** Commands made this way call tools that compute in place. */
export const NO_SERVICES: ToolContext['services'] = {
  generate: () => Promise.reject(new TypeError('a command that generates text brings its own services')),
};

/** Flags of a command that is one face of a tool among others: those of some of its fields. */
export function toolFlags(tool: Tool, fields: readonly string[]): FlagSpecs {
  const { properties = {} } = checkedSchemaOf(tool.input);
  return Object.fromEntries(fields.map((name) => [flagName(name), flagOf(properties[name]!)]));
}

function flagName(field: string): string {
  return field.replaceAll('_', '-');
}

function flagOf(schema: JsonSchema): FlagSpec {
  const description = schema.description ?? '';
  if (schema.anyOf !== undefined) return { type: 'seed', description, default: `${schema.default}`, placeholder: 'S' };
  const bounds = {
    ...(schema.minimum !== undefined && { min: schema.minimum }),
    ...(schema.maximum !== undefined && { max: schema.maximum }),
  };
  const standard = schema.default as FlagSpec['default'];
  const rest = { description, ...(standard !== undefined && { default: standard }) };
  switch (schema.type) {
    case 'boolean':
      return { type: 'boolean', ...rest };
    case 'integer':
    case 'number':
      return { type: schema.type, ...rest, ...bounds, placeholder: 'N' };
    case 'string':
      return { type: 'string', ...rest, ...(schema.enum && { choices: schema.enum as string[], placeholder: 'X' }) };
    default:
      throw new TypeError(`no flag for a field of type ${schema.type}`);
  }
}

function positionalValue(name: string, schema: JsonSchema, text: string): unknown {
  if (schema.type !== 'integer') return text;
  const { minimum = -Infinity, maximum = Infinity } = schema;
  const value = /^[+-]?\d+$/.test(text) ? Number(text) : Number.NaN;
  // Past the safe integers the value would be another one than was written.
  if (Number.isSafeInteger(value) && value >= minimum && value <= maximum) return value;
  const from = minimum === -Infinity ? '' : ` from ${minimum}`;
  const largest = Math.min(maximum, Number.MAX_SAFE_INTEGER);
  const to = largest === Number.MAX_SAFE_INTEGER && !(value > largest) ? '' : ` to ${largest}`;
  throw new ArgumentError({
    what: `${name.toUpperCase()} must be a whole number${from}${to}, got "${text}"`,
    ...(Number.isNaN(value) && { fix: 'write it in digits' }),
  });
}
