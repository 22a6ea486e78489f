// What can be done with worlds: begin one from a model, step, invert, look at, compare, delete. States are kept on disk
// as snapshots every few steps; between them they are computed again, and the id proves that the result is the same.

import { join } from 'node:path';
import { setImmediate as otherEvents } from 'node:timers/promises';
import { ArgumentError, CancelledError } from '../errors.ts';
import { readTextFile } from '../formats/read-small-file.ts';
import { hubCacheFolder } from '../hub/hub-cache.ts';
import { isAllowed, PathNotAllowedError, resolveModel } from '../hub/resolve-model.ts';
import { packageRoot } from '../package/root.ts';
import { MAX_TOKENIZER_JSON_BYTES } from '../tokenizer/json-file.ts';
import { leastTokens } from '../tokenizer/least-tokens.ts';
import { loadTokenizer } from '../tokenizer/load-tokenizer.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { type Batch, makeBatch, nextTokenSequence } from '../train/batch.ts';
import { windows } from '../train/dataset.ts';
import type { TrainKernels } from '../train/kernels.ts';
import { type KernelOptions, loadTrainKernels } from '../train/native-kernels.ts';
import { Network } from '../train/network.ts';
import { zeroOptimizerState } from '../train/optimizer.ts';
import type { Parameter } from '../train/parameters.ts';
import { hashOf, openTrainableModel, refuseFile, type TrainableModel } from '../train/trainable-model.ts';
import {
  applyMorphism,
  changeOf,
  isRate,
  MAX_STEPS,
  type Morphism,
  type MorphismHooks,
  type MorphismReport,
} from './morphism.ts';
import { WorldError, WorldNotFoundError, WorldReplayError } from './world-error.ts';
import { type WorldState, worldId } from './world-state.ts';
import { type RecordedMorphism, type StoreOptions, type WorldRecord, WorldStore, worldsFolder } from './world-store.ts';

export type WorldsOptions = StoreOptions &
  KernelOptions & {
    /** Default: `worldsFolder()`. */
    readonly folder?: string;
    /** Gradient steps between snapshots. */
    readonly snapshotEvery?: number;
    /** Folders that model paths must lie in; any without it. */
    readonly allowedRoots?: readonly string[];
  };

export type StepRequest = RecordedMorphism & {
  /** Exactly one of both; a model begins a world. */
  readonly world?: string;
  readonly model?: string;
};

export type StepResult = {
  readonly before: WorldRecord;
  readonly after: WorldRecord;
  readonly report: MorphismReport;
};

export type InvertResult = {
  /** The world that was inverted, and the one it came from. */
  readonly from: WorldRecord;
  readonly to: WorldRecord;
};

export type TritDiff = {
  readonly name: string;
  readonly shape: readonly [rows: number, columns: number];
  readonly flips: number;
  readonly tritDeltaSum: number;
  /** flips of each kind, as "-o" for -1 -> 0. */
  readonly kinds: Readonly<Record<string, number>>;
};

export const DEFAULT_SNAPSHOT_EVERY = 8;
/** Tokens of one batch: bounds memory and time of a step. */
export const MAX_BATCH_TOKENS = 16_384;
/** So few steps are done in JavaScript before a compiler, which takes half a minute, is done. */
const STEPS_WITHOUT_COMPILER = 4;
/** States kept in memory: a world and where it came from. */
const CACHED_STATES = 2;

type Base = {
  readonly id: string;
  readonly model: TrainableModel;
  /** Another one once faster kernels are there. */
  network: Network;
  /** The world that the model begins; its moments are zeros that nobody has touched, which take no memory. */
  readonly beginning: WorldState;
  tokenizer: Promise<Tokenizer> | undefined;
};

/** Tells every second that `work` goes on: where no kernels came prebuilt, many steps wait half a minute for a compiler. */
async function tellOfWaiting<T>({ onProgress }: MorphismHooks, work: () => Promise<T>): Promise<T> {
  let seconds = 0;
  const timer = setInterval(() => {
    seconds += 1;
    onProgress?.(seconds / 1000, 1, `getting ready since ${seconds} s: the first step compiles the training kernels`);
  }, 1000);
  try {
    return await work();
  } finally {
    clearInterval(timer);
  }
}

export class Worlds {
  readonly store: WorldStore;
  readonly #options: WorldsOptions;
  #fallbackTold = false;
  /** The last model that was used, by folder. */
  #base: { readonly folder: string; readonly base: Base } | undefined;
  readonly #states = new Map<string, WorldState>();
  #queue: Promise<unknown> = Promise.resolve();

