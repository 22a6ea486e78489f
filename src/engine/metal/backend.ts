// Metal: the whole step as one command buffer on Apple's GPU.

import { BitnetError } from '../../errors.ts';
import type { Backend, LoadOptions } from '../backend.ts';
import type { Program } from '../program.ts';
import { type MetalAddon, MetalUnsupportedError } from './addon.ts';
import { MetalExecutable } from './executable.ts';
import { Gpu } from './gpu.ts';
import { loadMetalAddon } from './native.ts';
import { isExact, isHybrid } from './plan.ts';
import { groupedSelfTest, hybridSelfTest, selfTest } from './self-test.ts';
import { readKernelText } from './shaders.ts';
import { readTuning, tuningFile, writeTuning } from './tuning.ts';

export type MetalBackendOptions = {
  readonly loadAddon: () => Promise<{ addon: MetalAddon } | { reason: string }>;
  readonly kernelText?: () => string;
  /** Where to keep what was measured; default: the user's cache folder. */
  readonly tuningFile?: string;
};

export type MetalBackend = Omit<Backend, 'load'> & {
  load(program: Program, options: LoadOptions): Promise<MetalExecutable>;
};

type Ready =
  | {
      readonly gpu: Gpu;
      readonly tuningFile: string;
      /** Why group-scaled programs are not run here, if so: they have the same logits on every backend or none. */
      readonly inexact: string | undefined;
      /** The same for hybrid programs; found out when the first of them is loaded. */
      hybrid?: Promise<string | undefined>;
    }
  | { readonly reason: string };

/** A backend over a given addon: the real one, or the fake device of the tests. */
export function createMetalBackend(options: MetalBackendOptions): MetalBackend {
  let ready: Promise<Ready> | undefined;
  /** Opened and tried once a process: Metal is used only where it computes what the reference computes. */
  const open = () => {
    ready ??= prepare(options);
    return ready;
  };
  return {
    name: 'metal',
    unavailable: async () => {
      const state = await open();
      return 'reason' in state ? state.reason : undefined;
    },
    load: async (program, loadOptions) => {
      const state = await open();
      if ('reason' in state) throw new MetalUnavailableError(state.reason);
      if (state.inexact !== undefined && isExact(program)) throw new MetalUnsupportedError(state.inexact, program.name);
      if (isHybrid(program)) {
        state.hybrid ??= reasonAgainst(state.gpu, 'hybrid', hybridSelfTest);
        const reason = await state.hybrid;
        if (reason !== undefined) throw new MetalUnsupportedError(reason, program.name);
      }
      const tuning = readTuning(state.tuningFile);
      const executable = new MetalExecutable(state.gpu, program, { ...loadOptions, tuning });
      try {
        if (await executable.tune()) writeTuning(state.tuningFile, tuning);
      } catch (error) {
        executable[Symbol.dispose]();
        throw error;
      }
      return executable;
    },
  };
}

async function prepare(options: MetalBackendOptions): Promise<Ready> {
  const loaded = await options.loadAddon();
  if ('reason' in loaded) return loaded;
  try {
    const text = (options.kernelText ?? readKernelText)();
    const gpu = new Gpu(loaded.addon, text);
    const failure = await selfTest(async (program) => new MetalExecutable(gpu, program, {}));
    if (failure !== undefined) return { reason: `Metal on ${gpu.name} is not used: ${failure}` };
    const inexact = await reasonAgainst(gpu, 'group-scaled', groupedSelfTest);
    return { gpu, tuningFile: options.tuningFile ?? tuningFile(gpu.name, text), inexact };
  } catch (error) {
    // Whatever a foreign GPU or compiler does, the other backends still work.
    return { reason: error instanceof Error ? error.message : String(error) };
  }
}

/** Whatever is wrong with the kernels of one kind of programs concerns those programs alone. */
async function reasonAgainst(gpu: Gpu, kind: string, test: typeof groupedSelfTest): Promise<string | undefined> {
  try {
    // Kernels for long contexts as well, from the start.
    const failure = await test(async (program) => new MetalExecutable(gpu, program, { shareFrom: 1 }));
    return failure === undefined ? undefined : `Metal on ${gpu.name} does not run ${kind} models: ${failure}`;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Metal was asked for where it does not work. */
export class MetalUnavailableError extends BitnetError {
  readonly code = 'METAL_UNAVAILABLE';
  readonly fault = 'call';

  constructor(reason: string) {
    super({ what: 'the metal backend does not work here', where: reason, fix: 'use --backend auto' });
  }
}

export const metalBackend: Backend = createMetalBackend({ loadAddon: loadMetalAddon });
