// Tokens to a tree, by Jinja's grammar: filters bind tighter than arithmetic, `~` stands between sums and products,
// powers group to the left, comparisons chain, and a condition may lack its else.

import { MAX_DEPTH } from './budget.ts';
import { JinjaError, quoted, unsupported } from './jinja-error.ts';
import { type Token, type TokenType, tokenize } from './lexer.ts';
import type {
  Arguments,
  BinaryOperator,
  Block,
  Comparison,
  Expression,
  MacroSyntax,
  Parameter,
  Statement,
  Target,
} from './syntax.ts';

/** Jinja has these tags; a chat template that is rendered alone cannot use them or nobody was seen to. */
const OTHER_TAGS = new Set(['block', 'extends', 'include', 'import', 'from', 'autoescape', 'do', 'trans', 'debug']);

const CONSTANTS: Readonly<Record<string, boolean | null>> = {
  true: true,
  True: true,
  false: false,
  False: false,
  none: null,
  None: null,
};

const NO_ARGUMENTS: Arguments = { positional: [], named: [], spread: undefined, namedSpread: undefined };

export function parseTemplate(source: string): Block {
  return new Parser(tokenize(source)).template();
}

class Parser {
  readonly #tokens: readonly Token[];
  #at = 0;
  #depth = 0;
  /** Tags open around the present place, from the outermost; what break and continue belong to. */
  readonly #open: string[] = [];
  /** Names read since the innermost macro began. */
  #reads = new Set<string>();

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  template(): Block {
    const block = this.#block([]);
    if (this.#token.type !== 'end') throw this.#unexpected();
    return block;
  }

  // ---- statements ----

  /** Statements up to a tag of one of these names, which stays unread after its `{%`. */
  #block(ends: readonly string[]): Block {
    return this.#nested(() => {
      const statements: Statement[] = [];
      for (;;) {
        const { type, value, line } = this.#token;
        if (type === 'end') {
          if (ends.length === 0) return statements;
          throw this.#error(`the template ends, but ${ends.map(quoted).join(' or ')} is missing`);
        }
        this.#at++;
        if (type === 'data') statements.push({ kind: 'text', text: value, line });
        else if (type === 'variable-begin') {
          statements.push({ kind: 'output', value: this.#tuple(), line });
          this.#expect('variable-end');
        } else {
          const name = this.#token;
          if (name.type !== 'name') throw this.#error('a tag must begin with its name');
          if (ends.includes(name.value)) return statements;
          this.#at++;
          statements.push(this.#statement(name.value, line));
        }
      }
    });
  }

  #statement(tag: string, line: number): Statement {
    switch (tag) {
      case 'if':
        return this.#if(line);
      case 'for':
        return this.#for(line);
      case 'set':
        return this.#set(line);
      case 'with':
        return this.#with(line);
      case 'macro': {
        const name = this.#name();
        return { kind: 'macro', macro: this.#macro(name, this.#parameters(), 'macro'), line };
      }
      case 'call': {
        const parameters = this.#isOperator('(') ? this.#parameters() : [];
        const call = this.#expression();
        if (call.kind !== 'call') throw this.#error('a call tag needs a call');
        return { kind: 'call', call, caller: this.#macro('caller', parameters, 'call'), line };
      }
      case 'filter': {
        const filter = this.#filters(undefined, true);
        return { kind: 'filter', filter: filter!, body: this.#bodyOf('filter'), line };
      }
      case 'generation':
        return { kind: 'generation', body: this.#bodyOf('generation'), line };
      case 'print': {
        const parts = [this.#expression()];
        while (this.#takeOperator(',')) parts.push(this.#expression());
        this.#expect('block-end');
        return { kind: 'output', value: parts.length === 1 ? parts[0]! : { kind: 'concat', parts }, line };
      }
      case 'break':
      case 'continue':
        if (this.#open.at(-1) !== 'for') throw this.#error(`'${tag}' stands outside a loop`);
        this.#expect('block-end');
        return { kind: tag, line };
      default:
        if (OTHER_TAGS.has(tag)) throw unsupported(`the tag ${quoted(tag)}`);
        throw this.#error(
          this.#open.length === 0 && tag.startsWith('end')
            ? `${quoted(tag)} ends what was not begun`
            : `there is no tag ${quoted(tag)}${tag.startsWith('end') || tag === 'else' || tag === 'elif' ? ' at this place' : ''}`,
        );
    }
  }

  #if(line: number): Statement {
    const branches: (readonly [Expression, Block])[] = [];
    for (;;) {
      const test = this.#tuple({ condition: false });
      this.#expect('block-end');
      branches.push([test, this.#block(['elif', 'else', 'endif'])]);
      const next = this.#name();
      if (next === 'elif') continue;
      let otherwise: Block = [];
      if (next === 'else') {
        this.#expect('block-end');
        otherwise = this.#block(['endif']);
        this.#at++;
      }
      this.#expect('block-end');
      return { kind: 'if', branches, otherwise, line };
    }
  }

  #for(line: number): Statement {
    const target = this.#target(['in']);
    if (!this.#takeName('in')) throw this.#error("a loop needs 'in'");
    const iterable = this.#tuple({ condition: false, ends: ['recursive'] });
    const test = this.#takeName('if') ? this.#expression() : undefined;
    const recursive = this.#takeName('recursive');
    this.#expect('block-end');
    this.#open.push('for');
    const body = this.#block(['endfor', 'else']);
    this.#open.pop();
    let otherwise: Block = [];
    if (this.#name() === 'else') {
      this.#expect('block-end');
      otherwise = this.#block(['endfor']);
      this.#at++;
    }
    this.#expect('block-end');
    return { kind: 'for', target, iterable, test, recursive, body, otherwise, line };
  }

  #set(line: number): Statement {
    const target = this.#target([]);
    if (this.#takeOperator('=')) {
      const value = this.#tuple();
      this.#expect('block-end');
      return { kind: 'set', target, value, line };
    }
    const filter = this.#filters(undefined, false);
    return { kind: 'set-block', target, filter, body: this.#bodyOf('set'), line };
  }

  #with(line: number): Statement {
    const bindings: (readonly [Target, Expression])[] = [];
    while (this.#token.type !== 'block-end') {
      if (bindings.length > 0) this.#expectOperator(',');
      const target = this.#target([]);
      this.#expectOperator('=');
      bindings.push([target, this.#expression()]);
    }
    return { kind: 'with', bindings, body: this.#loopBody('with'), line };
  }

  /** A body in a function of its own: a loop around it is out of reach of break and continue. */
  #bodyOf(tag: string): Block {
    this.#open.push(tag === 'generation' ? tag : (this.#open.at(-1) ?? tag));
    const body = this.#loopBody(tag);
    this.#open.pop();
    return body;
  }

  #loopBody(tag: string): Block {
    this.#expect('block-end');
    const body = this.#block([`end${tag}`]);
    this.#at++;
    this.#expect('block-end');
    return body;
  }

  #macro(name: string, parameters: readonly Parameter[], tag: string): MacroSyntax {
    const outside = this.#reads;
    this.#reads = new Set();
    this.#open.push(tag);
    const body = this.#loopBody(tag);
    this.#open.pop();
    const inside = this.#reads;
    // What a macro within it reads is read through this one as well.
    this.#reads = new Set([...outside, ...inside]);
    const declared = (what: string): boolean => parameters.some((parameter) => parameter.name === what);
    const reads = (what: string): boolean => inside.has(what) && !declared(what);
    return {
      name,
      parameters,
      body,
      reads: { varargs: reads('varargs'), kwargs: reads('kwargs'), caller: inside.has('caller') },
    };
  }

  #parameters(): Parameter[] {
    const parameters: Parameter[] = [];
    this.#expectOperator('(');
    while (!this.#isOperator(')')) {
      if (parameters.length > 0) this.#expectOperator(',');
      const name = this.#name();
      if (parameters.some((parameter) => parameter.name === name)) throw this.#error(`${quoted(name)} stands twice`);
      const otherwise = this.#takeOperator('=') ? this.#expression() : undefined;
      if (otherwise === undefined && parameters.at(-1)?.otherwise !== undefined) {
        throw this.#error('a parameter without a default follows one with a default');
      }
      parameters.push({ name, otherwise });
    }
    this.#at++;
    return parameters;
  }

  #target(ends: readonly string[]): Target {
    const items: Target[] = [];
    let isTuple = false;
    for (;;) {
      items.push(this.#oneTarget());
      if (!this.#takeOperator(',')) break;
      isTuple = true;
      const { type, value } = this.#token;
      if (type === 'block-end' || (type === 'operator' && (value === '=' || value === ')'))) break;
      if (type === 'name' && ends.includes(value)) break;
    }
    return isTuple ? { kind: 'tuple', items } : items[0]!;
  }

  #oneTarget(): Target {
    if (this.#takeOperator('(')) {
      const inner = this.#nested(() => this.#target([]));
      this.#expectOperator(')');
      return inner;
    }
    const name = this.#name();
    if (this.#takeOperator('.')) return { kind: 'field', name, field: this.#name() };
    if (name in CONSTANTS) throw this.#error(`${quoted(name)} cannot be assigned to`);
    return { kind: 'name', name };
  }

  // ---- expressions ----

  /** One expression, or several with commas as a tuple. */
  #tuple({ condition = true, ends = [] as readonly string[], parentheses = false } = {}): Expression {
    const items: Expression[] = [];
    let isTuple = false;
    for (;;) {
      const { type, value } = this.#token;
      const isEnd =
        type === 'block-end' ||
        type === 'variable-end' ||
        (type === 'operator' && value === ')') ||
        (type === 'name' && ends.includes(value));
      if (isEnd) break;
      items.push(condition ? this.#expression() : this.#or());
      if (!this.#takeOperator(',')) break;
      isTuple = true;
    }
    if (!isTuple && items.length === 1) return items[0]!;
    if (items.length === 0 && !parentheses) throw this.#unexpected();
    return { kind: 'tuple', items };
  }

  #expression(): Expression {
    return this.#nested(() => {
      let left = this.#or();
      while (this.#takeName('if')) {
        const test = this.#or();
        const otherwise = this.#takeName('else') ? this.#expression() : undefined;
        left = { kind: 'condition', test, value: left, otherwise };
      }
      return left;
    });
  }

  #or(): Expression {
    let left = this.#and();
    while (this.#takeName('or')) left = { kind: 'or', left, right: this.#and() };
    return left;
  }

  #and(): Expression {
    let left = this.#not();
    while (this.#takeName('and')) left = { kind: 'and', left, right: this.#not() };
    return left;
  }

  #not(): Expression {
    if (!this.#takeName('not')) return this.#compare();
    return { kind: 'not', target: this.#nested(() => this.#not()) };
  }

  #compare(): Expression {
    const first = this.#sum();
    const rest: Comparison[] = [];
    for (;;) {
      const { type, value } = this.#token;
      if (type === 'operator' && /^(?:[=!]=|[<>]=?)$/.test(value)) {
        this.#at++;
        rest.push({ operator: value as '==', right: this.#sum() });
      } else if (this.#takeName('in')) rest.push({ operator: 'in', right: this.#sum() });
      else if (type === 'name' && value === 'not' && this.#isNameAt(1, 'in')) {
        this.#at += 2;
        rest.push({ operator: 'not in', right: this.#sum() });
      } else break;
    }
    return rest.length === 0 ? first : { kind: 'compare', first, rest };
  }

  #sum(): Expression {
    return this.#chain(['+', '-'], () => this.#concat());
  }

  #concat(): Expression {
    const parts = [this.#product()];
    while (this.#takeOperator('~')) parts.push(this.#product());
    return parts.length === 1 ? parts[0]! : { kind: 'concat', parts };
  }

  #product(): Expression {
    return this.#chain(['*', '/', '//', '%'], () => this.#power());
  }

  #power(): Expression {
    return this.#chain(['**'], () => this.#unary(true));
  }

  #chain(operators: readonly string[], operand: () => Expression): Expression {
    let left = operand();
    while (this.#token.type === 'operator' && operators.includes(this.#token.value)) {
      const operator = this.#token.value as BinaryOperator;
      this.#at++;
      left = { kind: 'binary', operator, left, right: operand() };
    }
    return left;
  }

  #unary(withFilters: boolean): Expression {
    let node: Expression;
    const { type, value } = this.#token;
    if (type === 'operator' && (value === '-' || value === '+')) {
      this.#at++;
      node = { kind: 'sign', sign: value, target: this.#nested(() => this.#unary(false)) };
    } else node = this.#primary();
    node = this.#postfix(node);
    return withFilters ? this.#filtersAndTests(node) : node;
  }

  #primary(): Expression {
    const { type, value } = this.#token;
    this.#at++;
    switch (type) {
      case 'name':
        if (Object.hasOwn(CONSTANTS, value)) return { kind: 'constant', value: CONSTANTS[value]! };
        this.#reads.add(value);
        return { kind: 'name', name: value };
      case 'string': {
        const parts = [value];
        while (this.#token.type === 'string') parts.push(this.#tokens[this.#at++]!.value);
        return { kind: 'constant', value: parts.join('') };
      }
      case 'integer':
        if (value.length > 1000) throw this.#error('a number has more than 1000 digits');
        return { kind: 'constant', value: BigInt(value) };
      case 'float':
        return { kind: 'constant', value: Number(value) };
      case 'operator':
        if (value === '(') {
          const inner = this.#nested(() => this.#tuple({ parentheses: true }));
          this.#expectOperator(')');
          return inner;
        }
        if (value === '[') return { kind: 'list', items: this.#listed(']', () => this.#expression()) };
        if (value === '{') {
          const entry = (): readonly [Expression, Expression] => {
            const key = this.#expression();
            this.#expectOperator(':');
            return [key, this.#expression()];
          };
          return { kind: 'dict', entries: this.#listed('}', entry) };
        }
    }
    this.#at--;
    throw this.#unexpected();
  }

  /** Items with commas between them, and perhaps one after the last. */
  #listed<T>(end: string, item: () => T): T[] {
    const items: T[] = [];
    while (!this.#takeOperator(end)) {
      if (items.length > 0) {
        this.#expectOperator(',');
        if (this.#takeOperator(end)) break;
      }
      items.push(item());
    }
    return items;
  }

  #postfix(start: Expression): Expression {
    let node = start;
    for (;;) {
      if (this.#takeOperator('.')) {
        const { type, value } = this.#token;
        this.#at++;
        if (type === 'name') node = { kind: 'attribute', target: node, name: value };
        else if (type === 'integer') {
          node = { kind: 'item', target: node, index: { kind: 'constant', value: BigInt(value) } };
        } else throw this.#error('a name or a number must follow the dot');
      } else if (this.#takeOperator('[')) node = this.#subscript(node);
      else if (this.#isOperator('(')) node = { kind: 'call', target: node, args: this.#arguments() };
      else return node;
    }
  }

  #subscript(target: Expression): Expression {
    const indexes: Expression[] = [];
    let slice: (Expression | undefined)[] | undefined;
    let count = 0;
    while (!this.#isOperator(']')) {
      if (count++ > 0) this.#expectOperator(',');
      const bounds = this.#bounds();
      if (bounds.length > 1) slice = bounds;
      else indexes.push(bounds[0]!);
    }
    this.#expectOperator(']');
    if (slice === undefined) {
      const index: Expression = indexes.length === 1 ? indexes[0]! : { kind: 'tuple', items: indexes };
      return { kind: 'item', target, index };
    }
    if (count > 1) throw unsupported('a slice of several dimensions');
    return { kind: 'slice', target, bounds: slice };
  }

  /** An index by itself, or two or three bounds of a slice, each of which may be left out. */
  #bounds(): (Expression | undefined)[] {
    const bounds: (Expression | undefined)[] = [];
    for (;;) {
      const ends = this.#isOperator(']') || this.#isOperator(',');
      const isLeftOut = this.#isOperator(':') || (bounds.length > 0 && ends);
      bounds.push(isLeftOut ? undefined : this.#expression());
      if (bounds.length === 3 || !this.#takeOperator(':')) return bounds;
    }
  }

  #arguments(): Arguments {
    this.#expectOperator('(');
    const positional: Expression[] = [];
    const named: (readonly [string, Expression])[] = [];
    let spread: Expression | undefined;
    let namedSpread: Expression | undefined;
    const misplaced = (bad: boolean): void => {
      if (bad) throw this.#error('the arguments of a call stand in the wrong order');
    };
    this.#listed(')', () => {
      const { type, value } = this.#token;
      if (this.#takeOperator('**')) {
        misplaced(namedSpread !== undefined);
        namedSpread = this.#expression();
      } else if (this.#takeOperator('*')) {
        misplaced(spread !== undefined || namedSpread !== undefined);
        spread = this.#expression();
      } else if (type === 'name' && this.#isOperatorAt(1, '=')) {
        misplaced(namedSpread !== undefined);
        this.#at += 2;
        named.push([value, this.#expression()]);
      } else {
        misplaced(named.length > 0 || spread !== undefined || namedSpread !== undefined);
        positional.push(this.#expression());
      }
    });
    return { positional, named, spread, namedSpread };
  }

  #filtersAndTests(start: Expression): Expression {
    let node = start;
    for (;;) {
      if (this.#isOperator('|')) node = this.#filters(node, false)!;
      else if (this.#takeName('is')) node = this.#test(node);
      // Filters and tests have results that can be called in turn.
      else if (this.#isOperator('(')) node = { kind: 'call', target: node, args: this.#arguments() };
      else return node;
    }
  }

  /** `startsInline`: the first name follows at once, as in the filter tag. */
  #filters(start: Expression | undefined, startsInline: boolean): Expression | undefined {
    let node = start;
    for (let inline = startsInline; inline || this.#takeOperator('|'); inline = false) {
      const name = this.#dottedName();
      const args = this.#isOperator('(') ? this.#arguments() : NO_ARGUMENTS;
      node = { kind: 'filter', target: node, name, args };
    }
    return node;
  }

  #test(target: Expression): Expression {
    const negated = this.#takeName('not');
    const name = this.#dottedName();
    let args = NO_ARGUMENTS;
    const { type, value } = this.#token;
    if (this.#isOperator('(')) args = this.#arguments();
    else if (
      type === 'string' ||
      type === 'integer' ||
      type === 'float' ||
      (type === 'operator' && (value === '[' || value === '{')) ||
      (type === 'name' && value !== 'else' && value !== 'or' && value !== 'and')
    ) {
      if (type === 'name' && value === 'is') throw this.#error("tests cannot be chained with 'is'");
      args = { ...NO_ARGUMENTS, positional: [this.#postfix(this.#primary())] };
    }
    const test: Expression = { kind: 'test', target, name, args };
    return negated ? { kind: 'not', target: test } : test;
  }

  #dottedName(): string {
    let name = this.#name();
    while (this.#takeOperator('.')) name += `.${this.#name()}`;
    return name;
  }

  // ---- tokens ----

  get #token(): Token {
    return this.#tokens[this.#at] ?? this.#tokens.at(-1)!;
  }

  #isOperatorAt(distance: number, value: string): boolean {
    const token = this.#tokens[this.#at + distance];
    return token?.type === 'operator' && token.value === value;
  }

  #isNameAt(distance: number, value: string): boolean {
    const token = this.#tokens[this.#at + distance];
    return token?.type === 'name' && token.value === value;
  }

  #isOperator(value: string): boolean {
    return this.#isOperatorAt(0, value);
  }

  #takeOperator(value: string): boolean {
    if (!this.#isOperator(value)) return false;
    this.#at++;
    return true;
  }

  #takeName(value: string): boolean {
    if (!this.#isNameAt(0, value)) return false;
    this.#at++;
    return true;
  }

  #name(): string {
    const { type, value } = this.#token;
    if (type !== 'name') throw this.#unexpected('a name');
    this.#at++;
    return value;
  }

  #expect(type: TokenType): void {
    if (this.#token.type !== type) throw this.#unexpected('the end of the tag');
    this.#at++;
  }

  #expectOperator(value: string): void {
    if (!this.#takeOperator(value)) throw this.#unexpected(`'${value}'`);
  }

  #nested<T>(parse: () => T): T {
    if (++this.#depth > MAX_DEPTH) throw new JinjaError('limit', `it nests deeper than ${MAX_DEPTH} levels`);
    const result = parse();
    this.#depth--;
    return result;
  }

  #unexpected(wanted?: string): JinjaError {
    const { type, value } = this.#token;
    const found =
      type === 'end' ? 'the end of the template' : type.endsWith('-end') ? 'the end of the tag' : quoted(value);
    return this.#error(`unexpected ${found}${wanted === undefined ? '' : `, expected ${wanted}`}`);
  }

  #error(message: string): JinjaError {
    return new JinjaError('syntax', message, this.#token.line);
  }
}
