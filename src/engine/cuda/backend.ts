// CUDA: the whole step as one launch on an NVIDIA GPU, with the bits of every other backend.

import type { Backend, LoadOptions } from '../backend.ts';
import { selfTestDifference } from '../gpu/self-test.ts';
import {
  EVEN,
  EVEN_INT8,
  GROUPS_OF_32,
  GROUPS_OF_128,
  groupedSelfTestProgram,
  hybridSelfTestProgram,
  PROMPT_STEPS,
  PROMPTS,
  selfTestProgram,
} from '../gpu/self-test-programs.ts';
import type { Program } from '../program.ts';
import { type CudaAddon, CudaError, CudaUnavailableError, type DeviceInfo } from './addon.ts';
import { CudaExecutable, type CudaOptions } from './executable.ts';
import { Gpu, SHARED_BYTES } from './gpu.ts';
import { capabilityText, type KernelSource, packageKernels } from './kernels.ts';
import { loadCudaAddon } from './native.ts';
import { COMPILING, driverLibrary } from './platform.ts';

export type CudaBackendOptions = {
  readonly loadAddon: () => Promise<{ addon: CudaAddon } | { reason: string }>;
  readonly library?: string;
  readonly kernels?: KernelSource;
  /** Milliseconds that a step of the self-test may take. */
  readonly selfTestLimitMs?: number;
};

export type CudaBackend = Omit<Backend, 'load'> & {
  load(program: Program, options: CudaOptions): Promise<CudaExecutable>;
};

/** The oldest driver that takes the PTX (its version is in kernels.ptx), and the oldest cards that the kernels are for. */
const LEAST_DRIVER = 11_080;
const LEAST_CAPABILITY = 80;

/** What a start may wait for the card. */
const WAIT_MS = 3000;

/** No card takes so long for a step of the self-test. */
const SELF_TEST_LIMIT_MS = 20_000;

/** How long the driver takes for the PTX text. */
const COMPILES = 'half a minute or more the first time';

/** What the driver says of code that is not for it, or for that card. */
const REFUSED = /^CUDA: cuModule/;

type Ready = { readonly gpu: Gpu; readonly detail: string } | { readonly reason: string };

/** The driver compiles: why, while it lasts. */
type Progress = { compiling: string | undefined };

/** A backend over a given addon and driver: the real ones, or those of the tests. */
export function createCudaBackend(options: CudaBackendOptions): CudaBackend {
  let ready: Promise<Ready> | undefined;
  /** Opened and tried once a process: CUDA is used only where it computes what the reference computes. */
  const progress: Progress = { compiling: undefined };
  const open = () => {
    ready ??= prepare(options, progress);
    return ready;
  };
  const reasonOf = (state: Ready) =>
    'reason' in state ? state.reason : state.gpu.lost && `the CUDA device is lost: ${state.gpu.lost}`;
  return {
    name: 'cuda',
    unavailable: async ({ now = false } = {}) => {
      const opening = open();
      if (!now) return reasonOf(await opening);
      // A cubin is there in a moment; who compiles is not waited for.
      const waited = new Promise<'waited'>((resolve) => setTimeout(resolve, WAIT_MS, 'waited').unref());
      const state = await Promise.race([opening, waited]);
      if (state !== 'waited') return reasonOf(state);
      const { compiling } = progress;
      if (compiling === undefined)
        return `the CUDA kernels are being tested, for more than ${WAIT_MS / 1000} s already`;
      return `${COMPILING}, ${COMPILES} (${compiling}); later starts need not wait`;
    },
    detail: async () => {
      const state = await open();
      return 'reason' in state ? undefined : state.detail;
    },
    load: async (program: Program, loadOptions: LoadOptions) => {
      const state = await open();
      const reason = reasonOf(state);
      if (reason !== undefined || 'reason' in state) throw new CudaUnavailableError(reason ?? '');
      return new CudaExecutable(state.gpu, program, loadOptions);
    },
  };
}

type SelfTest = {
  readonly program: Program;
  /** sha256 of the reference's logits: to compute them would take half a second of each start. */
  readonly bits: string;
  readonly options?: CudaOptions;
  readonly steps?: typeof PROMPT_STEPS;
};

/**
 * What a card has to compute as the reference does. Of even sizes a step of one row has three kernels; how a block takes group-scaled
 * panels (whole, in halves, in quarters; piece by piece) depends on how many blocks there are; many rows have kernels of their own.
 */
