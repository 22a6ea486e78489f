// The three shells' ways to say what may come next. Each script decides by the words before the cursor and starts no
// process, so that completing costs nothing.

export type ShellFlag = {
  readonly name: string;
  readonly short: string | undefined;
  readonly description: string;
  readonly takesValue: boolean;
  readonly repeats: boolean;
  readonly choices: readonly string[];
  /** Its value may be a file or folder. */
  readonly isPath: boolean;
};

export type ShellPositional = {
  readonly name: string;
  readonly choices: readonly string[];
  readonly isPath: boolean;
  readonly many: boolean;
};

export type ShellCommand = {
  readonly name: string;
  readonly summary: string;
  readonly flags: readonly ShellFlag[];
  readonly positionals: readonly ShellPositional[];
};

/** Names under which the program is installed. */
const PROGRAMS = ['bitnet-gf3', 'bitnet-gf3-mcp'];
/** What main.ts takes in place of a command. */
const PROGRAM_FLAGS = ['--help', '--version'];

const single = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
const namesOf = ({ name, short }: ShellFlag) => [`--${name}`, ...(short === undefined ? [] : [`-${short}`])];

/** For bash 3.2 and later, without the package bash-completion. */
export function bashCompletion(commands: readonly ShellCommand[]): string {
  const flagCases = commands.flatMap(({ name, flags }) =>
    flags
      .filter(({ takesValue }) => takesValue)
      .map((flag) => {
        const patterns = namesOf(flag)
          .map((spelled) => `${name}:${spelled}`)
          .join('|');
        return `    ${patterns}) words=${single(flag.choices.join(' '))}; files=${flag.isPath ? 1 : 0}; return 0 ;;`;
      }),
  );
  const positionalCases = commands.flatMap(({ name, positionals }) =>
    positionals.map(({ choices, isPath, many }, i) => {
      const pattern = many ? `${name}:*` : `${name}:${i}`;
      return `    ${pattern}) words=${single(choices.join(' '))}; files=${isPath ? 1 : 0} ;;`;
    }),
  );
  const flagLists = commands.map(
    ({ name, flags }) => `    ${name}) words=${single(flags.flatMap(namesOf).join(' '))} ;;`,
  );
  const names = commands.map(({ name }) => name);
  return `# bash completion of bitnet-gf3, written by: bitnet-gf3 completion bash

# Sets words and files for the value of a flag; fails when the flag takes none.
_bitnet_gf3_value() {
  case "$1:$2" in
${flagCases.join('\n')}
  esac
  return 1
}

_bitnet_gf3() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" command="\${COMP_WORDS[1]}" words="" files=0 i at=0 literal=0
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    words=${single([...names, 'help', ...PROGRAM_FLAGS].join(' '))}
  elif [ "$command" = help ]; then
    [ "$COMP_CWORD" -eq 2 ] && words=${single(names.join(' '))}
  elif _bitnet_gf3_value "$command" "\${COMP_WORDS[COMP_CWORD-1]}"; then
    :
  elif [ "\${cur:0:1}" = "-" ]; then
    case "$command" in
${flagLists.join('\n')}
    esac
  else
    for ((i = 2; i < COMP_CWORD; i++)); do
      if [ "\${COMP_WORDS[i]}" = "--" ] && [ "$literal" -eq 0 ]; then
        literal=1
      elif [ "\${COMP_WORDS[i]:0:1}" = "-" ] && [ "$literal" -eq 0 ]; then
        _bitnet_gf3_value "$command" "\${COMP_WORDS[i]}" && i=$((i + 1))
      else
        at=$((at + 1))
      fi
    done
    words=""
    files=0
    case "$command:$at" in
${positionalCases.join('\n')}
    esac
  fi
  local IFS=$' \\t\\n'
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [ "$files" -eq 1 ]; then
    IFS=$'\\n'
    COMPREPLY+=($(compgen -f -- "$cur"))
    compopt -o filenames 2>/dev/null
  fi
  return 0
}

complete -F _bitnet_gf3 ${PROGRAMS.join(' ')}
`;
}

