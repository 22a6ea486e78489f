import { dirname } from 'node:path';
import type { BackendName } from '../engine/backend.ts';
import { loadOn, weightMemory, weightPreparation } from '../engine/select.ts';
import { stateBytes } from '../engine/state-bytes.ts';
import { CancelledError } from '../errors.ts';
import { type ModelLocation, resolveModel } from '../hub/resolve-model.ts';
import { openModel } from '../model/open-model.ts';
import { loadTokenizer } from '../tokenizer/load-tokenizer.ts';
import { now } from './clock.ts';
import type { LoadedModel } from './loaded-model.ts';
import { localSource } from './local-source.ts';
import { addCounts, NOTHING_KEPT, type PrefixCacheCounts } from './prefix-cache.ts';
import type { PromptHost } from './prompt-host.ts';
import { samplingDefaults } from './sampling-defaults.ts';
import { Scheduler, type SchedulerOptions } from './scheduler.ts';
import { snapshotBudget } from './snapshot-budget.ts';
import { type ThreadsTold, threadsTold } from './threads-told.ts';
import { type BackendChoice, ownBackend, type TokenSource } from './token-source.ts';
import type { HeadPrecision } from './types.ts';

export type { LoadedModel } from './loaded-model.ts';
export type { LogitsModel } from './logits-model.ts';

export type LoadRequest = {
  readonly model: string;
  readonly backend?: BackendChoice;
  readonly threads?: number;
  /** Undefined: the checkpoint's own precision, int8 where the head is large. */
  readonly head?: HeadPrecision;
  readonly signal?: AbortSignal;
  readonly onLayer?: (done: number, total: number) => void;
};

export type EngineOptions = {
  /** Folders that model paths must lie in; without it any path goes. */
  readonly allowedRoots?: readonly string[];
  /** Models kept loaded; the least recently used idle one goes first. Default 2. */
  readonly maxModels?: number;
  /** What computes where a request does not say; default `auto`. */
  readonly backend?: BackendChoice;
  /** Where the endpoint and key of the backend "openai" are read; default: the environment of the process. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Reads long prompts; without it they are read in this process. */
  readonly prompts?: PromptHost;
};

/** Above this many bytes a dense head is rounded to int8 unless `full` is asked for: it would cost more than the layers. */
export const INT8_HEAD_BYTES = 64 << 20;

/** Rows of a step: few where a row costs as much as a step (JavaScript), so that a cancellation is noticed soon. */
const MAX_ROWS: Record<BackendName, number> = { js: 8, wasm: 64, cpu: 256, metal: 256, cuda: 512 };
/** Where the weights live in a cache, further rows cost what the first does: only guesses that are nearly sure pay. */
const MAX_DRAFTS: Record<BackendName, number> = { js: 0, wasm: 3, cpu: 7, metal: 7, cuda: 7 };
const MAX_DRAFTS_CACHED = 3;
const CACHED_BYTES = 32 << 20;

/** A model in the engine. `users` hold it: neither the cap nor another caller's cancellation may take it from them. */
type Entry = {
  readonly loading: Promise<LoadedModel>;
  readonly stop: AbortController;
  /** Once it is loaded. */
  model: LoadedModel | undefined;
  users: number;
};

export class Engine implements Disposable {
  readonly #options: EngineOptions;
  /** In order of use, the last used last. */
  readonly #models = new Map<string, Entry>();
  readonly #told = new WeakSet<LoadedModel>();

  constructor(options: EngineOptions = {}) {
    this.#options = options;
  }

  /** The request's backend, or the engine's own where it does not say. */
  backendOf({ backend }: Pick<LoadRequest, 'backend'>): BackendChoice {
    return backend ?? this.#options.backend ?? 'auto';
  }

