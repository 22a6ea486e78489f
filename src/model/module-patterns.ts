// transformers' `modules_to_not_convert`: names of modules that stay as they are. An entry is a regular expression matched at
// the start of a module's name, or the end of one. Source: transformers' quantizers (should_convert_module).

/** An entry of the kinds that are in use: names, with `.`, character classes and a few repetitions of single characters. */
const SAFE =
  /^(?:\[\^?[^\]\\^][^\]\\]*\]|\\[dws.]|[^()[\]{}|\\*+?])(?:\[\^?[^\]\\^][^\]\\]*\]|\\[dws.]|[*+?](?![*+?])|[^()[\]{}|\\*+?])*$/;
/** A match of an entry without groups is at worst a polynomial of this degree in the length of a module's name. */
const MOST_REPETITIONS = 3;
const MOST_LENGTH = 200;

type Entry = { readonly text: string; readonly start: RegExp };

export class ModulePatterns {
  readonly #entries: readonly Entry[];

  private constructor(entries: readonly Entry[]) {
    this.#entries = entries;
  }

  /** The patterns, or the first one that is not safe to match with. */
  static from(entries: readonly string[]): ModulePatterns | { readonly refused: string } {
    const compiled: Entry[] = [];
    for (const text of entries) {
      const start = compile(text);
      if (start === undefined) return { refused: text.slice(0, MOST_LENGTH) };
      compiled.push({ text, start });
    }
    return new ModulePatterns(compiled);
  }

  /** `module`: its whole name, such as `model.layers.1.mlp.down_proj`. */
  matches(module: string): boolean {
    return this.#entries.some(({ text, start }) => start.test(module) || module.endsWith(text));
  }
}

function compile(text: string): RegExp | undefined {
  const repetitions = text.match(/[*+?]/g)?.length ?? 0;
  if (text.length > MOST_LENGTH || repetitions > MOST_REPETITIONS || !(text === '' || SAFE.test(text)))
    return undefined;
  try {
    return new RegExp(`^(?:${text})`);
  } catch {
    // A range from high to low, in Python an error as well.
    return undefined;
  }
}
