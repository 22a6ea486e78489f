// Methods of Python's types that templates may call. One that Python has and this list has not is refused by its name.

import { bind } from './arguments.ts';
import { formatBraces } from './brace-format.ts';
import { typeError, unsupported } from './jinja-error.ts';
import { limited } from './percent-format.ts';
import {
  capitalize,
  codePoints,
  lengthOf,
  PREDICATES,
  pointIndex,
  splitLines,
  splitText,
  strip,
  swapCase,
  titleCase,
} from './python-text.ts';
import type { Runtime } from './runtime.ts';
import {
  asIndex,
  asText,
  Callable,
  Dict,
  DictView,
  given,
  Markup,
  type Named,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from './values.ts';

type Method<T> = {
  readonly parameters: readonly string[];
  readonly required: number;
  readonly run: (runtime: Runtime, self: T, args: readonly (Value | undefined)[]) => Value;
};

function method<T>(parameters: readonly string[], required: number, run: Method<T>['run']): Method<T> {
  return { parameters, required, run };
}

/** How many times as much as reading costs what looks at every character by itself. */
export const SLOW = 10;

const SLOW_METHODS = new Set(['title', 'swapcase', 'istitle']);

const stripping = (start: boolean, end: boolean): Method<string> =>
  method(['chars'], 0, (runtime, self, [chars]) => {
    const characters = chars === undefined || chars === null ? undefined : asText(chars, 'strip arg');
    runtime.budget.text(SLOW * (characters?.length ?? 0));
    return strip(self, { start, end, characters });
  });

const splitting = (fromEnd: boolean): Method<string> =>
  method(['sep', 'maxsplit'], 0, (runtime, self, [sep, maxsplit]) => {
    const separator = sep === undefined || sep === null ? undefined : asText(sep, 'sep');
    if (separator === '') throw typeError('empty separator');
    const parts = splitText(self, separator, maxsplit === undefined ? -1 : asIndex(maxsplit, 'maxsplit'), fromEnd);
    runtime.budget.items(parts.length);
    return parts;
  });

const affix = (name: 'startsWith' | 'endsWith'): Method<string> =>
  method(['prefix', 'start', 'end'], 1, (_, self, [prefix, start, end]) => {
    const part = window(self, start, end);
    const candidates = prefix instanceof Tuple ? prefix.items : [prefix!];
    return candidates.some((candidate) => part?.[name](asText(candidate, `${name.toLowerCase()} first arg`)) ?? false);
  });

/** text[start:end]; undefined when it begins beyond the end. */
function window(text: string, start: Value | undefined, end: Value | undefined): string | undefined {
  if (given(start, null) === null && given(end, null) === null) return text;
  const points = Array.from(codePoints(text));
  const place = (value: Value | undefined, otherwise: number): number => {
    if (value === undefined || value === null) return otherwise;
    const at = asIndex(value, 'slice index');
    return at < 0 ? Math.max(0, at + points.length) : at;
  };
  const from = place(start, 0);
  const to = Math.min(place(end, points.length), points.length);
  return from > to ? undefined : points.slice(from, to).join('');
}

const finding = (name: 'indexOf' | 'lastIndexOf', mustBeThere: boolean): Method<string> =>
  method(['sub', 'start', 'end'], 1, (runtime, self, [sub, start, end]) => {
    runtime.budget.text(self.length);
    const part = window(self, start, end);
    const at = part === undefined ? -1 : pointIndex(part, part[name](asText(sub!, 'must be str')));
    if (at < 0) {
      if (mustBeThere) throw typeError('substring not found');
      return -1n;
    }
    const length = lengthOf(self);
    const from = start === undefined || start === null ? 0 : asIndex(start, 'slice index');
    return BigInt(at + (from < 0 ? Math.max(0, from + length) : from));
  });

const padding = (place: (missing: number, width: number) => readonly [number, number]): Method<string> =>
  method(['width', 'fillchar'], 1, (runtime, self, [width, fill]) => {
    const pad = fill === undefined ? ' ' : asText(fill, 'The fill character');
    if (lengthOf(pad) !== 1) throw typeError('The fill character must be exactly one character long');
    const wanted = limited(String(Math.max(0, asIndex(width!, 'width'))));
    const missing = wanted - lengthOf(self);
    if (missing <= 0) return self;
    const [left, right] = place(missing, wanted);
    return runtime.made(pad.repeat(left) + self + pad.repeat(right));
  });

/** Python puts the odd blank to the left when the width is odd. */
export function centerPads(missing: number, width: number): readonly [number, number] {
  const left = Math.floor(missing / 2) + (missing & width & 1);
  return [left, missing - left];
}

const partition = (name: 'indexOf' | 'lastIndexOf'): Method<string> =>
  method(['sep'], 1, (_, self, [sep]) => {
    const separator = asText(sep!, 'sep');
    if (separator === '') throw typeError('empty separator');
    const at = self[name](separator);
    if (at < 0) return new Tuple(name === 'indexOf' ? [self, '', ''] : ['', '', self]);
    return new Tuple([self.slice(0, at), separator, self.slice(at + separator.length)]);
  });

/** str.replace. */
export function replaceText(runtime: Runtime, text: string, old: string, by: string, limit: number): string {
  runtime.budget.text(text.length);
  if (old === '') {
    const points = Array.from(text);
    const count = limit < 0 ? points.length + 1 : Math.min(limit, points.length + 1);
    runtime.budget.textLength(text.length + count * by.length);
    runtime.budget.items(points.length);
    return runtime.made(
      points.map((point, i) => (i < count ? by + point : point)).join('') + (count > points.length ? by : ''),
    );
  }
  const parts = splitText(text, old, limit, false);
  runtime.budget.items(parts.length);
  runtime.budget.textLength(text.length + (parts.length - 1) * (by.length - old.length));
  return runtime.made(parts.join(by));
}

export function joinTexts(runtime: Runtime, separator: string, texts: readonly string[]): string {
  let length = separator.length * Math.max(0, texts.length - 1);
  for (const text of texts) length += text.length;
  runtime.budget.textLength(length);
  return runtime.made(texts.join(separator));
}

const TEXT_METHODS: Readonly<Record<string, Method<string>>> = {
  upper: method([], 0, (_, self) => self.toUpperCase()),
  lower: method([], 0, (_, self) => self.toLowerCase()),
  title: method([], 0, (_, self) => titleCase(self)),
  capitalize: method([], 0, (_, self) => capitalize(self)),
  swapcase: method([], 0, (_, self) => swapCase(self)),
  strip: stripping(true, true),
  lstrip: stripping(true, false),
  rstrip: stripping(false, true),
  split: splitting(false),
  rsplit: splitting(true),
  splitlines: method(['keepends'], 0, (runtime, self, [keepends]) => {
    const lines = splitLines(self, keepends !== undefined && runtime.truth(keepends));
    runtime.budget.items(lines.length);
    return lines;
  }),
  startswith: affix('startsWith'),
  endswith: affix('endsWith'),
  removeprefix: method(['prefix'], 1, (_, self, [prefix]) => {
    const text = asText(prefix!, 'removeprefix() argument');
    return self.startsWith(text) ? self.slice(text.length) : self;
  }),
  removesuffix: method(['suffix'], 1, (_, self, [suffix]) => {
    const text = asText(suffix!, 'removesuffix() argument');
    return text !== '' && self.endsWith(text) ? self.slice(0, -text.length) : self;
  }),
  replace: method(['old', 'new', 'count'], 2, (runtime, self, [old, by, count]) =>
    replaceText(
      runtime,
      self,
      asText(old!, 'replace() argument 1'),
      asText(by!, 'replace() argument 2'),
      count === undefined ? -1 : asIndex(count, 'count'),
    ),
  ),
  join: method(['iterable'], 1, (runtime, self, [iterable]) =>
    joinTexts(
      runtime,
      self,
      runtime.list(iterable!).map((item, i) => asText(item, `sequence item ${i}: expected str instance`)),
    ),
  ),
  find: finding('indexOf', false),
  rfind: finding('lastIndexOf', false),
  index: finding('indexOf', true),
  rindex: finding('lastIndexOf', true),
  count: method(['sub', 'start', 'end'], 1, (runtime, self, [sub, start, end]) => {
    runtime.budget.text(self.length);
    const part = window(self, start, end);
    const text = asText(sub!, 'must be str');
    if (part === undefined) return 0n;
    return BigInt(text === '' ? lengthOf(part) + 1 : splitText(part, text, -1, false).length - 1);
  }),
  partition: partition('indexOf'),
  rpartition: partition('lastIndexOf'),
  center: padding(centerPads),
  ljust: padding((missing) => [0, missing]),
  rjust: padding((missing) => [missing, 0]),
  zfill: method(['width'], 1, (runtime, self, [width]) => {
    const missing = limited(String(Math.max(0, asIndex(width!, 'width')))) - lengthOf(self);
    if (missing <= 0) return self;
    const sign = /^[-+]/.test(self) ? self[0]! : '';
    return runtime.made(sign + '0'.repeat(missing) + self.slice(sign.length));
  }),
  ...Object.fromEntries(
    Object.entries(PREDICATES).map(([name, test]) => [name, method<string>([], 0, (_, self) => test(self))]),
  ),
};

const LIST_METHODS: Readonly<Record<string, Method<readonly Value[]>>> = {
  index: method(['value'], 1, (runtime, self, [value]) => {
    const at = self.findIndex((item) => runtime.equal(item, value!));
    if (at < 0) throw typeError('the value is not in the list');
    return BigInt(at);
  }),
  count: method(['value'], 1, (runtime, self, [value]) =>
    BigInt(self.filter((item) => runtime.equal(item, value!)).length),
  ),
  copy: method([], 0, (runtime, self) => {
    runtime.budget.items(self.length);
    return self;
  }),
};

const DICT_METHODS: Readonly<Record<string, Method<Dict>>> = {
  get: method(['key', 'default'], 1, (_, self, [key, otherwise]) => given(self.get(key!), given(otherwise, null))),
  items: method([], 0, (_, self) => new DictView(self, 'items')),
  keys: method([], 0, (_, self) => new DictView(self, 'keys')),
  values: method([], 0, (_, self) => new DictView(self, 'values')),
  copy: method([], 0, (runtime, self) => {
    runtime.budget.items(self.size);
    return self;
  }),
};

/** Change their object: the sandbox of transformers blocks them. */
const CHANGING: Readonly<Record<string, ReadonlySet<string>>> = {
  list: new Set(['append', 'clear', 'extend', 'insert', 'pop', 'remove', 'reverse', 'sort']),
  dict: new Set(['clear', 'pop', 'popitem', 'setdefault', 'update']),
};

/** Attributes that Python has and that are not reproduced here; to read them as missing would be another prompt. */
const MISSING: Readonly<Record<string, ReadonlySet<string>>> = {
  str: new Set(['casefold', 'encode', 'expandtabs', 'maketrans', 'translate']),
  dict: new Set(['fromkeys']),
  int: new Set([
    'as_integer_ratio',
    'bit_count',
    'bit_length',
    'conjugate',
    'denominator',
    'from_bytes',
    'imag',
    'numerator',
    'real',
    'to_bytes',
  ]),
  float: new Set(['as_integer_ratio', 'conjugate', 'fromhex', 'hex', 'imag', 'is_integer', 'real']),
  range: new Set(['count', 'index', 'start', 'step', 'stop']),
  generator: new Set(['close', 'gi_code', 'gi_frame', 'gi_running', 'gi_yieldfrom', 'send', 'throw']),
};

/** The method of a value by its name; undefined when Python has none either. */
export function methodOf(runtime: Runtime, target: Value, name: string): Value | undefined {
  const type = typeName(target);
  if (CHANGING[type]?.has(name)) {
    return new Undefined(`access to attribute '${name}' of '${type}' object is unsafe.`);
  }
  if (MISSING[type === 'bool' ? 'int' : type]?.has(name)) throw unsupported(`the attribute '${name}' of a ${type}`);
  if (typeof target === 'string') {
    if (name === 'format') {
      return new Callable(name, (args, named) => formatBraces(runtime, target, args, named));
    }
    if (name === 'format_map') {
      return new Callable(name, ([mapping]) => {
        if (!(mapping instanceof Dict)) throw typeError('format_map() needs a dict');
        return formatBraces(runtime, target, [], namedOf(mapping));
      });
    }
    return bound(runtime, target, name, TEXT_METHODS, target.length);
  }
  if (Array.isArray(target)) return bound(runtime, target, name, LIST_METHODS, 0);
  if (target instanceof Tuple && name !== 'copy') return bound(runtime, target.items, name, LIST_METHODS, 0);
  if (target instanceof Dict) return bound(runtime, target, name, DICT_METHODS, 0);
  if (target instanceof DictView && (name === 'mapping' || name === 'isdisjoint'))
    throw unsupported(`'${name}' of a dict's view`);
  if (target instanceof Markup) throw unsupported('working on text that was marked safe or escaped');
  return undefined;
}

function namedOf(mapping: Dict): Named {
  const named = new Map<string, Value>();
  for (const [key, value] of mapping.entries()) if (typeof key === 'string') named.set(key, value);
  return named;
}

function bound<T>(
  runtime: Runtime,
  self: T,
  name: string,
  methods: Readonly<Record<string, Method<T>>>,
  characters: number,
): Callable | undefined {
  if (!Object.hasOwn(methods, name)) return undefined;
  const { parameters, required, run } = methods[name]!;
  return new Callable(name, (args, named) => {
    runtime.budget.text(SLOW_METHODS.has(name) ? SLOW * characters : characters);
    runtime.read(args);
    runtime.read(named.values());
    return run(runtime, self, bind(name, parameters, required, args, named));
  });
}
