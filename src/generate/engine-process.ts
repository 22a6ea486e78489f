// The child process of `EngineHost`: an Engine behind calls.

import { type ChildCall, serveParent } from '../child/serve-parent.ts';
import { ArgumentError } from '../errors.ts';
import { now } from './clock.ts';
import { Engine, type EngineOptions } from './engine.ts';
import type { GenerateCall, GenerateEvent, ManyCall } from './engine-host.ts';
import { generateWith } from './generate.ts';
import { PromptHost } from './prompt-host.ts';
import { type BackendChoice, SOURCE_NAMES } from './token-source.ts';

let engine: Engine | undefined;

function engineOf({ options }: Pick<ChildCall, 'options'>): Engine {
  engine ??= new Engine({
    ...(options as EngineOptions),
    backend: backendOf(process.env.BITNET_BACKEND),
    prompts: new PromptHost(),
  });
  return engine;
}

/** Between two words of many texts' progress. */
const TELL_MS = 50;

serveParent({
  generate: async (call) => {
    const { request, listens } = call.args as GenerateCall;
    const tell: (told: GenerateEvent) => void = call.event;
    const engine = engineOf(call);
    const result = generateWith(engine, request, {
      signal: call.signal,
      ...(listens && {
        onStep: (step) => tell({ kind: 'step', step }),
        onThought: (text) => tell({ kind: 'thought', text }),
        onPrompt: (done, total) => tell({ kind: 'prompt', done, total }),
      }),
    });
    return await result.finally(() => tellOf(engine, tell));
  },
  generateMany: async (call) => {
    const { generateManyWith } = await import('./generate-many.ts');
    const { request, listens } = call.args as ManyCall;
    const tell: (told: GenerateEvent) => void = call.event;
    let done = 0;
    let toldAt = now();
    const onToken = () => {
      done += 1;
      if (now() - toldAt < TELL_MS) return;
      toldAt = now();
      tell({ kind: 'tokens', done });
    };
    const engine = engineOf(call);
    const result = generateManyWith(engine, request, { signal: call.signal, ...(listens && { onToken }) });
    return await result.finally(() => tellOf(engine, tell));
  },
});

/** What has changed in the engine itself. */
function tellOf(engine: Engine, tell: (told: GenerateEvent) => void): void {
  tell({ kind: 'kept', kept: engine.kept });
  for (const threads of engine.takeThreadsFound()) tell({ kind: 'threads', threads });
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
