import { delimiter, resolve } from 'node:path';
import { defineCommand } from './command.ts';

export const command = defineCommand({
  name: 'serve',
  summary: 'Serve MCP on stdio',
  positionals: [],
  flags: {},
  examples: ['serve'],
  notes:
    'This is what `bitnet-gf3` alone does, too. An MCP client starts it and talks to it over stdin and stdout;\n' +
    'it ends when the client closes stdin. Logs go to stderr (BITNET_LOG=debug|info|warn|error|silent).\n' +
    'BITNET_MODEL_ROOTS limits the folders that model paths may lie in (several as in PATH; empty: names only).',
  run: async ({ output, signal }) => {
    if (process.stdin.isTTY) {
      output.note(
        'bitnet-gf3 serves MCP on stdio and waits for a client here. Commands: bitnet-gf3 --help. Ctrl-C ends it.',
      );
    }
    const { serveOnStdio } = await import('../mcp/stdio.ts');
    await serveOnStdio({ signal, allowedRoots: modelRoots(process.env.BITNET_MODEL_ROOTS) });
    return 0;
  },
});

/** Undefined: any path. Empty: no path, only `default` and cached hub ids. */
function modelRoots(list: string | undefined): readonly string[] | undefined {
  return list
    ?.split(delimiter)
    .filter((folder) => folder !== '')
    .map((folder) => resolve(folder));
}
