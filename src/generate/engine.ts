// Models kept loaded in this process, each with its tokenizer and a scheduler. A server runs this in a child process
// (`engine-host.ts`); the command line runs it in its own.

import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { BackendName, Executable } from '../engine/backend.ts';
import { selectBackend } from '../engine/select.ts';
import { CancelledError } from '../errors.ts';
import { type ModelLocation, resolveModel } from '../hub/resolve-model.ts';
import type { ModelConfig } from '../model/config.ts';
import { openModel } from '../model/open-model.ts';
import { loadTokenizer } from '../tokenizer/load-tokenizer.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { Scheduler } from './scheduler.ts';
import type { HeadPrecision } from './types.ts';

export type LoadRequest = {
  readonly model: string;
  readonly backend?: BackendName | 'auto';
  readonly threads?: number;
  /** Undefined: the checkpoint's own precision, int8 where the head is large. */
  readonly head?: HeadPrecision;
  readonly signal?: AbortSignal;
  readonly onLayer?: (done: number, total: number) => void;
};

export type LoadedModel = {
  readonly name: string;
  readonly location: ModelLocation;
  readonly tokenizer: Tokenizer;
  readonly executable: Executable;
  readonly scheduler: Scheduler;
  readonly contextLength: number;
  readonly vocabSize: number;
  readonly head: HeadPrecision;
  /** Ids at which generation ends. */
  readonly stopIds: ReadonlySet<number>;
  readonly loadMs: number;
};

export type EngineOptions = {
  /** Folders that model paths must lie in; without it any path goes. */
  readonly allowedRoots?: readonly string[];
  /** Models kept loaded; the least recently used idle one goes first. Default 2. */
  readonly maxModels?: number;
};

/** Above this many bytes a dense head is rounded to int8 unless `full` is asked for: it would cost more than the layers. */
export const INT8_HEAD_BYTES = 64 << 20;

/** Rows of a step: few where a row costs as much as a step (JavaScript), so that a cancellation is noticed soon. */
const MAX_ROWS: Record<BackendName, number> = { js: 8, wasm: 64, cpu: 256, metal: 256 };
const MAX_DRAFTS: Record<BackendName, number> = { js: 0, wasm: 3, cpu: 7, metal: 7 };

/** A model in the engine. `users` hold it: neither the cap nor another caller's cancellation may take it from them. */
type Entry = {
  readonly loading: Promise<LoadedModel>;
  readonly stop: AbortController;
  loaded: boolean;
  users: number;
};

export class Engine implements Disposable {
  readonly #options: EngineOptions;
  /** In order of use, the last used last. */
  readonly #models = new Map<string, Entry>();

  constructor(options: EngineOptions = {}) {
    this.#options = options;
  }

  /**
   * Runs `work` with the model, loaded now or before, which stays loaded until it ends. Callers of the same model
   * share one load; it is given up when the last of them has been cancelled.
   */
  async use<T>(request: LoadRequest, work: (model: LoadedModel) => Promise<T>): Promise<T> {
    const roots = this.#options.allowedRoots;
    const location = await resolveModel(request.model, roots === undefined ? {} : { allowedRoots: roots });
    const { backend = 'auto', threads = 0, head = 'auto' } = request;
    const key = JSON.stringify([location.path, backend, threads, head]);
    const entry = this.#models.get(key) ?? startLoading(location, request);
    this.#models.delete(key);
    this.#models.set(key, entry);
    entry.users += 1;
    try {
      let model: LoadedModel;
      try {
        model = await unlessAborted(entry.loading, request.signal);
      } catch (error) {
        // A failed load is tried again by the next caller; one that others still wait for goes on.
        if (!request.signal?.aborted || (entry.users === 1 && !entry.loaded)) {
          if (this.#models.get(key) === entry) this.#models.delete(key);
          release(entry);
        }
        throw error;
      }
      this.#evict();
      return await work(model);
    } finally {
      entry.users -= 1;
      this.#evict();
    }
  }

  [Symbol.dispose](): void {
    for (const entry of this.#models.values()) release(entry);
    this.#models.clear();
  }

  /** Lets idle models go, the least recently used first, until the cap holds. */
  #evict(): void {
    for (const [key, entry] of this.#models) {
      if (this.#models.size <= (this.#options.maxModels ?? 2)) return;
      if (entry.users > 0) continue;
      this.#models.delete(key);
      release(entry);
    }
  }
}

function startLoading(location: ModelLocation, request: LoadRequest): Entry {
  const stop = new AbortController();
  const loading = loadModel(location, { ...request, signal: stop.signal });
  const entry: Entry = { loading, stop, loaded: false, users: 0 };
  loading.then(
    () => {
      entry.loaded = true;
    },
    // Whoever waits sees the failure; a load that nobody waits for any more must not end the process.
    () => {},
  );
  return entry;
}

function release({ loading, stop }: Entry): void {
  stop.abort();
  loading.then(
    (model) => model.executable[Symbol.dispose](),
    () => {},
  );
}

/** The promise's result, or CancelledError as soon as the signal fires. */
function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const cancel = () => reject(new CancelledError('the generation was cancelled'));
    if (signal.aborted) cancel();
    signal.addEventListener('abort', cancel, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', cancel));
  });
}

/** A model's program on a backend, without its tokenizer. */
export type LoadedProgram = Pick<LoadedModel, 'executable' | 'contextLength' | 'vocabSize' | 'head'> & {
  readonly config: ModelConfig;
};

/** Loads what computes logits. The caller disposes of the executable. */
export async function loadProgram(location: ModelLocation, request: LoadRequest): Promise<LoadedProgram> {
  const { program, head, config } = await openModel(location, {
    name: request.model,
    head: request.head ?? { int8Above: INT8_HEAD_BYTES },
    ...(request.signal === undefined ? {} : { signal: request.signal }),
    ...(request.onLayer === undefined ? {} : { onLayer: request.onLayer }),
  });
  const { backend: chosen } = await selectBackend(request.backend ?? 'auto');
  const executable = await chosen.load(program, {
    ...(request.threads === undefined ? {} : { threads: request.threads }),
  });
  return { executable, config, head, contextLength: program.contextLength, vocabSize: program.vocabSize };
}

async function loadModel(location: ModelLocation, request: LoadRequest): Promise<LoadedModel> {
  const start = performance.now();
  // A single .safetensors file has its config and tokenizer beside it, a .gguf holds its own.
  const home = location.kind === 'safetensors' ? dirname(location.path) : location.path;
  const tokenizer = loadTokenizer(home);
  // Both are awaited below; a failure of the model must not leave this one unhandled.
  tokenizer.catch(() => {});
  const { executable, config, head, contextLength, vocabSize } = await loadProgram(location, request);
  const { backend } = executable.info;
  return {
    name: request.model,
    location,
    tokenizer: await tokenizer,
    executable,
    scheduler: new Scheduler(executable, {
      maxRows: MAX_ROWS[backend],
      maxDrafts: MAX_DRAFTS[backend],
      cachedTokens: 4 * contextLength,
      contextLength,
    }),
    contextLength,
    vocabSize,
    head,
    stopIds: new Set(
      (await tokenizer).stopIds({ eos_token_id: [...config.eosTokenIds] }, await generationConfig(home)),
    ),
    loadMs: performance.now() - start,
  };
}

/** generation_config.json if there is one; a broken one is as good as none, since config.json decides what matters. */
async function generationConfig(folder: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(join(folder, 'generation_config.json'), 'utf8'));
  } catch {
    return undefined;
  }
}
