// An argument list as options and positionals, by the rules of `util.parseArgs` (not strict), which takes a millisecond
// to load. A test compares the two.

export type OptionKinds = {
  readonly [name: string]: { readonly type: 'boolean' | 'string'; readonly short?: string };
};

export type ArgToken =
  | { readonly kind: 'positional'; readonly index: number; readonly value: string }
  | {
      readonly kind: 'option';
      /** The long name, where there is one. */
      readonly name: string;
      /** As it was written, without an inline value. */
      readonly rawName: string;
      readonly index: number;
      readonly value: string | undefined;
    };

export function argTokens(args: readonly string[], options: OptionKinds): ArgToken[] {
  const tokens: ArgToken[] = [];
  const takesValue = (name: string) => Object.hasOwn(options, name) && options[name]!.type === 'string';
  const longName = (short: string) => Object.keys(options).find((name) => options[name]!.short === short) ?? short;

  for (let index = 0; index < args.length; index += 1) {
    const arg = args[index]!;
    const at = index;
    /** An option that may find its value in the next argument. */
    const alone = (name: string, rawName: string) => {
      if (takesValue(name) && index + 1 < args.length) index += 1;
      tokens.push({ kind: 'option', name, rawName, index: at, value: index > at ? args[index] : undefined });
    };
    if (arg === '--') {
      for (index += 1; index < args.length; index += 1) tokens.push({ kind: 'positional', index, value: args[index]! });
    } else if (arg.startsWith('--')) {
      const equals = arg.indexOf('=', 3);
      const name = arg.slice(2, equals < 0 ? undefined : equals);
      if (equals < 0) alone(name, arg);
      else tokens.push({ kind: 'option', name, rawName: `--${name}`, index: at, value: arg.slice(equals + 1) });
    } else if (arg.startsWith('-') && arg.length > 1) {
      // -abc is -a -b -c, up to the first that takes a value, which is the rest.
      for (let i = 1; i < arg.length; i += 1) {
        const name = longName(arg[i]!);
        const rawName = `-${arg[i]}`;
        const rest = arg.slice(i + 1);
        if (!takesValue(name)) tokens.push({ kind: 'option', name, rawName, index: at, value: undefined });
        else if (rest === '') alone(name, rawName);
        else {
          tokens.push({ kind: 'option', name, rawName, index: at, value: rest });
          break;
        }
      }
    } else {
      tokens.push({ kind: 'positional', index, value: arg });
    }
  }
  return tokens;
}
