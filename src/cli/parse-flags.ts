// argv against a command's declaration.

import { parseArgs } from 'node:util';
import { ArgumentError } from '../errors.ts';
import { parseSeed } from '../random/seed.ts';
import { nearest } from '../tools/nearest.ts';
import type { Command, FlagSpec, FlagSpecs, FlagValues } from './command.ts';

/** Flags that every command has. */
export const COMMON_FLAGS = {
  json: { type: 'boolean', description: 'Print one JSON document on stdout' },
  help: { type: 'boolean', short: 'h', description: 'Show this help' },
} as const satisfies FlagSpecs;

const NEGATIVE_NUMBER = /^-\d+(\.\d+)?$/;

export type ParsedFlags = {
  readonly positionals: readonly string[];
  readonly flags: FlagValues<FlagSpecs>;
  readonly json: boolean;
  readonly help: boolean;
};

/** @throws ArgumentError naming the argument, what it takes and, for a typo, the nearest flag. */
export function parseFlags(command: Command, argv: readonly string[]): ParsedFlags {
  const specs: FlagSpecs = { ...command.flags, ...COMMON_FLAGS };
  const args = joinNegativeValues(argv, specs);
  const { tokens } = parseArgs({
    args,
    options: Object.fromEntries(
      Object.entries(specs).map(([name, { type, short }]) => [
        name,
        { type: type === 'boolean' ? ('boolean' as const) : ('string' as const), ...(short && { short }) },
      ]),
    ),
    // Not strict: its messages do not say which flags there are.
    strict: false,
    allowPositionals: true,
    tokens: true,
  });

  const positionals: string[] = [];
  const negativeAt = new Set<number>();
  const flags: Record<string, unknown> = Object.create(null);
  for (const token of tokens) {
    if (token.kind === 'positional') positionals.push(token.value);
    if (token.kind !== 'option') continue;
    // Read as a bundle of flags named 1, 2 and so on; the command says which numbers it takes.
    if (NEGATIVE_NUMBER.test(args[token.index]!)) {
      if (!negativeAt.has(token.index)) positionals.push(args[token.index]!);
      negativeAt.add(token.index);
      continue;
    }
    const spec = specNamed(specs, token.name);
    if (spec === undefined) throw unknownFlag(command, token.rawName, Object.keys(specs));
    const value = flagValue(token.name, spec, token.value);
    flags[token.name] = spec.type === 'strings' ? [...((flags[token.name] as string[]) ?? []), value] : value;
  }
  const help = flags.help === true;
  if (!help) checkPositionals(command, positionals);
  for (const [name, spec] of Object.entries(specs)) {
    flags[name] ??= spec.type === 'boolean' ? (spec.default ?? false) : spec.default;
  }
  // Each value was made by the type of its spec.
  return { positionals, flags: flags as FlagValues<FlagSpecs>, json: flags.json === true, help };
}

/** Only own names: every object answers to `constructor`, and that is no flag. */
function specNamed(specs: FlagSpecs, name: string): FlagSpec | undefined {
  return Object.hasOwn(specs, name) ? specs[name] : undefined;
}

/** `--seed -1` as `--seed=-1`: parseArgs would read -1 as a flag, and the reader would learn nothing about the seed. */
function joinNegativeValues(argv: readonly string[], specs: FlagSpecs): string[] {
  const joined: string[] = [];
  let literal = false;
  for (const argument of argv) {
    const before = joined.at(-1);
    const spec = before?.startsWith('--') ? specNamed(specs, before.slice(2)) : undefined;
    if (!literal && /^-\d/.test(argument) && spec !== undefined && spec.type !== 'boolean') {
      joined[joined.length - 1] = `${before}=${argument}`;
    } else {
      joined.push(argument);
    }
    literal ||= argument === '--';
  }
  return joined;
}

function checkPositionals(command: Command, given: readonly string[]): void {
  const { positionals } = command;
  const missing = positionals.slice(given.length).find(({ optional }) => optional !== true);
  if (missing !== undefined) {
    throw new ArgumentError({
      what: `${command.name} needs ${missing.name} (${missing.description})`,
      fix: `for example: bitnet-gf3 ${command.examples[0]}`,
    });
  }
  if (given.length > positionals.length && positionals.at(-1)?.many !== true) {
    const extra = given[positionals.length]!;
    throw new ArgumentError({
      what: `${command.name} takes ${positionals.map(({ name }) => name).join(' ') || 'no arguments'}, got one more: "${extra}"`,
      fix: extra.includes(' ') ? 'remove it' : 'remove it, or put text with spaces in quotes',
    });
  }
}

function unknownFlag(command: Command, rawName: string, known: readonly string[]): ArgumentError {
  const guess = nearest(rawName.replace(/^-+/, ''), known);
  return new ArgumentError({
    what: `unknown flag ${rawName}`,
    fix: `${guess === undefined ? '' : `did you mean --${guess}? `}flags of ${command.name}: ${known.map((name) => `--${name}`).join(' ')}`,
  });
}

function flagValue(name: string, spec: FlagSpec, text: string | undefined): unknown {
  const flag = `--${name}`;
  if (spec.type === 'boolean') {
    if (text !== undefined)
      throw new ArgumentError({ what: `${flag} takes no value, got "${text}"`, fix: `use ${flag} alone` });
    return true;
  }
  if (text === undefined || text === '') {
    throw new ArgumentError({ what: `${flag} needs a value`, fix: `give ${expected(spec)}` });
  }
  switch (spec.type) {
    case 'strings':
      return text;
    case 'string':
      if (spec.choices !== undefined && !spec.choices.includes(text)) throw badValue(flag, spec, text);
      return text;
    case 'seed':
      return parseSeed(text, flag);
    case 'integers': {
      const values = text.split(',').map((part) => (/^\s*\d+\s*$/.test(part) ? Number(part) : Number.NaN));
      if (!values.every(Number.isSafeInteger)) throw badValue(flag, spec, text);
      return values;
    }
    case 'integer':
    case 'number': {
      const pattern = spec.type === 'integer' ? /^[+-]?\d+$/ : /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
      const value = pattern.test(text) ? Number(text) : Number.NaN;
      const fits = value >= (spec.min ?? -Infinity) && value <= (spec.max ?? Infinity);
      if (!fits || (spec.type === 'integer' && !Number.isSafeInteger(value))) throw badValue(flag, spec, text);
      return value;
    }
  }
}

function badValue(flag: string, spec: FlagSpec, text: string): ArgumentError {
  const guess = spec.choices === undefined ? undefined : nearest(text, spec.choices);
  return new ArgumentError({
    what: `${flag} must be ${expected(spec)}, got "${text}"`,
    ...(guess !== undefined && { fix: `did you mean ${guess}?` }),
  });
}

function expected({ type, choices, min, max }: FlagSpec): string {
  if (choices !== undefined) return `one of ${choices.join(', ')}`;
  const bounds = [min === undefined ? '' : `>= ${min}`, max === undefined ? '' : `<= ${max}`]
    .filter(Boolean)
    .join(' and ');
  const range = bounds === '' ? '' : ` ${bounds}`;
  if (type === 'integer') return `an integer${range}`;
  if (type === 'number') return `a number${range}`;
  if (type === 'integers') return 'integers >= 0 separated by commas';
  return type === 'seed' ? 'an integer from 0 to 2^64-1, decimal or 0x' : 'some text';
}
