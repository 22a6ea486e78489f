// An MCP client that asks the server for what a text says, as JSON of a schema: every answer parses and validates.
//
//   node examples/extract.mjs "Lily is five. She has a red ball."
//   node examples/extract.mjs "..." path/to/model.gguf
//
// The embedded model fills in what fits a story; for what the text really says name a model that follows instructions.

import { fileURLToPath } from 'node:url';
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

const [text = 'Lily is five. She has a red ball.', model = 'default'] = process.argv.slice(2);

const schema = {
  type: 'object',
  properties: {
    name: { type: 'string', maxLength: 20 },
    age: { type: 'integer', minimum: 0, maximum: 120 },
    color: { enum: ['red', 'green', 'blue'] },
  },
  required: ['name', 'age', 'color'],
  additionalProperties: false,
};

const client = new Client({ name: 'extract', version: '1.0.0' });
const server = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
await client.connect(new StdioClientTransport({ command: process.execPath, args: [server], stderr: 'ignore' }));
const result = await client.callTool({
  name: 'generate_with_trace',
  arguments: {
    model,
    messages: [{ role: 'user', content: `Name, age and color of the toy, as JSON: ${text}` }],
    response_schema: schema,
    max_tokens: 100,
    trace: false,
  },
});
await client.close();
if (result.isError) {
  process.stderr.write(`${result.content[0].text}\n`);
  process.exitCode = 1;
} else {
  process.stdout.write(`${JSON.stringify(JSON.parse(result.structuredContent.completion))}\n`);
}
