// The MCP App: one HTML page that shows a trace, a palette, a model's layers or a training step, whichever tool's result the host hands
// it. A client without MCP Apps shows the same results' text and PNG and never reads the page.
//
// By hand, since the helper package for servers is two small functions that would bring a client library along.

import type { McpServer } from '@modelcontextprotocol/server';
import { VIEW_HTML } from '../app/view-html.ts';

const EXTENSION = 'io.modelcontextprotocol/ui';
const VIEW_URI = 'ui://bitnet-gf3/view.html';
const MIME_TYPE = 'text/html;profile=mcp-app';

const TOOLS_WITH_VIEW = ['generate_with_trace', 'palette', 'analyze_layer', 'morphism_step'];

/** `_meta` of a tool's declaration: where hosts find its view. The second key is for hosts older than 2026. */
export function appMeta(tool: string): { _meta?: Record<string, unknown> } {
  if (!TOOLS_WITH_VIEW.includes(tool)) return {};
  return { _meta: { ui: { resourceUri: VIEW_URI }, 'ui/resourceUri': VIEW_URI } };
}

export function registerApp(server: McpServer): void {
  // No domains: the page loads nothing and connects to nothing, so hosts may keep their strictest policy.
  const _meta = { ui: { csp: {}, prefersBorder: true } };
  server.registerResource(
    'view',
    VIEW_URI,
    {
      title: 'Trace, palette, layers and training step',
      description: 'Interactive view of a result, for hosts with MCP Apps',
      mimeType: MIME_TYPE,
      cacheHint: { ttlMs: 3_600_000, cacheScope: 'public' },
      _meta,
    },
    (uri) => ({ contents: [{ uri: uri.href, mimeType: MIME_TYPE, text: VIEW_HTML, _meta }] }),
  );
  server.server.registerCapabilities({ extensions: { [EXTENSION]: {} } });
}
