// A server on the loopback interface that answers as a test tells it to, and remembers what it was asked.

import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export type Asked = {
  readonly path: string;
  readonly authorization: string | undefined;
  readonly body: Record<string, unknown>;
};

export type Answer = (response: ServerResponse, asked: Asked) => void | Promise<void>;

export type MockServer = AsyncDisposable & {
  readonly url: string;
  readonly asked: Asked[];
  /** Requests whose connection the other side ended before the answer did. */
  readonly hangUps: number;
  answer: Answer;
};

async function bodyOf(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return Buffer.concat(parts).toString();
}

export async function openMockServer(): Promise<MockServer> {
  const asked: Asked[] = [];
  let hangUps = 0;
  const mock: { answer: Answer } = { answer: (response) => void response.writeHead(500).end() };
  const server = createServer((request, response) => {
    response.on('close', () => {
      if (!response.writableFinished) hangUps += 1;
    });
    void bodyOf(request).then(async (text) => {
      const { url = '', headers } = request;
      asked.push({ path: url, authorization: headers.authorization, body: text === '' ? {} : JSON.parse(text) });
      await mock.answer(response, asked.at(-1)!);
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    asked,
    get hangUps() {
      return hangUps;
    },
    get answer() {
      return mock.answer;
    },
    set answer(answer) {
      mock.answer = answer;
    },
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

export const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Strings go out as they are, everything else as one event of JSON. */
export function stream(events: readonly unknown[], pauseMs = 0): Answer {
  return async (response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
    for (const event of events) {
      if (response.destroyed) return;
      response.write(typeof event === 'string' ? event : `data: ${JSON.stringify(event)}\n\n`);
      if (pauseMs > 0) await sleep(pauseMs);
    }
    response.end();
  };
}

export const DONE = 'data: [DONE]\n\n';

/** One chunk of /completions. */
export const piece = (text: string, more: object = {}) => ({
  choices: [{ index: 0, text, finish_reason: null, ...more }],
});
export const finish = (reason: string) => ({ choices: [{ index: 0, text: '', finish_reason: reason }] });
