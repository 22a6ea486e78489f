// What starts of this program remember of native code, in the user's cache. All that the fast way of a start needs is
// here: it reads two small files and asks for the state of the files that decide.
//
//     chosen-KIND-ROOT.json   the addon that the last look chose, with the state of all that it looked at
//     tried-HASH-N.json       how the binary with that hash did when it was tried on this machine
//     build-KIND-KEY.json     why these sources could not be compiled

import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomically } from '../formats/atomic-file.ts';
import { makeFolder } from '../formats/make-folder.ts';
import { cacheFolder } from '../package/cache-folder.ts';
import type { AddonKind } from './kind.ts';
import { machineName } from './machine.ts';

/** A file system's clock may be this coarse: two writes within it can leave the same state. */
const CLOCK_MS = 2000;

export const notesFolder = (): string => cacheFolder(['native']);

type State = readonly [path: string, state: string];

export type Chosen = { readonly path: string; readonly sha256: string };

type ChosenNote = Chosen & {
  /** Installations share the user's cache. */
  readonly root: string;
  readonly machine: string;
  readonly states: readonly State[];
};

const ABSENT = 'absent';

/** It changes with every write to a file and every name in a folder: nobody sets a ctime. */
export function stateOf(path: string): string {
  const info = statSync(path, { throwIfNoEntry: false });
  return info === undefined ? ABSENT : `${info.size} ${info.ino} ${info.mtimeMs} ${info.ctimeMs}`;
}

export const statesOf = (paths: readonly string[]): readonly State[] => paths.map((path) => [path, stateOf(path)]);

const chosenPath = (kind: AddonKind, root: string): string =>
  join(notesFolder(), `chosen-${kind}-${root.replace(/\W+/g, '-').slice(-100)}.json`);

/** Undefined when there is no note, or when anything in it is no longer so. */
export function readChosen(kind: AddonKind, root: string): Chosen | undefined {
  try {
    const note = readNote(chosenPath(kind, root)) as ChosenNote;
    if (note.root !== root || note.machine !== machineName()) return undefined;
    return note.states.every(([path, state]) => stateOf(path) === state) ? note : undefined;
  } catch {
    // No note there, or one of another form: the look-up looks again.
    return undefined;
  }
}

/** `states` are from before anything was read: what is written meanwhile then has another one. */
export async function noteChosen(
  kind: AddonKind,
  root: string,
  { path, sha256 }: Chosen,
  states: readonly State[],
): Promise<void> {
  const newest = Math.max(...states.map(([, state]) => (state === ABSENT ? 0 : Number(state.split(' ')[3]))));
  if (Date.now() - newest < CLOCK_MS) return;
  await writeNote(chosenPath(kind, root), { root, machine: machineName(), states, path, sha256 } satisfies ChosenNote);
}

/** How a binary did: it works, or one sentence why it does not. */
export type Tried = { readonly failure?: string | undefined };

type TriedNote = Tried & { readonly machine: string; readonly until?: number | undefined };

/** Machines that share a home have a note each. */
function triedPath(sha256: string): string {
  let hash = 0x811c9dc5;
  for (const unit of Buffer.from(machineName())) hash = Math.imul(hash ^ unit, 0x01000193);
  return join(notesFolder(), `tried-${sha256.slice(0, 32)}-${(hash >>> 0).toString(16)}.json`);
}

/** Undefined when the binary was never tried on this machine, or so long ago that it is time to try again. */
export function readTried(sha256: string): (Tried & { readonly note: string }) | undefined {
  const note = triedPath(sha256);
  try {
    const { machine, failure, until = Number.POSITIVE_INFINITY } = readNote(note) as TriedNote;
    if (machine !== machineName() || until < Date.now()) return undefined;
    return failure === undefined ? { note } : { note, failure: String(failure) };
  } catch {
    return undefined;
  }
}

/** `forMs`: how long a failure counts; for good when not given. */
export async function noteTried(sha256: string, { failure }: Tried, forMs?: number): Promise<void> {
  const until = forMs === undefined ? undefined : Date.now() + forMs;
  await writeNote(triedPath(sha256), { machine: machineName(), failure, until } satisfies TriedNote);
}

type BuildNote = { readonly compiler: string; readonly reason: string };

const buildPath = (kind: AddonKind, key: string): string => join(notesFolder(), `build-${kind}-${key}.json`);

/** Why this compiler could not compile these sources, if it was tried. */
export function readFailedBuild(kind: AddonKind, key: string, compiler: string): string | undefined {
  try {
    const note = readNote(buildPath(kind, key)) as BuildNote;
    return note.compiler === compiler ? String(note.reason) : undefined;
  } catch {
    return undefined;
  }
}

export async function noteFailedBuild(kind: AddonKind, key: string, note: BuildNote): Promise<void> {
  await writeNote(buildPath(kind, key), note);
}

function readNote(path: string): unknown {
  return JSON.parse(readFileSync(path, 'utf8'));
}

/** Where nothing can be written, every start looks and tries again. */
async function writeNote(path: string, note: unknown): Promise<void> {
  try {
    await makeFolder(notesFolder(), { mode: 0o700 });
    await writeFileAtomically(path, (sink) => sink.write(Buffer.from(JSON.stringify(note))));
  } catch {
    // A read-only home, a full disk.
  }
}
