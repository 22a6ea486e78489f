// The child process of `WorldHost`: Worlds behind messages. It ends when its parent goes, however that happens.

import { toRemoteFailure, type WorldHostMessage, type WorldProcessMessage } from './world-host.ts';
import { Worlds } from './worlds.ts';

if (process.send === undefined) {
  process.stderr.write('this file is started by the server, not by hand\n');
  process.exit(2);
}

/** Progress is sent at most so often. */
const PROGRESS_MS = 50;

let worlds: Promise<Worlds> | undefined;
let options: Extract<WorldHostMessage, { kind: 'options' }>['options'] = {};
const running = new Map<number, AbortController>();

const warn = (reason: string) => process.stderr.write(`training in JavaScript, which is slow: ${reason}\n`);

const send = (message: WorldProcessMessage) => {
  if (process.connected) process.send?.(message, undefined, undefined, () => {});
};

async function answer(id: number, work: (worlds: Worlds, signal: AbortSignal) => Promise<unknown>): Promise<void> {
  const controller = new AbortController();
  running.set(id, controller);
  try {
    worlds ??= Worlds.open({ ...options, onFallback: warn });
    send({ kind: 'result', id, result: await work(await worlds, controller.signal) });
  } catch (error) {
    send({ kind: 'error', id, error: toRemoteFailure(error) });
  } finally {
    running.delete(id);
  }
}

process.on('message', (message: WorldHostMessage) => {
  switch (message.kind) {
    case 'options':
      options = message.options;
      break;
    case 'step': {
      const { id, request } = message;
      let last = 0;
      const onProgress = (done: number, total: number, text: string) => {
        const now = performance.now();
        if (now - last < PROGRESS_MS) return;
        last = now;
        send({ kind: 'progress', id, done, total, message: text });
      };
      void answer(id, (opened, signal) => opened.step(request, { signal, onProgress }));
      break;
    }
    case 'invert':
      void answer(message.id, (opened) => opened.invert(message.world));
      break;
    case 'cancel':
      running.get(message.id)?.abort();
  }
});
// The parent ended or closed the channel: nobody is left to work for. What is being written is temporary until renamed.
process.on('disconnect', () => process.exit(0));
// A terminal's Ctrl-C reaches the whole group; the parent decides what it means.
process.on('SIGINT', () => {});