  private constructor(store: WorldStore, options: WorldsOptions) {
    this.store = store;
    this.#options = options;
  }

  static async open(options: WorldsOptions = {}): Promise<Worlds> {
    return new Worlds(await WorldStore.open(options.folder ?? worldsFolder(), options), options);
  }

  /** One operation at a time: they share the network's memory. */
  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#queue.then(work, work);
    this.#queue = turn.catch(() => undefined);
    return turn;
  }

  /** The world that a model begins; adds it if it is new. */
  begin(model: string): Promise<WorldRecord> {
    return this.#inTurn(async () => {
      const record = await this.#beginning(model);
      await this.store.add(record);
      return this.store.record(record.id);
    });
  }

  /** The world that a model begins, as it is stored or would be. */
  async #beginning(name: string): Promise<WorldRecord> {
    const { allowedRoots } = this.#options;
    const location = await resolveModel(name, allowedRoots === undefined ? {} : { allowedRoots });
    if (location.kind !== 'folder') {
      await refuseFile(location, 'a world begins');
    }
    const base = await this.#openBase(location.path);
    const state = base.beginning;
    const id = worldId(state);
    this.#remember(id, state);
    const stored = await this.store.record(id).catch((error: unknown) => {
      // A damaged one is written anew.
      if (error instanceof WorldNotFoundError || error instanceof WorldError) return undefined;
      throw error;
    });
    return (
      stored ?? {
        format: 1,
        id,
        parent: null,
        base: { id: base.id, model: name, folder: location.path },
        stepCount: 0,
        created: new Date().toISOString(),
      }
    );
  }

  /** Takes a morphism. Nothing is stored unless it is complete. */
  step(request: StepRequest, hooks: MorphismHooks = {}): Promise<StepResult> {
    return this.#inTurn(async () => {
      const { world, model, ...morphism } = request;
      checkMorphism(morphism);
      if ((world === undefined) === (model === undefined)) {
        throw new ArgumentError({ what: 'give either a world or a model', fix: 'a model begins a new world' });
      }
      const { before, base } = await tellOfWaiting(hooks, async () => {
        const before =
          world === undefined
            ? await this.#beginning(model!)
            : await this.store.record(await this.store.resolve(world));
        const base = await this.#baseOf(before);
        if (base.network.kernels.name === 'js') {
          const kernels = await this.#kernels(morphism.steps);
          if (kernels !== base.network.kernels) base.network = new Network(base.model.config, kernels);
        }
        return { before, base };
      });
      const batch = await batchOf(base, morphism, hooks.signal);
      const state = await this.#materialize(before, hooks);
      // A state is three times the model as floats: the others go before there is another.
      this.#forgetOthers(before.id);
      const { world: next, report } = await applyMorphism(base.network, state, batch, morphism, hooks);
      const { layers, lossBefore, lossAfter, tritDeltaSum } = report!;
      const id = worldId(next);
      const after: WorldRecord = {
        format: 1,
        id,
        parent: before.id,
        base: before.base,
        stepCount: next.stepCount,
        morphism,
        report: { lossBefore, lossAfter, tritDeltaSum, flips: layers.reduce((sum, { flips }) => sum + flips, 0) },
        created: new Date().toISOString(),
      };
      this.#remember(id, next);
      // A step that is refused leaves nothing, so that its beginning comes with it; first, since a way back must end.
      const begins = before.parent === null && !(await this.store.has(before.id));
      if (before.parent === null) await this.store.add(before);
      try {
        if (await this.#snapshotIsDue(after)) {
          await this.store.writeSnapshot(id, next);
          await this.store.evict((old) => this.#replayable(old), new Set([id]));
        }
        await this.store.add(after);
      } catch (error) {
        if (begins) await this.store.delete(before.id);
        throw error;
      }
      return { before, after: await this.store.record(id), report: report! };
    });
  }

  /** The world that this one came from. Reads two records, and waits for no step. */
  async invert(world: string): Promise<InvertResult> {
    const from = await this.store.record(await this.store.resolve(world));
    const to = await this.store.parentOf(from);
    if (to === undefined) {
      throw new WorldError({
        what: `world ${from.id} is where model ${from.base.model} begins: no step led to it`,
        fix: 'invert a world that morphism_step returned as world_after',
      });
    }
    return { from, to };
  }

  /** From a world back to its beginning, the world first. */
  async log(world: string): Promise<WorldRecord[]> {
    const records: WorldRecord[] = [];
    let at: WorldRecord | undefined = await this.store.record(await this.store.resolve(world));
    for (; at !== undefined; at = await this.store.parentOf(at)) records.push(at);
    return records;
  }

  /** The state of a world: remembered, read, or computed again. Checked against its id. */
  state(world: string, hooks: MorphismHooks = {}): Promise<WorldState> {
    return this.#inTurn(async () => this.#materialize(await this.store.record(await this.store.resolve(world)), hooks));
  }

  /** Which trits differ between two worlds of one base, layer by layer. */
  diff(from: string, to: string, hooks: MorphismHooks = {}): Promise<TritDiff[]> {
    return this.#compare(from, to, hooks, ({ name, shape }, old, now) => {
      const { flips, tritDeltaSum } = changeOf(name, old, now);
      const kinds: Record<string, number> = {};
      for (let i = 0; i < now.length; i += 1) {
        if (now[i] === old[i]) continue;
        const kind = `${SYMBOLS[old[i]! + 1]}${SYMBOLS[now[i]! + 1]}`;
        kinds[kind] = (kinds[kind] ?? 0) + 1;
      }
      return { name, shape: shape as [number, number], flips, tritDeltaSum, kinds };
    });
  }

  /** The signs of the trit changes of one layer: -1 fell, 0 stayed, +1 rose; (rows, columns) row-major. */
  async changes(
    from: string,
    to: string,
    layer: string,
    hooks: MorphismHooks = {},
  ): Promise<{ readonly shape: readonly [number, number]; readonly signs: Int8Array }> {
    const found = await this.#compare(from, to, hooks, ({ name, shape }, old, now) =>
      name === layer || name === `${layer}.weight`
        ? { shape: shape as [number, number], signs: now.map((trit, i) => Math.sign(trit - old[i]!)) }
        : undefined,
    );
    const one = found.find((value) => value !== undefined);
    if (one !== undefined) return one;
    throw new WorldError({
      what: `there is no ternary layer ${JSON.stringify(layer)} in this model`,
      fix: 'see `world diff` without --layer for the names',
    });
  }

  #compare<T>(
    from: string,
    to: string,
    hooks: MorphismHooks,
    see: (parameter: Parameter, old: Int8Array, now: Int8Array) => T,
  ): Promise<T[]> {
    return this.#inTurn(async () => {
      const a = await this.store.record(await this.store.resolve(from));
      const b = await this.store.record(await this.store.resolve(to));
      if (a.base.id !== b.base.id) {
        throw new WorldError({
          what: `these worlds began from different models (${a.base.model}, ${b.base.model})`,
          fix: 'compare worlds of one model',
        });
      }
      const { network } = await this.#baseOf(a);
      const ternary = network.plan.all.filter(({ kind }) => kind === 'ternary');
      network.quantize((await this.#materialize(a, hooks)).latents);
      const old = ternary.map((parameter) => network.ternary(parameter).trits.slice());
      network.quantize((await this.#materialize(b, hooks)).latents);
      return ternary.map((parameter, i) => see(parameter, old[i]!, network.ternary(parameter).trits));
    });
  }

  /** Deletes a world; with `descendants` all that came from it too. Returns the deleted ids. */
  delete(world: string, options: { readonly descendants: boolean }): Promise<string[]> {
    return this.#inTurn(async () => {
      const root = await this.store.resolve(world);
      const records = await this.store.list();
      const children = new Map<string, string[]>();
      for (const { id, parent } of records)
        if (parent !== null) children.set(parent, [...(children.get(parent) ?? []), id]);
      // A set: in a store that somebody changed, a world may come from itself.
      const doomed = new Set([root]);
      for (const id of doomed) for (const child of children.get(id) ?? []) doomed.add(child);
      if (doomed.size > 1 && !options.descendants) {
        throw new WorldError({
          what: `${doomed.size - 1} worlds came from ${root}`,
          fix: 'delete them first, or all of them at once with --descendants',
        });
      }
      // Leaves first: whatever happens, no world is left without the one it came from.
      const order = [...doomed].reverse();
      for (const id of order) {
        await this.store.delete(id);
        this.#states.delete(id);
      }
      return order;
    });
  }

  /** The tokenizer of a world's model, for showing batches. */
  async tokenizer(record: WorldRecord): Promise<Tokenizer> {
    return tokenizerOf(await this.#baseOf(record));
  }

  /** Parameters, trits and so on of a world's model. */
  async network(record: WorldRecord): Promise<Network> {
    return (await this.#baseOf(record)).network;
  }

  async modelOf(record: WorldRecord): Promise<TrainableModel> {
    return (await this.#baseOf(record)).model;
  }

  /** Decided once a process, but for kernels that are still being compiled: these are asked for again each time. */
  #kernels(steps: number): Promise<TrainKernels> {
    return loadTrainKernels({
      ...this.#options,
      now: steps <= STEPS_WITHOUT_COMPILER,
      onFallback: (reason) => {
        if (!this.#fallbackTold) this.#options.onFallback?.(reason);
        this.#fallbackTold = true;
      },
    });
  }

  #remember(id: string, state: WorldState): void {
    this.#states.delete(id);
    this.#states.set(id, state);
    for (const old of this.#states.keys()) if (this.#states.size > CACHED_STATES) this.#states.delete(old);
  }

  #forgetOthers(id: string): void {
    for (const old of this.#states.keys()) if (old !== id) this.#states.delete(old);
  }

  async #openBase(folder: string): Promise<Base> {
    if (this.#base?.folder === folder) return this.#base.base;
    const model = await openTrainableModel(folder);
    // A tokenizer decides what a text means to a step, so it is part of what a world depends on.
    const tokenizerFile = (await readTextFile(join(folder, 'tokenizer.json'), MAX_TOKENIZER_JSON_BYTES)) ?? '';
    const id = hashOf('bitnet-gf3 base 1', JSON.stringify(model.configJson), tokenizerFile, model.latents);
    const network = new Network(model.config, await this.#kernels(1));
    const beginning = {
      base: id,
      stepCount: 0,
      latents: model.latents,
      optimizer: zeroOptimizerState(network.plan),
    };
    const base: Base = { id, model, network, beginning, tokenizer: undefined };
    this.#base = { folder, base };
    return base;
  }

  /**
   * A record is a file that others may write, or that a process with other roots wrote: where its model lies is no more
   * trusted than a caller's path. Models of the package and of the hub cache go, as they do by name.
   */
  async #mayOpen(folder: string): Promise<boolean> {
    const { allowedRoots } = this.#options;
    return (
      allowedRoots === undefined ||
      isAllowed(folder, [...allowedRoots, join(packageRoot(), 'models'), hubCacheFolder()])
    );
  }

  async #baseOf(record: WorldRecord): Promise<Base> {
    const { folder, id, model } = record.base;
    if (!(await this.#mayOpen(folder))) {
      // The same model from where this process may read does as well.
      if (this.#base?.base.id === id) return this.#base.base;
      throw new PathNotAllowedError(model, this.#options.allowedRoots ?? []);
    }
    let base: Base;
    try {
      base = await this.#openBase(folder);
    } catch (cause) {
      throw new WorldReplayError(
        {
          what: `model ${model}, from which world ${record.id} began, cannot be opened: ${(cause as Error).message}`,
          where: folder,
          fix: 'put the model back where it was',
        },
        { cause },
      );
    }
    if (base.id !== id) {
      throw new WorldReplayError({
        what: `model ${model} is not what it was when world ${record.id} began from it`,
        where: folder,
        fix: 'put the old files back, or begin a new world from the model',
      });
    }
    return base;
  }

  async #materialize(record: WorldRecord, hooks: MorphismHooks): Promise<WorldState> {
    // Back to the nearest state that is at hand, then forward.
    const missing: WorldRecord[] = [];
    let at = record;
    let state: WorldState | undefined;
    for (;;) {
      state = this.#states.get(at.id) ?? (await this.#checkedSnapshot(at.id));
      if (state !== undefined) break;
      const parent: WorldRecord | undefined = await this.store.parentOf(at);
      if (parent === undefined) {
        state = (await this.#baseOf(at)).beginning;
        break;
      }
      missing.push(at);
      at = parent;
    }
    const { signal, onProgress } = hooks;
    for (const [done, step] of missing.reverse().entries()) {
      onProgress?.(0, 1, `replaying step ${done + 1} of ${missing.length}`);
      const base = await this.#baseOf(step);
      const batch = await batchOf(base, step.morphism!);
      const applied = await applyMorphism(base.network, state, batch, step.morphism!, {
        ...(signal && { signal }),
        measure: false,
      });
      state = applied.world;
    }
    if (worldId(state) !== record.id) {
      throw new WorldReplayError({
        what: `replaying world ${record.id} gave another one`,
        where: this.store.folder,
        fix: 'a file of the store was changed; delete this world and step again',
      });
    }
    this.#remember(record.id, state);
    return state;
  }

  /** A snapshot that is what its name says; one that is not is deleted. */
  async #checkedSnapshot(id: string): Promise<WorldState | undefined> {
    const state = await this.store.readSnapshot(id);
    if (state !== undefined && worldId(state) === id) return state;
    await this.store.deleteSnapshot(id);
    return undefined;
  }

  /** Whether a world is `snapshotEvery` gradient steps or more from the nearest state that is stored. */
  async #snapshotIsDue(record: WorldRecord): Promise<boolean> {
    const every = this.#options.snapshotEvery ?? DEFAULT_SNAPSHOT_EVERY;
    const present = await this.store.snapshotIds();
    if (present.has(record.id)) return false;
    let at = record;
    while (!present.has(at.id)) {
      const parent = await this.store.parentOf(at);
      if (parent === undefined) break;
      at = parent;
    }
    return record.stepCount - at.stepCount >= every;
  }

  /** Whether a world could be had again without its snapshot: its base is what it was. */
  async #replayable(id: string): Promise<boolean> {
    try {
      await this.#baseOf(await this.store.record(id));
      return true;
    } catch {
      return false;
    }
  }
}

const SYMBOLS = ['-', 'o', '+'] as const;

function tokenizerOf(base: Base): Promise<Tokenizer> {
  base.tokenizer ??= loadTokenizer(base.model.folder).catch((error: unknown) => {
    base.tokenizer = undefined;
    throw error;
  });
  return base.tokenizer;
}

/** Throws ArgumentError for a step that no record may tell of. */
function checkMorphism({ lr, steps }: Morphism): void {
  if (!isRate(lr)) throw new ArgumentError({ what: `lr is ${lr}`, fix: 'give a finite number above 0' });
  if (!Number.isInteger(steps) || steps < 1 || steps > MAX_STEPS) {
    throw new ArgumentError({ what: `steps is ${steps}`, fix: `give a whole number from 1 to ${MAX_STEPS}` });
  }
}

/**
 * Text is read as the model reads a prompt: with its BOS, and cut where it is longer than the model's context. A batch
 * that is much too long is refused before it is taken apart.
 */
async function batchOf(base: Base, morphism: RecordedMorphism, signal?: AbortSignal): Promise<Batch> {
  const { text, tokens } = morphism;
  if ((text === undefined) === (tokens === undefined)) {
    throw new ArgumentError({ what: 'give either text or tokens', fix: 'for example {"text": ["Once upon a time"]}' });
  }
  const sequences = [];
  if (text !== undefined) {
    const tokenizer = await tokenizerOf(base);
    let least = 0;
    for (const one of text) {
      least += leastTokens(tokenizer, one, MAX_BATCH_TOKENS);
      if (least > MAX_BATCH_TOKENS) throw tooManyTokens(`more than ${MAX_BATCH_TOKENS}`);
    }
    let tokens = 0;
    for (const one of text) {
      const ids = tokenizer.encode(one);
      tokens += Math.max(0, ids.length - 1);
      if (tokens > MAX_BATCH_TOKENS) throw tooManyTokens(`${tokens} or more`);
      sequences.push(...windows(ids, base.network.context));
      // Cancellations, and whoever asks where a world came from.
      await otherEvents();
      if (signal?.aborted) throw new CancelledError('the step was cancelled');
    }
  } else {
    const count = tokens!.reduce((sum, ids) => sum + Math.max(0, ids.length - 1), 0);
    if (count > MAX_BATCH_TOKENS) throw tooManyTokens(count);
    for (const ids of tokens!) if (ids.length > 1) sequences.push(nextTokenSequence(ids));
  }
  const batch = makeBatch(sequences);
  if (batch.targetCount === 0) {
    throw new ArgumentError({
      what: 'the batch has nothing to predict',
      fix: 'give at least one text of two tokens or more',
    });
  }
  return batch;
}

function tooManyTokens(tokens: number | string): ArgumentError {
  return new ArgumentError({
    what: `the batch has ${tokens} tokens, a step takes at most ${MAX_BATCH_TOKENS}`,
    fix: 'take several steps with less text each',
  });
}
