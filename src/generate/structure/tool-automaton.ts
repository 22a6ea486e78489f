// Texts that call tools, in the style of the model: arguments fit their schemas. With `mustCall` there is nothing but calls;
// without, any text stands before them, and there need be none.

import type { Automaton, NodeId } from './automaton.ts';
import { allBut, type CodePoints } from './code-points.ts';
import { SchemaWriter } from './json-schema.ts';
import type { Schema } from './schema-keywords.ts';
import { StructureError } from './structure-error.ts';
import type { TextSet } from './text-set.ts';

export type ToolsStructure = {
  readonly style: 'json' | 'xml';
  readonly mustCall: boolean;
  readonly many: boolean;
  readonly tools: readonly { readonly name: string; readonly parameters: { readonly [keyword: string]: unknown } }[];
};

const BEGIN = '<tool_call>';

export function automatonOfTools({ style, mustCall, many, tools }: ToolsStructure): Automaton {
  const writer = style === 'json' ? new SchemaWriter({}) : new SchemaWriter({}, WITHOUT_END);
  const { builder } = writer;
  const root = builder.rule('root');
  const [begun, called] = [builder.node(), builder.node()];
  if (mustCall) builder.text(builder.start(root), BEGIN, begun);
  else writeFreely(writer, builder.start(root), builder.end(root), begun);
  for (const tool of tools) {
    if (style === 'json') writeJson(writer, tool, begun, called);
    else writeXml(writer, tool, begun, called);
  }
  builder.nothing(called, builder.end(root));
  if (many) {
    const again = builder.node();
    builder.text(called, '\n', again);
    builder.text(again, BEGIN, begun);
  }
  return writer.finish(root);
}

/** Any text up to the mark of a call, which leads to `begun`; the text may end before. */
function writeFreely({ builder }: SchemaWriter, from: NodeId, to: NodeId, begun: NodeId): void {
  const points = [...BEGIN].map((character) => character.codePointAt(0)!);
  // How much of the mark has been read; only its first character can begin it again.
  const nodes = points.map(() => builder.node());
  builder.nothing(from, nodes[0]!);
  const first = points[0]!;
  points.forEach((point, i) => {
    builder.nothing(nodes[i]!, to);
    const next = nodes[i + 1] ?? begun;
    builder.character(nodes[i]!, [[point, point]], next);
    if (point !== first) builder.character(nodes[i]!, [[first, first]], nodes[1]!);
    const others = allBut([...new Set([point, first])].sort((a, b) => a - b).map((one) => [one, one] as const));
    builder.character(nodes[i]!, others, nodes[0]!);
  });
}

function writeJson(
  writer: SchemaWriter,
  { name, parameters }: ToolsStructure['tools'][number],
  from: NodeId,
  to: NodeId,
) {
  const { builder } = writer;
  const [given, end] = [builder.node(), builder.node()];
  builder.text(from, `\n{"name": ${JSON.stringify(name)}, "arguments": `, given);
  builder.call(given, writer.ruleFor(asObjectSchema(name, parameters)), end);
  builder.text(end, '}\n</tool_call>', to);
}

/** A parameter's value is text where its schema is a string's, else JSON. */
function writeXml(
  writer: SchemaWriter,
  { name, parameters }: ToolsStructure['tools'][number],
  from: NodeId,
  to: NodeId,
) {
  const { builder } = writer;
  const schema = asObjectSchema(name, parameters);
  const properties = Object.entries((schema.properties ?? {}) as Record<string, Schema>);
  const required = new Set(Array.isArray(schema.required) ? (schema.required as string[]) : []);
  const isUnlisted = [...required].some((key) => !properties.some(([known]) => known === key));
  const beyond = Object.keys(schema).find((keyword) => BEYOND_A_LIST.has(keyword));
  // What the marks around a value could not say.
  const odd = properties.find(([key]) => /[<>\n]/.test(key) || key.trim() !== key || key === '');
  if (isUnlisted || beyond !== undefined || odd !== undefined) {
    const because = odd === undefined ? (beyond ?? 'required') : `the name ${JSON.stringify(odd[0])}`;
    throw new StructureError({
      what: `the arguments of tool "${name}" cannot be enforced in this model's style of calls: ${because}`,
      fix: 'list every required argument under properties, with a name without < and >, and say nothing of them all',
    });
  }
  let at = builder.node();
  builder.text(from, `\n<function=${name}>`, at);
  for (const [key, value] of properties) {
    const [begin, after, next] = [builder.node(), builder.node(), builder.node()];
    builder.text(at, `\n<parameter=${key}>\n`, begin);
    writer.writeBare(withDefinitions(value, parameters), WITHOUT_MARKS, begin, after);
    builder.text(after, '\n</parameter>', next);
    if (!required.has(key)) builder.nothing(at, next);
    at = next;
  }
  builder.text(at, '\n</function>\n</tool_call>', to);
}

/** They say more of an object than which properties it has, one by one. */
const BEYOND_A_LIST = new Set([
  ...[
    '$ref',
    'allOf',
    'anyOf',
    'oneOf',
    'not',
    'enum',
    'const',
    'if',
    'then',
    'else',
    'minProperties',
    'maxProperties',
  ],
  ...['patternProperties', 'propertyNames', 'dependentRequired', 'dependentSchemas', 'dependencies'],
]);

const BREAK = 0x0a;
const SLASH = 0x2f;
const LESS = 0x3c;

/** Texts without "</": a mark within the JSON of a value would end it. */
const WITHOUT_END: TextSet = [
  {
    accepts: true,
    edges: [
      [without(LESS), 0],
      [[[LESS, LESS]], 1],
    ],
  },
  {
    accepts: true,
    edges: [
      [without(SLASH, LESS), 0],
      [[[LESS, LESS]], 1],
    ],
  },
];

/** Texts in which no mark can be: "<" stands neither at the start of a line nor before "/". */
const WITHOUT_MARKS: TextSet = [
  {
    accepts: true,
    edges: [
      [without(BREAK, LESS), 0],
      [[[LESS, LESS]], 1],
      [[[BREAK, BREAK]], 2],
    ],
  },
  { accepts: false, edges: [[without(BREAK, SLASH, LESS), 0]] },
  {
    accepts: false,
    edges: [
      [without(BREAK, LESS), 0],
      [[[BREAK, BREAK]], 2],
    ],
  },
];

function without(...points: readonly number[]): CodePoints {
  return allBut(points.map((point) => [point, point] as const));
}

/** A part of a schema that still finds what the whole defines. */
function withDefinitions(schema: Schema, { $defs, definitions }: { readonly [keyword: string]: unknown }): Schema {
  if (typeof schema === 'boolean') return schema;
  return { ...schema, ...($defs !== undefined && { $defs }), ...(definitions !== undefined && { definitions }) };
}

type Keywords = { readonly [keyword: string]: unknown };

function asObjectSchema(name: string, parameters: Keywords): Keywords {
  const { type } = parameters;
  if (type === undefined || type === 'object' || (Array.isArray(type) && type.includes('object'))) {
    return { ...parameters, type: 'object' };
  }
  throw new StructureError({
    what: `the parameters of tool "${name}" are of type ${JSON.stringify(type)}`,
    fix: 'give a schema of type object',
  });
}
