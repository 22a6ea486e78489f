// Commands for a person to paste: the program as it was started here, its arguments quoted for the shell.

import { basename, delimiter, dirname, relative } from 'node:path';

type Place = {
  readonly script: string | undefined;
  readonly path: string | undefined;
  readonly cwd: string;
  readonly platform: NodeJS.Platform;
};

function here(): Place {
  return { script: process.argv[1], path: process.env.PATH, cwd: process.cwd(), platform: process.platform };
}

/** `bitnet-gf3 infer 'a b' ...`, or `node dist/cli/main.js infer ...` where the program was started like that. */
export function commandLine(args: readonly string[], place: Place = here()): string {
  return [...program(place), ...args].map((word) => quoted(word, place.platform)).join(' ');
}

function program({ script, path = '', cwd }: Place): string[] {
  const name = basename(script ?? '');
  if (script === undefined || (name !== 'bitnet-gf3' && name !== 'bitnet-gf3-mcp')) {
    const near = relative(cwd, script ?? '');
    // From a folder that is elsewhere, `../../..` is no easier to read than the path.
    return script === undefined ? ['bitnet-gf3'] : ['node', near.startsWith('..') || near === '' ? script : near];
  }
  const folder = dirname(script);
  // npx puts the folders of a package's programs first, for its own child alone.
  if (basename(folder) === '.bin') return ['npx', folder.includes('_npx') ? 'bitnet-gf3-mcp' : name];
  return [path.split(delimiter).includes(folder) ? name : script];
}

/** One word for sh (and bash, zsh, fish), or for cmd and PowerShell on Windows. */
export function quoted(word: string, platform: NodeJS.Platform): string {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  if (platform !== 'win32') return `'${word.replaceAll("'", `'\\''`)}'`;
  return /^[\w@+=:,.\\/-]+$/.test(word) ? word : `"${word.replaceAll('"', '\\"')}"`;
}
