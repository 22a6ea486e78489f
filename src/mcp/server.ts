// The MCP server object. Every connection or stateless request gets a fresh one; they share the tools' services.

import { McpServer } from '@modelcontextprotocol/server';
import { packageVersion } from '../package/version.ts';
import { ALL_TOOLS } from '../tools/all-tools.ts';
import { registerApp } from './apps.ts';
import { INSTRUCTIONS } from './instructions.ts';
import { registerPrompts } from './prompts.ts';
import { registerResources } from './resources.ts';
import { skillCatalog } from './skills.ts';
import { registerTool, type ToolEnvironment } from './tool-registration.ts';
import { registerWorldResources } from './world-resources.ts';

/** Who this server is. */
export function serverInfo() {
  return { name: 'bitnet-gf3', title: 'BitNet GF(3)', version: packageVersion() };
}

/** No tool takes more values than this; a larger call is an attack or a mistake. */
export const MAX_ARGUMENT_ELEMENTS = 100_000;

/** Lists stay as they are, but for worlds, which a client that steps them hears of from the tool. */
const FIXED = { listChanged: false } as const;

/** What one stateless request asks for. */
export type OnlyMethod = { readonly method: string; readonly name: string | undefined };

/** With `only`, a server that can answer that one request; what else there is, it neither has nor says. */
export async function createMcpServer(environment: ToolEnvironment, only?: OnlyMethod): Promise<McpServer> {
  const toolsOnly = only?.method === 'tools/call' || only?.method === 'tools/list';
  const server = new McpServer(serverInfo(), {
    instructions: INSTRUCTIONS,
    capabilities: { tools: FIXED, ...(!toolsOnly && { resources: FIXED, prompts: FIXED }) },
    maxToolInputElements: MAX_ARGUMENT_ELEMENTS,
  });
  const called = only?.method === 'tools/call' ? ALL_TOOLS.find(({ name }) => name === only.name) : undefined;
  for (const tool of called === undefined ? ALL_TOOLS : [called]) registerTool(server, tool, environment);
  if (toolsOnly) return server;
  registerResources(server, environment);
  if (environment.services.worlds !== undefined) registerWorldResources(server, environment);
  registerPrompts(server);
  registerApp(server);
  (await skillCatalog(environment.logger)).attach(server);
  return server;
}
