// Keys of a model's config in either spelling, for the pages of graphs.

/** One fact under its two names: in a GGUF's metadata after `<architecture>.`, and in config.json. */
export type ConfigKey = { readonly gguf?: string | undefined; readonly hf?: string | undefined };

export interface ConfigKeys {
  readonly spelling: 'gguf' | 'hf';
  /** The value, or undefined where the format has no such key or the file does not say. Arrays are arrays. */
  value(key: ConfigKey): unknown;
  /** As the file spells it, for messages. */
  nameOf(key: ConfigKey): string;
  /** A whole number from 1 to 2^24. */
  size(key: ConfigKey, fallback?: number): number;
  /** A finite number > 0. */
  positive(key: ConfigKey, fallback?: number): number;
  /** Throws ConfigError. */
  fail(what: string, fix: string): never;
}

const LIMIT = 1 << 24;

const shown = (value: unknown): string =>
  typeof value === 'number' ? `${value}` : (JSON.stringify(value) ?? 'absent');

/** Checked access to `rawValue`, which gives a key's raw value. */
export function configKeys(
  spelling: ConfigKeys['spelling'],
  rawValue: (name: string) => unknown,
  nameOf: (name: string) => string,
  fail: (what: string, fix: string) => never,
): ConfigKeys {
  const value = (key: ConfigKey): unknown => {
    const name = key[spelling];
    return name === undefined ? undefined : (rawValue(name) ?? undefined);
  };
  const spelled = (key: ConfigKey) => nameOf(key[spelling] ?? key.gguf ?? key.hf ?? '');
  const number = (key: ConfigKey, fallback: number | undefined, isGood: (value: number) => boolean, wanted: string) => {
    const found = value(key) ?? fallback;
    if (typeof found === 'number' && isGood(found)) return found;
    if (found === undefined)
      return fail(`${spelled(key)} is missing`, 'the file is incomplete: convert the model again');
    return fail(`${spelled(key)} is ${shown(found)}`, `expected ${wanted}`);
  };
  return {
    spelling,
    value,
    nameOf: spelled,
    size: (key, fallback) =>
      number(key, fallback, (n) => Number.isInteger(n) && n >= 1 && n <= LIMIT, `a whole number from 1 to ${LIMIT}`),
    positive: (key, fallback) => number(key, fallback, (n) => n > 0 && Number.isFinite(n), 'a positive number'),
    fail,
  };
}
