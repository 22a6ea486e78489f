// What one command declares: its arguments as data (parsing, help and "did you mean" come from it) and its work.

import type { Output } from './output.ts';

export type FlagSpec = {
  readonly type: 'boolean' | 'string' | 'integer' | 'number' | 'seed' | 'integers' | 'strings';
  readonly description: string;
  /** Shown in help as the value's name; default: the flag's name in capitals. */
  readonly placeholder?: string;
  readonly short?: string;
  readonly choices?: readonly string[];
  readonly default?: string | number | boolean | bigint;
  readonly min?: number;
  readonly max?: number;
};

export type FlagSpecs = Readonly<Record<string, FlagSpec>>;

type ValueOf<Type extends FlagSpec['type']> = {
  boolean: boolean;
  string: string;
  integer: number;
  number: number;
  seed: bigint;
  integers: readonly number[];
  /** Every use of a flag that may be repeated. */
  strings: readonly string[];
}[Type];

/** Booleans and flags with a default are always there. */
export type FlagValues<Specs extends FlagSpecs> = {
  readonly [Name in keyof Specs]: Specs[Name] extends { readonly type: 'boolean' } | { readonly default: unknown }
    ? ValueOf<Specs[Name]['type']>
    : ValueOf<Specs[Name]['type']> | undefined;
};

export type PositionalSpec = {
  /** As in the usage line: `PROMPT`. */
  readonly name: string;
  readonly description: string;
  readonly optional?: boolean;
  /** The words it may be; help and completion show them, the command checks them. */
  readonly choices?: readonly string[];
  /** Any number of them; of the last one only. */
  readonly many?: boolean;
};

export type CommandInput<Specs extends FlagSpecs> = {
  readonly positionals: readonly string[];
  readonly flags: FlagValues<Specs>;
  readonly json: boolean;
  readonly output: Output;
  /** Fires at the first Ctrl-C (or SIGTERM, SIGHUP). */
  readonly signal: AbortSignal;
};

export type Command<Specs extends FlagSpecs = FlagSpecs> = {
  readonly name: string;
  readonly summary: string;
  readonly positionals: readonly PositionalSpec[];
  readonly flags: Specs;
  /** Lines after the program's name. */
  readonly examples: readonly string[];
  /** More that help should say; a line break begins a paragraph. */
  readonly notes?: string;
  /** Resolves to the exit status (exit-status.ts); `ok` when it does not say. */
  readonly run: (input: CommandInput<Specs>) => Promise<number | undefined>;
};

export function defineCommand<const Specs extends FlagSpecs>(command: Command<Specs>): Command<Specs> {
  return command;
}
