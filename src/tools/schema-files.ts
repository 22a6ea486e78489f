// The tools' schemas as the files of schemas/, for readers that do not speak MCP.

import type { z } from 'zod';
import { manifestSchema } from '../triads/manifest.ts';
import { registrySchema } from '../triads/registry.ts';
import { jsonSchemaOf, type Tool } from './define-tool.ts';

const DIALECT = 'https://json-schema.org/draft/2020-12/schema';

/**
 * File name to text: one file a tool, and those of the files in skills/. `npm run schemas` writes them; a test fails
 * when they differ.
 */
export function schemaFiles(tools: readonly Tool[]): Map<string, string> {
  return new Map([
    ...toolSchemas(tools),
    documentSchema('skill-manifest', 'The head of a SKILL.md of this package', manifestSchema),
    documentSchema('triads', 'skills/triads.json: the skills and the triads they stand in', registrySchema),
  ]);
}

function documentSchema(name: string, title: string, schema: z.ZodObject): [string, string] {
  const document = { $schema: DIALECT, title, ...jsonSchemaOf(schema, 'input') };
  return [`${name}.json`, `${JSON.stringify(document, null, 2)}\n`];
}

function toolSchemas(tools: readonly Tool[]): Map<string, string> {
  return new Map(
    tools.map((tool) => {
      const document = {
        name: tool.name,
        title: tool.title,
        description: tool.description,
        inputSchema: { $schema: DIALECT, ...jsonSchemaOf(tool.input, 'input') },
        outputSchema: { $schema: DIALECT, ...jsonSchemaOf(tool.output, 'output') },
      };
      return [`${tool.name}.json`, `${JSON.stringify(document, null, 2)}\n`];
    }),
  );
}

const TABLE_START = '<!-- tools: npm run schemas writes this table -->';
const TABLE_END = '<!-- end of tools -->';

/** The README with its table of tools brought up to date. Throws a RangeError when the markers are missing. */
export function withToolTable(readme: string, tools: readonly Tool[]): string {
  const start = readme.indexOf(TABLE_START);
  const end = readme.indexOf(TABLE_END);
  if (start < 0 || end < start) throw new RangeError(`no "${TABLE_START}" before "${TABLE_END}"`);
  const rows = tools.map(({ name, description, example }) => {
    const summary = description.slice(0, description.indexOf('. ') + 1) || description;
    return `| \`${name}\` | ${summary} | \`${JSON.stringify(example)}\` |`;
  });
  const table = ['| tool | does | for example |', '| --- | --- | --- |', ...rows].join('\n');
  return `${readme.slice(0, start)}${TABLE_START}\n${table}\n${readme.slice(end)}`;
}
