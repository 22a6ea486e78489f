// CUDA: the whole step as one launch on an NVIDIA GPU, with the bits of every other backend.

import type { Backend, LoadOptions } from '../backend.ts';
import { selfTestDifference } from '../gpu/self-test.ts';
import { EVEN, groupedSelfTestProgram, hybridSelfTestProgram, selfTestProgram } from '../metal/self-test.ts';
import type { Program } from '../program.ts';
import { type CudaAddon, CudaUnavailableError, type DeviceInfo } from './addon.ts';
import { CudaExecutable, type CudaOptions } from './executable.ts';
import { Gpu, SHARED_BYTES } from './gpu.ts';
import { type KernelImage, readKernels } from './kernels.ts';
import { loadCudaAddon } from './native.ts';
import { driverLibrary } from './platform.ts';

export type CudaBackendOptions = {
  readonly loadAddon: () => Promise<{ addon: CudaAddon } | { reason: string }>;
  readonly library?: string;
  readonly kernels?: (capability: number) => KernelImage;
};

export type CudaBackend = Omit<Backend, 'load'> & {
  load(program: Program, options: CudaOptions): Promise<CudaExecutable>;
};

/** The oldest driver that takes the PTX (its version is in kernels.ptx), and the oldest cards that the kernels are for. */
const LEAST_DRIVER = 11_080;
const LEAST_CAPABILITY = 80;

/** What a start may wait for the card. */
const WAIT_MS = 3000;

type Ready = { readonly gpu: Gpu } | { readonly reason: string };

/** A backend over a given addon and driver: the real ones, or those of the tests. */
export function createCudaBackend(options: CudaBackendOptions): CudaBackend {
  let ready: Promise<Ready> | undefined;
  /** Opened and tried once a process: CUDA is used only where it computes what the reference computes. */
  const open = () => {
    ready ??= prepare(options);
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
      return state === 'waited' ? 'the driver compiles the CUDA kernels; later starts need not wait' : reasonOf(state);
    },
    load: async (program: Program, loadOptions: LoadOptions) => {
      const state = await open();
      const reason = reasonOf(state);
      if (reason !== undefined || 'reason' in state) throw new CudaUnavailableError(reason ?? '');
      return new CudaExecutable(state.gpu, program, loadOptions);
    },
  };
}

async function prepare({ loadAddon, library, kernels = readKernels }: CudaBackendOptions): Promise<Ready> {
  const loaded = await loadAddon();
  if ('reason' in loaded) return loaded;
  try {
    const info = loaded.addon.probe(library ?? driverLibrary());
    const refused = whyNot(info);
    if (refused !== undefined) return { reason: refused };
    const gpu = await Gpu.open(loaded.addon, info, kernels(info.capability).bytes);
    // Steps of one row have a kernel for even sizes.
    const even = [selfTestProgram(9, EVEN), groupedSelfTestProgram(7, EVEN)];
    for (const program of [selfTestProgram(), groupedSelfTestProgram(), hybridSelfTestProgram(), ...even]) {
      const failure = await selfTestDifference(async () => new CudaExecutable(gpu, program), program);
      if (failure !== undefined) return { reason: `CUDA on ${gpu.name} is not used: ${failure}` };
    }
    return { gpu };
  } catch (error) {
    // Whatever a foreign driver does, the other backends still work.
    return { reason: error instanceof Error ? error.message : String(error) };
  }
}

function whyNot({ name, count, driver, capability, sharedBytes }: DeviceInfo): string | undefined {
  if (count === 0) return 'the NVIDIA driver finds no card';
  const version = (v: number) => `${Math.floor(v / 1000)}.${Math.floor((v % 1000) / 10)}`;
  if (driver < LEAST_DRIVER)
    return `the NVIDIA driver is for CUDA ${version(driver)}, ${version(LEAST_DRIVER)} is needed`;
  if (capability < LEAST_CAPABILITY || sharedBytes < SHARED_BYTES) {
    const own = `${Math.floor(capability / 10)}.${capability % 10}`;
    return `${name} has compute capability ${own}, the kernels need 8.0 and ${SHARED_BYTES} bytes of shared memory`;
  }
  return undefined;
}

export const cudaBackend: Backend = createCudaBackend({ loadAddon: loadCudaAddon });
