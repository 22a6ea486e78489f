// Tools of a request, as chat APIs have them, and whether and how a model may call them.

import { ArgumentError } from '../../errors.ts';

/** `auto`: the model decides; `none`: it is not told of them; `required`, or one by its name: it must call. */
export type ToolChoice = 'auto' | 'none' | 'required' | { readonly name: string };

export type Tool = {
  readonly name: string;
  readonly description?: string;
  /** JSON Schema of the arguments. */
  readonly parameters: { readonly [keyword: string]: unknown };
  /** Arguments must fit the schema. */
  readonly strict: boolean;
};

/** How a model writes its calls: the style that its chat template teaches it. */
export type ToolStyle = 'json' | 'xml';

const MAX_TOOLS = 128;
/** As OpenAI has it, and with the dots and slashes of other servers. */
const NAME = /^[\w./-]{1,128}$/;

type Loose = { readonly [field: string]: unknown };

/** `{type: "function", function: {...}}`, or its inner part alone, also with the `inputSchema` of MCP. Throws ArgumentError. */
export function readTools(given: readonly unknown[]): Tool[] {
  if (given.length > MAX_TOOLS) {
    throw new ArgumentError({
      what: `${given.length} tools, more than ${MAX_TOOLS}`,
      fix: 'give those that are needed',
    });
  }
  const tools = given.map((value, i) => {
    const outer = asObject(value);
    const tool = asObject(outer?.function) ?? outer;
    const { name, description, parameters, inputSchema, input_schema: schema } = tool ?? {};
    if (typeof name !== 'string' || !NAME.test(name)) {
      throw new ArgumentError({
        what: `tools[${i}] has no name of letters, digits, _ - . /`,
        fix: 'write {"type": "function", "function": {"name": "...", "parameters": {...}}}',
      });
    }
    const properties = parameters ?? inputSchema ?? schema ?? { type: 'object', properties: {} };
    if (asObject(properties) === undefined) {
      throw new ArgumentError({ what: `the parameters of tool "${name}" are no object`, fix: 'give a JSON Schema' });
    }
    return {
      name,
      ...(typeof description === 'string' && { description }),
      parameters: properties as Tool['parameters'],
      strict: (tool?.strict ?? outer?.strict) === true,
    };
  });
  const names = new Set(tools.map(({ name }) => name));
  if (names.size < tools.length) throw new ArgumentError({ what: 'two tools have the same name', fix: 'rename one' });
  return tools;
}

/** What the request's tools are for the model: those it is told of. Throws ArgumentError. */
export function toolsOf(request: { readonly tools?: readonly unknown[]; readonly toolChoice?: ToolChoice }): Tool[] {
  const { tools = [], toolChoice = 'auto' } = request;
  if (toolChoice === 'none') return [];
  const read = readTools(tools);
  if (read.length === 0 && toolChoice !== 'auto') {
    throw new ArgumentError({
      what: 'a tool must be called, and there are none',
      fix: 'give tools, or leave tool_choice out',
    });
  }
  if (typeof toolChoice === 'object' && !read.some(({ name }) => name === toolChoice.name)) {
    throw new ArgumentError({
      what: `tool_choice names "${toolChoice.name}", which is none of the tools`,
      fix: `use ${read.map(({ name }) => name).join(', ')}`,
    });
  }
  return read;
}

/** As chat templates expect them. */
export function toTemplate({ name, description, parameters }: Tool): object {
  return { type: 'function', function: { name, description: description ?? '', parameters } };
}

/** The style of a template; undefined for one that is not made for tools. */
export function styleOf(template: string | undefined): ToolStyle | undefined {
  if (template === undefined || !/\btools\b/.test(template)) return undefined;
  return template.includes('<function=') ? 'xml' : 'json';
}

function asObject(value: unknown): Loose | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Loose) : undefined;
}
