// Flags of every command that runs a model.

import { type BackendChoice, SOURCE_NAMES } from '../generate/token-source.ts';
import type { HeadPrecision } from '../generate/types.ts';
import type { FlagSpecs } from './command.ts';

export const BACKEND_FLAGS = {
  backend: {
    type: 'string',
    choices: ['auto', ...SOURCE_NAMES],
    default: 'auto',
    placeholder: 'B',
    description: 'What computes; auto takes the fastest that runs here',
  },
  threads: {
    type: 'integer',
    min: 1,
    max: 1024,
    placeholder: 'N',
    description: 'Threads of the backend (default: as it sees fit)',
  },
  head: {
    type: 'string',
    choices: ['full', 'int8'],
    placeholder: 'H',
    description: "Precision of the output head: the checkpoint's own, or int8",
  },
} as const satisfies FlagSpecs;

export const MODEL_FLAG = {
  type: 'string',
  default: 'default',
  placeholder: 'M',
  description: 'Model: default (embedded), a folder, a .gguf or .safetensors file, or a cached hub id',
} as const;

type GivenBackend = {
  readonly backend: string;
  readonly threads: number | undefined;
  readonly head: string | undefined;
};

/** The flags as the engine takes them; `parseFlags` has checked the choices. */
export function backendOptions({ backend, threads, head }: GivenBackend) {
  return {
    backend: backend as BackendChoice,
    ...(threads !== undefined && { threads }),
    ...(head !== undefined && { head: head as HeadPrecision }),
  };
}
