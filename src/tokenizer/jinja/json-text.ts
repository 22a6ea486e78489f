// The filter tojson as transformers replaces Jinja's: json.dumps without escaping for HTML, not sorted, not ASCII only.

import { bind } from './arguments.ts';
import { typeError } from './jinja-error.ts';
import { SLOW } from './methods.ts';
import { limited } from './percent-format.ts';
import { floatRepr } from './python-number.ts';
import type { Runtime } from './runtime.ts';
import { Dict, isNumber, Markup, type Named, Tuple, typeName, Undefined, type Value } from './values.ts';

type Style = {
  readonly ascii: boolean;
  /** What one level is indented by; undefined: all on one line. */
  readonly indent: string | undefined;
  readonly itemSeparator: string;
  readonly keySeparator: string;
  readonly sortKeys: boolean;
};

export function toJson(runtime: Runtime, value: Value, args: readonly Value[], named: Named): string {
  const parameters = ['ensure_ascii', 'indent', 'separators', 'sort_keys'];
  const [ascii, indent, separators, sortKeys] = bind('tojson', parameters, 0, args, named);
  const step = indentText(indent === undefined ? null : indent);
  const [itemSeparator, keySeparator] =
    separators === undefined || separators === null
      ? [step === undefined ? ', ' : ',', ': ']
      : separatorsOf(runtime.list(separators));
  const out: string[] = [];
  write(runtime, value, out, '\n', {
    ascii: ascii !== undefined && runtime.truth(ascii),
    indent: step,
    itemSeparator: itemSeparator!,
    keySeparator: keySeparator!,
    sortKeys: sortKeys !== undefined && runtime.truth(sortKeys),
  });
  return runtime.made(out.join(''));
}

function indentText(indent: Value): string | undefined {
  if (indent === null) return undefined;
  if (typeof indent === 'string') return indent;
  if (typeof indent === 'boolean') return indent ? ' ' : '';
  if (typeof indent === 'bigint') return ' '.repeat(limited(String(indent < 0n ? 0n : indent)));
  throw typeError(`the indent of tojson must be a number or a text, not ${typeName(indent)}`);
}

function separatorsOf(pair: readonly Value[]): string[] {
  if (pair.length === 2 && pair.every((each) => typeof each === 'string')) return pair as string[];
  throw typeError('the separators of tojson must be two texts');
}

/** `line`: the line end and indentation of the level that the value stands on. */
function write(runtime: Runtime, value: Value, out: string[], line: string, style: Style): void {
  runtime.budget.step();
  if (value === null) out.push('null');
  else if (typeof value === 'boolean') out.push(value ? 'true' : 'false');
  else if (typeof value === 'bigint') out.push(String(value));
  else if (typeof value === 'number') out.push(floatText(value));
  else if (typeof value === 'string' || value instanceof Markup) {
    const text = value instanceof Markup ? value.text : value;
    runtime.budget.text(text.length);
    out.push(quote(runtime, text, style.ascii));
  } else if (Array.isArray(value) || value instanceof Tuple) {
    const items = value instanceof Tuple ? value.items : value;
    container(runtime, out, line, style, '[]', items, (item, inner) => write(runtime, item, out, inner, style));
  } else if (value instanceof Dict) {
    let entries = [...value.entries()].map(([key, item]) => [keyText(key), item, key] as const);
    if (style.sortKeys) {
      entries = entries.sort((a, b) => runtime.compare(a[2], b[2]));
    }
    container(runtime, out, line, style, '{}', entries, ([key, item], inner) => {
      out.push(quote(runtime, key, style.ascii), style.keySeparator);
      write(runtime, item, out, inner, style);
    });
  } else {
    const reason = value instanceof Undefined ? `: ${value.reason}` : '';
    throw typeError(`a value of type ${typeName(value)} cannot be written as JSON${reason}`);
  }
}

function container<T>(
  runtime: Runtime,
  out: string[],
  line: string,
  style: Style,
  brackets: string,
  items: readonly T[],
  one: (item: T, line: string) => void,
): void {
  if (items.length === 0) {
    out.push(brackets);
    return;
  }
  runtime.budget.enter();
  const inner = style.indent === undefined ? '' : line + style.indent;
  out.push(brackets[0]!, inner);
  items.forEach((item, i) => {
    if (i > 0) out.push(style.itemSeparator, inner);
    runtime.budget.text(inner.length + style.itemSeparator.length + style.keySeparator.length);
    one(item, inner);
  });
  out.push(style.indent === undefined ? '' : line, brackets[1]!);
  runtime.budget.leave();
}

function floatText(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  return Number.isFinite(value) ? floatRepr(value) : value > 0 ? 'Infinity' : '-Infinity';
}

/** Keys become texts; those of numbers are written as the numbers are. */
function keyText(key: Value): string {
  if (typeof key === 'string') return key;
  if (key === null) return 'null';
  if (typeof key === 'boolean') return String(key);
  if (isNumber(key)) return typeof key === 'bigint' ? String(key) : floatText(key);
  throw typeError(`keys must be str, int, float, bool or None, not ${typeName(key)}`);
}

const SHORT: Readonly<Record<string, string>> = {
  '"': '\\"',
  '\\': '\\\\',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
  '\b': '\\b',
  '\f': '\\f',
};

function quote(runtime: Runtime, text: string, ascii: boolean): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is escaped
  const pattern = ascii ? /["\\]|[^ -~]/g : /["\\\0-\x1f]/g;
  const escaped = (unit: string): string => SHORT[unit] ?? `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
  const inside = text.replace(pattern, escaped);
  // Each escape is made by itself, and escapes of escapes double.
  runtime.budget.text(SLOW * (inside.length - text.length));
  return `"${inside}"`;
}
