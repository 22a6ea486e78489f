// '{} {name:>8}'.format(...): the parts of it that templates use; the rest is refused.

import { typeError, unsupported } from './jinja-error.ts';
import { limited } from './percent-format.ts';
import { fixedPoint } from './python-number.ts';
import { lengthOf } from './python-text.ts';
import type { Runtime } from './runtime.ts';
import { asNumber, isNumber, type Named, typeName, Undefined, type Value } from './values.ts';

export function formatBraces(runtime: Runtime, format: string, args: readonly Value[], named: Named): string {
  runtime.budget.text(format.length);
  const out: string[] = [];
  let automatic = 0;
  let manual = false;
  for (let at = 0; at < format.length; ) {
    const next = /[{}]/.exec(format.slice(at));
    if (next === null) {
      out.push(format.slice(at));
      break;
    }
    const brace = at + next.index;
    out.push(format.slice(at, brace));
    if (format[brace + 1] === format[brace]) {
      out.push(format[brace]!);
      at = brace + 2;
      continue;
    }
    if (format[brace] === '}') throw typeError("Single '}' encountered in format string");
    const close = format.indexOf('}', brace);
    if (close < 0) throw typeError("expected '}' before end of string");
    const field = format.slice(brace + 1, close);
    if (field.includes('{')) throw unsupported('a format within a format');
    at = close + 1;
    const [, path, conversion, specification] = /^([^!:]*)(?:!([^:]*))?(?::([\s\S]*))?$/.exec(field) ?? [];
    if (path === undefined) throw typeError('the format string is malformed');
    const head = /^[^.[]*/.exec(path)![0];
    let value: Value | undefined;
    if (head === '' || /^\d+$/.test(head)) {
      if (head === '' ? manual : automatic > 0) throw typeError('cannot switch between numbered and unnumbered fields');
      if (head !== '') manual = true;
      value = args[head === '' ? automatic++ : Number(head)];
      if (value === undefined) throw typeError('Replacement index out of range for positional args tuple');
    } else {
      value = named.get(head);
      if (value === undefined) throw typeError(`there is no value '${head}' to format`);
    }
    value = follow(runtime, value, path.slice(head.length));
    if (conversion === 'r') value = runtime.repr(value);
    else if (conversion === 's') value = runtime.str(value);
    else if (conversion !== undefined) throw unsupported(`the conversion !${conversion}`);
    out.push(formatValue(runtime, value, specification ?? ''));
    runtime.budget.step();
  }
  return runtime.made(out.join(''));
}

/** `.name` and `[key]` after a field's name. */
function follow(runtime: Runtime, start: Value, path: string): Value {
  let value = start;
  let rest = path;
  while (rest !== '') {
    const step = /^(?:\.([^.[]+)|\[([^\]]+)\])/.exec(rest);
    if (step === null) throw typeError('the format string is malformed');
    rest = rest.slice(step[0].length);
    if (step[1] !== undefined) value = runtime.attribute(value, step[1]);
    else value = runtime.item(value, /^\d+$/.test(step[2]!) ? BigInt(step[2]!) : step[2]!);
    if (value instanceof Undefined) throw value.fail();
  }
  return value;
}

/** format(value, specification). */
export function formatValue(runtime: Runtime, value: Value, specification: string): string {
  if (specification === '') return runtime.str(value);
  const found = /^(?:([\s\S])?([<>=^]))?([-+ ])?(#)?(0)?(\d+)?([,_])?(?:\.(\d+))?([a-zA-Z%])?$/u.exec(specification);
  if (found === null) throw typeError(`Invalid format specifier '${specification}'`);
  const [, fill, align, sign, alternate, zero, width, grouping, precision, type] = found;
  if (alternate !== undefined) throw unsupported('# in a format');
  let text: string;
  let defaultAlign = '<';
  if (typeof value === 'string') {
    if (type !== undefined && type !== 's') throw typeError(`Unknown format code '${type}' for object of type 'str'`);
    if (sign !== undefined || grouping !== undefined || align === '=')
      throw typeError('Sign not allowed in string format specifier');
    text = precision === undefined ? value : Array.from(value).slice(0, limited(precision)).join('');
  } else if (isNumber(value)) {
    if (typeof value === 'boolean' && type === undefined) throw unsupported('a format of a boolean');
    const number = asNumber(value);
    text = digitsOf(runtime, number, type, precision === undefined ? undefined : limited(precision));
    let head = text.startsWith('-') ? '-' : sign === '+' || sign === ' ' ? sign : '';
    let digits = text.replace('-', '');
    if (grouping !== undefined) {
      if (grouping === '_' && type !== undefined && type !== 'd' && type !== 'f') throw unsupported('grouping with _');
      digits = digits.replace(/^\d+/, (whole) => whole.replace(/\B(?=(?:\d{3})+$)/g, grouping));
    }
    if (zero !== undefined && align === undefined) {
      if (grouping !== undefined) throw unsupported('zeros with grouping');
      head += '0'.repeat(Math.max(0, limited(width ?? '0') - head.length - digits.length));
    }
    if (align === '=') {
      const missing = limited(width ?? '0') - head.length - digits.length;
      head += (fill ?? (zero === undefined ? ' ' : '0')).repeat(Math.max(0, missing));
    }
    text = head + digits;
    defaultAlign = '>';
  } else throw typeError(`unsupported format string passed to ${typeName(value)}.__format__`);
  const missing = limited(width ?? '0') - lengthOf(text);
  if (missing <= 0) return text;
  const pad = fill ?? (zero === undefined ? ' ' : '0');
  switch (align ?? defaultAlign) {
    case '>':
      return pad.repeat(missing) + text;
    case '^':
      return pad.repeat(Math.floor(missing / 2)) + text + pad.repeat(Math.ceil(missing / 2));
    default:
      return text + pad.repeat(missing);
  }
}

function digitsOf(
  runtime: Runtime,
  number: bigint | number,
  type: string | undefined,
  precision: number | undefined,
): string {
  if (type === 'f' || type === 'F' || type === '%') {
    if ((precision ?? 6) > 100) throw unsupported('more than 100 digits after the point');
    const text = fixedPoint(Number(number) * (type === '%' ? 100 : 1), precision ?? 6);
    return type === '%' ? `${text}%` : text;
  }
  if (typeof number === 'bigint') {
    if (precision !== undefined) throw typeError('Precision not allowed in integer format specifier');
    if (type === undefined || type === 'd') return String(number);
    if (type === 'x') return number.toString(16);
    if (type === 'X') return number.toString(16).toUpperCase();
    if (type === 'o') return number.toString(8);
    if (type === 'b') return number.toString(2);
  } else if (type === undefined && precision === undefined) return runtime.str(number);
  throw unsupported(`the format ${precision === undefined ? '' : `.${precision}`}${type ?? ''} of a number`);
}
