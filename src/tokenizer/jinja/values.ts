// What a template computes with. Python's values map so: None null, bool boolean, int bigint, float number, str string,
// list an array; the classes below are the rest. All are immutable, except namespaces and what is consumed by reading.

import { JinjaError, typeError, unsupported } from './jinja-error.ts';

export type Value =
  | null
  | boolean
  | bigint
  | number
  | string
  | readonly Value[]
  | Undefined
  | Tuple
  | Dict
  | DictView
  | Range
  | Stream
  | Namespace
  | Callable
  | Loop
  | Markup
  | Cell;

/**
 * A variable, attribute or item that is not there, or that the sandbox hides. It prints as nothing and is false; most
 * other uses are errors.
 */
export class Undefined {
  readonly reason: string;

  constructor(reason: string) {
    this.reason = reason;
  }

  fail(): JinjaError {
    return new JinjaError('runtime', this.reason);
  }
}

export class Tuple {
  readonly items: readonly Value[];
  /** Names of the items, where they have them. */
  readonly names: readonly string[];

  constructor(items: readonly Value[], names: readonly string[] = []) {
    this.items = items;
    this.names = names;
  }
}

/** Keys are equal as in Python: 1, 1.0 and true are one key. */
export class Dict {
  readonly #entries = new Map<unknown, readonly [Value, Value]>();

  constructor(entries: Iterable<readonly [Value, Value]> = []) {
    for (const [key, value] of entries) {
      const id = keyOf(key);
      const known = this.#entries.get(id);
      this.#entries.set(id, [known === undefined ? key : known[0], value]);
    }
  }

  get size(): number {
    return this.#entries.size;
  }

  get(key: Value): Value | undefined {
    return this.#entries.get(keyOf(key))?.[1];
  }

  text(key: string): Value | undefined {
    return this.#entries.get(key)?.[1];
  }

  entries(): Iterable<readonly [Value, Value]> {
    return this.#entries.values();
  }
}

/** What tells keys apart in a Map. */
export function keyOf(value: Value): unknown {
  switch (typeof value) {
    case 'string':
    case 'bigint':
      return value;
    case 'boolean':
      return value ? 1n : 0n;
    case 'number':
      return Number.isInteger(value) ? BigInt(value) : value;
  }
  if (value === null) return null;
  if (value instanceof Undefined) return Undefined;
  if (Array.isArray(value)) throw typeError("unhashable type: 'list'");
  if (value instanceof Dict) throw typeError("unhashable type: 'dict'");
  if (value instanceof Tuple) throw unsupported('a tuple as a key');
  return value;
}

export class DictView {
  readonly dict: Dict;
  readonly part: 'keys' | 'values' | 'items';

  constructor(dict: Dict, part: 'keys' | 'values' | 'items') {
    this.dict = dict;
    this.part = part;
  }

  *values(): Iterable<Value> {
    for (const entry of this.dict.entries()) {
      yield this.part === 'items' ? new Tuple(entry) : entry[this.part === 'keys' ? 0 : 1];
    }
  }
}

export class Range {
  readonly start: bigint;
  readonly stop: bigint;
  readonly step: bigint;
  readonly length: number;

  constructor(start: bigint, stop: bigint, step: bigint) {
    if (step === 0n) throw typeError('range() arg 3 must not be zero');
    this.start = start;
    this.stop = stop;
    this.step = step;
    const span = step > 0n ? stop - start : start - stop;
    const stride = step > 0n ? step : -step;
    const length = span <= 0n ? 0n : (span + stride - 1n) / stride;
    // Jinja's sandbox has this limit.
    if (length > 100_000n) throw new JinjaError('limit', 'it makes a range of more than 100000 numbers');
    this.length = Number(length);
  }

  at(index: number): bigint {
    return this.start + BigInt(index) * this.step;
  }
}

/** A generator of Python's: it has no length, is read once, and prints as an address that nobody wants in a prompt. */
export class Stream {
  readonly source: Iterator<Value>;

  constructor(source: Iterator<Value>) {
    this.source = source;
  }
}

export class Namespace {
  readonly fields: Map<string, Value>;

  constructor(fields: Map<string, Value>) {
    this.fields = fields;
  }
}

export type Named = ReadonlyMap<string, Value>;

/** A function, macro, method or type. */
export class Callable {
  readonly name: string;
  readonly call: (args: readonly Value[], named: Named) => Value;
  readonly fields: ReadonlyMap<string, Value>;

  constructor(
    name: string,
    call: (args: readonly Value[], named: Named) => Value,
    fields: ReadonlyMap<string, Value> = new Map(),
  ) {
    this.name = name;
    this.call = call;
    this.fields = fields;
  }
}

/** The variable `loop`; its attributes are computed when they are asked for. */
export class Loop {
  readonly attribute: (name: string) => Value | undefined;
  readonly call: (args: readonly Value[], named: Named) => Value;

  constructor(attribute: (name: string) => Value | undefined, call: (args: readonly Value[], named: Named) => Value) {
    this.attribute = attribute;
    this.call = call;
  }
}

/** What `safe` and `escape` give: to be printed. Joining it to other text would escape that text. */
export class Markup {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

/** A cycler: an object with methods and a state. */
export class Cell {
  readonly attribute: (name: string) => Value | undefined;

  constructor(attribute: (name: string) => Value | undefined) {
    this.attribute = attribute;
  }
}

/** A value, or another where none was given: None is a value. */
export function given(value: Value | undefined, otherwise: Value): Value {
  return value === undefined ? otherwise : value;
}

/** Python's name of a value's type, for messages. */
export function typeName(value: Value): string {
  switch (typeof value) {
    case 'boolean':
      return 'bool';
    case 'bigint':
      return 'int';
    case 'number':
      return 'float';
    case 'string':
      return 'str';
  }
  if (value === null) return 'NoneType';
  if (Array.isArray(value)) return 'list';
  if (value instanceof Tuple) return 'tuple';
  if (value instanceof Dict) return 'dict';
  if (value instanceof DictView) return `dict_${value.part}`;
  if (value instanceof Range) return 'range';
  if (value instanceof Stream) return 'generator';
  if (value instanceof Undefined) return 'Undefined';
  if (value instanceof Namespace) return 'Namespace';
  if (value instanceof Callable) return 'function';
  if (value instanceof Loop) return 'LoopContext';
  if (value instanceof Markup) return 'Markup';
  return 'Cycler';
}

export function isNumber(value: Value): value is boolean | bigint | number {
  return typeof value === 'boolean' || typeof value === 'bigint' || typeof value === 'number';
}

/** A bool counts as 0 or 1. */
export function asNumber(value: boolean | bigint | number): bigint | number {
  return typeof value === 'boolean' ? (value ? 1n : 0n) : value;
}

/** An integer argument as a number of JavaScript; far beyond any length it stays far beyond. */
export function asIndex(value: Value, what: string): number {
  const number = isNumber(value) ? asNumber(value) : undefined;
  if (typeof number !== 'bigint') throw typeError(`${what} must be an integer, not ${typeName(value)}`);
  const far = 1n << 52n;
  return Number(number > far ? far : number < -far ? -far : number);
}

export function asText(value: Value, what: string): string {
  if (typeof value === 'string') return value;
  if (value instanceof Markup) throw unsupported('working on text that was marked safe or escaped');
  throw typeError(`${what} must be str, not ${typeName(value)}`);
}
