// '%s and %d' % values: printf as Python has it.

import { JinjaError, typeError, unsupported } from './jinja-error.ts';
import { fixedPoint, integerOf } from './python-number.ts';
import { lengthOf } from './python-text.ts';
import type { Runtime } from './runtime.ts';
import { asNumber, Dict, isNumber, Range, Tuple, typeName, Undefined, type Value } from './values.ts';

const SPECIFIER = /%(?:\(([^)]*)\))?([-#0 +]*)(\d+|\*)?(?:\.(\d+|\*)?)?[hlL]?([\s\S])/g;

/** A width or precision beyond this is refused. */
export const MAX_WIDTH = 10_000;

export function formatPercent(runtime: Runtime, format: string, values: Value): string {
  runtime.budget.text(format.length);
  const list = values instanceof Tuple ? values.items : [values];
  let next = 0;
  const take = (): Value => {
    const value = list[next++];
    if (value === undefined) throw typeError('not enough arguments for format string');
    return value;
  };
  let usesNames = false;
  let end = 0;
  const out: string[] = [];
  for (const found of format.matchAll(SPECIFIER)) {
    const [whole, name, flags, width, precision, type] = found;
    out.push(format.slice(end, found.index));
    end = found.index + whole.length;
    if (type === '%' && whole === '%%') {
      out.push('%');
      continue;
    }
    if (width === '*' || precision === '*') throw unsupported('a width taken from the values (%*)');
    let value: Value;
    if (name === undefined) value = take();
    else {
      if (!(values instanceof Dict)) throw typeError('format requires a mapping');
      usesNames = true;
      const named = values.text(name);
      if (named === undefined) throw typeError(`there is no value '${name}' to format`);
      value = named;
    }
    const digits = whole.includes('.') ? limited(precision ?? '0') : undefined;
    out.push(padded(convert(runtime, type!, value, digits, flags!), flags!, limited(width ?? '0'), type!));
  }
  const rest = format.slice(end);
  if (rest.includes('%')) throw typeError('incomplete format');
  out.push(rest);
  // A single value must be used, unless it has items: Python takes it for a mapping then.
  const hasItems = [Dict, Range, Undefined].some((type) => values instanceof type) || Array.isArray(values);
  const mayStay = !usesNames && hasItems && next === 0;
  if (!usesNames && next < list.length && !mayStay) {
    throw typeError('not all arguments converted during string formatting');
  }
  return runtime.made(out.join(''));
}

export function limited(width: string): number {
  const number = Number(width);
  if (number > MAX_WIDTH) throw new JinjaError('limit', `it formats to a width of more than ${MAX_WIDTH} characters`);
  return number;
}

function convert(runtime: Runtime, type: string, value: Value, digits: number | undefined, flags: string): string {
  switch (type) {
    case 's':
    case 'r': {
      const text = type === 's' ? runtime.str(value) : runtime.repr(value);
      return digits === undefined ? text : Array.from(text).slice(0, digits).join('');
    }
    case 'd':
    case 'i':
    case 'u': {
      const number = numeric(value, type);
      const integer = typeof number === 'bigint' ? number : integerOf(number);
      return signed(integer < 0n, String(integer < 0n ? -integer : integer).padStart(digits ?? 0, '0'), flags);
    }
    case 'f':
    case 'F': {
      const number = Number(numeric(value, type));
      const text = fixedPoint(number, Math.min(digits ?? 6, 100));
      if ((digits ?? 6) > 100) throw unsupported('more than 100 digits after the point');
      const upper = type === 'F' ? text.toUpperCase() : text;
      return signed(upper.startsWith('-'), upper.replace('-', ''), flags);
    }
    case 'x':
    case 'X':
    case 'o': {
      const number = numeric(value, type);
      if (typeof number !== 'bigint') throw typeError(`%${type} format: an integer is required, not float`);
      const text = (number < 0n ? -number : number).toString(type === 'o' ? 8 : 16).padStart(digits ?? 0, '0');
      const prefix = flags.includes('#') ? (type === 'o' ? '0o' : '0x') : '';
      const whole = signed(number < 0n, prefix + text, flags);
      return type === 'X' ? whole.toUpperCase() : whole;
    }
    case 'c':
      if (typeof value === 'string' && lengthOf(value) === 1) return value;
      throw unsupported('%c with anything but a character');
    case 'e':
    case 'E':
    case 'g':
    case 'G':
    case 'a':
      throw unsupported(`the format %${type}`);
    default:
      throw typeError(`unsupported format character '${type}'`);
  }
}

function numeric(value: Value, type: string): bigint | number {
  if (isNumber(value)) return asNumber(value);
  if (value instanceof Undefined) throw value.fail();
  throw typeError(`%${type} format: a real number is required, not ${typeName(value)}`);
}

function signed(isNegative: boolean, digits: string, flags: string): string {
  return (isNegative ? '-' : flags.includes('+') ? '+' : flags.includes(' ') ? ' ' : '') + digits;
}

function padded(text: string, flags: string, width: number, type: string): string {
  const missing = width - lengthOf(text);
  if (missing <= 0) return text;
  if (flags.includes('-')) return text + ' '.repeat(missing);
  if (!flags.includes('0') || !/[diufFxXo]/.test(type) || /[in]/i.test(text)) return ' '.repeat(missing) + text;
  const head = /^[-+ ]?(?:0[xXo])?/.exec(text)![0];
  // A plain 0 is not the beginning of a prefix.
  const sign = /[xXo]/.test(head) ? head : (/^[-+ ]?/.exec(text)![0] ?? '');
  return sign + '0'.repeat(missing) + text.slice(sign.length);
}
