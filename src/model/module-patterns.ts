// transformers' `modules_to_not_convert`: names of modules that stay as they are. An entry is a regular expression matched at
// the start of a module's name, or the end of one. Source: transformers' quantizers (should_convert_module).

/** An entry of the kinds that are in use: names, with `.`, character classes and a few repetitions of single characters. */
const SAFE = /^(?:\[[^\]\\]*\]|\\[dws.]|[^()[\]{}|\\*+?])(?:\[[^\]\\]*\]|\\[dws.]|[*+?](?![*+?])|[^()[\]{}|\\*+?])*$/;
/** A match of an entry without groups is at worst a polynomial of this degree in the length of a module's name. */
const MOST_REPETITIONS = 3;
const MOST_LENGTH = 200;

export class ModulePatterns {
  readonly #entries: readonly { readonly text: string; readonly start: RegExp }[];

  private constructor(entries: readonly string[]) {
    this.#entries = entries.map((text) => ({ text, start: new RegExp(`^(?:${text})`) }));
  }

  /** The patterns, or the first one that is not safe to match with. */
  static from(entries: readonly string[]): ModulePatterns | { readonly refused: string } {
    const refused = entries.find((entry) => {
      const repetitions = entry.match(/[*+?]/g)?.length ?? 0;
      return entry.length > MOST_LENGTH || repetitions > MOST_REPETITIONS || !(entry === '' || SAFE.test(entry));
    });
    if (refused === undefined) return new ModulePatterns(entries);
    return { refused: refused.slice(0, MOST_LENGTH) };
  }

  /** `module`: its whole name, such as `model.layers.1.mlp.down_proj`. */
  matches(module: string): boolean {
    return this.#entries.some(({ text, start }) => start.test(module) || module.endsWith(text));
  }
}
