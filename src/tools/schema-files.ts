// The tools' schemas as the files of schemas/, for readers that do not speak MCP.

import { jsonSchemaOf, type Tool } from './define-tool.ts';

/** File name to text, one file a tool. `npm run schemas` writes them; a test fails when they differ. */
export function schemaFiles(tools: readonly Tool[]): Map<string, string> {
  return new Map(
    tools.map((tool) => {
      const document = {
        name: tool.name,
        title: tool.title,
        description: tool.description,
        inputSchema: { $schema: 'https://json-schema.org/draft/2020-12/schema', ...jsonSchemaOf(tool.input, 'input') },
        outputSchema: {
          $schema: 'https://json-schema.org/draft/2020-12/schema',
          ...jsonSchemaOf(tool.output, 'output'),
        },
      };
      return [`${tool.name}.json`, `${JSON.stringify(document, null, 2)}\n`];
    }),
  );
}
