// JSON Schema to an automaton that accepts JSON texts of that schema. What a text may look like: properties in the order of the
// schema, further ones behind them; between its parts nothing, a space, or a line break with up to 16 spaces; strings as
// JSON.stringify writes them. Each of these is a choice that leaves a model its habits and keeps it from endless white space.

import type { Automaton, NodeId, RuleId } from './automaton.ts';
import { AutomatonBuilder } from './automaton.ts';
import { type Bounds, writeIntegers, writeNumbers } from './numbers.ts';
import { textsMatching } from './pattern.ts';
import { isOpen, type Plain, type Schema, SchemaReader, saysAnything, type Type } from './schema-keywords.ts';
import { overLimit, StructureError } from './structure-error.ts';
import { ANY_TEXT, both, contains, ofLength, otherThan, type TextSet, writeStrings, writeTexts } from './text-set.ts';

/** No text that a model writes has more: what may be longer is written up to here. */
const MOST_ITEMS = 1000;
const MOST_CHARACTERS = 2000;
/** Spaces behind a line break. */
const MOST_INDENT = 16;
/** Values of a list without repetitions are told apart by which are taken: twice as many places for each. */
const MOST_UNIQUE = 10;

/** Throws StructureError for what cannot be enforced, StructureLimitError for what is too large. */
export function automatonOfSchema(schema: Schema): Automaton {
  return new SchemaWriter(schema).automaton();
}

/** As the formats are defined, in the part of them that all validators take. */
const FORMATS: Readonly<Record<string, string>> = {
  date: '^(19|20)\\d\\d-((01|03|05|07|08|10|12)-(0[1-9]|[12]\\d|3[01])|(04|06|09|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))$',
  time: '^([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-](0\\d|1[0-2]):[0-5]\\d)$',
  'date-time':
    '^(19|20)\\d\\d-((01|03|05|07|08|10|12)-(0[1-9]|[12]\\d|3[01])|(04|06|09|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))' +
    'T([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-](0\\d|1[0-2]):[0-5]\\d)$',
  uuid: '^[0-9a-f]{8}-[0-9a-f]{4}-[1-5][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$',
  email: '^[a-z0-9]{1,24}([._-][a-z0-9]{1,24}){0,3}@([a-z0-9]{1,24}[.]){1,3}[a-z]{2,12}$',
  ipv4: '^((25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]\\d|\\d)\\.){3}(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]\\d|\\d)$',
  ipv6: '^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$',
  hostname: '^([a-z0-9]{1,24}(-[a-z0-9]{1,24}){0,1}[.]){0,4}[a-z]{2,12}$',
  uri: '^https?://([a-z0-9]{1,24}[.]){1,3}[a-z]{2,12}(/[A-Za-z0-9_~-]{1,48}){0,8}/?(\\?[a-z0-9_]{1,24}=[A-Za-z0-9_-]{1,48})?$',
};

/** Writes the rules of one schema, or of several, each with a root of its own, into one automaton. */
export class SchemaWriter {
  readonly #builder = new AutomatonBuilder();
  #reader: SchemaReader;
  readonly #root: Schema;
  /** By schema, so that schemas may refer to each other in circles. */
  readonly #rules = new Map<Schema, RuleId>();
  readonly #waiting: [Schema, RuleId][] = [];
  readonly #shared = new Map<string, RuleId>();
  #schemas = 0;
  /** What every string and name within must belong to. */
  readonly #within: TextSet;

  /** `within`: what strings are, where not any. Values of an enum are those whose JSON has no text besides. */
  constructor(schema: Schema, within: TextSet = ANY_TEXT) {
    this.#root = schema;
    this.#within = within;
    this.#reader = new SchemaReader(schema);
  }

  get builder(): AutomatonBuilder {
    return this.#builder;
  }

