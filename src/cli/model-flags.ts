// Flags of every command that runs a model.

import { ArgumentError } from '../errors.ts';
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
    type: 'string',
    default: 'auto',
    placeholder: 'N',
    description: 'Threads of the backend, 1 to 256; auto finds out how many help',
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
  readonly threads: string;
  readonly head: string | undefined;
};

const MOST_THREADS = 256;

/** What --threads says; undefined: the backend finds out. Throws for what is no number of threads. */
export function threadCount(text: string): number | undefined {
  if (text === 'auto') return undefined;
  const count = /^\d{1,4}$/.test(text) ? Number(text) : 0;
  if (count >= 1 && count <= MOST_THREADS) return count;
  throw new ArgumentError({ what: `--threads must be auto or an integer >= 1 and <= ${MOST_THREADS}, got "${text}"` });
}

/** The flags as the engine takes them; `parseFlags` has checked the choices. */
export function backendOptions({ backend, threads: given, head }: GivenBackend) {
  const threads = threadCount(given);
  return {
    backend: backend as BackendChoice,
    ...(threads !== undefined && { threads }),
    ...(head !== undefined && { head: head as HeadPrecision }),
  };
}
