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
  const paths = pathsInText(allowedRoots);
  return (error, sent) => {
    if (!(error instanceof BitnetError)) {
      return 'internal error: this is a defect of bitnet-gf3; the log of the server has the details';
    }
    const isKnown = (path: string) => sent.has(path) || allowedRoots.some((root) => isInside(path, root));
    const shown = (path: string) => (isKnown(path) ? path : lastPart(path));
    const inText = (text: string) => cut(text.slice(0, MAX_READ).replace(paths, shown));
    const inPlace = (where: string) => cut(placeWithPath(where, shown) ?? inText(where));
    return errorMessage(eachPart(error, inText, inPlace));
  };
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

/** `PATH, byte 8` or `tensor "a" in PATH`. */
const PLACE = new RegExp(String.raw`^(|.*? in )(${START}.*?)((?:, (?:byte|line) \d+)?)$`, 's');

/** A place holds one path, which may have spaces; undefined when it holds none. */
function placeWithPath(where: string, shown: (path: string) => string): string | undefined {
  const found = PLACE.exec(where);
  return found === null ? undefined : `${found[1]}${shown(found[2]!)}${found[3]}`;
}

/**
 * Absolute paths in running text. In quotes they may have spaces, and so may the folders that are known. Slashes of URLs,
 * of `and/or` and of `</s>` begin none.
 */
function pathsInText(knownFolders: readonly string[]): RegExp {
  const rest = String.raw`[^\s"'\x60,;:()[\]{}<>|]`;
  const known = knownFolders.map(
    (folder) => `${folder.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')}(?:[\\\\/]${rest}*|(?!${rest}))`,
  );
  const quoted = String.raw`(?<=(["'\x60]))${START}(?:(?!\1).)+(?=\1)`;
  const plain = String.raw`(?:file://|(?<![\w:/.~<\\-])${START})${rest}+`;
  return new RegExp([quoted, ...known, plain].join('|'), 'gs');
}

function isInside(path: string, root: string): boolean {
  const way = relative(root, path);
  return way === '' || (!way.startsWith('..') && !isAbsolute(way));
}

function lastPart(path: string): string {
  const { basename } = path.includes('\\') ? win32 : posix;
  return basename(path) || '(a folder of the server)';
}
