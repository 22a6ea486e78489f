// Which kernel and how many simdgroups per threadgroup suit a matrix of a given shape on a given GPU. Nobody can know
// that for all of Apple's GPUs, so it is measured at the first load of a model on a device and kept in the user's cache
// folder, by device name and kernel text.

import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { cacheFolder } from '../../package/cache-folder.ts';
import type { KernelName } from './signatures.ts';

export type TernaryKernel = KernelName & `ternary_gemv${'' | '_q2' | '_mask' | '_mask_q2' | '_splitk'}`;

export type TernaryChoice = { readonly kernel: TernaryKernel; readonly simdgroups: number };

/** Quads (of four rows) that each simdgroup takes. */
export const QUADS_OF: Readonly<Record<TernaryKernel, number>> = {
  ternary_gemv: 1,
  ternary_gemv_q2: 2,
  ternary_gemv_mask: 1,
  ternary_gemv_mask_q2: 2,
  ternary_gemv_splitk: 1,
};

export const CANDIDATES: readonly TernaryChoice[] = (Object.keys(QUADS_OF) as TernaryKernel[]).flatMap((kernel) =>
  [2, 4, 8].map((simdgroups) => ({ kernel, simdgroups })),
);

/** Shape of the matrices of one dispatch: quads of all of them, 16-column groups. */
export function shapeKey(quads: number, groups: number): string {
  return `${quads}x${groups}`;
}

/**
 * Until something was measured: matrices of few rows get their columns split, or most of a large GPU would idle (on an
 * NVIDIA GPU, far from Apple's, the 640 quads of 2B-4T's o and down ran 1.3 and 1.6 times as fast split).
 */
export function defaultChoice(quads: number): TernaryChoice {
  return quads < 1024 ? { kernel: 'ternary_gemv_splitk', simdgroups: 4 } : { kernel: 'ternary_gemv', simdgroups: 4 };
}

export type Tuning = Map<string, TernaryChoice>;

/** The user's cache folder for this package. */
export function tuningFile(device: string, kernelText: string, env: NodeJS.ProcessEnv = process.env): string {
  const kernels = createHash('sha256').update(kernelText).digest('hex').slice(0, 12);
  return cacheFolder(['metal', `${device.replace(/[^A-Za-z0-9]+/g, '-')}-${kernels}.json`], env);
}

/** What was measured before; an unreadable or foreign file counts as nothing, because measuring again is cheap. */
export function readTuning(file: string): Tuning {
  const tuning: Tuning = new Map();
  let entries: unknown;
  try {
    entries = JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return tuning;
  }
  if (typeof entries !== 'object' || entries === null) return tuning;
  for (const [shape, choice] of Object.entries(entries as Record<string, unknown>)) {
    const known = CANDIDATES.find(
      ({ kernel, simdgroups }) =>
        typeof choice === 'object' &&
        choice !== null &&
        (choice as TernaryChoice).kernel === kernel &&
        (choice as TernaryChoice).simdgroups === simdgroups,
    );
    if (known !== undefined && /^\d+x\d+$/.test(shape)) tuning.set(shape, known);
  }
  return tuning;
}

/** Best effort: a cache folder that cannot be written costs a second measurement, nothing else. */
export function writeTuning(file: string, tuning: Tuning): void {
  try {
    mkdirSync(dirname(file), { recursive: true });
    const working = `${file}.${process.pid}`;
    writeFileSync(working, `${JSON.stringify(Object.fromEntries(tuning), null, 1)}\n`);
    renameSync(working, file);
  } catch {
    // Read-only home.
  }
}
