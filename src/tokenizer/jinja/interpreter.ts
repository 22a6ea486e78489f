// Runs a parsed template. Scopes are Jinja's: a condition shares the scope around it; the body of a loop (each round
// anew), of a macro, of `with` and of blocks that catch their output has its own, and what is set there ends with it.

import { runFilter } from './filters.ts';
import { JinjaError, typeError } from './jinja-error.ts';
import type { Runtime } from './runtime.ts';
import type { Arguments, Block, Expression, MacroSyntax, Statement, Target } from './syntax.ts';
import { runTest } from './tests.ts';
import {
  Callable,
  Dict,
  given,
  Loop,
  type Named,
  Namespace,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from './values.ts';

export class Scope {
  readonly #names = new Map<string, Value>();
  readonly #outer: Scope | undefined;

  constructor(outer?: Scope) {
    this.#outer = outer;
  }

  find(name: string): Value | undefined {
    for (let scope: Scope | undefined = this; scope !== undefined; scope = scope.#outer) {
      const value = scope.#names.get(name);
      if (value !== undefined) return value;
    }
    return undefined;
  }

  set(name: string, value: Value): void {
    this.#names.set(name, value);
  }
}

/** What has been written: by the template, or by a macro or block whose output becomes a value. */
class Output {
  readonly #runtime: Runtime;
  readonly #parts: string[] = [];
  #length = 0;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  write(text: string): void {
    this.#length += text.length;
    this.#runtime.budget.textLength(this.#length);
    this.#parts.push(text);
  }

  text(): string {
    return this.#runtime.made(this.#parts.join(''));
  }
}

/** Why a block ended before its end. */
type Jump = 'break' | 'continue' | undefined;

const NOTHING: Named = new Map();

