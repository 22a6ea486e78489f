// Worlds on disk, by content.
//
//   worlds/ID.json             record: parent, base, the morphism that led here, what it gave. Small; never evicted.
//   snapshots/ID.safetensors   state: latents, moments. Large; any of them can be had again by replay.
//
// Every file appears whole or not at all, under a name that says what is in it, so a killed process leaves at most a
// temporary file, and several processes may share a store. A step exists once its record does; the snapshot, if one is
// due, is written before.

import { readdir, rm, stat, unlink, utimes } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { FileAccessError, type WriteError } from '../formats/errors.ts';
import { makeFolder } from '../formats/make-folder.ts';
import { readTextFile } from '../formats/read-small-file.ts';
import { SafetensorsFile } from '../formats/safetensors-file.ts';
import { writeSafetensors } from '../formats/write-safetensors.ts';
import { toFloat32 } from '../quant/to-float32.ts';
import { writeJson } from '../train/export-model.ts';
import { parseRecord } from './parse-record.ts';
import { WorldError, WorldNotFoundError } from './world-error.ts';
import type { WorldRecord } from './world-record.ts';
import type { WorldState } from './world-state.ts';

export type { RecordedMorphism, RecordedReport, WorldRecord } from './world-record.ts';

export type StoreOptions = {
  /** Most bytes of snapshots to keep. Default 2 GiB. */
  readonly maxBytes?: number;
};

export const DEFAULT_STORE_BYTES = 2 * 2 ** 30;
/** A temporary file older than this belongs to nobody. */
const STALE_MS = 60 * 60 * 1000;
const ID = /^[0-9a-f]{64}$/;
const FOLDER_FIX = 'check its permissions, or name another folder with BITNET_WORLDS';
export const LATEST = 'latest';
/** Shortest beginning of an id that is looked up. */
const MIN_PREFIX = 6;
/** Records are a few kilobytes; a batch of text is the largest part. */
const MAX_RECORD_BYTES = 16 * 2 ** 20;
/** Records read at once: bounds open files and, at the size limit, memory. */
const RECORDS_AT_ONCE = 16;

/** BITNET_WORLDS, or the user's data folder. */
export function worldsFolder(env: Readonly<Record<string, string | undefined>> = process.env): string {
  if (env.BITNET_WORLDS) return env.BITNET_WORLDS;
  if (process.platform === 'win32' && env.LOCALAPPDATA) return join(env.LOCALAPPDATA, 'bitnet-gf3', 'worlds');
  return join(env.XDG_DATA_HOME || join(homedir(), '.local', 'share'), 'bitnet-gf3', 'worlds');
}

export class WorldStore {
  readonly folder: string;
  readonly maxBytes: number;

  private constructor(folder: string, maxBytes: number) {
    this.folder = folder;
    this.maxBytes = maxBytes;
  }

  /** Opens a store and clears away what a killed process left half written. Its folders come with the first write. */
  static async open(folder: string, options: StoreOptions = {}): Promise<WorldStore> {
    const store = new WorldStore(folder, options.maxBytes ?? DEFAULT_STORE_BYTES);
    for (const part of [store.#records, store.#snapshots]) {
      for (const name of await namesIn(part)) {
        if (!name.endsWith('.tmp')) continue;
        const info = await stat(join(part, name)).catch(() => undefined);
        if (info !== undefined && Date.now() - info.mtimeMs > STALE_MS) await rm(join(part, name), { force: true });
      }
    }
    return store;
  }

  async #makeFolders(): Promise<void> {
    for (const part of [this.#records, this.#snapshots]) {
      await makeFolder(part).catch((cause: WriteError) => {
        throw new WorldError({ what: cause.text.what, where: part, fix: FOLDER_FIX }, { cause });
      });
    }
  }

  get #records(): string {
    return join(this.folder, 'worlds');
  }

