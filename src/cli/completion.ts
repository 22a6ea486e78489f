// Completion scripts for shells, written from the commands' declarations: what a shell offers is what the parser takes.

import { ArgumentError } from '../errors.ts';
import { nearest } from '../tools/nearest.ts';
import { type Command, defineCommand, type FlagSpec } from './command.ts';
import { COMMANDS, loadCommand } from './commands.ts';
import { bashCompletion, fishCompletion, type ShellCommand, zshCompletion } from './completion-scripts.ts';
import { COMMON_FLAGS } from './parse-flags.ts';

const SCRIPTS = { bash: bashCompletion, zsh: zshCompletion, fish: fishCompletion };
const SHELLS = Object.keys(SCRIPTS);

export const command = defineCommand({
  name: 'completion',
  summary: 'A script that completes commands and flags in bash, zsh or fish',
  positionals: [{ name: 'SHELL', description: SHELLS.join(', '), choices: SHELLS }],
  flags: {},
  examples: ['completion bash', 'completion zsh', 'completion fish'],
  notes:
    'bash: source <(bitnet-gf3 completion bash), in ~/.bashrc to keep it.\n' +
    'zsh: bitnet-gf3 completion zsh > a folder of $fpath, as _bitnet-gf3; then compinit.\n' +
    'fish: bitnet-gf3 completion fish > ~/.config/fish/completions/bitnet-gf3.fish',
  run: async ({ positionals, json, output }) => {
    const shell = positionals[0]!;
    if (!Object.hasOwn(SCRIPTS, shell)) {
      const guess = nearest(shell, SHELLS);
      throw new ArgumentError({
        what: `there is no completion for "${shell}"`,
        fix: `${guess === undefined ? '' : `did you mean ${guess}? `}shells: ${SHELLS.join(', ')}`,
      });
    }
    const commands = await Promise.all(
      COMMANDS.filter(({ hidden }) => !hidden).map(async (entry) => shellCommand(await loadCommand(entry))),
    );
    const script = SCRIPTS[shell as keyof typeof SCRIPTS](commands);
    if (json) output.json({ shell, script });
    else output.write(script);
    return 0;
  },
});

/** Flags whose value is a file or folder are told by their placeholder, as a reader tells them. */
const PATH_PLACEHOLDER = /FILE|DIR|PATH|\.(png|safetensors)$/i;
/** Flags and arguments that take a model: a name, or a path. */
const MODEL_NAMES = new Set(['model', 'MODEL', 'MODEL_OR_FILE', 'SRC']);
const PATH_POSITIONALS = new Set(['CASE_DIR', 'DST']);

function shellCommand({ name, summary, flags, positionals }: Command): ShellCommand {
  return {
    name,
    summary,
    flags: Object.entries({ ...flags, ...COMMON_FLAGS } as Record<string, FlagSpec>).map(([flag, spec]) => ({
      name: flag,
      short: spec.short,
      description: spec.description,
      takesValue: spec.type !== 'boolean',
      repeats: spec.type === 'strings',
      choices: spec.choices ?? (MODEL_NAMES.has(flag) ? ['default'] : []),
      isPath: MODEL_NAMES.has(flag) || PATH_PLACEHOLDER.test(spec.placeholder ?? ''),
    })),
    positionals: positionals.map(({ name: positional, choices = [], many = false }) => ({
      name: positional,
      choices: MODEL_NAMES.has(positional) ? ['default'] : choices,
      isPath: MODEL_NAMES.has(positional) || PATH_POSITIONALS.has(positional),
      many,
    })),
  };
}
