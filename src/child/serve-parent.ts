// The child's side of `ChildHost`: answers calls until the parent goes, however that happens.

import { type FromChild, type ToChild, toPlainError } from './child-host.ts';

export type ChildCall = {
  readonly args: unknown;
  readonly signal: AbortSignal;
  readonly event: (event: unknown) => void;
  /** What the host was made with. */
  readonly options: unknown;
};

/** Starts to answer. Each method's promise is the result; what it throws is the error, at the parent. */
export function serveParent(methods: Readonly<Record<string, (call: ChildCall) => Promise<unknown>>>): void {
  if (process.send === undefined) {
    process.stderr.write('this file is started by the server, not by hand\n');
    process.exit(2);
  }
  const running = new Map<number, AbortController>();
  let options: unknown;

  const send = (message: FromChild) => {
    if (process.connected) process.send?.(message, undefined, undefined, () => {});
  };
  const answer = async (id: number, method: string, args: unknown) => {
    const controller = new AbortController();
    running.set(id, controller);
    try {
      const work = methods[method];
      if (work === undefined) throw new TypeError(`the child has no method ${method}`);
      const event = (value: unknown) => send({ kind: 'event', id, event: value });
      const result = await work({ args, signal: controller.signal, event, options });
      send({ kind: 'result', id, result });
    } catch (error) {
      send({ kind: 'error', id, error: toPlainError(error) });
    } finally {
      running.delete(id);
    }
  };

  process.on('message', (message: ToChild) => {
    if (message.kind === 'options') options = message.options;
    else if (message.kind === 'call') void answer(message.id, message.method, message.args);
    else if (message.kind === 'ping') send({ kind: 'pong' });
    else running.get(message.id)?.abort();
  });
  // The parent ended or closed the channel: nobody is left to work for.
  process.on('disconnect', () => process.exit(0));
  // A terminal's Ctrl-C reaches the whole group; the parent decides what it means.
  process.on('SIGINT', () => {});
}
