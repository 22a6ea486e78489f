// The functions that every template has: Jinja's, and the two that transformers adds.

import { bind } from './arguments.ts';
import { JinjaError, typeError, unsupported } from './jinja-error.ts';
import type { Runtime } from './runtime.ts';
import { formatTime } from './strftime.ts';
import {
  asNumber,
  asText,
  Callable,
  Cell,
  Dict,
  given,
  isNumber,
  type Named,
  Namespace,
  Range,
  typeName,
  Undefined,
  type Value,
} from './values.ts';

export function globalsFor(runtime: Runtime, now: () => Date): Map<string, Value> {
  const functions: Record<string, (args: readonly Value[], named: Named) => Value> = {
    range: (args) => {
      if (args.length < 1 || args.length > 3) throw typeError(`range expected 1 to 3 arguments, got ${args.length}`);
      const [first, second, third] = args.map((value) => {
        const number = isNumber(value) ? asNumber(value) : undefined;
        if (typeof number === 'bigint') return number;
        if (value instanceof Undefined) throw value.fail();
        throw typeError(`'${typeName(value)}' object cannot be interpreted as an integer`);
      });
      return second === undefined ? new Range(0n, first!, 1n) : new Range(first!, second, third ?? 1n);
    },
    dict: (args, named) => dictOf(runtime, args, named),
    namespace: (args, named) => {
      const fields = new Map<string, Value>();
      for (const [key, value] of dictOf(runtime, args, named).entries()) fields.set(asText(key, 'a name'), value);
      return new Namespace(fields);
    },
    cycler: (items) => cycler(items),
    joiner: (args, named) => {
      const separator = given(bind('joiner', ['sep'], 0, args, named)[0], ', ');
      let isUsed = false;
      return new Callable('joiner', () => {
        const text = isUsed ? separator : '';
        isUsed = true;
        return text;
      });
    },
    lipsum: () => {
      throw unsupported("the function 'lipsum'");
    },
    raise_exception: (args, named) => {
      const message = runtime.str(bind('raise_exception', ['message'], 1, args, named)[0]!);
      throw new JinjaError('raised', message.length > 300 ? `${message.slice(0, 300)}…` : message);
    },
    strftime_now: (args, named) => {
      const format = asText(bind('strftime_now', ['format'], 1, args, named)[0]!, 'the format');
      runtime.budget.text(format.length);
      return runtime.made(formatTime(now(), format));
    },
  };
  return new Map(Object.entries(functions).map(([name, call]) => [name, new Callable(name, call)]));
}

function dictOf(runtime: Runtime, args: readonly Value[], named: Named): Dict {
  if (args.length > 1) throw typeError(`dict expected at most 1 argument, got ${args.length}`);
  const entries: (readonly [Value, Value])[] = [];
  const [source] = args;
  if (source instanceof Dict) entries.push(...source.entries());
  else if (source !== undefined) {
    for (const item of runtime.iterate(source)) {
      const pair = runtime.list(item);
      if (pair.length !== 2) throw typeError(`a pair of a dict has 2 items, not ${pair.length}`);
      runtime.read(pair);
      entries.push([pair[0]!, pair[1]!]);
    }
  }
  runtime.budget.items(entries.length);
  return new Dict([...entries, ...named]);
}

function cycler(items: readonly Value[]): Cell {
  if (items.length === 0) throw typeError('at least one item has to be provided');
  let at = 0;
  const methods = new Map<string, Value>([
    [
      'next',
      new Callable('next', () => {
        const item = items[at]!;
        at = (at + 1) % items.length;
        return item;
      }),
    ],
    [
      'reset',
      new Callable('reset', () => {
        at = 0;
        return null;
      }),
    ],
  ]);
  return new Cell((name) => (name === 'current' ? items[at] : methods.get(name)));
}