export class Interpreter {
  readonly #runtime: Runtime;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  render(template: Block, scope: Scope): string {
    return this.#captured((out) => this.#run(template, scope, out));
  }

  #captured(write: (out: Output) => void): string {
    const out = new Output(this.#runtime);
    write(out);
    return out.text();
  }

  // ---- statements ----

  #run(block: Block, scope: Scope, out: Output): Jump {
    for (const statement of block) {
      this.#runtime.budget.step();
      try {
        const jump = this.#statement(statement, scope, out);
        if (jump !== undefined) return jump;
      } catch (error) {
        if (error instanceof JinjaError) error.line ??= statement.line;
        throw error;
      }
    }
    return undefined;
  }

  #nested(block: Block, scope: Scope, out: Output): Jump {
    this.#runtime.budget.enter();
    const jump = this.#run(block, scope, out);
    this.#runtime.budget.leave();
    return jump;
  }

  #statement(statement: Statement, scope: Scope, out: Output): Jump {
    switch (statement.kind) {
      case 'text':
        out.write(statement.text);
        return undefined;
      case 'output':
        out.write(this.#runtime.str(this.#value(statement.value, scope)));
        return undefined;
      case 'if': {
        const taken = statement.branches.find(([test]) => this.#truth(test, scope));
        return this.#nested(taken?.[1] ?? statement.otherwise, scope, out);
      }
      case 'for':
        return this.#loop(statement, scope, out);
      case 'set':
        this.#assign(statement.target, this.#value(statement.value, scope), scope);
        return undefined;
      case 'set-block':
        return this.#capture(statement.body, statement.filter, scope, (value) => {
          this.#assign(statement.target, value, scope);
        });
      case 'filter':
        return this.#capture(statement.body, statement.filter, scope, (value) => out.write(this.#runtime.str(value)));
      case 'generation': {
        const inner = new Scope(scope);
        const text = this.#captured((body) => this.#nested(statement.body, inner, body));
        out.write(text);
        return undefined;
      }
      case 'with': {
        const inner = new Scope(scope);
        for (const [target, value] of statement.bindings) this.#assign(target, this.#value(value, scope), inner);
        return this.#nested(statement.body, inner, out);
      }
      case 'macro':
        scope.set(statement.macro.name, this.#macro(statement.macro, scope));
        return undefined;
      case 'call': {
        const { call, caller } = statement;
        if (call.kind !== 'call') throw typeError('a call tag needs a call');
        const { args, named } = this.#arguments(call.args, scope);
        const more = new Map([...named, ['caller', this.#macro(caller, scope)] as const]);
        out.write(this.#runtime.str(this.#runtime.call(this.#value(call.target, scope), args, more)));
        return undefined;
      }
      case 'break':
      case 'continue':
        return statement.kind;
    }
  }

  /** Runs a body aside. One that is left by break or continue leaves nothing behind. */
  #capture(body: Block, filter: Expression | undefined, scope: Scope, use: (value: Value) => void): Jump {
    const out = new Output(this.#runtime);
    const inner = new Scope(scope);
    const jump = this.#nested(body, inner, out);
    if (jump !== undefined) return jump;
    use(filter === undefined ? out.text() : this.#filtered(filter, out.text(), inner));
    return undefined;
  }

  /** A chain of filters whose first has no value of its own. */
  #filtered(filter: Expression, text: Value, scope: Scope): Value {
    if (filter.kind !== 'filter') throw typeError('not a filter');
    const value = filter.target === undefined ? text : this.#filtered(filter.target, text, scope);
    const { args, named } = this.#arguments(filter.args, scope);
    return runFilter(this.#runtime, filter.name, value, args, named);
  }

  #assign(target: Target, value: Value, scope: Scope): void {
    if (target.kind === 'name') scope.set(target.name, value);
    else if (target.kind === 'field') {
      const space = scope.find(target.name);
      if (!(space instanceof Namespace)) throw typeError('cannot assign attribute on non-namespace object');
      space.fields.set(target.field, value);
    } else {
      const items = this.#runtime.list(value);
      const expected = target.items.length;
      if (items.length > expected) throw typeError(`too many values to unpack (expected ${expected})`);
      if (items.length < expected) {
        throw typeError(`not enough values to unpack (expected ${expected}, got ${items.length})`);
      }
      target.items.forEach((each, i) => {
        this.#assign(each, items[i]!, scope);
      });
    }
  }

  #loop(statement: Statement & { readonly kind: 'for' }, scope: Scope, out: Output): Jump {
    return this.#loopOver(statement, this.#value(statement.iterable, scope), scope, out, 0);
  }

  #loopOver(
    statement: Statement & { readonly kind: 'for' },
    iterable: Value,
    scope: Scope,
    out: Output,
    depth: number,
  ): Jump {
    const rounds = new Rounds(this.#runtime, iterable, this.#filteredItems(statement, iterable, scope), depth);
    const loop = new Loop(
      (name) => rounds.attribute(name),
      ([items, ...rest]) => {
        if (!statement.recursive) {
          throw typeError("The loop must have the 'recursive' marker to be called recursively.");
        }
        if (items === undefined || rest.length > 0) throw typeError('loop() takes one argument');
        return this.#captured((inner) => {
          this.#runtime.budget.enter();
          this.#loopOver(statement, items, scope, inner, depth + 1);
          this.#runtime.budget.leave();
        });
      },
    );
    // Jinja notes a round at its end: one that is left by break or continue does not count for `else`.
    let any = false;
    for (let item = rounds.next(); item !== undefined; item = rounds.next()) {
      const round = new Scope(scope);
      this.#assign(statement.target, item.value, round);
      round.set('loop', loop);
      const jump = this.#nested(statement.body, round, out);
      if (jump === 'break') break;
      any ||= jump === undefined;
    }
    // A break in there belongs to the loop around this one.
    return any ? undefined : this.#nested(statement.otherwise, new Scope(scope), out);
  }

  /** The items that `if` after the loop's list lets through; undefined when it has no such test. */
  #filteredItems(
    statement: Statement & { readonly kind: 'for' },
    iterable: Value,
    scope: Scope,
  ): Generator<Value, void> | undefined {
    const { test, target } = statement;
    if (test === undefined) return undefined;
    const [runtime, assign, truth] = [this.#runtime, this.#assign.bind(this), this.#truth.bind(this)];
    return (function* () {
      for (const item of runtime.iterate(iterable)) {
        const inner = new Scope(scope);
        assign(target, item, inner);
        if (truth(test, inner)) yield item;
      }
    })();
  }

  #macro(syntax: MacroSyntax, scope: Scope): Callable {
    const { name, parameters, reads } = syntax;
    const names = parameters.map((parameter) => parameter.name);
    const hasCaller = reads.caller && !names.includes('caller');
    const call = (args: readonly Value[], named: Named): Value => {
      const rest = new Map(named);
      const inner = new Scope(scope);
      const values = parameters.map((parameter, i) => {
        const value = i < args.length ? args[i]! : rest.get(parameter.name);
        if (i >= args.length) rest.delete(parameter.name);
        return value;
      });
      if (hasCaller) inner.set('caller', given(rest.get('caller'), new Undefined('No caller defined')));
      if (hasCaller) rest.delete('caller');
      if (reads.kwargs) inner.set('kwargs', new Dict(rest));
      else if (rest.size > 0) throw typeError(`macro '${name}' takes no keyword argument '${[...rest.keys()][0]}'`);
      if (reads.varargs) inner.set('varargs', new Tuple(args.slice(parameters.length)));
      else if (args.length > parameters.length) {
        throw typeError(`macro '${name}' takes not more than ${parameters.length} argument(s)`);
      }
      parameters.forEach((parameter, i) => {
        const { otherwise } = parameter;
        const missing = (): Value =>
          otherwise === undefined
            ? new Undefined(`parameter '${parameter.name}' was not provided`)
            : this.#value(otherwise, inner);
        const value = values[i];
        inner.set(parameter.name, value === undefined ? missing() : value);
      });
      return this.#captured((out) => this.#nested(syntax.body, inner, out));
    };
    const fields = new Map<string, Value>([
      ['name', name],
      ['arguments', new Tuple(names)],
      ['catch_kwargs', reads.kwargs],
      ['catch_varargs', reads.varargs],
      ['caller', reads.caller],
    ]);
    return new Callable(name, call, fields);
  }

  // ---- expressions ----

  #truth(expression: Expression, scope: Scope): boolean {
    return this.#runtime.truth(this.#value(expression, scope));
  }

  #value(expression: Expression, scope: Scope): Value {
    const { budget } = this.#runtime;
    budget.step();
    switch (expression.kind) {
      case 'constant':
        return expression.value;
      case 'name':
        return given(scope.find(expression.name), new Undefined(`'${expression.name}' is undefined`));
    }
    budget.enter();
    const value = this.#compound(expression, scope);
    budget.leave();
    return value;
  }

  #compound(expression: Expression, scope: Scope): Value {
    const runtime = this.#runtime;
    switch (expression.kind) {
      case 'attribute':
        return runtime.attribute(this.#value(expression.target, scope), expression.name);
      case 'item':
        return runtime.item(this.#value(expression.target, scope), this.#value(expression.index, scope));
      case 'slice': {
        const target = this.#value(expression.target, scope);
        const bounds = expression.bounds.map((bound) => (bound === undefined ? null : this.#value(bound, scope)));
        return runtime.slice(target, bounds);
      }
      case 'call': {
        const target = this.#value(expression.target, scope);
        const { args, named } = this.#arguments(expression.args, scope);
        return runtime.call(target, args, named);
      }
      case 'filter': {
        if (expression.target === undefined) throw typeError('a filter without a value');
        const value = this.#value(expression.target, scope);
        const { args, named } = this.#arguments(expression.args, scope);
        return runFilter(runtime, expression.name, value, args, named);
      }
      case 'test': {
        const value = this.#value(expression.target, scope);
        const { args, named } = this.#arguments(expression.args, scope);
        return runTest(runtime, expression.name, value, args, named);
      }
      case 'binary':
        return runtime.binary(
          expression.operator,
          this.#value(expression.left, scope),
          this.#value(expression.right, scope),
        );
      case 'concat':
        return expression.parts.reduce<string>((text, part) => {
          const value = this.#value(part, scope);
          return runtime.join(text, runtime.plain(value));
        }, '');
      case 'compare': {
        let left = this.#value(expression.first, scope);
        for (const { operator, right } of expression.rest) {
          const next = this.#value(right, scope);
          if (!runtime.holds(operator, left, next)) return false;
          left = next;
        }
        return true;
      }
      case 'and': {
        const left = this.#value(expression.left, scope);
        return runtime.truth(left) ? this.#value(expression.right, scope) : left;
      }
      case 'or': {
        const left = this.#value(expression.left, scope);
        return runtime.truth(left) ? left : this.#value(expression.right, scope);
      }
      case 'not':
        return !this.#truth(expression.target, scope);
      case 'sign':
        return runtime.sign(expression.sign, this.#value(expression.target, scope));
      case 'condition':
        if (this.#truth(expression.test, scope)) return this.#value(expression.value, scope);
        if (expression.otherwise !== undefined) return this.#value(expression.otherwise, scope);
        return new Undefined('the inline if-expression evaluated to false and no else section was defined.');
      case 'list':
        return expression.items.map((item) => this.#value(item, scope));
      case 'tuple':
        return new Tuple(expression.items.map((item) => this.#value(item, scope)));
      case 'dict':
        return new Dict(
          expression.entries.map(([keySyntax, item]) => {
            const key = this.#value(keySyntax, scope);
            runtime.read([key]);
            return [key, this.#value(item, scope)] as const;
          }),
        );
      default:
        return this.#value(expression, scope);
    }
  }

  #arguments(syntax: Arguments, scope: Scope): { readonly args: readonly Value[]; readonly named: Named } {
    const { positional, named, spread, namedSpread } = syntax;
    const args = positional.map((each) => this.#value(each, scope));
    if (spread !== undefined) args.push(...this.#runtime.list(this.#value(spread, scope)));
    if (named.length === 0 && namedSpread === undefined) return { args, named: NOTHING };
    const all = new Map<string, Value>();
    const add = (key: string, value: Value): void => {
      if (all.has(key)) throw typeError(`got multiple values for keyword argument '${key}'`);
      all.set(key, value);
    };
    for (const [key, value] of named) add(key, this.#value(value, scope));
    if (namedSpread !== undefined) {
      const more = this.#value(namedSpread, scope);
      if (!(more instanceof Dict)) throw typeError(`argument after ** must be a mapping, not ${typeName(more)}`);
      for (const [key, value] of more.entries()) {
        if (typeof key !== 'string') throw typeError('keywords must be strings');
        add(key, value);
      }
    }
    return { args, named: all };
  }
}

/** The rounds of a loop, and what its variable `loop` knows. */
class Rounds {
  readonly #runtime: Runtime;
  readonly #iterable: Value;
  readonly #isFiltered: boolean;
  readonly #items: Iterator<Value>;
  readonly #depth: number;
  /** Items that were looked at ahead of their round. */
  #ahead: Value[] = [];
  #aheadAt = 0;
  #index = -1;
  #previous: Value | undefined;
  #current: Value | undefined;
  #length: number | undefined;
  #changed: Value | undefined;

  constructor(runtime: Runtime, iterable: Value, filtered: Generator<Value, void> | undefined, depth: number) {
    this.#runtime = runtime;
    this.#iterable = iterable;
    this.#isFiltered = filtered !== undefined;
    this.#items = filtered ?? runtime.iterate(iterable);
    this.#depth = depth;
  }

  next(): { readonly value: Value } | undefined {
    const found = this.#peek();
    if (found === undefined) return undefined;
    this.#aheadAt++;
    if (this.#aheadAt === this.#ahead.length) {
      this.#ahead = [];
      this.#aheadAt = 0;
    }
    this.#previous = this.#current;
    this.#current = found.value;
    this.#index++;
    return found;
  }

  #peek(): { readonly value: Value } | undefined {
    if (this.#aheadAt < this.#ahead.length) return { value: this.#ahead[this.#aheadAt]! };
    const next = this.#items.next();
    if (next.done === true) return undefined;
    this.#ahead.push(next.value);
    return { value: next.value };
  }

  #count(): number {
    if (this.#length !== undefined) return this.#length;
    const known = this.#isFiltered ? undefined : this.#runtime.size(this.#iterable);
    if (known !== undefined) this.#length = known;
    else {
      for (let next = this.#items.next(); next.done !== true; next = this.#items.next()) this.#ahead.push(next.value);
      this.#length = this.#index + 1 + this.#ahead.length - this.#aheadAt;
    }
    return this.#length;
  }

  attribute(name: string): Value | undefined {
    const index = this.#index;
    switch (name) {
      case 'index':
        return BigInt(index + 1);
      case 'index0':
        return BigInt(index);
      case 'first':
        return index === 0;
      case 'last':
        return this.#peek() === undefined;
      case 'length':
        return BigInt(this.#count());
      case 'revindex':
        return BigInt(this.#count() - index);
      case 'revindex0':
        return BigInt(this.#count() - index - 1);
      case 'previtem':
        return index === 0 ? new Undefined('there is no previous item') : this.#previous;
      case 'nextitem':
        return given(this.#peek()?.value, new Undefined('there is no next item'));
      case 'depth':
        return BigInt(this.#depth + 1);
      case 'depth0':
        return BigInt(this.#depth);
      case 'cycle':
        return new Callable('cycle', (args) => {
          if (args.length === 0) throw typeError('no items for cycling given');
          return args[index % args.length]!;
        });
      case 'changed':
        return new Callable('changed', (args) => {
          const value = new Tuple(args);
          const isSame = this.#changed !== undefined && this.#runtime.equal(this.#changed, value);
          this.#changed = value;
          return !isSame;
        });
      default:
        return undefined;
    }
  }
}
