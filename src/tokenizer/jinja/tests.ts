// Jinja's tests: what stands after `is`.

import { bind } from './arguments.ts';
import { JinjaError, quoted, unsupported } from './jinja-error.ts';
import { isLower, isUpper } from './python-text.ts';
import type { Runtime } from './runtime.ts';
import type { Comparison } from './syntax.ts';
import {
  Callable,
  Dict,
  DictView,
  isNumber,
  Loop,
  Markup,
  type Named,
  Range,
  Stream,
  Tuple,
  Undefined,
  type Value,
} from './values.ts';

type Test = {
  readonly parameters: readonly string[];
  readonly run: (runtime: Runtime, value: Value, args: readonly Value[]) => boolean;
};

export function runTest(runtime: Runtime, name: string, value: Value, args: readonly Value[], named: Named): boolean {
  if (!Object.hasOwn(TESTS, name)) {
    if (name === 'filter' || name === 'test') throw unsupported(`the test ${quoted(name)}`);
    throw new JinjaError('syntax', `there is no test ${quoted(name)}`);
  }
  runtime.budget.step();
  runtime.read(args);
  const { parameters, run } = TESTS[name]!;
  return run(runtime, value, bind(`the test ${name}`, parameters, parameters.length, args, named) as Value[]);
}

const plain = (run: (value: Value, runtime: Runtime) => boolean): Test => ({
  parameters: [],
  run: (runtime, value) => run(value, runtime),
});

const comparing = (operator: Comparison['operator']): Test => ({
  parameters: ['b'],
  run: (runtime, value, [other]) => runtime.holds(operator, value, other!),
});

const parity = (rest: bigint): Test => plain((value, runtime) => runtime.equal(runtime.binary('%', value, 2n), rest));

/** A blocked value fails whatever is asked of it, except whether it is defined. */
function isUndefined(value: Value): boolean {
  return value instanceof Undefined;
}

const TESTS: Readonly<Record<string, Test>> = {
  boolean: plain((value) => typeof value === 'boolean'),
  callable: plain((value) => value instanceof Callable || value instanceof Loop || isUndefined(value)),
  defined: plain((value) => !isUndefined(value)),
  divisibleby: {
    parameters: ['num'],
    run: (runtime, value, [divisor]) => runtime.equal(runtime.binary('%', value, divisor!), 0n),
  },
  '==': comparing('=='),
  eq: comparing('=='),
  equalto: comparing('=='),
  '!=': comparing('!='),
  ne: comparing('!='),
  '<': comparing('<'),
  lt: comparing('<'),
  lessthan: comparing('<'),
  '<=': comparing('<='),
  le: comparing('<='),
  '>': comparing('>'),
  gt: comparing('>'),
  greaterthan: comparing('>'),
  '>=': comparing('>='),
  ge: comparing('>='),
  in: comparing('in'),
  escaped: plain((value) => value instanceof Markup),
  even: parity(0n),
  odd: parity(1n),
  false: plain((value) => value === false),
  true: plain((value) => value === true),
  float: plain((value) => typeof value === 'number'),
  integer: plain((value) => typeof value === 'bigint'),
  number: plain((value) => isNumber(value)),
  string: plain((value) => typeof value === 'string' || value instanceof Markup),
  mapping: plain((value) => value instanceof Dict),
  iterable: plain(
    (value) =>
      typeof value === 'string' ||
      Array.isArray(value) ||
      [Tuple, Dict, DictView, Range, Stream, Undefined, Markup, Loop].some((type) => value instanceof type),
  ),
  // Whatever has a length and items by index or key. A missing value answers to both names, and then fails.
  sequence: plain(
    (value) =>
      typeof value === 'string' ||
      Array.isArray(value) ||
      [Tuple, Dict, Range, Undefined, Markup].some((type) => value instanceof type),
  ),
  none: plain((value) => value === null),
  undefined: plain(isUndefined),
  lower: plain((value, runtime) => isLower(runtime.str(value))),
  upper: plain((value, runtime) => isUpper(runtime.str(value))),
  sameas: {
    parameters: ['other'],
    run: (_, value, [other]) => {
      const isSingle = (each: Value): boolean => each === null || typeof each === 'boolean';
      if (isSingle(value) || isSingle(other!)) return value === other;
      if (typeof value === 'object' && typeof other === 'object' && !(value instanceof Undefined))
        return value === other;
      throw unsupported('sameas for numbers and texts');
    },
  },
};
