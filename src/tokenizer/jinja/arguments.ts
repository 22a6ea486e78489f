// The arguments of a call, sorted by the names of its parameters.

import { typeError } from './jinja-error.ts';
import type { Named, Value } from './values.ts';

/** Values in the order of `parameters`; undefined where none was given. The first `required` must be given. */
export function bind(
  name: string,
  parameters: readonly string[],
  required: number,
  args: readonly Value[],
  named: Named,
): (Value | undefined)[] {
  if (args.length > parameters.length) {
    throw typeError(`${name}() takes at most ${parameters.length} arguments, ${args.length} were given`);
  }
  const bound: (Value | undefined)[] = parameters.map((_, i) => args[i]);
  for (const [key, value] of named) {
    const at = parameters.indexOf(key);
    if (at < 0) throw typeError(`${name}() got an unexpected keyword argument '${key}'`);
    if (bound[at] !== undefined) throw typeError(`${name}() got multiple values for argument '${key}'`);
    bound[at] = value;
  }
  for (let i = 0; i < required; i++) {
    if (bound[i] === undefined) throw typeError(`${name}() misses its argument '${parameters[i]}'`);
  }
  return bound;
}