export function selfTests(): SelfTest[] {
  const wide = {
    program: groupedSelfTestProgram(7, GROUPS_OF_128),
    bits: '26d3e6764eb47e1c9cdefa57a19d7cd52ecdc564c13a0d4eade04a9c780e2824',
  };
  const narrow = {
    program: groupedSelfTestProgram(7, GROUPS_OF_32),
    bits: '202da0c88f02ed4084ffed3baabdc99c0c52ca0a78469d8946e220e3740aad21',
  };
  const prompts = {
    program: selfTestProgram(9, PROMPTS),
    bits: 'c4c95f1225c02b71cb2096150b9a996b80bfe23dc663b81280e7210c5cfa3f2f',
    steps: PROMPT_STEPS,
  };
  return [
    { program: selfTestProgram(), bits: '8b299ba075c534f68f23b6e4e956a34998e0264c0e8fb1138843e800865b9665' },
    { program: groupedSelfTestProgram(), bits: '4626ea4e1fb69613ca40721a1897df4786f9a0188c3d11f79bc2512c73c18d5b' },
    { program: hybridSelfTestProgram(), bits: '0ba02df11397cdf88eb12ef49a5c7995ccba7ab556422d51729d8672025e01af' },
    { program: selfTestProgram(9, EVEN), bits: '10312b4cafc1a7f8d510ecb193b2672ece12013baa083d63b99403569ccd71c7' },
    {
      program: selfTestProgram(9, EVEN_INT8),
      bits: '60d496d29ac35e4b9ed877c4e709da43e0e6a26be276251908e49410233d92ed',
    },
    {
      program: groupedSelfTestProgram(7, EVEN),
      bits: '15e06b73f281419540ac61b4815551add4eb835be8272bbd35aed8998f6d1e71',
    },
    ...[24, 2].map((blocks) => ({ ...wide, options: { blocks } })),
    ...[10, 1].map((blocks) => ({ ...narrow, options: { blocks } })),
    prompts,
    // Of few blocks attention has more queries each.
    { ...prompts, options: { blocks: 8 } },
  ];
}

async function prepare(
  { loadAddon, library, kernels = packageKernels, selfTestLimitMs = SELF_TEST_LIMIT_MS }: CudaBackendOptions,
  progress: Progress,
): Promise<Ready> {
  const loaded = await loadAddon();
  if ('reason' in loaded) return loaded;
  try {
    const info = loaded.addon.probe(library ?? driverLibrary());
    const refused = whyNot(info);
    if (refused !== undefined) return { reason: refused };
    const failureOf = (gpu: Gpu) => selfTestFailure(gpu, selfTestLimitMs);
    return await openKernels(loaded.addon, info, kernels, progress, failureOf);
  } catch (error) {
    // Whatever a foreign driver does, the other backends still work.
    return { reason: error instanceof Error ? error.message : String(error) };
  } finally {
    progress.compiling = undefined;
  }
}

/** The first difference that the self-tests find; undefined where there is none. */
async function selfTestFailure(gpu: Gpu, limitMs: number): Promise<string | undefined> {
  for (const { program, bits, options, steps } of selfTests()) {
    const load = async () => new CudaExecutable(gpu, program, { ...options, limitMs });
    const failure = await selfTestDifference(load, program, steps, undefined, bits);
    if (failure !== undefined) return failure;
  }
  return undefined;
}

/**
 * The card with the kernels from a cubin or, where there is none, the driver refuses it (an older one) or it fails, from the PTX text.
 * `failureOf`: one sentence why kernels are not used.
 */
export async function openKernels(
  addon: CudaAddon,
  info: DeviceInfo,
  kernels: KernelSource,
  progress: Progress = { compiling: undefined },
  failureOf: (gpu: Gpu) => Promise<string | undefined> = async () => undefined,
): Promise<Ready> {
  const found = kernels.cubin(info.capability);
  let why: string;
  if ('bytes' in found) {
    try {
      const gpu = await Gpu.open(addon, info, found.bytes);
      const failure = await failureOf(gpu);
      if (failure === undefined)
        return { gpu, detail: `kernels: the cubin for compute capability ${capabilityText(info.capability)}` };
      gpu.release(gpu.barrier);
      why = `the cubin is not used: ${failure}`;
    } catch (error) {
      if (!(error instanceof CudaError) || !REFUSED.test(error.text.what)) throw error;
      why = `the driver refuses the cubin: ${error.text.what.replace(/^CUDA: /, '')}`;
    }
  } else {
    why = found.reason;
  }
  progress.compiling = why;
  const gpu = await Gpu.open(addon, info, kernels.ptx());
  progress.compiling = undefined;
  const failure = await failureOf(gpu);
  if (failure !== undefined) return { reason: `CUDA on ${gpu.name} is not used: ${failure}` };
  return { gpu, detail: `kernels: PTX, which the driver compiles, ${COMPILES} (${why})` };
}

function whyNot({ name, count, driver, capability, sharedBytes }: DeviceInfo): string | undefined {
  if (count === 0) return 'the NVIDIA driver finds no card';
  const version = (v: number) => `${Math.floor(v / 1000)}.${Math.floor((v % 1000) / 10)}`;
  if (driver < LEAST_DRIVER)
    return `the NVIDIA driver is for CUDA ${version(driver)}, ${version(LEAST_DRIVER)} is needed`;
  if (capability < LEAST_CAPABILITY || sharedBytes < SHARED_BYTES) {
    return `${name} has compute capability ${capabilityText(capability)}, the kernels need 8.0 and ${SHARED_BYTES} bytes of shared memory`;
  }
  return undefined;
}

export const cudaBackend: Backend = createCudaBackend({ loadAddon: loadCudaAddon });
