// The child process of `EngineHost`: an Engine behind messages. It ends when its parent goes, however that happens.

import { ArgumentError } from '../errors.ts';
import { Engine, type EngineOptions } from './engine.ts';
import { type EngineMessage, type HostMessage, toPlainError } from './engine-host.ts';
import { generateWith } from './generate.ts';
import { type BackendChoice, SOURCE_NAMES } from './token-source.ts';
import type { GenerateRequest } from './types.ts';

if (process.send === undefined) {
  process.stderr.write('this file is started by the server, not by hand\n');
  process.exit(2);
}

let options: EngineOptions = {};
let engine: Engine | undefined;
const running = new Map<number, AbortController>();

const send = (message: EngineMessage) => {
  if (process.connected) process.send?.(message, undefined, undefined, () => {});
};

async function generate(id: number, request: GenerateRequest): Promise<void> {
  const controller = new AbortController();
  running.set(id, controller);
  try {
    engine ??= new Engine({ ...options, backend: backendOf(process.env.BITNET_BACKEND) });
    const result = await generateWith(engine, request, {
      signal: controller.signal,
      onStep: (step) => send({ kind: 'step', id, step }),
      onPrompt: (done, total) => send({ kind: 'prompt', id, done, total }),
    });
    send({ kind: 'result', id, result });
  } catch (error) {
    send({ kind: 'error', id, error: toPlainError(error) });
  } finally {
    running.delete(id);
  }
}

/** What a server computes with; its tools have no argument for it. */
function backendOf(name = ''): BackendChoice {
  const choices = ['auto', ...SOURCE_NAMES] as const;
  const choice = name === '' ? 'auto' : choices.find((candidate) => candidate === name);
  if (choice !== undefined) return choice;
  throw new ArgumentError({
    what: `BITNET_BACKEND is ${JSON.stringify(name)}`,
    fix: `set it to one of ${choices.join(', ')} where the server is started`,
  });
}

process.on('message', (message: HostMessage) => {
  switch (message.kind) {
    case 'options':
      options = message.options;
      break;
    case 'generate':
      void generate(message.id, message.request);
      break;
    case 'cancel':
      running.get(message.id)?.abort();
  }
});
// The parent ended or closed the channel: nobody is left to work for.
process.on('disconnect', () => process.exit(0));
// A terminal's Ctrl-C reaches the whole group; the parent decides what it means.
process.on('SIGINT', () => {});
