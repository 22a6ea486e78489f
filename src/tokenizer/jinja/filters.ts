// Jinja's filters. Those that make HTML or chance are refused by name: no prompt needs them.

import { bind } from './arguments.ts';
import { JinjaError, quoted, typeError, unsupported } from './jinja-error.ts';
import { toJson } from './json-text.ts';
import { centerPads, joinTexts, replaceText, SLOW } from './methods.ts';
import { formatPercent, limited } from './percent-format.ts';
import { fixedPoint, integerOf, parseFloatText, parseInteger, roundInteger } from './python-number.ts';
import { capitalize, codePoints, lengthOf, splitLines, strip } from './python-text.ts';
import type { Runtime } from './runtime.ts';
import { runTest } from './tests.ts';
import {
  asIndex,
  asNumber,
  asText,
  Dict,
  DictView,
  given,
  isNumber,
  keyOf,
  Markup,
  type Named,
  Range,
  Stream,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from './values.ts';

type Bound = readonly (Value | undefined)[];
type Filter = (runtime: Runtime, value: Value, args: readonly Value[], named: Named) => Value;

export function runFilter(runtime: Runtime, name: string, value: Value, args: readonly Value[], named: Named): Value {
  if (!Object.hasOwn(FILTERS, name)) {
    if (REFUSED.has(name)) throw unsupported(`the filter ${quoted(name)}`);
    throw new JinjaError('syntax', `there is no filter ${quoted(name)}`);
  }
  runtime.budget.step();
  runtime.read([value]);
  runtime.read(args);
  runtime.read(named.values());
  return FILTERS[name]!(runtime, value, args, named);
}

/** Jinja has them. */
const REFUSED = new Set([
  'filesizeformat',
  'pprint',
  'random',
  'striptags',
  'urlencode',
  'urlize',
  'wordwrap',
  'xmlattr',
]);

/** A filter with named parameters after its value. */
function filter(
  parameters: readonly string[],
  required: number,
  run: (runtime: Runtime, value: Value, args: Bound) => Value,
): Filter {
  return (runtime, value, args, named) => run(runtime, value, bind('the filter', parameters, required, args, named));
}

/** A text as most filters take it: whatever is given, printed. */
function soft(runtime: Runtime, value: Value): string {
  if (value instanceof Markup) throw unsupported('working on text that was marked safe or escaped');
  const text = runtime.str(value);
  runtime.budget.text(text.length);
  return text;
}

const flag = (runtime: Runtime, value: Value | undefined, otherwise: boolean): boolean =>
  value === undefined ? otherwise : runtime.truth(value);

const stream = (source: Generator<Value, void>): Stream => new Stream(source);

/** What `attribute=` of filters names: "a.b" or "0" steps into the item. */
function attributeOf(runtime: Runtime, item: Value, path: Value, otherwise?: Value): Value {
  const steps =
    typeof path === 'string' ? path.split('.').map((part) => (/^\d+$/.test(part) ? BigInt(part) : part)) : [path];
  let value = item;
  for (const step of steps) {
    value = runtime.item(value, step);
    if (value instanceof Undefined && otherwise !== undefined) value = otherwise;
  }
  return value;
}

/** Texts compare without their case unless asked. */
function folded(runtime: Runtime, value: Value): Value {
  if (typeof value !== 'string') return value;
  runtime.budget.text(value.length);
  return value.toLowerCase();
}

function sorted<T>(runtime: Runtime, items: readonly T[], key: (item: T) => Value, reverse: boolean): T[] {
  runtime.budget.items(items.length);
  const pairs = items.map((item) => [key(item), item] as const);
  // With one item Python compares nothing either. A stable sort, in both directions.
  const compare = (a: Value, b: Value): number => runtime.compare(a, b);
  return pairs.sort((a, b) => (reverse ? compare(b[0], a[0]) : compare(a[0], b[0]))).map((pair) => pair[1]);
}

const mapFilter: Filter = (runtime, value, args, named) =>
  stream(
    (function* () {
      // Jinja looks at the arguments when the first item is asked for, and not at all when there is nothing.
      if (!runtime.truth(value)) return;
      let one: (item: Value) => Value;
      if (args.length === 0 && named.has('attribute')) {
        const attribute = named.get('attribute')!;
        const otherwise = named.get('default');
        for (const key of named.keys()) {
          if (key !== 'attribute' && key !== 'default') throw typeError(`Unexpected keyword argument '${key}'`);
        }
        one = (item) => attributeOf(runtime, item, attribute, otherwise);
      } else {
        if (args.length === 0) throw typeError('map requires a filter argument');
        const name = asText(args[0]!, 'the name of a filter');
        one = (item) => runFilter(runtime, name, item, args.slice(1), named);
      }
      for (const item of runtime.iterate(value)) yield one(item);
    })(),
  );

const selecting =
  (wanted: boolean, byAttribute: boolean): Filter =>
  (runtime, value, args, named) =>
    stream(
      (function* () {
        if (!runtime.truth(value)) return;
        const attribute = byAttribute ? args[0] : undefined;
        if (byAttribute && attribute === undefined) throw typeError('Missing parameter for attribute name');
        const [name, ...rest] = args.slice(byAttribute ? 1 : 0);
        const test = (item: Value): boolean => {
          const subject = attribute === undefined ? item : attributeOf(runtime, item, attribute);
          if (name === undefined) return runtime.truth(subject);
          return runTest(runtime, asText(name, 'the name of a test'), subject, rest, named);
        };
        for (const item of runtime.iterate(value)) if (test(item) === wanted) yield item;
      })(),
    );

const extreme = (sign: 1 | -1): Filter =>
  filter(['case_sensitive', 'attribute'], 0, (runtime, value, [caseSensitive, attribute]) => {
    const key = keyFunction(runtime, attribute, flag(runtime, caseSensitive, false));
    let best: { readonly key: Value; readonly item: Value } | undefined;
    for (const item of runtime.iterate(value)) {
      const next = { key: key(item), item };
      if (best === undefined || sign * runtime.compare(next.key, best.key) < 0) best = next;
    }
    return best === undefined ? new Undefined('No aggregated item, sequence was empty.') : best.item;
  });

function keyFunction(runtime: Runtime, attribute: Value | undefined, caseSensitive: boolean): (item: Value) => Value {
  return (item) => {
    const value = attribute === undefined || attribute === null ? item : attributeOf(runtime, item, attribute);
    return caseSensitive ? value : folded(runtime, value);
  };
}

const HTML: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', "'": '&#39;', '"': '&#34;' };

function escapeHtml(runtime: Runtime, text: string): Markup {
  runtime.budget.text(text.length);
  return new Markup(runtime.made(text.replace(/[&<>'"]/g, (character) => HTML[character]!)));
}

const escapeFilter = filter([], 0, (runtime, value) =>
  value instanceof Markup ? value : escapeHtml(runtime, runtime.str(value)),
);

const defaultFilter = filter(['default_value', 'boolean'], 0, (runtime, value, [otherwise, boolean]) => {
  const isMissing = value instanceof Undefined;
  return isMissing || (flag(runtime, boolean, false) && !runtime.truth(value)) ? given(otherwise, '') : value;
});

const lengthFilter = filter([], 0, (runtime, value) => {
  const size = runtime.size(value);
  if (size === undefined) throw typeError(`object of type '${typeName(value)}' has no len()`);
  return BigInt(size);
});

const FILTERS: Readonly<Record<string, Filter>> = {
  abs: filter([], 0, (_, value) => {
    if (value instanceof Undefined) throw value.fail();
    if (!isNumber(value)) throw typeError(`bad operand type for abs(): '${typeName(value)}'`);
    const number = asNumber(value);
    return typeof number === 'bigint' ? (number < 0n ? -number : number) : Math.abs(number);
  }),
  attr: filter(['name'], 1, (runtime, value, [name]) => {
    if (value instanceof Dict) {
      // Attributes only, never items.
      const found = runtime.attribute(new Dict(), runtime.str(name!));
      return found instanceof Undefined ? found : runtime.attribute(value, runtime.str(name!));
    }
    return runtime.attribute(value, runtime.str(name!));
  }),
  batch: filter(['linecount', 'fill_with'], 1, (runtime, value, [count, fill]) => {
    const size = asIndex(count!, 'linecount');
    return stream(
      (function* () {
        let batch: Value[] = [];
        for (const item of runtime.iterate(value)) {
          if (batch.length === size) {
            yield batch;
            batch = [];
          }
          batch.push(item);
        }
        if (batch.length === 0) return;
        if (fill !== undefined && fill !== null && batch.length < size) {
          runtime.budget.items(size);
          yield [...batch, ...Array<Value>(size - batch.length).fill(fill)];
        } else yield batch;
      })(),
    );
  }),
  capitalize: filter([], 0, (runtime, value) => capitalize(soft(runtime, value))),
  center: filter(['width'], 0, (runtime, value, [width]) => {
    const text = soft(runtime, value);
    const wanted = limited(String(Math.max(0, asIndex(given(width, 80n), 'width'))));
    const missing = wanted - lengthOf(text);
    if (missing <= 0) return text;
    const [left, right] = centerPads(missing, wanted);
    return runtime.made(' '.repeat(left) + text + ' '.repeat(right));
  }),
  default: defaultFilter,
  d: defaultFilter,
  dictsort: filter(['case_sensitive', 'by', 'reverse'], 0, (runtime, value, [caseSensitive, by, reverse]) => {
    if (!(value instanceof Dict)) {
      if (value instanceof Undefined) throw value.fail();
      throw typeError(`'${typeName(value)}' object has no attribute 'items'`);
    }
    const part = given(by, 'key');
    if (part !== 'key' && part !== 'value') throw typeError('You can only sort by either "key" or "value"');
    const isSensitive = flag(runtime, caseSensitive, false);
    const key = (entry: readonly [Value, Value]): Value => {
      const chosen = entry[part === 'key' ? 0 : 1];
      return isSensitive ? chosen : folded(runtime, chosen);
    };
    return sorted(runtime, [...value.entries()], key, flag(runtime, reverse, false)).map((entry) => new Tuple(entry));
  }),
  e: escapeFilter,
  escape: escapeFilter,
  first: filter([], 0, (runtime, value) => {
    for (const item of runtime.iterate(value)) return item;
    return new Undefined('No first item, sequence was empty.');
  }),
  float: filter(['default'], 0, (_, value, [otherwise]) => {
    if (value instanceof Undefined) throw value.fail();
    if (isNumber(value)) return Number(asNumber(value));
    const text = value instanceof Markup ? value.text : value;
    const found = typeof text === 'string' ? parseFloatText(trimmed(text)) : undefined;
    return found === undefined ? given(otherwise, 0) : found;
  }),
  forceescape: filter([], 0, (runtime, value) =>
    escapeHtml(runtime, value instanceof Markup ? value.text : runtime.str(value)),
  ),
  format: (runtime, value, args, named) => {
    if (args.length > 0 && named.size > 0)
      throw typeError("can't handle positional and keyword arguments at the same time");
    const values = named.size > 0 ? new Dict(named) : new Tuple(args);
    return formatPercent(runtime, soft(runtime, value), values);
  },
  groupby: filter(
    ['attribute', 'default', 'case_sensitive'],
    1,
    (runtime, value, [attribute, otherwise, sensitive]) => {
      const isSensitive = flag(runtime, sensitive, false);
      const exact = (item: Value): Value => attributeOf(runtime, item, attribute!, otherwise);
      const key = (item: Value): Value => (isSensitive ? exact(item) : folded(runtime, exact(item)));
      const groups: { readonly key: Value; readonly items: Value[] }[] = [];
      for (const item of sorted(runtime, runtime.list(value), key, false)) {
        const last = groups.at(-1);
        if (last !== undefined && runtime.equal(last.key, key(item))) last.items.push(item);
        else groups.push({ key: key(item), items: [item] });
      }
      return groups.map(({ items }) => new Tuple([exact(items[0]!), items], ['grouper', 'list']));
    },
  ),
  indent: filter(['width', 'first', 'blank'], 0, (runtime, value, [width, first, blank]) => {
    const text = asText(value, 'the text to indent');
    runtime.budget.text(text.length);
    const pad =
      typeof width === 'string' ? width : ' '.repeat(limited(String(Math.max(0, asIndex(given(width, 4n), 'width')))));
    const keepsBlank = flag(runtime, blank, false);
    // Jinja adds a line end before it looks at the lines.
    const lines = splitLines(`${text}\n`, false);
    runtime.budget.items(lines.length);
    runtime.budget.textLength(text.length + lines.length * pad.length);
    const body = keepsBlank
      ? lines.join(`\n${pad}`)
      : lines.map((line, i) => (i > 0 && line !== '' ? pad + line : line)).join('\n');
    return runtime.made(flag(runtime, first, false) ? pad + body : body);
  }),
  int: filter(['default', 'base'], 0, (_, value, [otherwise, base]) => {
    const fallback = given(otherwise, 0n);
    if (value instanceof Undefined) throw value.fail();
    if (isNumber(value)) {
      const number = asNumber(value);
      if (typeof number === 'bigint') return number;
      return Number.isFinite(number) ? integerOf(number) : fallback;
    }
    const source = value instanceof Markup ? value.text : value;
    if (typeof source !== 'string') return fallback;
    const text = trimmed(source);
    if (/(?![0-9])\p{Nd}/u.test(text)) throw unsupported('reading digits that are not ASCII');
    const radix = base === undefined ? 10 : asIndex(base, 'base');
    const parsed = parseInteger(text, radix);
    if (parsed !== undefined) return parsed;
    const float = parseFloatText(text);
    return float === undefined || !Number.isFinite(float) ? fallback : integerOf(float);
  }),
  items: filter([], 0, (runtime, value) =>
    stream(
      (function* () {
        if (value instanceof Undefined) return;
        if (!(value instanceof Dict)) throw typeError('Can only get item pairs from a mapping.');
        yield* runtime.iterate(new DictView(value, 'items'));
      })(),
    ),
  ),
  join: filter(['d', 'attribute'], 0, (runtime, value, [separator, attribute]) => {
    const texts: string[] = [];
    for (const item of runtime.iterate(value)) {
      const part = attribute === undefined || attribute === null ? item : attributeOf(runtime, item, attribute);
      texts.push(runtime.str(part));
    }
    return joinTexts(runtime, separator === undefined ? '' : runtime.str(separator), texts);
  }),
  last: filter([], 0, (runtime, value) => {
    const reversed = reverseOf(runtime, value);
    return given(reversed[0], new Undefined('No last item, sequence was empty.'));
  }),
  length: lengthFilter,
  count: lengthFilter,
  list: filter([], 0, (runtime, value) => runtime.list(value)),
  lower: filter([], 0, (runtime, value) => soft(runtime, value).toLowerCase()),
  map: mapFilter,
  max: extreme(-1),
  min: extreme(1),
  reject: selecting(false, false),
  rejectattr: selecting(false, true),
  replace: filter(['old', 'new', 'count'], 2, (runtime, value, [old, by, count]) =>
    replaceText(
      runtime,
      soft(runtime, value),
      soft(runtime, old!),
      soft(runtime, by!),
      count === undefined || count === null ? -1 : asIndex(count, 'count'),
    ),
  ),
  reverse: filter([], 0, (runtime, value) => {
    if (typeof value === 'string') return runtime.made(Array.from(codePoints(value)).reverse().join(''));
    const reversed = reverseOf(runtime, value, true);
    return stream(
      (function* () {
        yield* reversed;
      })(),
    );
  }),
  round: filter(['precision', 'method'], 0, (_, value, [precision, method]) => {
    if (value instanceof Undefined) throw value.fail();
    if (!isNumber(value)) throw typeError(`type ${typeName(value)} doesn't define __round__ method`);
    const number = asNumber(value);
    const digits = asIndex(given(precision, 0n), 'precision');
    const way = given(method, 'common');
    if (way !== 'common' && way !== 'ceil' && way !== 'floor') throw typeError('method must be common, ceil or floor');
    if (Math.abs(digits) > 100) throw unsupported('rounding to more than 100 digits');
    if (way !== 'common') {
      const power = 10 ** digits;
      const scaled = Number(number) * power;
      return integerOf(way === 'ceil' ? Math.ceil(scaled) : Math.floor(scaled)) === 0n
        ? 0
        : (way === 'ceil' ? Math.ceil(scaled) : Math.floor(scaled)) / power;
    }
    if (typeof number === 'bigint') return digits >= 0 ? number : roundInteger(number, 10n ** BigInt(-digits));
    if (!Number.isFinite(number)) return number;
    if (digits < 0) throw unsupported('rounding a float to tens');
    return Number(fixedPoint(number, digits));
  }),
  safe: filter([], 0, (runtime, value) => (value instanceof Markup ? value : new Markup(runtime.str(value)))),
  select: selecting(true, false),
  selectattr: selecting(true, true),
  slice: filter(['slices', 'fill_with'], 1, (runtime, value, [slices, fill]) =>
    stream(
      (function* () {
        const items = runtime.list(value);
        const count = asIndex(slices!, 'slices');
        if (count === 0) throw typeError('integer division or modulo by zero');
        runtime.budget.items(Math.max(0, count));
        const each = Math.floor(items.length / count);
        const extra = items.length % count;
        for (let i = 0, from = 0; i < count; i++) {
          const to = from + each + (i < extra ? 1 : 0);
          const part = items.slice(from, to);
          from = to;
          yield fill !== undefined && fill !== null && i >= extra ? [...part, fill] : part;
        }
      })(),
    ),
  ),
  sort: filter(['reverse', 'case_sensitive', 'attribute'], 0, (runtime, value, [reverse, caseSensitive, attribute]) => {
    const isSensitive = flag(runtime, caseSensitive, false);
    // Several attributes, with commas, compare one after the other.
    const paths = typeof attribute === 'string' ? attribute.split(',') : [attribute];
    const keys = paths.map((path) => keyFunction(runtime, path, isSensitive));
    // A list of keys even when there is one: equal ones then need no order, as two None.
    const key = (item: Value): Value => keys.map((one) => one(item));
    return sorted(runtime, runtime.list(value), key, flag(runtime, reverse, false));
  }),
  string: filter([], 0, (runtime, value) => (value instanceof Markup ? value : runtime.str(value))),
  sum: filter(['attribute', 'start'], 0, (runtime, value, [attribute, start]) => {
    let total: Value = given(start, 0n);
    if (typeof total === 'string') throw typeError("sum() can't sum strings [use ''.join(seq) instead]");
    for (const item of runtime.iterate(value)) {
      const part = attribute === undefined || attribute === null ? item : attributeOf(runtime, item, attribute);
      total = runtime.binary('+', total, part);
    }
    return total;
  }),
  title: filter([], 0, (runtime, value) => {
    const words = soft(runtime, value).split(/([-\s({[<]+)/u);
    return runtime.made(
      words
        .map((word) => {
          const first = Array.from(word.slice(0, 2))[0] ?? '';
          return first.toUpperCase() + word.slice(first.length).toLowerCase();
        })
        .join(''),
    );
  }),
  tojson: (runtime, value, args, named) => toJson(runtime, value, args, named),
  trim: filter(['chars'], 0, (runtime, value, [chars]) => {
    const characters = chars === undefined || chars === null ? undefined : asText(chars, 'strip arg');
    runtime.budget.text(SLOW * (characters?.length ?? 0));
    return strip(soft(runtime, value), { start: true, end: true, characters });
  }),
  truncate: filter(['length', 'killwords', 'end', 'leeway'], 0, (runtime, value, [length, kill, end, leeway]) => {
    const ending = end === undefined ? '...' : asText(end, 'end');
    const limit = asIndex(given(length, 255n), 'length');
    const slack = leeway === undefined || leeway === null ? 5 : asIndex(leeway, 'leeway');
    if (limit < lengthOf(ending)) throw typeError(`expected length >= ${lengthOf(ending)}, got ${limit}`);
    if (slack < 0) throw typeError(`expected leeway >= 0, got ${slack}`);
    const size = runtime.size(value);
    if (size === undefined) throw typeError(`object of type '${typeName(value)}' has no len()`);
    // Whatever is short enough stays what it is.
    if (size <= limit + slack) return value;
    const points = codePoints(asText(value, 'the text to truncate'));
    const kept = points.slice(0, limit - lengthOf(ending));
    const cut = typeof kept === 'string' ? kept : kept.join('');
    if (flag(runtime, kill, false)) return cut + ending;
    const space = cut.lastIndexOf(' ');
    return (space < 0 ? cut : cut.slice(0, space)) + ending;
  }),
  unique: filter(['case_sensitive', 'attribute'], 0, (runtime, value, [caseSensitive, attribute]) => {
    const key = keyFunction(runtime, attribute, flag(runtime, caseSensitive, false));
    return stream(
      (function* () {
        const seen = new Set<unknown>();
        for (const item of runtime.iterate(value)) {
          const part = key(item);
          runtime.read([part]);
          const id = keyOf(part);
          if (seen.has(id)) continue;
          seen.add(id);
          yield item;
        }
      })(),
    );
  }),
  upper: filter([], 0, (runtime, value) => soft(runtime, value).toUpperCase()),
  wordcount: filter([], 0, (runtime, value) => BigInt(soft(runtime, value).match(/[\p{L}\p{N}_]+/gu)?.length ?? 0)),
};

function trimmed(text: string): string {
  return strip(text, { start: true, end: true });
}

/** `reads`: what cannot be reversed is read to its end and then reversed, as the filter reverse does. */
function reverseOf(runtime: Runtime, value: Value, reads = false): Value[] {
  const canReverse =
    typeof value === 'string' ||
    Array.isArray(value) ||
    value instanceof Tuple ||
    value instanceof Dict ||
    value instanceof DictView ||
    value instanceof Range ||
    value instanceof Undefined;
  if (!canReverse && !reads) throw typeError(`'${typeName(value)}' object is not reversible`);
  return runtime.list(value).reverse();
}
