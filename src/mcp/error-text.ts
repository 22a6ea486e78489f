// Error texts as clients get them: the one place that decides what of an error leaves this machine.
//
// Over stdio the client is here, and a path tells it where to look. Over HTTP it may be anybody: a path would tell it
// names of users and how the disk is laid out. It gets the last part of each path, which says which file is meant. What it
// wrote itself, and paths inside folders that callers may name, are no news to it.

import { isAbsolute, posix, relative, win32 } from 'node:path';
import { BitnetError, type ErrorText, errorMessage } from '../errors.ts';

/** What a client reads of an error. `sent`: the texts that it sent. */
export type Teller = (error: unknown, sent: ReadonlySet<unknown>) => string;

/** Characters of each part of a text; longer ones repeat what the caller sent. */
const MAX_PART = 4000;
/** Characters of it that are looked at: paths are shortened before the end is cut off, lest half a path is left. */
const MAX_READ = 16 * MAX_PART;

/** For a client on this machine. */
export const localErrorText: Teller = (error) => {
  if (error instanceof BitnetError) return errorMessage(eachPart(error, cut));
  const message = error instanceof Error ? error.message : String(error);
  return `internal error: ${message}; this is a defect of bitnet-gf3, its log on stderr has the details`;
};

/** For clients anywhere. `allowedRoots`: folders that callers may name. */
export function remoteErrorText(allowedRoots: readonly string[] = []): Teller {
  const paths = pathsInText([], allowedRoots);
  return (error, sent) => {
    if (!(error instanceof BitnetError)) {
      return 'internal error: this is a defect of bitnet-gf3; the log of the server has the details';
    }
    const isKnown = (path: string) => sent.has(path) || isInOneOf(allowedRoots, path);
    const shown = (path: string) => (isKnown(path) ? path : lastPart(path));
    const place = placeWithPath(error.text.where);
    // What stands in its place may stand in its text, too, without quotes that would say where it ends.
    const here = place === undefined ? paths : pathsInText(sureParts(place.path), allowedRoots);
    const inText = (text: string) => cut(text.slice(0, MAX_READ).replace(here, shown));
    const inPlace = (where: string) =>
      place === undefined ? inText(where) : cut(`${place.before}${shown(place.path)}${place.after}`);
    return errorMessage(eachPart(error, inText, inPlace));
  };
}

/** A model's name as callers on other machines may read it, who need not be those that wrote it: one may be a path. */
export function remoteModelName(name: string, allowedRoots: readonly string[] = []): string {
  const isPath = isAbsolute(name) || win32.isAbsolute(name) || /^(\.{1,2}|~)([/\\]|$)/.test(name);
  return isPath && !isInOneOf(allowedRoots, name) ? lastPart(name) : name;
}

type Change = (text: string) => string;

function eachPart({ text: { what, where, fix } }: BitnetError, change: Change, changePlace = change): ErrorText {
  return {
    what: change(what),
    ...(where !== undefined && { where: changePlace(where) }),
    ...(fix !== undefined && { fix: change(fix) }),
  };
}

function cut(text: string): string {
  return text.length <= MAX_PART ? text : `${text.slice(0, MAX_PART)}...`;
}

const START = String.raw`(?:/|[A-Za-z]:[\\/]|\\\\)`;
/** A character of a path that does not end it in running text. */
const INNER = String.raw`[^\s"'\x60,;:()[\]{}<>|]`;

/** `PATH, byte 8` or `tensor "a" in PATH`. */
const PLACE = new RegExp(String.raw`^(|.*? in )(${START}.*?)((?:, (?:byte|line) \d+)?)$`, 's');

/** A place holds one path, which may have spaces; undefined when it holds none. */
function placeWithPath(where = ''): { before: string; path: string; after: string } | undefined {
  const found = PLACE.exec(where);
  return found === null ? undefined : { before: found[1]!, path: found[2]!, after: found[3]! };
}

/** A path and its folder, but for the root of all, and for what is too long to be a path. */
function sureParts(path: string): string[] {
  const folder = rulesOf(path).dirname(path);
  return [path, folder].filter((part) => part.length <= MAX_PART && rulesOf(part).dirname(part) !== part);
}

/**
 * Absolute paths in running text. In quotes they may have spaces, and so may the folders that are known, those of which
 * it is sure that they occur before all else. Slashes of URLs, of `and/or` and of `</s>` begin none.
 */
function pathsInText(sureFolders: readonly string[], knownFolders: readonly string[]): RegExp {
  const startingWith = (folder: string) =>
    `${folder.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')}(?:[\\\\/]${INNER}*|(?!${INNER}))`;
  const sure = sureFolders.map((folder) => String.raw`(?<![\w/.~\\-])${startingWith(folder)}`);
  const known = knownFolders.map(startingWith);
  const quoted = String.raw`(?<=(["'\x60]))${START}(?:(?!\1).)+(?=\1)`;
  const plain = String.raw`(?:file://|(?<![\w:/.~<\\-])${START})${INNER}+`;
  return new RegExp([...sure, quoted, ...known, plain].join('|'), 'gs');
}

function isInOneOf(roots: readonly string[], path: string): boolean {
  return roots.some((root) => isInside(path, root));
}

function isInside(path: string, root: string): boolean {
  const way = relative(root, path);
  return way === '' || (!way.startsWith('..') && !isAbsolute(way));
}

function lastPart(path: string): string {
  return rulesOf(path).basename(path) || '(a folder of the server)';
}

function rulesOf(path: string): typeof posix {
  return path.includes('\\') ? win32 : posix;
}
