// Jinja as transformers sets it up for chat templates: the sandbox that changes nothing, trim_blocks, lstrip_blocks,
// break and continue, the tag `generation`, its own tojson, raise_exception and strftime_now. What it renders is what
// Jinja2 renders, character for character, or it stops with a reason; test/golden/tokenizer/jinja has Python's answers.
// Only what no chat template was seen to need is left out, and refused by name.

import { Budget, limitsFor } from './budget.ts';
import { globalsFor } from './globals.ts';
import { type InputSize, toValue } from './input.ts';
import { Interpreter, Scope } from './interpreter.ts';
import { JinjaError } from './jinja-error.ts';
import { parseTemplate } from './parser.ts';
import { Runtime } from './runtime.ts';
import type { Block } from './syntax.ts';
import type { Value } from './values.ts';

export class JinjaTemplate {
  readonly #block: Block;

  /** Throws JinjaError when the source does not parse. */
  constructor(source: string) {
    this.#block = withoutOverflow(() => parseTemplate(source));
  }

  /**
   * The text for these variables, which are JSON values and stay as they are; undefined ones are left out. Work grows at
   * most with the size of the variables: a JinjaError says which limit was met.
   */
  render(variables: Readonly<Record<string, unknown>>, now: () => Date = () => new Date()): string {
    return withoutOverflow(() => {
      const size: InputSize = { values: 0, characters: 0 };
      const values = new Map<string, Value>();
      for (const [name, value] of Object.entries(variables)) {
        if (value !== undefined) values.set(name, toValue(value, name, size));
      }
      const runtime = new Runtime(new Budget(limitsFor(size)));
      const scope = new Scope();
      for (const [name, value] of globalsFor(runtime, now)) scope.set(name, value);
      for (const [name, value] of values) scope.set(name, value);
      return new Interpreter(runtime).render(this.#block, scope);
    });
  }
}

/** The depth limits keep within the usual stack; a caller may have used up most of it. */
function withoutOverflow<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof RangeError) throw new JinjaError('limit', 'it nests deeper than the stack allows');
    throw error;
  }
}
