// What a JSON Schema says, taken apart: `alternatives` turns a schema with its $refs, allOf, anyOf and oneOf into a list of
// plain ones, each a set of values described keyword by keyword; a value fits the schema if it fits one of them.
//
// Only what can be enforced is taken: for any keyword that cannot, StructureError says so. What a keyword leaves open may be
// narrowed (an object that lists its properties gets no others unless additionalProperties is there): every text that comes
// out fits the schema, not every text that fits can come out.

import { textsMatching } from './pattern.ts';
import { overLimit, StructureError } from './structure-error.ts';
import { contains } from './text-set.ts';

export type Schema = boolean | { readonly [keyword: string]: unknown };
type Keywords = { readonly [keyword: string]: unknown };

export const TYPES = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null'] as const;
export type Type = (typeof TYPES)[number];

/** One set of values. Absent: nothing is said. */
export type Plain = {
  readonly where: string;
  readonly types?: ReadonlySet<Type>;
  /** enum, const. */
  readonly values?: readonly unknown[];
  readonly not?: readonly Schema[];
  readonly properties: ReadonlyMap<string, Schema>;
  readonly required: ReadonlySet<string>;
  readonly additional?: Schema;
  readonly namePatterns: ReadonlyMap<string, Schema>;
  readonly names?: Schema;
  readonly leastProperties: number;
  readonly mostProperties: number;
  readonly prefix: readonly Schema[];
  readonly items?: Schema;
  readonly leastItems: number;
  readonly mostItems: number;
  readonly unique: boolean;
  readonly leastLength: number;
  readonly mostLength: number;
  readonly patterns: readonly string[];
  readonly formats: readonly string[];
  readonly least: number;
  readonly most: number;
  readonly overLeast: boolean;
  readonly underMost: boolean;
  readonly divisor: number;
};

const MAX_ALTERNATIVES = 256;
/** A schema within a schema; real ones have 20. */
const MAX_DEPTH = 64;
const MAX_SCHEMAS = 20_000;
/** Of those that allOf and its kin make of others. */
const MAX_JOINED = 4000;

/** They say nothing about which values fit. */
const ANNOTATIONS = new Set([
  ...['$schema', '$id', 'id', '$comment', '$defs', 'definitions', '$anchor', 'title', 'description', 'default'],
  ...['examples', 'example', 'deprecated', 'readOnly', 'writeOnly', 'contentEncoding', 'contentMediaType'],
  ...['contentSchema', '$vocabulary', 'nullable'],
]);

const JOINING = ['$ref', 'allOf', 'anyOf', 'oneOf'] as const;

const PLAIN_KEYWORDS = new Set([
  ...['type', 'enum', 'const', 'not', 'properties', 'required', 'additionalProperties', 'patternProperties'],
  ...['propertyNames', 'minProperties', 'maxProperties', 'unevaluatedProperties', 'prefixItems', 'items'],
  ...[
    'additionalItems',
    'unevaluatedItems',
    'minItems',
    'maxItems',
    'uniqueItems',
    'minLength',
    'maxLength',
    'pattern',
  ],
  ...['format', 'minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf'],
]);

/** Part of the standard, and beyond what an automaton does, or not worth what it would take. */
const BEYOND = new Set([
  ...['if', 'then', 'else', 'contains', 'minContains', 'maxContains', 'dependentRequired', 'dependentSchemas'],
  ...['dependencies', '$dynamicRef', '$recursiveRef'],
]);

const OBJECT_KEYWORDS = /^(properties|required|additionalProperties|patternProperties|propertyNames|m\w+Properties)$/;
const ARRAY_KEYWORDS = /^(prefixItems|items|additionalItems|m\w+Items|uniqueItems)$/;
const STRING_KEYWORDS = /^(m\w+Length|pattern|format)$/;
const NUMBER_KEYWORDS = /^(minimum|maximum|exclusiveM\w+|multipleOf)$/;

