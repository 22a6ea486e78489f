// The child process of `WorldHost`: Worlds behind calls. What is being written when it ends is temporary until renamed.

import { serveParent } from '../child/serve-parent.ts';
import type { StepEvent, WorldHostOptions } from './world-host.ts';
import { type StepRequest, Worlds } from './worlds.ts';

/** Progress is sent at most so often. */
const PROGRESS_MS = 50;

let worlds: Promise<Worlds> | undefined;

function open(options: unknown): Promise<Worlds> {
  worlds ??= Worlds.open({
    ...(options as WorldHostOptions),
    onFallback: (reason) => process.stderr.write(`training in JavaScript, which is slow: ${reason}\n`),
  }).catch((error: unknown) => {
    // What was in the way may be gone when the next call comes.
    worlds = undefined;
    throw error;
  });
  return worlds;
}

serveParent({
  step: async ({ args, options, signal, event }) => {
    const tell: (told: StepEvent) => void = event;
    let last = 0;
    const onProgress = (done: number, total: number, message: string) => {
      const now = performance.now();
      if (now - last < PROGRESS_MS) return;
      last = now;
      tell({ done, total, message });
    };
    return (await open(options)).step(args as StepRequest, { signal, onProgress });
  },
  invert: async ({ args, options }) => (await open(options)).invert(args as string),
});
