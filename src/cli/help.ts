// Help texts, made from the declarations.

import type { Command, FlagSpec, PositionalSpec } from './command.ts';
import type { CommandEntry } from './commands.ts';
import { COMMON_FLAGS } from './parse-flags.ts';
import { table, wrap } from './wrap.ts';

/** Longer lines are hard to read, however wide the terminal is. */
const WIDEST = 100;

/** `width`: of the terminal, if there is one. */
export function commandHelp(command: Command, width: number): string {
  const room = Math.min(width, WIDEST);
  const usage = command.positionals.map(positionalUsage);
  const rows = [...Object.entries(command.flags), ...Object.entries(COMMON_FLAGS)].map(
    ([name, spec]) => [flagUsage(name, spec), flagText(spec)] as const,
  );
  return [
    `bitnet-gf3 ${[command.name, ...usage].join(' ')}${rows.length > 0 ? ' [flags]' : ''}`,
    '',
    wrap(`${command.summary}.`, room),
    ...(command.notes === undefined ? [] : ['', wrap(command.notes, room)]),
    ...(command.positionals.length === 0
      ? []
      : [
          '',
          'Arguments:',
          table(
            command.positionals.map(({ name, description }) => [name, description]),
            room,
          ),
        ]),
    '',
    'Flags:',
    table(rows, room),
    '',
    command.examples.length === 1 ? 'Example:' : 'Examples:',
    ...command.examples.map((example) => `  bitnet-gf3 ${example}`),
  ].join('\n');
}

export function programHelp(version: string, commands: readonly CommandEntry[], width: number): string {
  const room = Math.min(width, WIDEST);
  return [
    wrap(`bitnet-gf3 ${version}: a ternary language model and a GF(3) lens on it, for AI agents`, room),
    '',
    wrap('With no command it serves MCP on stdio (for clients such as Claude Code).', room),
    '',
    'Commands:',
    table(
      commands.filter(({ hidden }) => !hidden).map(({ name, summary }) => [name, summary]),
      room,
    ),
    '',
    wrap('Every command takes --json and --help. Environment variables are told in docs/environment.md.', room),
    wrap('Exit status: 0 ok, 1 the job failed, 2 the call was wrong, 130 stopped by Ctrl-C or another signal.', room),
    '',
    'Example:',
    '  bitnet-gf3 infer "Once upon a time" --trace-gf3',
  ].join('\n');
}

/** `PROMPT`, `[TEXT]`, `MEMBER ...`. */
export function positionalUsage({ name, optional, many }: PositionalSpec): string {
  const text = many ? `${name} ...` : name;
  return optional ? `[${text}]` : text;
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
