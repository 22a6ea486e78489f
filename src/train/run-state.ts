// What a run is, and where it stands: enough to go on after a kill at any moment with the same result as if nothing had
// happened. One file, written whole or not at all. It holds the optimizer's moments and so is three times as large as the
// float masters; when the run is done a line of JSON takes its place, which says of which run the folder is.

import { rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { BitnetError } from '../errors.ts';
import { writeFileAtomically } from '../formats/atomic-file.ts';
import { readTextFile } from '../formats/read-small-file.ts';
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
export const DONE_FILE = 'run.json';

/** The checkpoint that did best on held-out data so far. */
export type Best = {
  readonly step: number;
  readonly loss: number;
  readonly latents: Float32Array<ArrayBuffer>;
};

/** What a run watches on its held-out data. */
export type Watch = {
  /** Undefined without held-out data. */
  readonly best: Best | undefined;
  /** The loss that the next must be clearly below, and how many looks in a row were not. */
  readonly mark: number;
  readonly stale: number;
};

export const NOTHING_WATCHED: Watch = { best: undefined, mark: Number.POSITIVE_INFINITY, stale: 0 };

/** How a run ended. */
export type Done = {
  readonly run: string;
  readonly step: number;
  readonly ended: 'steps' | 'plateau';
  readonly epochs: number;
  readonly seconds: number;
  /** Of the model that was kept. */
  readonly bestStep: number;
  readonly evalAfter: number | undefined;
};

export type RunState = {
  /** Hash of everything the result depends on: data, model, settings. */
  readonly run: string;
  /** Steps taken. */
  readonly step: number;
  readonly cursor: Cursor;
  readonly latents: Float32Array<ArrayBuffer>;
  readonly optimizer: OptimizerState;
  readonly watch: Watch;
  /** Bytes of the log that belong to these steps; a crash may have left more. */
  readonly logBytes: number;
  /** Seconds spent training, over all parts of the run. */
  readonly seconds: number;
};

const bytesOf = (values: Float32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

export async function writeRunState(folder: string, state: RunState): Promise<void> {
  const { run, step, cursor, latents, optimizer, watch, logBytes, seconds } = state;
  const flat = (name: string, values: Float32Array) =>
    ({ name, dtype: 'F32', shape: [values.length], bytes: bytesOf(values) }) as const;
  const { m, v, adamSteps } = optimizer;
  const { best, mark, stale } = watch;
  const watched = best && { step: best.step, loss: best.loss, mark, stale };
  const arrays = { latents, m, v, ...(best && { best: best.latents }) };
  const sha256 = hashOf(...Object.values(arrays));
  const facts: Facts = { run, step, cursor, adamSteps, logBytes, seconds, ...(watched && { watched }), sha256 };
  const tensors = Object.entries(arrays).map(([name, values]) => flat(name, values));
  await writeSafetensors(join(folder, STATE_FILE), tensors, { bitnet_gf3_run: JSON.stringify(facts) });
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
  readonly watched?: { readonly step: number; readonly loss: number; readonly mark: number; readonly stale: number };
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
    const names = ['latents', 'm', 'v', ...(facts.watched === undefined ? [] : ['best'])];
    for (const name of names) values.push(Float32Array.from(toFloat32(await file.read(name))));
  } catch (cause) {
    if (cause instanceof RunStateError) throw cause;
    throw damaged(cause instanceof BitnetError ? cause.text.what : (cause as Error).message, cause);
  }
  const [latents, m, v, bestLatents] = values as [
    Float32Array<ArrayBuffer>,
    Float32Array,
    Float32Array,
    Float32Array<ArrayBuffer>?,
  ];
  const { step, cursor, logBytes, seconds, adamSteps, watched, sha256 } = facts;
  if (values.some((one) => one.length !== length)) throw damaged('it is of another size');
  if (hashOf(...values) !== sha256) throw damaged('its numbers are not those that were written');
  const watch: Watch =
    watched === undefined
      ? NOTHING_WATCHED
      : {
          best: { step: watched.step, loss: watched.loss, latents: bestLatents! },
          mark: watched.mark,
          stale: watched.stale,
        };
  return { run, step, cursor, logBytes, seconds, latents, optimizer: { m, v, adamSteps }, watch };
}

/** A record of a finished run is a line; one that is larger is something else. */
const MAX_DONE_BYTES = 64 * 1024;

/**
 * Whether the folder's run is done, and how it ended; undefined when none is. Throws RunStateError when another run was
 * done here.
 */
export async function readDone(folder: string, run: string): Promise<Done | undefined> {
  const path = join(folder, DONE_FILE);
  const text = await readTextFile(path, MAX_DONE_BYTES);
  if (text === undefined) return undefined;
  let done: Done | null;
  try {
    done = JSON.parse(text);
  } catch {
    done = null;
  }
  if (done?.run !== run) throw otherRun(path);
  return done;
}

/** The run is done and its model written: from here on the state would only take room. */
export async function writeDone(folder: string, done: Done): Promise<void> {
  const text = `${JSON.stringify(done, null, 1)}\n`;
  await writeFileAtomically(join(folder, DONE_FILE), (sink) => sink.write(Buffer.from(text, 'utf8')));
  await rm(join(folder, STATE_FILE), { force: true });
}

/** Before a run begins anew: what a folder says of an earlier one is no longer so. */
export async function forgetDone(folder: string): Promise<void> {
  await rm(join(folder, DONE_FILE), { force: true });
}
