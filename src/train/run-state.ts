// What a run is, and where it stands: enough to go on after a kill at any moment with the same result as if nothing had
// happened. One file, written whole or not at all.

import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { BitnetError } from '../errors.ts';
import { SafetensorsFile } from '../formats/safetensors-file.ts';
import { writeSafetensors } from '../formats/write-safetensors.ts';
import { toFloat32 } from '../quant/to-float32.ts';
import type { Cursor } from './dataset.ts';
import type { OptimizerState } from './optimizer.ts';
import { hashOf } from './trainable-model.ts';

/** A folder that holds something else than the run that was asked for. */
export class RunStateError extends BitnetError {
  readonly code = 'OTHER_RUN';
  readonly fault = 'call';
}

export const STATE_FILE = 'state.safetensors';

export type RunState = {
  /** Hash of everything the result depends on: data, model, settings. */
  readonly run: string;
  /** Steps taken. */
  readonly step: number;
  readonly cursor: Cursor;
  readonly latents: Float32Array<ArrayBuffer>;
  readonly optimizer: OptimizerState;
  /** Bytes of the log that belong to these steps; a crash may have left more. */
  readonly logBytes: number;
  /** Seconds spent training, over all parts of the run. */
  readonly seconds: number;
};

const bytesOf = (values: Float32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

export async function writeRunState(folder: string, state: RunState): Promise<void> {
  const { run, step, cursor, latents, optimizer, logBytes, seconds } = state;
  const flat = (name: string, values: Float32Array) =>
    ({ name, dtype: 'F32', shape: [values.length], bytes: bytesOf(values) }) as const;
  const { m, v, adamSteps } = optimizer;
  const facts = { run, step, cursor, adamSteps, logBytes, seconds, sha256: hashOf(latents, m, v) };
  await writeSafetensors(join(folder, STATE_FILE), [flat('latents', latents), flat('m', m), flat('v', v)], {
    bitnet_gf3_run: JSON.stringify(facts),
  });
}

export function otherRun(path: string): RunStateError {
  return new RunStateError({
    what: 'this folder holds a run with other data, another model or other settings',
    where: path,
    fix: 'repeat the command of that run to resume it, choose another --out, or give --restart to begin anew here',
  });
}

type Facts = Pick<RunState, 'run' | 'step' | 'cursor' | 'logBytes' | 'seconds'> & {
  readonly adamSteps: number;
  /** Of latents and moments: a flipped bit would go into the result unseen. */
  readonly sha256: string;
};

/** The state in a folder; undefined when there is none. Throws RunStateError when it is not of this run, or damaged. */
export async function readRunState(folder: string, run: string, length: number): Promise<RunState | undefined> {
  const path = join(folder, STATE_FILE);
  if ((await stat(path).catch(() => undefined)) === undefined) return undefined;
  const damaged = (what: string, cause?: unknown) =>
    new RunStateError(
      { what: `the state to resume from is damaged: ${what}`, where: path, fix: 'give --restart to begin anew here' },
      { cause },
    );
  let facts: Facts;
  let values: Float32Array<ArrayBuffer>[];
  try {
    using file = await SafetensorsFile.open(path);
    facts = JSON.parse(String(file.metadata.get('bitnet_gf3_run') ?? '{}'));
    if (facts?.run !== run) throw otherRun(path);
    values = [];
    for (const name of ['latents', 'm', 'v']) values.push(Float32Array.from(toFloat32(await file.read(name))));
  } catch (cause) {
    if (cause instanceof RunStateError) throw cause;
    throw damaged(cause instanceof BitnetError ? cause.text.what : (cause as Error).message, cause);
  }
  const [latents, m, v] = values as [Float32Array<ArrayBuffer>, Float32Array, Float32Array];
  const { step, cursor, logBytes, seconds, adamSteps, sha256 } = facts;
  if (values.some((one) => one.length !== length)) throw damaged('it is of another size');
  if (hashOf(latents, m, v) !== sha256) throw damaged('its numbers are not those that were written');
  return { run, step, cursor, logBytes, seconds, latents, optimizer: { m, v, adamSteps } };
}
