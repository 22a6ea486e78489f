import type { IncomingMessage, ServerResponse } from 'node:http';
import { PassThrough } from 'node:stream';
import type { McpServer } from '@modelcontextprotocol/server';
import { expect, test } from 'vitest';
import type { BodyReader } from '../../src/mcp/http/body.ts';
import { Rounds } from '../../src/mcp/http/connections.ts';
import { SessionTable } from '../../src/mcp/http/sessions.ts';
import { SseEndpoint } from '../../src/mcp/http/sse.ts';

test('a session whose server cannot connect gives its place back', async () => {
  const sessions = new SessionTable<unknown>({ maxSessions: 1, maxSessionsPerClient: 1, idleMs: 60_000 });
  const createServer = async () => {
    return {
      connect: async () => {
        expect(sessions.size).toBe(1);
        throw new Error('cannot connect');
      },
      close: async () => {},
    } as unknown as McpServer;
  };
  const sse = new SseEndpoint({
    createServer,
    sessions,
    bodies: {} as BodyReader,
    rounds: new Rounds(),
    messagesPath: '/messages',
  });
  const owner = { principal: 'p', client: 'c' };
  for (let i = 0; i < 2; i += 1) {
    const opened = sse.open(
      { method: 'GET' } as IncomingMessage,
      new PassThrough() as unknown as ServerResponse,
      owner,
    );
    await expect(opened).rejects.toThrow('cannot connect');
    expect(sessions.size).toBe(0);
  }
  await sessions.closeAll();
});