  automaton(): Automaton {
    return this.finish(this.ruleFor(this.#root));
  }

  /** The rule of another schema, whose $refs are its own. */
  ruleFor(schema: Schema): RuleId {
    this.#reader = new SchemaReader(schema);
    this.#schemas += 1;
    const rule = this.#ruleOf(schema);
    for (let next = this.#waiting.pop(); next !== undefined; next = this.#waiting.pop()) this.#writeRule(...next);
    return rule;
  }

  finish(root: RuleId): Automaton {
    return this.#builder.finish(root);
  }

  #ruleOf(given: Schema): RuleId {
    const schema = this.#reader.target(given);
    let rule = this.#rules.get(schema);
    if (rule === undefined) {
      rule = this.#builder.rule(this.#reader.whereOf(schema));
      this.#rules.set(schema, rule);
      this.#waiting.push([schema, rule]);
    }
    return rule;
  }

  #writeRule(schema: Schema, rule: RuleId): void {
    for (const plain of this.#reader.alternatives(schema)) {
      const from = this.#builder.node();
      this.#builder.nothing(this.#builder.start(rule), from);
      this.#plain(plain, from, this.#builder.end(rule));
    }
  }

  /** Values as JSON, but for strings, which stand as they are and belong to `bare`. */
  writeBare(schema: Schema, bare: TextSet, from: NodeId, to: NodeId): void {
    this.#reader = new SchemaReader(schema);
    this.#schemas += 1;
    for (const plain of this.#reader.alternatives(schema)) {
      const { values } = plain;
      const texts = (values ?? [])
        .filter((value) => this.#reader.fitsBeside(plain, value))
        .filter((value) => typeof value !== 'string' || contains(bare, value))
        .filter((value) => typeof value === 'string' || this.#isWithin(value))
        .map((value) => (typeof value === 'string' ? value : jsonOf(value)));
      if (texts.includes('')) this.#builder.nothing(from, to);
      this.#builder.texts(
        from,
        texts.filter((text) => text !== ''),
        to,
      );
      if (values !== undefined) continue;
      // Where anything may stand, bare words and numbers are read as text.
      const wanted = saysAnything(plain) ? this.#wantedTypes(plain) : new Set<Type>(['object', 'array', 'string']);
      if (wanted.delete('string')) writeTexts(this.#builder, both(bare, this.#textsOf(plain)), from, to);
      for (const type of wanted) this.#ofType(type, plain, from, to);
    }
    for (let next = this.#waiting.pop(); next !== undefined; next = this.#waiting.pop()) this.#writeRule(...next);
  }

  #isWithin(value: unknown): boolean {
    return this.#within === ANY_TEXT || contains(this.#within, jsonOf(value));
  }

  /** A part that occurs in many places. */
  #call(name: string, write: (from: NodeId, to: NodeId) => void, from: NodeId, to: NodeId): void {
    let rule = this.#shared.get(name);
    if (rule === undefined) {
      rule = this.#builder.rule(name);
      this.#shared.set(name, rule);
      write(this.#builder.start(rule), this.#builder.end(rule));
    }
    this.#builder.call(from, rule, to);
  }

  #plain(plain: Plain, from: NodeId, to: NodeId): void {
    const { values } = plain;
    if (values !== undefined) {
      const fitting = values.filter((value) => this.#reader.fitsBeside(plain, value) && this.#isWithin(value));
      this.#builder.texts(from, fitting.map(jsonOf), to);
      return;
    }
    for (const type of this.#wantedTypes(plain)) this.#ofType(type, plain, from, to);
  }

  #wantedTypes(plain: Plain): Set<Type> {
    const wanted = new Set<Type>(plain.types ?? ['object', 'array', 'string', 'number', 'boolean', 'null']);
    for (const not of plain.not ?? []) this.#takeAway(wanted, plain, not);
    return wanted;
  }

  /** Of `not`, what says that whole types are out; a boolean or null that is out as a value is as well. */
  #takeAway(types: Set<Type>, { where }: Plain, not: Schema): void {
    for (const { types: out, ...others } of this.#reader.alternatives(not)) {
      const says = Object.entries(others).some(
        ([key, value]) =>
          key !== 'where' && JSON.stringify(value) !== JSON.stringify((NOTHING_SAID as Record<string, unknown>)[key]),
      );
      const isOther =
        out !== undefined &&
        ![...out].some(
          (type) =>
            types.has(type) ||
            (type === 'integer' && types.has('number')) ||
            (type === 'number' && types.has('integer')),
        );
      if (isOther) continue;
      if (says || out === undefined || (out.has('integer') && types.has('number'))) {
        throw new StructureError({
          what: 'response_schema: this "not" cannot be enforced',
          where,
          fix: 'use "not" for whole types, or beside enum; else leave it out, and check the result for it',
        });
      }
      for (const type of out) types.delete(type);
      if (out.has('number')) types.delete('integer');
    }
  }

  #ofType(type: Type, plain: Plain, from: NodeId, to: NodeId): void {
    const builder = this.#builder;
    if (type === 'null') builder.text(from, 'null', to);
    else if (type === 'boolean') for (const text of ['true', 'false']) builder.text(from, text, to);
    else if (type === 'string') this.#string(plain, from, to);
    else if (type === 'object') this.#object(plain, from, to);
    else if (type === 'array') this.#array(plain, from, to);
    else this.#number(type, plain, from, to);
  }

  #number(type: Type, plain: Plain, from: NodeId, to: NodeId): void {
    const bounds: Bounds = plain;
    const { divisor } = plain;
    const parts = 1 / divisor;
    // A whole number is a multiple of 1/2 and of 0.01, too.
    const whole = Number.isInteger(divisor) ? divisor : Number.isInteger(parts) ? 1 : undefined;
    if (whole === undefined) {
      throw new StructureError({
        what: `response_schema: multipleOf ${divisor} cannot be enforced`,
        where: plain.where,
        fix: 'give a whole number, or 1 divided by one',
      });
    }
    const name = `${type} ${plain.least} ${plain.most} ${plain.overLeast} ${plain.underMost} ${divisor}`;
    const write = (start: NodeId, end: NodeId) => {
      if (type === 'number' && divisor === 0) writeNumbers(this.#builder, bounds, start, end);
      else writeIntegers(this.#builder, bounds, divisor === 0 ? 1 : whole, start, end);
    };
    this.#call(name, write, from, to);
  }

  #string(plain: Plain, from: NodeId, to: NodeId): void {
    const texts = this.#textsOf(plain);
    if (texts === this.#within)
      this.#call('string', (start, end) => writeStrings(this.#builder, texts, start, end), from, to);
    else writeStrings(this.#builder, texts, from, to);
  }

  #textsOf(plain: Plain): TextSet {
    const { leastLength, mostLength, patterns, formats, where } = plain;
    let texts = this.#within;
    for (const pattern of patterns) texts = both(texts, textsMatching(pattern, where));
    // Other formats are annotations, as the standard has it.
    for (const format of formats) {
      const pattern = Object.hasOwn(FORMATS, format) ? FORMATS[format] : undefined;
      if (pattern !== undefined) texts = both(texts, textsMatching(pattern, where));
    }
    if (leastLength === 0 && mostLength === Number.POSITIVE_INFINITY) return texts;
    const most = mostLength > MOST_CHARACTERS ? Math.max(MOST_CHARACTERS, leastLength) : mostLength;
    const isFree = mostLength === Number.POSITIVE_INFINITY;
    return both(
      texts,
      leastLength > mostLength ? [{ edges: [], accepts: false }] : ofLength(leastLength, isFree ? mostLength : most),
    );
  }

  /** White space between the parts of an object or array. */
  #space(from: NodeId, to: NodeId): void {
    this.#call(
      'space',
      (start, end) => {
        this.#builder.nothing(start, end);
        this.#builder.text(start, ' ', end);
        let at = this.#builder.node();
        this.#builder.text(start, '\n', at);
        for (let i = 0; i < MOST_INDENT; i++) {
          const next = this.#builder.node();
          this.#builder.nothing(at, end);
          this.#builder.text(at, ' ', next);
          at = next;
        }
        this.#builder.nothing(at, end);
      },
      from,
      to,
    );
  }