export class SchemaReader {
  readonly #root: Schema;
  readonly #known = new Map<object, readonly Plain[]>();
  /** Schemas that are being read: one that is met again within itself means itself. */
  readonly #open = new Set<object>();
  readonly #places = new Map<object, string>();
  readonly #ids = new Map<object, number>();
  #made = 0;

  constructor(root: Schema) {
    this.#root = root;
    this.#findPlaces(root, '#', 0);
  }

  /** A JSON pointer, for messages. */
  whereOf(schema: Schema): string {
    return typeof schema === 'boolean' ? 'the schema' : (this.#places.get(schema) ?? 'the schema');
  }

  /** The schema that a $ref alone stands for, itself otherwise. */
  target(schema: Schema): Schema {
    let at = schema;
    for (let i = 0; i < MAX_DEPTH; i++) {
      if (typeof at === 'boolean' || typeof at.$ref !== 'string') return at;
      if (Object.keys(at).some((key) => key !== '$ref' && !ANNOTATIONS.has(key) && isKnown(key))) return at;
      at = this.#resolve(at.$ref, this.whereOf(at));
    }
    throw this.#error(schema, 'the $ref leads to itself', 'let it end at a schema');
  }

  alternatives(given: Schema): readonly Plain[] {
    const schema = this.target(given);
    if (schema === true) return [EVERYTHING];
    if (schema === false) return [];
    const known = this.#known.get(schema);
    if (known !== undefined) return known;
    if (this.#open.has(schema)) {
      throw this.#error(schema, 'the schema contains itself without an object or array between', 'take the loop out');
    }
    if (this.#open.size > MAX_DEPTH) throw overLimit('schemas within schemas', MAX_DEPTH);
    this.#open.add(schema);
    const found = this.#read(schema);
    this.#open.delete(schema);
    this.#known.set(schema, found);
    return found;
  }

  #read(schema: Keywords): readonly Plain[] {
    let list: readonly Plain[] = [this.#plain(schema)];
    const join = (others: readonly Plain[]) => {
      list = this.#different(list.flatMap((a) => others.flatMap((b) => this.#merged(a, b) ?? [])));
      if (list.length > MAX_ALTERNATIVES) throw overLimit('alternatives of a schema', MAX_ALTERNATIVES);
    };
    if (schema.$ref !== undefined) join(this.alternatives(this.#resolve(schema.$ref, this.whereOf(schema))));
    for (const part of this.#list(schema, 'allOf')) join(this.alternatives(part));
    const any = this.#list(schema, 'anyOf');
    if (any.length > 0) join(any.flatMap((part) => this.alternatives(part)));
    const one = this.#list(schema, 'oneOf');
    if (one.length > 0) {
      const parts = one.map((part) => this.alternatives(part));
      // With what stands beside oneOf: it may be what tells them apart.
      const whole =
        list.length === 1 ? parts.map((part) => part.flatMap((b) => this.#merged(list[0]!, b) ?? [])) : parts;
      whole.forEach((written, i) => {
        parts.forEach((other, j) => {
          if (i === j || written.every((a) => other.every((b) => this.#never(a, b)))) return;
          throw this.#error(
            schema,
            `the alternatives ${i + 1} and ${j + 1} of oneOf may both fit a value`,
            'use anyOf, or give each a required property with a const of its own',
          );
        });
      });
      join(parts.flat());
    }
    return list;
  }

  /** Alternatives that say the same are one. */
  #different(list: readonly Plain[]): readonly Plain[] {
    if (list.length < 3) return list;
    const idOf = (schema: object): number => {
      const id = this.#ids.get(schema) ?? this.#ids.size;
      this.#ids.set(schema, id);
      return id;
    };
    const keyOfField = (field: unknown): unknown => {
      if (field instanceof Map) return [...field].map(([name, schema]) => [name, keyOfField(schema)]);
      if (field instanceof Set) return [...field].sort();
      if (Array.isArray(field)) return field.map(keyOfField);
      if (typeof field === 'object' && field !== null) return { id: idOf(field) };
      return typeof field === 'number' ? String(field) : field;
    };
    const found = new Map<string, Plain>();
    for (const plain of list) {
      const key = JSON.stringify(
        Object.entries(plain).map(([name, field]) =>
          name === 'where' ? '' : name === 'values' ? { id: idOf(field as object) } : [name, keyOfField(field)],
        ),
      );
      if (!found.has(key)) found.set(key, plain);
    }
    return [...found.values()];
  }

  #plain(schema: Keywords): Plain {
    const where = this.whereOf(schema);
    for (const keyword of Object.keys(schema)) {
      if (!BEYOND.has(keyword)) continue;
      throw this.#error(schema, `${keyword} cannot be enforced`, 'leave it out, and check the result for it');
    }
    const number = (name: string, free: number, isCount: boolean): number => {
      const value = schema[name];
      if (value === undefined) return free;
      if (typeof value === 'number' && Number.isFinite(value) && (!isCount || (Number.isInteger(value) && value >= 0)))
        return value;
      throw this.#error(schema, `${name} is ${show(value)}`, `give ${isCount ? 'a whole number from 0' : 'a number'}`);
    };
    const count = (name: string, free: number) => number(name, free, true);
    const types = this.#types(schema);
    const prefix = Array.isArray(schema.items) ? schema.items : schema.prefixItems;
    const rest = Array.isArray(schema.items) ? schema.additionalItems : schema.items;
    const items = rest ?? (schema.unevaluatedItems === false ? false : undefined);
    const additional =
      schema.unevaluatedProperties === undefined || schema.additionalProperties !== undefined
        ? schema.additionalProperties
        : this.#schema(schema, 'unevaluatedProperties') === false
          ? undefined
          : schema.unevaluatedProperties;
    const values = this.#values(schema);
    // Draft 4 has them as booleans beside the bounds.
    const over = schema.exclusiveMinimum === true ? 'minimum' : 'exclusiveMinimum';
    const under = schema.exclusiveMaximum === true ? 'maximum' : 'exclusiveMaximum';
    const exclusive = (name: string, free: number) =>
      typeof schema[name] === 'boolean' ? free : number(name, free, false);
    const [low, overLow] = [number('minimum', -Infinity, false), exclusive(over, -Infinity)];
    const [high, underHigh] = [number('maximum', Infinity, false), exclusive(under, Infinity)];
    const divisor = number('multipleOf', 0, false);
    if (schema.multipleOf !== undefined && divisor <= 0) {
      throw this.#error(schema, `multipleOf is ${divisor}`, 'give a number above 0');
    }
    const asSchema = (name: string, value: unknown) =>
      value === undefined ? undefined : this.#asSchema(schema, name, value);
    return compact({
      where,
      types,
      values,
      not: schema.not === undefined ? undefined : [this.#schema(schema, 'not')],
      properties: new Map(Object.entries(this.#map(schema, 'properties'))),
      required: new Set(this.#names(schema)),
      additional: asSchema('additionalProperties', additional),
      namePatterns: new Map(Object.entries(this.#map(schema, 'patternProperties'))),
      names: asSchema('propertyNames', schema.propertyNames),
      leastProperties: count('minProperties', 0),
      mostProperties: count('maxProperties', Infinity),
      prefix: this.#listOf(schema, 'prefixItems', prefix),
      items: asSchema('items', items),
      leastItems: count('minItems', 0),
      mostItems: count('maxItems', Infinity),
      unique: schema.uniqueItems === true,
      leastLength: count('minLength', 0),
      mostLength: count('maxLength', Infinity),
      patterns: schema.pattern === undefined ? [] : [this.#text(schema, 'pattern')],
      formats: schema.format === undefined ? [] : [this.#text(schema, 'format')],
      least: Math.max(low, overLow),
      most: Math.min(high, underHigh),
      overLeast: overLow >= low && Number.isFinite(overLow),
      underMost: underHigh <= high && Number.isFinite(underHigh),
      divisor,
    });
  }

  #types(schema: Keywords): ReadonlySet<Type> | undefined {
    if (schema.type === undefined) {
      // Of what says something of one kind of value only, that kind is written: the others fit, and are not meant.
      if (schema.enum !== undefined || schema.const !== undefined) return undefined;
      const keys = Object.keys(schema);
      const meant: Type[] = [];
      if (keys.some((key) => OBJECT_KEYWORDS.test(key))) meant.push('object');
      if (keys.some((key) => ARRAY_KEYWORDS.test(key))) meant.push('array');
      if (keys.some((key) => STRING_KEYWORDS.test(key))) meant.push('string');
      if (keys.some((key) => NUMBER_KEYWORDS.test(key))) meant.push('number');
      return meant.length === 0 ? undefined : new Set(meant);
    }
    const list: readonly unknown[] = Array.isArray(schema.type) ? schema.type : [schema.type];
    for (const type of list) {
      if ((TYPES as readonly unknown[]).includes(type)) continue;
      throw this.#error(schema, `the type ${show(type)} is unknown`, `use ${TYPES.join(', ')}`);
    }
    const types = new Set(list as Type[]);
    if (types.has('number')) types.delete('integer');
    return types;
  }

  #values(schema: Keywords): readonly unknown[] | undefined {
    if (schema.enum !== undefined && !Array.isArray(schema.enum)) {
      throw this.#error(schema, `enum is ${show(schema.enum)}`, 'give a list of values');
    }
    const listed = schema.enum as readonly unknown[] | undefined;
    if (!('const' in schema)) return listed;
    return listed === undefined || isAmong(listed, schema.const) ? [schema.const] : [];
  }

  #names(schema: Keywords): readonly string[] {
    const { required } = schema;
    // Draft 3 had it as a boolean at the property; some tools still write that.
    if (required === undefined || typeof required === 'boolean') return [];
    if (Array.isArray(required) && required.every((name) => typeof name === 'string')) return required;
    throw this.#error(schema, `required is ${show(required)}`, 'give a list of names');
  }

  #text(schema: Keywords, name: string): string {
    const value = schema[name];
    if (typeof value === 'string') return value;
    throw this.#error(schema, `${name} is ${show(value)}`, 'give a text');
  }

  #list(schema: Keywords, name: string): readonly Schema[] {
    const found = this.#listOf(schema, name, schema[name]);
    if (schema[name] === undefined || found.length > 0) return found;
    throw this.#error(schema, `${name} is empty`, 'give one schema at least');
  }

  #listOf(schema: Keywords, name: string, value: unknown): readonly Schema[] {
    if (value === undefined) return [];
    if (!Array.isArray(value)) throw this.#error(schema, `${name} is ${show(value)}`, 'give a list of schemas');
    return value.map((part) => this.#asSchema(schema, name, part));
  }

  #map(schema: Keywords, name: string): Readonly<Record<string, Schema>> {
    const value = schema[name];
    if (value === undefined) return {};
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw this.#error(schema, `${name} is ${show(value)}`, 'give an object of schemas');
    }
    for (const part of Object.values(value)) this.#asSchema(schema, name, part);
    return value as Readonly<Record<string, Schema>>;
  }

  #schema(schema: Keywords, name: string): Schema {
    return this.#asSchema(schema, name, schema[name]);
  }

  #asSchema(schema: Keywords, name: string, value: unknown): Schema {
    if (typeof value === 'boolean') return value;
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Keywords;
    throw this.#error(schema, `${name} has ${show(value)} where a schema belongs`, 'give an object, true or false');
  }

  /** Values that fit both; undefined where their types say that there are none. */
  #merged(a: Plain, b: Plain): Plain | undefined {
    if (a === EVERYTHING) return b;
    if (b === EVERYTHING) return a;
    const types = commonTypes(a.types, b.types);
    if (types?.size === 0) return undefined;
    const values =
      a.values === undefined || b.values === undefined
        ? (a.values ?? b.values)
        : a.values.filter((value) => isAmong(b.values!, value));
    if (values?.length === 0) return undefined;
    const properties = new Map<string, Schema>();
    for (const name of new Set([...a.properties.keys(), ...b.properties.keys()])) {
      properties.set(name, this.#all([propertyOf(a, name), propertyOf(b, name)]));
    }
    const namePatterns = new Map(a.namePatterns);
    for (const [pattern, schema] of b.namePatterns) {
      namePatterns.set(pattern, this.#all([namePatterns.get(pattern), schema]));
    }
    if (a.namePatterns.size > 0 && b.namePatterns.size > 0 && namePatterns.size > 1) {
      throw this.#errorAt(a.where, 'several patternProperties at once cannot be enforced', 'leave one');
    }
    const longest = a.prefix.length >= b.prefix.length ? a : b;
    const shorter = longest === a ? b : a;
    const either = (x: Schema | undefined, y: Schema | undefined) =>
      x === undefined && y === undefined ? undefined : this.#all([x, y]);
    const [lower, higher] = [a.least > b.least ? a : b, a.most < b.most ? a : b];
    return compact({
      where: a.where,
      types,
      values,
      not: a.not === undefined && b.not === undefined ? undefined : [...(a.not ?? []), ...(b.not ?? [])],
      properties,
      required: new Set([...a.required, ...b.required]),
      additional: either(a.additional, b.additional),
      namePatterns,
      names: either(a.names, b.names),
      leastProperties: Math.max(a.leastProperties, b.leastProperties),
      mostProperties: Math.min(a.mostProperties, b.mostProperties),
      prefix: longest.prefix.map((schema, i) => this.#all([schema, shorter.prefix[i] ?? shorter.items])),
      items: either(a.items, b.items),
      leastItems: Math.max(a.leastItems, b.leastItems),
      mostItems: Math.min(a.mostItems, b.mostItems),
      unique: a.unique || b.unique,
      leastLength: Math.max(a.leastLength, b.leastLength),
      mostLength: Math.min(a.mostLength, b.mostLength),
      patterns: [...new Set([...a.patterns, ...b.patterns])],
      formats: [...new Set([...a.formats, ...b.formats])],
      least: lower.least,
      most: higher.most,
      overLeast: lower.overLeast || (a.least === b.least && (a.overLeast || b.overLeast)),
      underMost: higher.underMost || (a.most === b.most && (a.underMost || b.underMost)),
      divisor: a.divisor === 0 || b.divisor === 0 ? a.divisor || b.divisor : this.#multiple(a, b),
    });
  }

  #multiple(a: Plain, b: Plain): number {
    const [x, y] = [a.divisor, b.divisor];
    if (x === y) return x;
    if (!Number.isInteger(x) || !Number.isInteger(y)) {
      throw this.#errorAt(a.where, `multipleOf ${x} and ${y} together cannot be enforced`, 'give one of them');
    }
    let [m, n] = [x, y];
    while (n !== 0) [m, n] = [n, m % n];
    return (x / m) * y;
  }

  #all(parts: readonly (Schema | undefined)[]): Schema {
    const given = [...new Set(parts.filter((part) => part !== undefined && part !== true))] as Schema[];
    if (given.includes(false)) return false;
    if (given.length <= 1) return given[0] ?? true;
    if (++this.#made > MAX_JOINED) throw overLimit('schemas joined', MAX_JOINED);
    const joined = { allOf: given };
    this.#places.set(joined, this.whereOf(given[0]!));
    return joined;
  }

  /** Whether a value fits. `plain`: in full, whatever its types leave out. */
  fits(schema: Schema, value: unknown): boolean {
    return this.alternatives(schema).some((plain) => this.fitsPlain(plain, value));
  }

  fitsPlain(plain: Plain, value: unknown): boolean {
    if (plain.values !== undefined && !isAmong(plain.values, value)) return false;
    return this.fitsBeside(plain, value);
  }

  /** Whether a value of `values` fits what else is said. */
  fitsBeside(plain: Plain, value: unknown): boolean {
    if (plain.types !== undefined && ![...plain.types].some((type) => isOf(type, value))) return false;
    if (plain.not?.some((schema) => this.fits(schema, value))) return false;
    if (typeof value === 'string') {
      const length = [...value].length;
      if (length < plain.leastLength || length > plain.mostLength) return false;
      return plain.patterns.every((pattern) => this.#finds(plain, pattern, value));
    }
    if (typeof value === 'number') {
      if (value < plain.least || value > plain.most) return false;
      if ((plain.overLeast && value === plain.least) || (plain.underMost && value === plain.most)) return false;
      return plain.divisor === 0 || Number.isInteger(value / plain.divisor);
    }
    if (Array.isArray(value)) {
      if (value.length < plain.leastItems || value.length > plain.mostItems) return false;
      if (plain.unique && value.some((item, i) => value.slice(0, i).some((other) => same(item, other)))) return false;
      return value.every((item, i) => this.fits(plain.prefix[i] ?? plain.items ?? true, item));
    }
    if (typeof value !== 'object' || value === null) return true;
    const names = Object.keys(value);
    if (names.length < plain.leastProperties || names.length > plain.mostProperties) return false;
    if ([...plain.required].some((name) => !names.includes(name))) return false;
    return names.every((name) => {
      if (plain.names !== undefined && !this.fits(plain.names, name)) return false;
      const item = (value as Keywords)[name];
      const matched = [...plain.namePatterns].filter(([pattern]) => this.#finds(plain, pattern, name));
      if (!matched.every(([, schema]) => this.fits(schema, item))) return false;
      const own = plain.properties.get(name) ?? (matched.length > 0 ? true : (plain.additional ?? true));
      return this.fits(own, item);
    });
  }

  /** Not with the machine's own expressions, which take any time for a text that was made for it. */
  #finds({ where }: Plain, pattern: string, text: string): boolean {
    return contains(textsMatching(pattern, where), text);
  }

  /** Whether nothing that is written for `a` can fit `b`: sure, not exact. */
  #never(a: Plain, b: Plain, depth = 0): boolean {
    if (depth > 8) return false;
    if (a.values !== undefined)
      return a.values.every((value) => !this.fitsBeside(a, value) || !this.fitsPlain(b, value));
    if (b.values !== undefined) {
      return b.values.every((value) => a.types !== undefined && ![...a.types].some((type) => isOf(type, value)));
    }
    // What `b` says of one kind of value says nothing of the others, which fit it, whatever is written for it.
    const [of, other] = [a.types, b.types];
    const types = of === undefined ? undefined : commonTypes(of, other);
    if (types === undefined) return false;
    return [...types].every((type) => {
      if (type === 'object') return this.#neverObject(a, b, depth);
      if (type === 'string') return a.leastLength > b.mostLength || a.mostLength < b.leastLength;
      if (type === 'number' || type === 'integer') {
        return (
          a.least > b.most ||
          a.most < b.least ||
          (a.least === b.most && (a.overLeast || b.underMost)) ||
          (a.most === b.least && (a.underMost || b.overLeast))
        );
      }
      if (type === 'array') return a.leastItems > b.mostItems || a.mostItems < b.leastItems;
      return false;
    });
  }

  #neverObject(a: Plain, b: Plain, depth: number): boolean {
    const canHave = (name: string) =>
      a.properties.has(name) ||
      a.required.has(name) ||
      (a.additional ?? isOpen(a)) !== false ||
      a.namePatterns.size > 0;
    if ([...b.required].some((name) => !canHave(name))) return true;
    return [...a.required].some((name) => {
      const [own, wanted] = [a.properties.get(name), propertyOf(b, name)];
      if (wanted === false && b.namePatterns.size === 0) return true;
      if (own === undefined || wanted === undefined) return false;
      return this.alternatives(own).every((x) => this.alternatives(wanted).every((y) => this.#never(x, y, depth + 1)));
    });
  }

  #resolve(ref: unknown, where: string): Schema {
    if (typeof ref !== 'string' || !ref.startsWith('#')) {
      throw this.#errorAt(
        where,
        `$ref ${show(ref)} is outside this schema`,
        'put the schema under $defs and refer to #/$defs/NAME',
      );
    }
    let at: unknown = this.#root;
    for (const part of ref.slice(1).split('/').slice(1)) {
      const key = decoded(part).replaceAll('~1', '/').replaceAll('~0', '~');
      at = typeof at === 'object' && at !== null && Object.hasOwn(at, key) ? (at as Keywords)[key] : undefined;
    }
    const isPointer = ref === '#' || ref.startsWith('#/');
    if (isPointer && (typeof at === 'boolean' || (typeof at === 'object' && at !== null && !Array.isArray(at)))) {
      return at as Schema;
    }
    throw this.#errorAt(where, `$ref ${show(ref)} leads nowhere`, 'refer to #/$defs/NAME');
  }

  #findPlaces(value: unknown, path: string, depth: number): void {
    if (typeof value !== 'object' || value === null) return;
    // A level of a schema has two of JSON.
    if (depth > 2 * MAX_DEPTH) throw overLimit('levels of a schema', MAX_DEPTH);
    if (this.#places.size > MAX_SCHEMAS) throw overLimit('parts of a schema', MAX_SCHEMAS);
    this.#places.set(value, path);
    for (const [key, part] of Object.entries(value)) {
      this.#findPlaces(part, `${path}/${key.slice(0, 100).replaceAll('~', '~0').replaceAll('/', '~1')}`, depth + 1);
    }
  }

  #error(schema: Schema, what: string, fix: string): StructureError {
    return this.#errorAt(this.whereOf(schema), what, fix);
  }

  #errorAt(where: string, what: string, fix: string): StructureError {
    return new StructureError({ what: `response_schema: ${what}`, where, fix });
  }
}

const EVERYTHING: Plain = {
  where: '#',
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

/** Whether an object gets names that its schema does not list: where it lists none. */
export function isOpen({ properties, required, namePatterns }: Plain): boolean {
  return properties.size === 0 && required.size === 0 && namePatterns.size === 0;
}

/** Whether it says which values may stand there: not where any may. */
export function saysAnything({ types, values, not }: Plain): boolean {
  return types !== undefined || values !== undefined || not !== undefined;
}

function propertyOf(plain: Plain, name: string): Schema | undefined {
  return plain.properties.get(name) ?? plain.additional;
}

function isKnown(keyword: string): boolean {
  return PLAIN_KEYWORDS.has(keyword) || BEYOND.has(keyword) || (JOINING as readonly string[]).includes(keyword);
}

function commonTypes(a: ReadonlySet<Type> | undefined, b: ReadonlySet<Type> | undefined) {
  if (a === undefined || b === undefined) return a ?? b;
  const out = new Set([...a].filter((type) => b.has(type)));
  if ((a.has('integer') && b.has('number')) || (b.has('integer') && a.has('number'))) out.add('integer');
  return out;
}

function isOf(type: Type, value: unknown): boolean {
  if (type === 'null') return value === null;
  if (type === 'array') return Array.isArray(value);
  if (type === 'object') return typeof value === 'object' && value !== null && !Array.isArray(value);
  if (type === 'integer') return Number.isInteger(value);
  return typeof value === type;
}

const keys = new WeakMap<readonly unknown[], ReadonlySet<string>>();

/** Whether one of the values equals it. */
function isAmong(values: readonly unknown[], value: unknown): boolean {
  if (values.length < 8) return values.some((other) => same(value, other));
  let own = keys.get(values);
  if (own === undefined) {
    own = new Set(values.map(keyOf));
    keys.set(values, own);
  }
  return own.has(keyOf(value));
}

/** The same for equal JSON values. */
function keyOf(value: unknown): string {
  return JSON.stringify(value, (_, part: unknown) =>
    typeof part === 'object' && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}

/** Equal as JSON values. */
export function same(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const names = Object.keys(a);
  if (names.length !== Object.keys(b).length) return false;
  return names.every((name) => Object.hasOwn(b, name) && same((a as Keywords)[name], (b as Keywords)[name]));
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}

/** Without the fields that are undefined, as exactOptionalPropertyTypes wants it. */
function compact(fields: { [Name in keyof Plain]: Plain[Name] | undefined }): Plain {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Plain;
}