  /** Runs `work` with what the backend of this request takes its tokens from. */
  async useSource<T>(request: LoadRequest, work: (source: TokenSource) => Promise<T>): Promise<T> {
    if (request.backend !== 'openai')
      return await this.use(request, (model) => work(localSource(model, this.#options.prompts)));
    const { openAiSource } = await import('./openai/source.ts');
    return await work(await openAiSource(request, this.#options.env ?? process.env));
  }

  /**
   * Runs `work` with the model, loaded now or before, which stays loaded until it ends. Callers of the same model
   * share one load; it is given up when the last of them has been cancelled.
   */
  async use<T>(request: LoadRequest, work: (model: LoadedModel) => Promise<T>): Promise<T> {
    const location = await locateModel(request, this.#options);
    const { backend = 'auto', threads = 0, head = 'auto' } = request;
    const key = JSON.stringify([location.path, location.onnxFile, backend, threads, head]);
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
        if (!request.signal?.aborted || (entry.users === 1 && entry.model === undefined)) {
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

  /** What the models that are loaded keep for later prompts. */
  get kept(): PrefixCacheCounts {
    const counts = [...this.#models.values()].map(({ model }) => model?.scheduler.cacheCounts ?? NOTHING_KEPT);
    return counts.reduce(addCounts, NOTHING_KEPT);
  }

  /** What has been found out, since the last call, of the threads that help: of each model that is loaded once. */
  takeThreadsFound(): ThreadsTold[] {
    const told: ThreadsTold[] = [];
    for (const { model } of this.#models.values()) {
      if (model === undefined || this.#told.has(model)) continue;
      const found = model.executable.threadsFound?.();
      if (found?.generation === undefined) continue;
      this.#told.add(model);
      told.push(threadsTold(model.name, found, model.info.threads));
    }
    return told;
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

function startLoading(location: LocatedModel, request: LoadRequest): Entry {
  const stop = new AbortController();
  const loading = loadModel(location, { ...request, signal: stop.signal });
  const entry: Entry = { loading, stop, model: undefined, users: 0 };
  loading.then(
    (model) => {
      entry.model = model;
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

/** A model that computes logits, without its tokenizer. */
export type LoadedProgram = Pick<LoadedModel, 'executable' | 'info' | 'contextLength' | 'vocabSize' | 'warnings'> & {
  readonly eosTokenIds: readonly number[];
  /** How many rows a step of the scheduler may have, how many tokens it may guess and keep. */
  readonly scheduling: Omit<SchedulerOptions, 'contextLength'>;
};

export type LocatedModel = ModelLocation & {
  /** The graph, with the backend "onnx"; `path` is then the folder of config and tokenizer. */
  readonly onnxFile?: string;
};

export async function locateModel(request: LoadRequest, { allowedRoots }: EngineOptions): Promise<LocatedModel> {
  const resolve = (name: string) => resolveModel(name, allowedRoots === undefined ? {} : { allowedRoots });
  if (request.backend === 'openai') ownBackend('openai', 'give the logits that are needed here');
  if (request.backend !== 'onnx') return resolve(request.model);
  const { locateOnnx } = await import('./onnx/locate.ts');
  return locateOnnx(request.model, resolve);
}

/** Loads what computes logits. The caller disposes of the executable. */
export async function loadProgram(location: LocatedModel, request: LoadRequest): Promise<LoadedProgram> {
  if (location.onnxFile !== undefined) {
    const { loadOnnx } = await import('./onnx/load.ts');
    return loadOnnx({ folder: location.path, file: location.onnxFile }, request);
  }
  const choice = ownBackend(request.backend ?? 'auto', 'give the logits that are needed here');
  const { program, head, config, warnings } = await openModel(location, {
    name: request.model,
    head: request.head ?? { int8Above: INT8_HEAD_BYTES },
    allocate: weightMemory(choice),
    prepare: weightPreparation,
    ...(request.signal === undefined ? {} : { signal: request.signal }),
    ...(request.onLayer === undefined ? {} : { onLayer: request.onLayer }),
  });
  const executable = await loadOn(choice, program, {
    ...(request.threads === undefined ? {} : { threads: request.threads }),
  });
  const { backend, isa, threads, weightBytes, recurrentBytes } = executable.info;
  const { contextLength, vocabSize } = program;
  const maxDrafts = MAX_DRAFTS[backend];
  return {
    executable,
    info: { backend, ...(isa === undefined ? {} : { isa }), threads, head },
    contextLength,
    vocabSize,
    warnings,
    eosTokenIds: config.eosTokenIds,
    scheduling: {
      maxRows: MAX_ROWS[backend],
      maxDrafts: weightBytes <= CACHED_BYTES ? Math.min(maxDrafts, MAX_DRAFTS_CACHED) : maxDrafts,
      cachedTokens: 4 * contextLength,
      stateBytes: stateBytes(program, recurrentBytes),
      snapshotBytes: snapshotBudget(),
    },
  };
}

async function loadModel(location: LocatedModel, request: LoadRequest): Promise<LoadedModel> {
  const start = now();
  // A single .safetensors file has its config and tokenizer beside it, a .gguf holds its own.
  const home = location.kind === 'safetensors' ? dirname(location.path) : location.path;
  const loadingProgram = loadProgram(location, request);
  // Its files are read and taken apart at once, while the system reads the weights.
  const tokenizer = new Promise((resolve) => setImmediate(resolve)).then(() => loadTokenizer(home));
  // Both are awaited below; a failure of the model must not leave this one unhandled.
  tokenizer.catch(() => {});
  const { executable, info, contextLength, vocabSize, eosTokenIds, scheduling, warnings } = await loadingProgram;
  const asked = samplingDefaults((await tokenizer).generationConfig);
  return {
    name: request.model,
    info,
    location,
    home,
    tokenizer: await tokenizer,
    executable,
    scheduler: new Scheduler(executable, { ...scheduling, contextLength }),
    contextLength,
    vocabSize,
    // The tokenizer has read generation_config.json as well; a .gguf keeps its ids in the metadata.
    isStop: (await tokenizer).stopTest({ eos_token_id: [...eosTokenIds] }),
    loadMs: now() - start,
    sampling: asked.defaults,
    warnings: [...warnings, ...asked.warnings],
  };
}
