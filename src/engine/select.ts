// Chooses a backend: the one asked for, or the fastest that works here, with the reasons why the faster ones do not.

import { ArgumentError } from '../errors.ts';
import { type Allocate, plainMemory } from '../tensor/allocate.ts';
import {
  BACKEND_NAMES,
  type Backend,
  type BackendName,
  type Executable,
  LARGE_MODEL_BYTES,
  type LoadOptions,
  UnsupportedProgramError,
} from './backend.ts';
import { COMPILING, whyNoDriver } from './cuda/platform.ts';
import { whyNoMetal } from './metal/platform.ts';
import type { Program } from './program.ts';
import type { WeightPreparation } from './weight-preparation.ts';

export type Selection = {
  readonly backend: Backend;
  /** Why each faster backend was passed over: one sentence each, in order. Empty when the first one works. */
  readonly reasons: readonly { readonly backend: BackendName; readonly reason: string }[];
};

export type SelectOptions = {
  /** Told once a process when `auto` has to do without native code; stderr when not given. */
  readonly warn?: (line: string) => void;
};

// Loaded on demand: a backend that is not chosen costs no start-up time.
const LOADERS: Readonly<Record<BackendName, () => Promise<Backend>>> = {
  metal: async () => (await import('./metal/backend.ts')).metalBackend,
  cuda: async () => (await import('./cuda/backend.ts')).cudaBackend,
  cpu: async () => (await import('./cpu/backend.ts')).cpuBackend,
  wasm: async () => (await import('./wasm/backend.ts')).wasmBackend,
  js: async () => (await import('./js/backend.ts')).jsBackend,
};

const isBackendName = (name: string): name is BackendName => BACKEND_NAMES.some((known) => known === name);

/** 'auto' takes metal, cuda, cpu, wasm, js in this order. A backend asked for by name that does not work is an error. */
export async function selectBackend(name: 'auto' | BackendName, options: SelectOptions = {}): Promise<Selection> {
  if (name !== 'auto') return { backend: await backendNamed(name), reasons: [] };
  for await (const selection of usableBackends()) {
    warnOnce(selection, options);
    return selection;
  }
  throw noBackend();
}

/** Loads the program on the backend named, or on the first of `auto`'s that runs it. */
export async function loadOn(
  name: 'auto' | BackendName,
  program: Program,
  options: LoadOptions & SelectOptions = {},
): Promise<Executable> {
  if (name !== 'auto') return (await backendNamed(name)).load(program, options);
  const refused: { backend: BackendName; reason: string }[] = [];
  for await (const { backend, reasons } of usableBackends()) {
    try {
      const executable = await backend.load(program, options);
      warnOnce({ backend, reasons: [...reasons, ...refused] }, options);
      return executable;
    } catch (error) {
      if (!(error instanceof UnsupportedProgramError)) throw error;
      refused.push({ backend: backend.name, reason: error.text.what });
    }
  }
  throw noBackend();
}

/**
 * Where to put the weights of a program that `loadOn` is going to load under this name. The backend is asked when the
 * weights turn out to be many: it may have to be found, or compiled, first.
 */
export function weightMemory(name: 'auto' | BackendName): Allocate {
  let given = 0;
  let special: Promise<Allocate> | undefined;
  return async (bytes) => {
    given += bytes;
    if (given < LARGE_MODEL_BYTES) return plainMemory(bytes);
    special ??= memoryOf(name);
    return (await special)(bytes);
  };
}

/**
 * Native ways to make the weights of a program, whichever backend then runs it: they give the same bits as JavaScript's.
 * Loaded when the first of them is called.
 */
export const weightPreparation: WeightPreparation = {
  quantizeHead: async (...args) => (await native()).quantizeHead(...args),
  mastersToRowquad: async (...args) => (await native()).mastersToRowquad(...args),
  repackGrouped: async (...args) => (await native()).repackGrouped(...args),
};

const native = async () => (await import('./cpu/preparation.ts')).nativePreparation;

async function memoryOf(name: 'auto' | BackendName): Promise<Allocate> {
  if (name !== 'auto') return (await (await backendNamed(name)).weightMemory?.()) ?? plainMemory;
  for await (const { backend } of usableBackends()) return (await backend.weightMemory?.()) ?? plainMemory;
  throw noBackend();
}

async function backendNamed(name: BackendName): Promise<Backend> {
  if (!isBackendName(name)) {
    throw new ArgumentError({ what: `unknown backend "${name}"`, fix: `use auto, ${BACKEND_NAMES.join(', ')}` });
  }
  const backend = await LOADERS[name]();
  const reason = await backend.unavailable();
  if (reason === undefined) return backend;
  throw new ArgumentError({ what: `the backend "${name}" does not work here`, where: reason, fix: 'use auto' });
}

/** From the fastest on, each with why the ones before it do not work. Nobody waits for a compiler here. */
async function* usableBackends(): AsyncGenerator<Selection> {
  const reasons: { backend: BackendName; reason: string }[] = [];
  for (const candidate of BACKEND_NAMES) {
    // Known without loading what would say it.
    const elsewhere = candidate === 'metal' ? whyNoMetal() : candidate === 'cuda' ? whyNoDriver() : undefined;
    if (elsewhere !== undefined) {
      reasons.push({ backend: candidate, reason: elsewhere });
      continue;
    }
    const backend = await LOADERS[candidate]();
    const reason = await backend.unavailable({ now: true });
    if (reason === undefined) yield { backend, reasons: [...reasons] };
    else reasons.push({ backend: candidate, reason });
  }
}

function noBackend(): ArgumentError {
  return new ArgumentError({ what: 'no backend works here', fix: 'run `doctor` to see why, or reinstall the package' });
}

let warned = false;

function warnOnce(selection: Selection, options: SelectOptions): void {
  const line = missedLine(selection);
  if (warned || line === undefined) return;
  warned = true;
  const warn = options.warn ?? ((text: string) => process.stderr.write(`${text}\n`));
  warn(line);
}

/**
 * What to tell who did not ask for a backend: native code is expected everywhere, Metal on Apple silicon. What is wrong with an
 * NVIDIA card `doctor` tells, but that its driver is busy, now.
 */
export function missedLine({ backend, reasons }: Selection): string | undefined {
  const expected = process.platform === 'darwin' && process.arch === 'arm64' ? ['metal', 'cpu'] : ['cpu'];
  const missed = reasons.filter((one) => expected.includes(one.backend) || one.reason.startsWith(COMPILING));
  if (missed.length === 0) return undefined;
  return `using the ${backend.name} backend: ${missed.map((one) => one.reason).join('; ')}`;
}

export type Surveyed = {
  readonly backend: BackendName;
  /** Why it does not work here; undefined where it does. */
  readonly reason: string | undefined;
  /** What else there is to say of one that does. */
  readonly detail: string | undefined;
};

/** Every backend, for `doctor`. */
export async function surveyBackends(): Promise<Surveyed[]> {
  return Promise.all(
    BACKEND_NAMES.map(async (name) => {
      const backend = await LOADERS[name]();
      const reason = await backend.unavailable();
      return { backend: name, reason, detail: reason === undefined ? await backend.detail?.() : undefined };
    }),
  );
}
