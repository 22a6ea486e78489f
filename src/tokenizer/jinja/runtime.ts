// Python's operations on values, each counted against the budget.

import type { Budget } from './budget.ts';
import { typeError, unsupported } from './jinja-error.ts';
import { methodOf } from './methods.ts';
import { formatPercent } from './percent-format.ts';
import { checkedInteger, floatDivmod, floatRepr } from './python-number.ts';
import { codePoints, compareText, lengthOf, textRepr } from './python-text.ts';
import type { BinaryOperator, Comparison } from './syntax.ts';
import {
  asNumber,
  Callable,
  Cell,
  Dict,
  DictView,
  given,
  isNumber,
  Loop,
  Markup,
  type Named,
  Namespace,
  Range,
  Stream,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from './values.ts';

export class Runtime {
  readonly budget: Budget;

  constructor(budget: Budget) {
    this.budget = budget;
  }

  // ---- text ----

  /** str(value): what printing writes. */
  str(value: Value): string {
    if (typeof value === 'string') return value;
    if (value instanceof Markup) return value.text;
    if (value instanceof Undefined) return '';
    return this.repr(value);
  }

  /** The text of a value that is joined to others: text that is marked safe would escape them. */
  plain(value: Value): string {
    if (value instanceof Markup) throw unsupported('working on text that was marked safe or escaped');
    return this.str(value);
  }

  /** A value as Python writes it inside a list. */
  repr(value: Value): string {
    const parts: string[] = [];
    this.#repr(value, parts);
    const text = parts.join('');
    this.budget.text(text.length);
    return text;
  }

  #repr(value: Value, out: string[]): void {
    this.budget.step();
    switch (typeof value) {
      case 'string':
        this.budget.text(10 * value.length);
        out.push(textRepr(value));
        return;
      case 'boolean':
        out.push(value ? 'True' : 'False');
        return;
      case 'bigint':
        out.push(String(value));
        return;
      case 'number':
        out.push(floatRepr(value));
        return;
    }
    if (value === null) out.push('None');
    else if (Array.isArray(value)) this.#reprItems(value, '[', ']', out);
    else if (value instanceof Tuple) this.#reprItems(value.items, '(', value.items.length === 1 ? ',)' : ')', out);
    else if (value instanceof Dict) this.#reprDict(value, out);
    else if (value instanceof DictView) {
      out.push(`dict_${value.part}(`);
      this.#reprItems([...value.values()], '[', ']', out);
      out.push(')');
    } else if (value instanceof Range) {
      const step = value.step === 1n ? '' : `, ${value.step}`;
      out.push(`range(${value.start}, ${value.stop}${step})`);
    } else if (value instanceof Undefined) out.push('Undefined');
    else if (value instanceof Namespace) {
      out.push('<Namespace ');
      this.#reprDict(new Dict(value.fields), out);
      out.push('>');
    } else if (value instanceof Markup) {
      out.push('Markup(');
      this.#repr(value.text, out);
      out.push(')');
    } else if (value instanceof Loop) {
      out.push(`<LoopContext ${String(value.attribute('index'))}/${String(value.attribute('length'))}>`);
    } else if (value instanceof Callable && value.fields.has('catch_kwargs'))
      out.push(`<Macro ${textRepr(value.name)}>`);
    else throw unsupported(`printing a ${typeName(value)}`);
  }

  #reprItems(items: readonly Value[], open: string, close: string, out: string[]): void {
    this.budget.enter();
    out.push(open);
    items.forEach((item, i) => {
      if (i > 0) out.push(', ');
      this.#repr(item, out);
    });
    out.push(close);
    this.budget.leave();
  }

  #reprDict(dict: Dict, out: string[]): void {
    this.budget.enter();
    let separator = '{';
    for (const [key, item] of dict.entries()) {
      out.push(separator);
      separator = ', ';
      this.#repr(key, out);
      out.push(': ');
      this.#repr(item, out);
    }
    out.push(dict.size === 0 ? '{}' : '}');
    this.budget.leave();
  }

  /** Texts put one behind the other: nothing is copied, only the length is checked. */
  join(a: string, b: string): string {
    this.budget.textLength(a.length + b.length);
    return a + b;
  }

  /** Counts the texts among values that are about to be read: a text that was joined is copied together then. */
  read(values: Iterable<Value>): void {
    for (const value of values) if (typeof value === 'string') this.budget.text(value.length);
  }

  /** Counts a text that an operation made. */
  made(text: string): string {
    this.budget.textLength(text.length);
    this.budget.text(text.length);
    return text;
  }

  // ---- truth, equality, order ----

  truth(value: Value): boolean {
    switch (typeof value) {
      case 'boolean':
        return value;
      case 'bigint':
        return value !== 0n;
      case 'number':
        return value !== 0;
      case 'string':
        return value !== '';
    }
    if (value === null) return false;
    if (value instanceof Undefined) return false;
    if (Array.isArray(value)) return value.length > 0;
    if (value instanceof Tuple) return value.items.length > 0;
    if (value instanceof Dict) return value.size > 0;
    if (value instanceof DictView) return value.dict.size > 0;
    if (value instanceof Range) return value.length > 0;
    if (value instanceof Markup) return value.text !== '';
    return true;
  }

  equal(a: Value, b: Value): boolean {
    this.budget.step();
    if (typeof a === 'string' && typeof b === 'string') {
      if (a.length !== b.length) return false;
      this.budget.text(a.length + b.length);
      return a === b;
    }
    if (isNumber(a) && isNumber(b)) return sameNumber(asNumber(a), asNumber(b));
    if (a instanceof Markup || b instanceof Markup) {
      const [left, right] = [a, b].map((value) => (value instanceof Markup ? value.text : value));
      return typeof left === 'string' && left === right;
    }
    if (a instanceof Undefined || b instanceof Undefined) {
      return a instanceof Undefined && b instanceof Undefined;
    }
    if (Array.isArray(a) || Array.isArray(b)) return Array.isArray(a) && Array.isArray(b) && this.#equalItems(a, b);
    if (a instanceof Tuple && b instanceof Tuple) return this.#equalItems(a.items, b.items);
    if (a instanceof Dict && b instanceof Dict) return this.#equalDicts(a, b);
    if (a instanceof Range && b instanceof Range) {
      if (a.length !== b.length) return false;
      return a.length === 0 || (a.start === b.start && (a.length === 1 || a.step === b.step));
    }
    if (a instanceof DictView && b instanceof DictView) throw unsupported('comparing the views of dicts');
    return a === b;
  }

  #equalItems(a: readonly Value[], b: readonly Value[]): boolean {
    if (a.length !== b.length) return false;
    this.budget.enter();
    const result = a.every((item, i) => this.equal(item, b[i]!));
    this.budget.leave();
    return result;
  }

  #equalDicts(a: Dict, b: Dict): boolean {
    if (a.size !== b.size) return false;
    this.budget.enter();
    let result = true;
    for (const [key, item] of a.entries()) {
      const other = b.get(key);
      result &&= other !== undefined && this.equal(item, other);
    }
    this.budget.leave();
    return result;
  }

  /** Below 0 when a comes first; NaN when a number is none. */
  compare(a: Value, b: Value, operator = '<'): number {
    this.budget.step();
    if (isNumber(a) && isNumber(b)) {
      const [left, right] = [asNumber(a), asNumber(b)];
      return left < right ? -1 : left > right ? 1 : sameNumber(left, right) ? 0 : Number.NaN;
    }
    if (typeof a === 'string' && typeof b === 'string') {
      this.budget.text(a.length + b.length);
      return compareText(a, b);
    }
    const lists =
      Array.isArray(a) && Array.isArray(b)
        ? [a, b]
        : a instanceof Tuple && b instanceof Tuple
          ? [a.items, b.items]
          : [];
    if (lists.length === 2) return this.#compareItems(lists[0]!, lists[1]!, operator);
    for (const value of [a, b]) if (value instanceof Undefined) throw value.fail();
    throw typeError(`'${operator}' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
  }

  #compareItems(a: readonly Value[], b: readonly Value[], operator: string): number {
    this.budget.enter();
    try {
      for (let i = 0; i < a.length && i < b.length; i++) {
        if (!this.equal(a[i]!, b[i]!)) return this.compare(a[i]!, b[i]!, operator);
      }
      return a.length - b.length;
    } finally {
      this.budget.leave();
    }
  }

  holds(operator: Comparison['operator'], a: Value, b: Value): boolean {
    switch (operator) {
      case '==':
        return this.equal(a, b);
      case '!=':
        return !this.equal(a, b);
      case 'in':
        return this.contains(b, a);
      case 'not in':
        return !this.contains(b, a);
      case '<':
        return this.compare(a, b, operator) < 0;
      case '<=':
        return this.compare(a, b, operator) <= 0;
      case '>':
        return this.compare(a, b, operator) > 0;
      case '>=':
        return this.compare(a, b, operator) >= 0;
    }
  }

  contains(container: Value, item: Value): boolean {
    if (typeof container === 'string') {
      if (typeof item !== 'string') {
        if (item instanceof Undefined) throw item.fail();
        throw typeError(`'in <string>' requires string as left operand, not ${typeName(item)}`);
      }
      this.budget.text(container.length + item.length);
      return container.includes(item);
    }
    this.read([item]);
    if (container instanceof Dict) return container.get(item) !== undefined;
    if (container instanceof DictView && container.part === 'keys') return container.dict.get(item) !== undefined;
    for (const each of this.iterate(container, `argument of type '${typeName(container)}' is not iterable`)) {
      if (this.equal(each, item)) return true;
    }
    return false;
  }

  // ---- sequences ----

  /** The items of whatever can be read in turn, each counted as a step. */
  *iterate(value: Value, otherwise = `'${typeName(value)}' object is not iterable`): Generator<Value, void> {
    if (typeof value === 'string') {
      this.budget.text(value.length);
      for (const character of value) {
        this.budget.step();
        yield character;
      }
      return;
    }
    let items: Iterable<Value>;
    if (Array.isArray(value)) items = value;
    else if (value instanceof Tuple) items = value.items;
    else if (value instanceof Dict) items = new DictView(value, 'keys').values();
    else if (value instanceof DictView) items = value.values();
    else if (value instanceof Undefined) return;
    else if (value instanceof Range) {
      for (let i = 0; i < value.length; i++) {
        this.budget.step();
        yield value.at(i);
      }
      return;
    } else if (value instanceof Stream) {
      // By hand: a loop that ends early must leave the rest to the next reader.
      for (let next = value.source.next(); next.done !== true; next = value.source.next()) {
        this.budget.step();
        yield next.value;
      }
      return;
    } else if (value instanceof Markup) throw unsupported('working on text that was marked safe or escaped');
    else if (value instanceof Loop) throw unsupported("reading the rest of a loop through 'loop'");
    else throw typeError(otherwise);
    for (const item of items) {
      this.budget.step();
      yield item;
    }
  }

  list(value: Value): Value[] {
    return [...this.iterate(value)];
  }

  /** len(value); undefined for what has none. */
  size(value: Value): number | undefined {
    if (typeof value === 'string') {
      this.budget.text(value.length);
      return lengthOf(value);
    }
    if (Array.isArray(value)) return value.length;
    if (value instanceof Tuple) return value.items.length;
    if (value instanceof Dict) return value.size;
    if (value instanceof DictView) return value.dict.size;
    if (value instanceof Range) return value.length;
    if (value instanceof Markup) return lengthOf(value.text);
    if (value instanceof Undefined) return 0;
    if (value instanceof Loop) return Number(value.attribute('length'));
    return undefined;
  }

  slice(value: Value, bounds: readonly Value[]): Value {
    const [start, stop, step] = bounds.map((bound) => this.#sliceBound(bound));
    const stride = step ?? 1n;
    if (typeof value !== 'string' && !Array.isArray(value) && !(value instanceof Tuple) && !(value instanceof Range)) {
      if (value instanceof Undefined) throw value.fail();
      if (value instanceof Markup) throw unsupported('working on text that was marked safe or escaped');
      throw typeError(`'${typeName(value)}' object cannot be sliced`);
    }
    if (stride === 0n) throw typeError('slice step cannot be zero');
    if (typeof value === 'string') this.budget.text(value.length);
    const source = typeof value === 'string' ? codePoints(value) : value instanceof Tuple ? value.items : value;
    const length = BigInt(source.length);
    const clamp = (bound: bigint, low: bigint, high: bigint): bigint => {
      const at = bound < 0n ? bound + length : bound;
      return at < low ? low : at > high ? high : at;
    };
    const isForward = stride > 0n;
    const from = Number(
      start === undefined
        ? isForward
          ? 0n
          : length - 1n
        : isForward
          ? clamp(start, 0n, length)
          : clamp(start, -1n, length - 1n),
    );
    const to = Number(
      stop === undefined
        ? isForward
          ? length
          : -1n
        : isForward
          ? clamp(stop, 0n, length)
          : clamp(stop, -1n, length - 1n),
    );
    if (source instanceof Range) {
      const last = source.start + BigInt(to) * source.step;
      return new Range(source.start + BigInt(from) * source.step, last, source.step * stride);
    }
    if (typeof source === 'string' && stride === 1n) return source.slice(from, Math.max(from, to));
    const jump = Number(stride > length + 1n ? length + 1n : stride < -length - 1n ? -length - 1n : stride);
    const items: Value[] = [];
    for (let i = from; isForward ? i < to : i > to; i += jump) items.push(source[i]!);
    this.budget.items(items.length);
    if (typeof value === 'string') return this.made(items.join(''));
    return value instanceof Tuple ? new Tuple(items) : items;
  }

  #sliceBound(bound: Value): bigint | undefined {
    if (bound === null) return undefined;
    const number = isNumber(bound) ? asNumber(bound) : undefined;
    if (typeof number === 'bigint') return number;
    if (bound instanceof Undefined) throw bound.fail();
    throw typeError('slice indices must be integers or None');
  }

  // ---- attributes and items, as Jinja's sandbox finds them ----

  /** `target.name`: an attribute of Python's first, then an item. */
  attribute(target: Value, name: string): Value {
    if (target instanceof Undefined) throw target.fail();
    const own = this.#own(target, name);
    if (own !== undefined) return own;
    const item = target instanceof Dict ? target.text(name) : undefined;
    return given(item, new Undefined(`'${typeName(target)} object' has no attribute '${name}'`));
  }

  /** `target[index]`: an item first, then an attribute of that name. */
  item(target: Value, index: Value): Value {
    if (target instanceof Undefined) throw target.fail();
    this.read([index]);
    const found = this.#item(target, index);
    if (found !== undefined) return found;
    if (typeof index === 'string') {
      const own = this.#own(target, index);
      if (own !== undefined) return own;
      return new Undefined(`'${typeName(target)} object' has no attribute '${index}'`);
    }
    return new Undefined(`${typeName(target)} object has no element ${this.#shortRepr(index)}`);
  }

  #shortRepr(value: Value): string {
    return isNumber(value) ? this.repr(value) : `of type ${typeName(value)}`;
  }

  #item(target: Value, index: Value): Value | undefined {
    if (target instanceof Dict) {
      // A key that has no hash: the item is not there.
      if (Array.isArray(index) || index instanceof Dict) return undefined;
      return target.get(index);
    }
    const isSequence =
      typeof target === 'string' || Array.isArray(target) || target instanceof Tuple || target instanceof Range;
    if (!isSequence) {
      if (target instanceof Markup) throw unsupported('working on text that was marked safe or escaped');
      return undefined;
    }
    const number = isNumber(index) ? asNumber(index) : undefined;
    if (typeof number !== 'bigint') return undefined;
    if (typeof target === 'string') this.budget.text(target.length);
    const source = typeof target === 'string' ? codePoints(target) : target instanceof Tuple ? target.items : target;
    const at = number < 0n ? number + BigInt(source.length) : number;
    if (at < 0n || at >= BigInt(source.length)) return undefined;
    return source instanceof Range ? source.at(Number(at)) : source[Number(at)];
  }

  /** What Python's getattr finds; methods that would change a value, and names with underscores, are blocked. */
  #own(target: Value, name: string): Value | undefined {
    if (target instanceof Namespace) {
      const field = target.fields.get(name);
      if (field !== undefined) return field;
    } else if (target instanceof Loop || target instanceof Cell) return target.attribute(name);
    else if (target instanceof Callable) {
      const field = target.fields.get(name);
      if (field !== undefined) return field;
    } else if (target instanceof Tuple && target.names.includes(name)) return target.items[target.names.indexOf(name)];
    if (name.startsWith('__') && name.endsWith('__')) {
      return new Undefined(`access to attribute '${name}' of '${typeName(target)}' object is unsafe.`);
    }
    return methodOf(this, target, name);
  }

  call(target: Value, args: readonly Value[], named: Named): Value {
    if (target instanceof Callable || target instanceof Loop) return target.call(args, named);
    if (target instanceof Undefined) throw target.fail();
    throw typeError(`'${typeName(target)}' object is not callable`);
  }

  // ---- arithmetic ----

  binary(operator: BinaryOperator, a: Value, b: Value): Value {
    if (operator === '%' && typeof a === 'string') return formatPercent(this, a, b);
    if (isNumber(a) && isNumber(b)) return arithmetic(operator, asNumber(a), asNumber(b));
    if (operator === '+') {
      if (typeof a === 'string' && typeof b === 'string') return this.join(a, b);
      if (Array.isArray(a) && Array.isArray(b)) {
        this.budget.items(a.length + b.length);
        return [...a, ...b];
      }
      if (a instanceof Tuple && b instanceof Tuple) {
        this.budget.items(a.items.length + b.items.length);
        return new Tuple([...a.items, ...b.items]);
      }
    }
    if (operator === '*') {
      if (isNumber(b)) return this.#repeat(a, asNumber(b), b);
      if (isNumber(a)) return this.#repeat(b, asNumber(a), a);
    }
    for (const value of [a, b]) if (value instanceof Undefined) throw value.fail();
    if (a instanceof Markup || b instanceof Markup)
      throw unsupported('working on text that was marked safe or escaped');
    if (operator === '+' && typeof a === 'string') {
      throw typeError(`can only concatenate str (not "${typeName(b)}") to str`);
    }
    throw operandError(operator, a, b);
  }

  #repeat(value: Value, times: bigint | number, factor: Value): Value {
    const isSequence = typeof value === 'string' || Array.isArray(value) || value instanceof Tuple;
    if (!isSequence || typeof times !== 'bigint') {
      for (const each of [value, factor]) if (each instanceof Undefined) throw each.fail();
      if (value instanceof Markup) throw unsupported('working on text that was marked safe or escaped');
      if (isSequence) throw typeError(`can't multiply sequence by non-int of type '${typeName(factor)}'`);
      throw operandError('*', value, factor);
    }
    const count = Number(times > 1n << 40n ? 1n << 40n : times < 0n ? 0n : times);
    if (typeof value === 'string') {
      this.budget.textLength(value.length * count);
      return this.made(value.repeat(count));
    }
    const items = value instanceof Tuple ? value.items : value;
    this.budget.items(items.length * count);
    const repeated = Array.from({ length: items.length * count }, (_, i) => items[i % items.length]!);
    return value instanceof Tuple ? new Tuple(repeated) : repeated;
  }

  sign(sign: '+' | '-', value: Value): Value {
    if (value instanceof Undefined) throw value.fail();
    if (!isNumber(value)) throw typeError(`bad operand type for unary ${sign}: '${typeName(value)}'`);
    const number = asNumber(value);
    return sign === '-' ? -number : number;
  }
}

