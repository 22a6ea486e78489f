import { defineCommand } from './command.ts';

export const command = defineCommand({
  name: 'serve',
  summary: 'Serve MCP on stdio',
  positionals: [],
  flags: {},
  examples: ['serve'],
  notes:
    'This is what `bitnet-gf3` alone does, too. An MCP client starts it and talks to it over stdin and stdout;\n' +
    'it ends when the client closes stdin. Logs go to stderr (BITNET_LOG=debug|info|warn|error|silent).',
  run: async ({ output, signal }) => {
    if (process.stdin.isTTY) {
      output.note(
        'bitnet-gf3 serves MCP on stdio and waits for a client here. Commands: bitnet-gf3 --help. Ctrl-C ends it.',
      );
    }
    const { serveOnStdio } = await import('../mcp/stdio.ts');
    await serveOnStdio({ signal });
    return 0;
  },
});
