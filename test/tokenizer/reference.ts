// Asks the reference, where it is installed, what it makes of tokenizer files and texts.

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import type { StageCase } from './stage-cases.ts';

export type Reference = {
  readonly error?: string;
  readonly ids: readonly (readonly number[] | null)[];
  readonly pieces: readonly (readonly string[] | null)[];
  readonly decoded: readonly (string | null)[];
  readonly shown: readonly (string | null)[];
};

const VERSION = '0.23';
const PYTHON = process.env.PYTHON ?? 'python3';

/** Why the reference cannot be asked; undefined when it can. */
export function missingReference(): string | undefined {
  const probe = spawnSync(PYTHON, ['-c', 'import tokenizers; print(tokenizers.__version__)'], { encoding: 'utf8' });
  const version = probe.status === 0 ? probe.stdout.trim() : probe.stderr?.trim().split('\n').at(-1);
  // Another version may well answer otherwise: the reference has changed its mind before.
  return version?.startsWith(`${VERSION}.`) ? undefined : `${PYTHON} with tokenizers ${VERSION} is needed: ${version}`;
}

/** What the reference makes of the cases, in their order. */
export function referenceOf(cases: readonly StageCase[]): Reference[] {
  const input = cases.map((one) => `${JSON.stringify(one)}\n`).join('');
  const script = join(import.meta.dirname, 'reference.py');
  const run = spawnSync(PYTHON, [script], { input, encoding: 'utf8', maxBuffer: 2 ** 28 });
  if (run.status !== 0) throw new Error(`reference.py: ${run.stderr.slice(-500)}`);
  return run.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Reference);
}
