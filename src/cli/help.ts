// Help texts, made from the declarations.

import type { Command, FlagSpec } from './command.ts';
import type { CommandEntry } from './commands.ts';
import { COMMON_FLAGS } from './parse-flags.ts';

export function commandHelp(command: Command): string {
  const usage = command.positionals.map(({ name, optional }) => (optional ? `[${name}]` : name));
  const rows = [...Object.entries(command.flags), ...Object.entries(COMMON_FLAGS)].map(
    ([name, spec]) => [flagUsage(name, spec), flagText(spec)] as const,
  );
  return [
    `bitnet-gf3 ${[command.name, ...usage].join(' ')}${rows.length > 0 ? ' [flags]' : ''}`,
    '',
    `${command.summary}.`,
    ...(command.notes === undefined ? [] : ['', command.notes]),
    ...(command.positionals.length === 0
      ? []
      : ['', 'Arguments:', table(command.positionals.map(({ name, description }) => [name, description]))]),
    '',
    'Flags:',
    table(rows),
    '',
    command.examples.length === 1 ? 'Example:' : 'Examples:',
    ...command.examples.map((example) => `  bitnet-gf3 ${example}`),
  ].join('\n');
}

export function programHelp(version: string, commands: readonly CommandEntry[]): string {
  return [
    `bitnet-gf3 ${version}: a ternary language model and a GF(3) lens on it, for AI agents`,
    '',
    'With no command it serves MCP on stdio (for clients such as Claude Code).',
    '',
    'Commands:',
    table(commands.filter(({ hidden }) => !hidden).map(({ name, summary }) => [name, summary])),
    '',
    'Every command takes --json and --help.',
    'Exit status: 0 ok, 1 the job failed, 2 the call was wrong, 130 stopped by Ctrl-C or another signal.',
    '',
    'Example:',
    '  bitnet-gf3 infer "Once upon a time" --trace-gf3',
  ].join('\n');
}

function flagUsage(name: string, { type, short, placeholder }: FlagSpec): string {
  const value = type === 'boolean' ? '' : ` ${placeholder ?? name.toUpperCase().replaceAll('-', '_')}`;
  return `${short === undefined ? '' : `-${short}, `}--${name}${value}`;
}

function flagText({ type, description, choices, default: standard }: FlagSpec): string {
  const facts = [
    ...(choices === undefined ? [] : [choices.join(', ')]),
    ...(type === 'boolean' || standard === undefined ? [] : [`default ${standard}`]),
  ];
  return facts.length === 0 ? description : `${description} (${facts.join('; ')})`;
}

/** Two columns; the second starts where the longest of the first ends. */
export function table(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(0, ...rows.map(([left]) => left.length));
  return rows.map(([left, right]) => `  ${left.padEnd(width)}  ${right}`.trimEnd()).join('\n');
}