/** An int and a float compare by what they are worth, not by their types. */
function sameNumber(a: bigint | number, b: bigint | number): boolean {
  return a <= b && a >= b;
}

function operandError(operator: BinaryOperator, a: Value, b: Value): Error {
  return typeError(`unsupported operand type(s) for ${operator}: '${typeName(a)}' and '${typeName(b)}'`);
}

function arithmetic(operator: BinaryOperator, a: bigint | number, b: bigint | number): bigint | number {
  const isInteger = typeof a === 'bigint' && typeof b === 'bigint';
  if ((operator === '/' || operator === '//' || operator === '%') && Number(b) === 0) {
    throw typeError('division by zero');
  }
  switch (operator) {
    case '+':
      return isInteger ? checkedInteger(a + b) : Number(a) + Number(b);
    case '-':
      return isInteger ? checkedInteger(a - b) : Number(a) - Number(b);
    case '*':
      return isInteger ? checkedInteger(a * b) : Number(a) * Number(b);
    case '/':
      return Number(a) / Number(b);
    case '//': {
      if (!isInteger) return floatDivmod(Number(a), Number(b)).quotient;
      const quotient = a / b;
      return a % b !== 0n && a < 0n !== b < 0n ? quotient - 1n : quotient;
    }
    case '%': {
      if (!isInteger) return floatDivmod(Number(a), Number(b)).remainder;
      const remainder = a % b;
      return remainder !== 0n && remainder < 0n !== b < 0n ? remainder + b : remainder;
    }
    case '**':
      return power(a, b);
  }
}

function power(a: bigint | number, b: bigint | number): bigint | number {
  if (typeof a === 'bigint' && typeof b === 'bigint' && b >= 0n) {
    if (a === 0n || a === 1n || b === 0n) return b === 0n ? 1n : a;
    if (a === -1n) return b % 2n === 0n ? 1n : -1n;
    // Each factor adds at least a bit.
    if (b > 4096n) return checkedInteger(1n << 4097n);
    return checkedInteger(a ** b);
  }
  const [base, exponent] = [Number(a), Number(b)];
  if (base === 0 && exponent < 0) throw typeError('0.0 cannot be raised to a negative power');
  if (base < 0 && !Number.isInteger(exponent) && Number.isFinite(exponent)) throw unsupported('a complex number');
  // 1 to any power is 1 in Python, NaN in JavaScript.
  if (base === 1 || (base === -1 && !Number.isFinite(exponent) && !Number.isNaN(exponent))) return 1;
  const result = base ** exponent;
  if (!Number.isFinite(result) && Number.isFinite(base) && Number.isFinite(exponent)) {
    throw typeError('Numerical result out of range');
  }
  return result;
}
