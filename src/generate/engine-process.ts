// The child process of `EngineHost`: an Engine behind calls.

import { serveParent } from '../child/serve-parent.ts';
import { ArgumentError } from '../errors.ts';
import { Engine, type EngineOptions } from './engine.ts';
import type { GenerateEvent } from './engine-host.ts';
import { generateWith } from './generate.ts';
import { PromptHost } from './prompt-host.ts';
import { type BackendChoice, SOURCE_NAMES } from './token-source.ts';
import type { GenerateRequest } from './types.ts';

let engine: Engine | undefined;

serveParent({
  generate: async ({ args, options, signal, event }) => {
    engine ??= new Engine({
      ...(options as EngineOptions),
      backend: backendOf(process.env.BITNET_BACKEND),
      prompts: new PromptHost(),
    });
    const tell: (told: GenerateEvent) => void = event;
    const running = engine;
    const result = generateWith(running, args as GenerateRequest, {
      signal,
      onStep: (step) => tell({ kind: 'step', step }),
      onPrompt: (done, total) => tell({ kind: 'prompt', done, total }),
    });
    return await result.finally(() => tell({ kind: 'kept', kept: running.kept }));
  },
});

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