  get #snapshots(): string {
    return join(this.folder, 'snapshots');
  }

  #recordPath(id: string): string {
    return join(this.#records, `${id}.json`);
  }

  #snapshotPath(id: string): string {
    return join(this.#snapshots, `${id}.safetensors`);
  }

  /** Ids of all worlds, sorted. */
  async ids(): Promise<string[]> {
    const names = await namesIn(this.#records);
    return names
      .filter((name) => name.endsWith('.json') && ID.test(name.slice(0, -5)))
      .map((name) => name.slice(0, -5))
      .sort();
  }

  /** All records that can be read, oldest first. */
  async list(): Promise<WorldRecord[]> {
    return (await this.survey()).records;
  }

  /** As `list`, with what is wrong with the others. A world that somebody deletes meanwhile is in neither. */
  async survey(): Promise<{ readonly records: WorldRecord[]; readonly broken: readonly WorldError[] }> {
    const ids = await this.ids();
    const records: WorldRecord[] = [];
    const broken: WorldError[] = [];
    for (let start = 0; start < ids.length; start += RECORDS_AT_ONCE) {
      const batch = ids.slice(start, start + RECORDS_AT_ONCE).map((id) => this.record(id));
      for (const result of await Promise.allSettled(batch)) {
        if (result.status === 'fulfilled') records.push(result.value);
        else if (result.reason instanceof WorldError) broken.push(result.reason);
        else if (!(result.reason instanceof WorldNotFoundError)) throw result.reason;
      }
    }
    records.sort((a, b) => (a.created < b.created ? -1 : a.created > b.created ? 1 : a.stepCount - b.stepCount));
    return { records, broken };
  }

  /** Full id of an id, of its beginning, or of `latest`, the world that was reached last. */
  async resolve(text: string): Promise<string> {
    if (text === LATEST) {
      const latest = (await this.list()).at(-1);
      if (latest !== undefined) return latest.id;
      throw new WorldNotFoundError({
        what: 'there are no worlds yet',
        where: this.folder,
        fix: 'begin one with morphism_step and a model',
      });
    }
    if (!new RegExp(`^[0-9a-f]{${MIN_PREFIX},64}$`).test(text)) {
      throw new WorldNotFoundError({
        what: `${JSON.stringify(text.slice(0, 80))} is not a world id`,
        fix: `give 64 hex digits or at least the first ${MIN_PREFIX}, as morphism_step returned them, or "${LATEST}"`,
      });
    }
    const found = (await this.ids()).filter((id) => id.startsWith(text));
    if (found.length === 1) return found[0]!;
    throw new WorldNotFoundError({
      what: found.length === 0 ? `there is no world ${text}` : `${found.length} worlds begin with ${text}`,
      where: this.folder,
      fix: found.length === 0 ? 'begin one with morphism_step and a model' : 'give more digits',
    });
  }

  async has(id: string): Promise<boolean> {
    return (await stat(this.#recordPath(id)).catch(() => undefined)) !== undefined;
  }

  /** Throws WorldNotFoundError where there is none, WorldError where its file is damaged or cannot be read. */
  async record(id: string): Promise<WorldRecord> {
    const path = this.#recordPath(id);
    const fix = deleteFix(id);
    const text = await readTextFile(path, MAX_RECORD_BYTES).catch((cause: unknown) => {
      if (!(cause instanceof FileAccessError)) throw cause;
      throw new WorldError({ what: `the record cannot be read: ${cause.text.what}`, where: path, fix }, { cause });
    });
    if (text === undefined) {
      throw new WorldNotFoundError({ what: `there is no world ${id}`, where: this.folder, fix: 'see `world list`' });
    }
    const record = parseRecord(text, id);
    if (typeof record !== 'string') return record;
    throw new WorldError({ what: `the record is damaged: ${record}`, where: path, fix });
  }

  /**
   * The world that this one came from; undefined for one that begins. Every way back goes through here: step counts must
   * add up from world to world, so that no way is endless, whatever parents the records name. Throws as `record`.
   */
  async parentOf({ id, parent, stepCount, morphism }: WorldRecord): Promise<WorldRecord | undefined> {
    if (parent === null) return undefined;
    const found = await this.record(parent);
    const expected = stepCount - morphism!.steps;
    if (found.stepCount === expected) return found;
    throw new WorldError({
      what: `the record is damaged: it says that ${expected} steps are behind the world ${parent} that it came from, which says ${found.stepCount}`,
      where: this.#recordPath(id),
      fix: deleteFix(id),
    });
  }

  /**
   * Adds a world. A beginning that is there stays as it is; a damaged one is replaced. So is one that a step led to: two
   * steps at once and one after the other end in the same world, and the way back is the way by which it was reached last.
   */
  async add(record: WorldRecord): Promise<void> {
    if (record.parent === null) {
      try {
        await this.record(record.id);
        return;
      } catch {
        // Not there, or not to be read: written now.
      }
    }
    await this.#makeFolders();
    await writeJson(this.#recordPath(record.id), record);
  }

  async snapshotIds(): Promise<Set<string>> {
    const names = await namesIn(this.#snapshots);
    return new Set(names.filter((name) => name.endsWith('.safetensors')).map((name) => name.slice(0, -12)));
  }

  async writeSnapshot(id: string, { latents, optimizer, base, stepCount }: WorldState): Promise<void> {
    const flat = (name: string, values: Float32Array) => ({
      name,
      dtype: 'F32' as const,
      shape: [values.length],
      bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    });
    const { m, v, adamSteps } = optimizer;
    const tensors = [flat('latents', latents), ...(adamSteps === 0 ? [] : [flat('m', m), flat('v', v)])];
    const facts = { base, stepCount: `${stepCount}`, adamSteps: `${adamSteps}` };
    await this.#makeFolders();
    await writeSafetensors(this.#snapshotPath(id), tensors, facts);
  }

  /** The state a snapshot holds, unchecked; undefined when there is none or it cannot be read. */
  async readSnapshot(id: string): Promise<WorldState | undefined> {
    const path = this.#snapshotPath(id);
    if ((await stat(path).catch(() => undefined)) === undefined) return undefined;
    try {
      using file = await SafetensorsFile.open(path);
      const read = async (name: string) => Float32Array.from(toFloat32(await file.read(name)));
      const latents = await read('latents');
      const adamSteps = Number(file.metadata.get('adamSteps'));
      const zero = () => new Float32Array(latents.length);
      const optimizer = {
        m: adamSteps === 0 ? zero() : await read('m'),
        v: adamSteps === 0 ? zero() : await read('v'),
        adamSteps,
      };
      // Last use, for eviction.
      await utimes(path, new Date(), new Date()).catch(() => undefined);
      const base = String(file.metadata.get('base'));
      return { base, stepCount: Number(file.metadata.get('stepCount')), latents, optimizer };
    } catch {
      return undefined;
    }
  }

  async deleteSnapshot(id: string): Promise<void> {
    await rm(this.#snapshotPath(id), { force: true });
  }

  /** Removes a world's files. The caller has made sure that no world descends from it. */
  async delete(id: string): Promise<void> {
    // The record first: a snapshot without a record is not a world and is cleared by the next eviction.
    await unlink(this.#recordPath(id)).catch(() => undefined);
    await this.deleteSnapshot(id);
  }

  /** Snapshots with size and last use, least recently used first. */
  async snapshots(): Promise<{ readonly id: string; readonly bytes: number; readonly used: number }[]> {
    const found = [];
    for (const id of await this.snapshotIds()) {
      const info = await stat(this.#snapshotPath(id)).catch(() => undefined);
      if (info !== undefined) found.push({ id, bytes: info.size, used: info.mtimeMs });
    }
    return found.sort((a, b) => a.used - b.used || (a.id < b.id ? -1 : 1));
  }

  /**
   * Deletes snapshots, least recently used first, until they fit the limit. `replayable` says whether a world could be
   * had again without its snapshot; those that could not are kept, whatever the limit.
   */
  async evict(replayable: (id: string) => Promise<boolean>, keep: ReadonlySet<string> = new Set()): Promise<string[]> {
    const snapshots = await this.snapshots();
    const records = new Set(await this.ids());
    let bytes = snapshots.reduce((sum, snapshot) => sum + snapshot.bytes, 0);
    const gone: string[] = [];
    for (const snapshot of snapshots) {
      const orphan = !records.has(snapshot.id) && Date.now() - snapshot.used > STALE_MS;
      if (!orphan && (bytes <= this.maxBytes || keep.has(snapshot.id))) continue;
      if (!orphan && records.has(snapshot.id) && !(await replayable(snapshot.id))) continue;
      await this.deleteSnapshot(snapshot.id);
      bytes -= snapshot.bytes;
      gone.push(snapshot.id);
    }
    return gone;
  }
}

function deleteFix(id: string): string {
  return `delete the file, or \`world delete ${id.slice(0, 12)}\`; what came from it cannot be replayed then`;
}

/** What is in a folder of the store; nothing before the first write. */
async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') return [];
    throw new WorldError({ what: `cannot look into this folder: ${code}`, where: folder, fix: FOLDER_FIX }, { cause });
  }
}