export function zshCompletion(commands: readonly ShellCommand[]): string {
  /** Colons end a description's predecessor in _describe, brackets end it in _arguments. */
  const described = (text: string) => text.replace(/[\\:[\]]/g, '\\$&');
  const actionOf = ({ name, choices, isPath }: { name: string; choices: readonly string[]; isPath: boolean }) => {
    const message = described(name);
    if (isPath && choices.length > 0) {
      return `:${message}:{ compadd -- ${choices.join(' ')}; _files }`;
    }
    if (choices.length > 0) return `:${message}:(${choices.join(' ')})`;
    // An empty list, not an empty action: a message beside the one flag that fits would keep zsh from inserting it.
    return `:${message}:${isPath ? '_files' : '()'}`;
  };
  const specOf = (flag: ShellFlag) => {
    const help = `[${described(flag.description)}]`;
    const value = flag.takesValue ? actionOf(flag) : '';
    const names = namesOf(flag);
    // The names of one flag exclude one another, unless it may come again.
    const once = flag.repeats ? "'*'" : names.length > 1 ? single(`(${names.join(' ')})`) : '';
    return names.length > 1
      ? `${once}{${names.join(',')}}${single(`${help}${value}`)}`
      : `${once}${single(`${names[0]}${help}${value}`)}`;
  };
  const caseOf = ({ name, flags, positionals }: ShellCommand) => {
    const specs = [
      ...flags.map(specOf),
      ...positionals.map((positional, i) => single(`${positional.many ? '*' : i + 1}${actionOf(positional)}`)),
    ];
    return `    ${name})\n      _arguments -s \\\n        ${specs.join(' \\\n        ')}\n      ;;`;
  };
  const list = commands.map(({ name, summary }) => `    ${single(`${name}:${described(summary)}`)}`).join('\n');
  return `#compdef ${PROGRAMS.join(' ')}
# zsh completion of bitnet-gf3, written by: bitnet-gf3 completion zsh

_bitnet-gf3() {
  local -a commands
  commands=(
${list}
  )
  if (( CURRENT == 2 )); then
    _describe -t commands command commands
    compadd -- help ${PROGRAM_FLAGS.join(' ')}
    return
  fi
  local command=\${words[2]}
  # Below, the command's own words count from 1.
  shift words
  (( CURRENT-- ))
  case $command in
    help)
      _describe -t commands command commands
      ;;
${commands.map(caseOf).join('\n')}
  esac
}

# As a file of $fpath it is called at once; sourced, it is only made known.
if [ "\${funcstack[1]}" = "_bitnet-gf3" ]; then
  _bitnet-gf3 "$@"
else
  compdef _bitnet-gf3 ${PROGRAMS.join(' ')}
fi
`;
}

export function fishCompletion(commands: readonly ShellCommand[]): string {
  const quoted = (text: string) => `'${text.replace(/[\\']/g, '\\$&')}'`;
  const lines = (program: string) => [
    `complete -c ${program} -f`,
    ...commands.map(
      ({ name, summary }) => `complete -c ${program} -n __fish_use_subcommand -a ${quoted(name)} -d ${quoted(summary)}`,
    ),
    `complete -c ${program} -n __fish_use_subcommand -a help -d 'Help on a command'`,
    `complete -c ${program} -n __fish_use_subcommand -l help -s h -d 'Show help'`,
    `complete -c ${program} -n __fish_use_subcommand -l version -d 'Show the version'`,
    `complete -c ${program} -n '__fish_seen_subcommand_from help' -a ${quoted(commands.map(({ name }) => name).join(' '))}`,
    ...commands.flatMap(({ name, flags, positionals }) => {
      const seen = `-n '__fish_seen_subcommand_from ${name}'`;
      // fish does not count arguments: all that may come are offered.
      const choices = positionals.flatMap((positional) => positional.choices);
      return [
        ...flags.map(({ name: flag, short, description, takesValue, choices: values, isPath }) =>
          [
            `complete -c ${program} ${seen} -l ${flag}`,
            ...(short === undefined ? [] : [`-s ${short}`]),
            ...(takesValue ? ['-x'] : []),
            ...(values.length > 0 || isPath
              ? [
                  `-a ${isPath ? `"${values.join(' ')} (__fish_complete_path (commandline -ct))"` : quoted(values.join(' '))}`,
                ]
              : []),
            `-d ${quoted(description)}`,
          ].join(' '),
        ),
        ...(choices.length > 0 ? [`complete -c ${program} ${seen} -a ${quoted(choices.join(' '))}`] : []),
        ...(positionals.some(({ isPath }) => isPath) ? [`complete -c ${program} ${seen} -F`] : []),
      ];
    }),
  ];
  return `# fish completion of bitnet-gf3, written by: bitnet-gf3 completion fish\n\n${PROGRAMS.map((program) => lines(program).join('\n')).join('\n\n')}\n`;
}
