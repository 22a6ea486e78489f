// The commands that people read: in help, in sh blocks of the documentation, and in code marks within its prose.

import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { COMMANDS, loadCommand } from '../../src/cli/commands.ts';
import { ROOT } from '../mcp/server-process.ts';

export type Example = {
  readonly line: number;
  readonly command: string;
  /** Within prose, where the name of a command alone only mentions it. */
  readonly inline: boolean;
};
export type Source = { readonly name: string; readonly examples: readonly Example[] };

/** Pages that a user reads. */
export const PAGES: readonly string[] = [
  'README.md',
  'CONTRIBUTING.md',
  'SECURITY.md',
  'models/default/README.md',
  ...readdirSync(join(ROOT, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
  ...readdirSync(join(ROOT, 'skills'))
    .filter((name) => statSync(join(ROOT, 'skills', name)).isDirectory())
    .map((name) => `skills/${name}/SKILL.md`),
];

export const textOf = (page: string) => readFileSync(join(ROOT, page), 'utf8').replaceAll('\r\n', '\n');

export type Block = { readonly language: string; readonly text: string; readonly line: number };

/** Fenced blocks; `line` is that of their first line, from 1. */
export function blocksIn(markdown: string): Block[] {
  const blocks: Block[] = [];
  let open: { language: string; line: number; lines: string[] } | undefined;
  markdown.split('\n').forEach((text, i) => {
    const fence = /^```(\S*)/.exec(text);
    if (fence === null) open?.lines.push(text);
    else if (open === undefined) open = { language: fence[1]!, line: i + 2, lines: [] };
    else {
      blocks.push({ language: open.language, line: open.line, text: open.lines.join('\n') });
      open = undefined;
    }
  });
  if (open !== undefined) throw new Error(`a block that begins before line ${open.line} has no end`);
  return blocks;
}

const SHELL = new Set(['sh', 'bash', 'shell', 'console']);
const names = COMMANDS.map(({ name }) => name).join('|');
/** `bitnet-gf3 ...`, a command of npm or node, or the bare words of one of our commands. */
const INLINE = new RegExp(`^(?:bitnet-gf3 |npx |npm |node |(?:${names}) (?:--?\\w|[\\w"]))`);

function examplesIn(markdown: string): Example[] {
  const found: Example[] = [];
  for (const { language, text, line } of blocksIn(markdown)) {
    if (!SHELL.has(language)) continue;
    let start: number | undefined;
    let whole = '';
    text.split('\n').forEach((part, i) => {
      start ??= line + i;
      whole += part.replace(/\\$/, '');
      if (part.endsWith('\\')) return;
      const command = whole.trim();
      if (command !== '' && !command.startsWith('#')) found.push({ line: start, command, inline: false });
      start = undefined;
      whole = '';
    });
  }
  const prose = markdown.replace(/^```[\s\S]*?^```/gm, (block) => block.replace(/[^\n]/g, ''));
  for (const match of prose.matchAll(/`([^`]+)`/g)) {
    const command = match[1]!.replace(/\s+/g, ' ');
    if (!INLINE.test(command)) continue;
    const line = prose.slice(0, match.index).split('\n').length;
    const bare = /^(bitnet-gf3|npx|npm|node) /.test(command);
    found.push({ line, command: bare ? command : `bitnet-gf3 ${command}`, inline: true });
  }
  return found.sort((a, b) => a.line - b.line);
}

export const pageSources = (): Source[] =>
  PAGES.map((name) => ({ name, examples: examplesIn(textOf(name)) })).filter(({ examples }) => examples.length > 0);

export async function helpSources(): Promise<Source[]> {
  const commands = await Promise.all(COMMANDS.map(loadCommand));
  return commands.map(({ name, examples, notes = '' }) => ({
    name: `${name} --help`,
    examples: [
      ...examples.map((example) => `bitnet-gf3 ${example}`),
      ...[...notes.matchAll(/Try it: (bitnet-gf3 [^.;\n]*)/g)].map((match) => match[1]!),
    ].map((command, i) => ({ line: i + 1, command, inline: false })),
  }));
}

/** Words of a command line as a shell splits them; no expansion. */
export function wordsOf(command: string): string[] {
  const bare = command.replace(/\s+#.*$/, '');
  return [...bare.matchAll(/"([^"]*)"|'([^']*)'|(\S+)/g)].map((match) => match[1] ?? match[2] ?? match[3]!);
}