  #comma(from: NodeId, to: NodeId): void {
    const behind = this.#builder.node();
    this.#builder.text(from, ',', behind);
    this.#space(behind, to);
  }

  /** `: ` and a value of the schema. */
  #value(schema: Schema, from: NodeId, to: NodeId): void {
    const [colon, value] = [this.#builder.node(), this.#builder.node()];
    this.#builder.text(from, ':', colon);
    this.#builder.nothing(colon, value);
    this.#builder.text(colon, ' ', value);
    this.#builder.call(value, this.#ruleOf(schema), to);
  }

  #object(plain: Plain, from: NodeId, to: NodeId): void {
    const builder = this.#builder;
    const { required, leastProperties: least, mostProperties: most, where } = plain;
    const further = plain.additional ?? isOpen(plain);
    const own = new Map(plain.properties);
    for (const name of required) if (!own.has(name)) own.set(name, this.#unlisted(plain, name));
    if (plain.namePatterns.size > 0) {
      for (const [name, schema] of own) {
        for (const pattern of plain.namePatterns.keys()) {
          if (schema === false || !contains(textsMatching(pattern, where), name)) continue;
          if (!plain.properties.has(name)) continue;
          throw new StructureError({
            what: `response_schema: the property ${JSON.stringify(name)} has a schema of its own and matches a pattern`,
            where,
            fix: 'leave it out of patternProperties',
          });
        }
      }
    }
    const names = [...own].filter(
      ([name, schema]) => required.has(name) || (schema !== false && this.#canBeCalled(plain, name)),
    );
    const loops = this.#furtherNames(plain, further, [...own.keys()]);
    // What is counted: properties written so far, or only whether there are any.
    const isCounted = least > 0 || most < Number.POSITIVE_INFINITY;
    if (isCounted && loops.length > 0 && least > required.size + 1) {
      throw new StructureError({
        what: `response_schema: minProperties ${least} of names that are not listed cannot be enforced`,
        where,
        fix: 'list the names under properties, or give minProperties 1',
      });
    }
    const mostWritten = Math.min(most, names.length + (loops.length > 0 ? MOST_ITEMS : 0));
    const lastCount = !isCounted
      ? 1
      : loops.length > 0
        ? Math.min(mostWritten, Math.max(least, 1) + MOST_ITEMS)
        : names.length;
    const [open, body, close] = [builder.node(), builder.node(), builder.node()];
    builder.text(from, '{', open);
    if (least === 0 && required.size === 0) builder.text(open, '}', to);
    this.#space(open, body);
    this.#space(close, this.#brace('}', to));

    const nodes = new Map<string, NodeId>();
    const at = (index: number, count: number): NodeId => {
      const key = `${index} ${count}`;
      let node = nodes.get(key);
      if (node === undefined) {
        node = builder.node();
        nodes.set(key, node);
      }
      return node;
    };
    builder.nothing(body, at(0, 0));
    const after = (count: number) => (isCounted ? count + 1 : 1);
    /** From `index, count`: a pair, with the comma before it that it needs. */
    const pair = (index: number, count: number, write: (start: NodeId) => void) => {
      const start = builder.node();
      if (count === 0) builder.nothing(at(index, count), start);
      else this.#comma(at(index, count), start);
      write(start);
    };
    names.forEach(([name, schema], index) => {
      for (let count = 0; count <= Math.min(index, lastCount); count++) {
        if (!required.has(name)) builder.nothing(at(index, count), at(index + 1, count));
        if (isCounted && count + 1 > most) continue;
        pair(index, count, (start) => {
          const colon = builder.node();
          builder.text(start, JSON.stringify(name), colon);
          this.#value(schema, colon, at(index + 1, after(count)));
        });
      }
    });
    const end = names.length;
    for (let count = 0; count <= lastCount; count++) {
      if (!nodes.has(`${end} ${count}`)) continue;
      for (const [texts, schema] of loops) {
        if (isCounted && count + 1 > mostWritten) continue;
        pair(end, count, (start) => {
          const colon = builder.node();
          this.#call(`name ${texts.key}`, (a, b) => writeStrings(builder, texts.set, a, b), start, colon);
          // The last count stands for all above where there is no limit.
          this.#value(schema, colon, at(end, count === lastCount ? count : after(count)));
        });
      }
      if (count > 0 && (!isCounted || (count >= least && count <= most))) builder.nothing(at(end, count), close);
    }
  }

  #brace(text: string, to: NodeId): NodeId {
    const node = this.#builder.node();
    this.#builder.text(node, text, to);
    return node;
  }

  /** What a required name may hold that `properties` does not list. */
  #unlisted({ additional, namePatterns, where }: Plain, name: string): Schema {
    for (const [pattern, schema] of namePatterns) if (contains(textsMatching(pattern, where), name)) return schema;
    return additional ?? true;
  }

  #canBeCalled({ names }: Plain, name: string): boolean {
    return names === undefined || this.#reader.fits(names, name);
  }

  /** Names beside those that are listed, with the schema of their values. */
  #furtherNames(plain: Plain, further: Schema, listed: readonly string[]) {
    const loops: (readonly [{ readonly key: string; readonly set: TextSet }, Schema])[] = [];
    const { namePatterns, names, where } = plain;
    if (
      namePatterns.size > 1 ||
      (namePatterns.size === 1 && plain.additional !== undefined && plain.additional !== false)
    ) {
      throw new StructureError({
        what: 'response_schema: patternProperties beside another pattern or additionalProperties cannot be enforced',
        where,
        fix: 'leave one pattern, with additionalProperties false or absent',
      });
    }
    const [pattern] = namePatterns;
    const schema = pattern?.[1] ?? further;
    if (schema === false) return loops;
    const called: TextSet[] = [];
    for (const of of names === undefined ? [undefined] : this.#reader.alternatives(names)) {
      if (of?.values !== undefined || of?.not !== undefined) {
        throw new StructureError({
          what: 'response_schema: propertyNames with enum, const or not cannot be enforced',
          where,
          fix: 'list the names under properties',
        });
      }
      if (of?.types === undefined || of.types.has('string'))
        called.push(of === undefined ? this.#within : this.#textsOf(of));
    }
    for (const [i, texts] of called.entries()) {
      let set = both(texts, listed.length === 0 ? ANY_TEXT : otherThan(listed));
      if (pattern !== undefined) set = both(set, textsMatching(pattern[0], where));
      loops.push([{ key: set === ANY_TEXT ? 'any' : `${this.#schemas} ${where} ${i}`, set }, schema]);
    }
    return loops;
  }

  #array(plain: Plain, from: NodeId, to: NodeId): void {
    const builder = this.#builder;
    const { prefix, items = true, leastItems: least } = plain;
    const most = items === false ? Math.min(plain.mostItems, prefix.length) : plain.mostItems;
    if (least > MOST_ITEMS) throw overLimit('items of an array', MOST_ITEMS);
    if (plain.unique && most > 1) {
      this.#uniqueArray(plain, from, to);
      return;
    }
    const [open, close] = [builder.node(), builder.node()];
    builder.text(from, '[', open);
    if (least === 0) builder.text(open, ']', to);
    this.#space(close, this.#brace(']', to));
    if (most === 0) return;
    const start = builder.node();
    this.#space(open, start);
    let at = start;
    const isEndless = most === Number.POSITIVE_INFINITY;
    // Those that are written one by one; behind them, without a limit, any number alike.
    const single = isEndless ? Math.max(least, prefix.length, 1) : Math.min(most, Math.max(MOST_ITEMS, least));
    if (prefix.length > MOST_ITEMS) throw overLimit('items of an array', MOST_ITEMS);
    for (let i = 0; i < single; i++) {
      const schema = prefix[i] ?? items;
      const behind = builder.node();
      builder.call(at, this.#ruleOf(schema), behind);
      if (i + 1 >= least) builder.nothing(behind, close);
      if (i + 1 === single && isEndless) {
        const again = builder.node();
        this.#comma(behind, again);
        builder.call(again, this.#ruleOf(items), behind);
      }
      if (i + 1 < single) {
        at = builder.node();
        this.#comma(behind, at);
      }
    }
  }

  /** A list of different values out of a few. */
  #uniqueArray({ prefix, items = true, leastItems, mostItems, where }: Plain, from: NodeId, to: NodeId): void {
    const builder = this.#builder;
    const alternatives = prefix.length > 0 ? [] : this.#reader.alternatives(items);
    const values = alternatives.flatMap((plain) => {
      const some = plain.values ?? (plain.types?.size === 1 && plain.types.has('boolean') ? [false, true] : undefined);
      return some?.filter((value) => this.#reader.fitsBeside(plain, value)).map(jsonOf) ?? [];
    });
    const isFew = alternatives.length > 0 && alternatives.every((plain) => plain.values ?? plain.types?.has('boolean'));
    const texts = [...new Set(values)];
    if (!isFew || texts.length > MOST_UNIQUE) {
      throw new StructureError({
        what: `response_schema: uniqueItems can be enforced for items of an enum of up to ${MOST_UNIQUE} values only`,
        where,
        fix: 'leave uniqueItems out, and check the result for it',
      });
    }
    const [open, close] = [builder.node(), builder.node()];
    builder.text(from, '[', open);
    if (leastItems === 0) builder.text(open, ']', to);
    this.#space(close, this.#brace(']', to));
    const nodes = new Map<number, NodeId>();
    const walk = (taken: number, count: number): NodeId => {
      const known = nodes.get(taken);
      if (known !== undefined) return known;
      const node = builder.node();
      nodes.set(taken, node);
      if (count > 0 && count >= leastItems) builder.nothing(node, close);
      if (count === mostItems || count === texts.length) return node;
      const next = builder.node();
      if (count === 0) builder.nothing(node, next);
      else this.#comma(node, next);
      texts.forEach((text, i) => {
        if ((taken & (1 << i)) === 0) builder.text(next, text, walk(taken | (1 << i), count + 1));
      });
      return node;
    };
    this.#space(open, walk(0, 0));
  }
}

function jsonOf(value: unknown): string {
  return JSON.stringify(value);
}

/** The fields of a plain schema that says nothing beside its types. */
const NOTHING_SAID = {
  properties: new Map(),
  required: new Set(),
  namePatterns: new Map(),
  leastProperties: 0,
  mostProperties: Infinity,
  prefix: [],
  leastItems: 0,
  mostItems: Infinity,
  unique: false,
  leastLength: 0,
  mostLength: Infinity,
  patterns: [],
  formats: [],
  least: -Infinity,
  most: Infinity,
  overLeast: false,
  underMost: false,
  divisor: 0,
};
