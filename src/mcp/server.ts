// The MCP server object. Every connection or stateless request gets a fresh one; they share the tools' services.

import { McpServer } from '@modelcontextprotocol/server';
import { packageVersion } from '../package-info.ts';
import { ALL_TOOLS } from '../tools/all-tools.ts';
import { registerApp } from './apps.ts';
import { INSTRUCTIONS } from './instructions.ts';
import { registerPrompts } from './prompts.ts';
import { registerResources } from './resources.ts';
import { skillCatalog } from './skills.ts';
import { registerTool, type ToolEnvironment } from './tool-registration.ts';

/** No tool takes more values than this; a larger call is an attack or a mistake. */
const MAX_ARGUMENT_ELEMENTS = 100_000;

export async function createMcpServer(environment: ToolEnvironment): Promise<McpServer> {
  const server = new McpServer(
    { name: 'bitnet-gf3', title: 'BitNet GF(3)', version: packageVersion() },
    // The tools never change while the server runs.
    {
      instructions: INSTRUCTIONS,
      capabilities: { tools: { listChanged: false } },
      maxToolInputElements: MAX_ARGUMENT_ELEMENTS,
    },
  );
  for (const tool of ALL_TOOLS) registerTool(server, tool, environment);
  registerResources(server, environment);
  registerPrompts(server);
  registerApp(server);
  (await skillCatalog(environment.logger)).attach(server);
  return server;
}
