// The built server as a client starts it, with a look at its raw stdout.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** What mcp.json says a client should run, and where. */
export function serverFromMcpJson(): { command: string; args: string[]; cwd: string } {
  const { mcpServers } = JSON.parse(readFileSync(`${ROOT}/mcp.json`, 'utf8')) as {
    mcpServers: Record<string, { command: string; args: string[] }>;
  };
  return { ...mcpServers['bitnet-gf3']!, cwd: ROOT };
}

export type Message = {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Record<string, unknown>;
  // biome-ignore lint/suspicious/noExplicitAny: the tests look at what came
  readonly result?: any;
  readonly error?: { readonly code: number; readonly message: string };
};

/** A client of one file: writes JSON lines, keeps every line that comes back. */
export class RawClient {
  readonly child: ChildProcess;
  /** Each must be JSON-RPC: anything else on stdout breaks a client. */
  readonly lines: string[] = [];
  readonly stderr: string[] = [];
  readonly #waiting = new Map<number, (message: Message) => void>();
  readonly #notified: ((message: Message) => void)[] = [];
  #nextId = 1;

  constructor(env: Record<string, string> = {}) {
    const { command, args, cwd } = serverFromMcpJson();
    this.child = spawn(command, args, { cwd, env: { ...process.env, ...env }, stdio: ['pipe', 'pipe', 'pipe'] });
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => this.stderr.push(text));
    createInterface({ input: this.child.stdout! }).on('line', (line) => {
      this.lines.push(line);
      const message = JSON.parse(line) as Message;
      if (message.id !== undefined) this.#waiting.get(message.id)?.(message);
      else for (const listener of this.#notified) listener(message);
    });
  }

  onNotification(listener: (message: Message) => void): void {
    this.#notified.push(listener);
  }

  send(message: Record<string, unknown>): void {
    this.child.stdin!.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`);
  }

  /** The answer to a request; `id` is known at once for cancelling. */
  request(method: string, params: Record<string, unknown> = {}): { id: number; answer: Promise<Message> } {
    const id = this.#nextId++;
    const answer = new Promise<Message>((resolve) => this.#waiting.set(id, resolve));
    this.send({ id, method, params });
    return { id, answer };
  }

  call(name: string, args: Record<string, unknown>): Promise<Message> {
    return this.request('tools/call', { name, arguments: args }).answer;
  }

  async initialize(): Promise<Message> {
    const { answer } = this.request('initialize', {
      protocolVersion: '2025-11-25',
      capabilities: {},
      clientInfo: { name: 'test', version: '0' },
    });
    const message = await answer;
    this.send({ method: 'notifications/initialized' });
    return message;
  }

  /** Exit code (or signal) of the server. */
  async exit(): Promise<number | string> {
    if (this.child.exitCode === null && this.child.signalCode === null) await once(this.child, 'exit');
    return this.child.exitCode ?? this.child.signalCode!;
  }
}

/** Ids of the processes that `pid` has started. */
export function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number);
}

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  // A zombie that nobody has waited for is dead.
  return process.platform !== 'linux' || !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
}
