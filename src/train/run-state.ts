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
  const facts = { run, step, cursor, adamSteps: optimizer.adamSteps, logBytes, seconds };
  await writeSafetensors(
    join(folder, STATE_FILE),
    [flat('latents', latents), flat('m', optimizer.m), flat('v', optimizer.v)],
    { bitnet_gf3_run: JSON.stringify(facts) },
  );
}

/** The state in a folder; undefined when there is none. Throws RunStateError when it is not of this run. */
export async function readRunState(folder: string, run: string, length: number): Promise<RunState | undefined> {
  const path = join(folder, STATE_FILE);
  if ((await stat(path).catch(() => undefined)) === undefined) return undefined;
  using file = await SafetensorsFile.open(path);
  const facts = JSON.parse(String(file.metadata.get('bitnet_gf3_run') ?? '{}')) as Partial<RunState> & {
    readonly adamSteps: number;
  };
  if (facts.run !== run) {
    throw new RunStateError({
      what: 'this folder holds a run with other data, another model or other settings',
      where: path,
      fix: 'repeat the command of that run to resume it, choose another --out, or give --restart to begin anew here',
    });
  }
  const read = async (name: string) => Float32Array.from(toFloat32(await file.read(name)));
  const [latents, m, v] = [await read('latents'), await read('m'), await read('v')];
  if (latents.length !== length || m.length !== length || v.length !== length) {
    throw new RunStateError({ what: 'the state is of another size', where: path, fix: 'give --restart' });
  }
  const { step, cursor, logBytes, seconds, adamSteps } = facts as RunState & { readonly adamSteps: number };
  return { run, step, cursor, logBytes, seconds, latents, optimizer: { m, v, adamSteps } };
}
