// A parsed template. Names follow Jinja's grammar.

export type Constant = null | boolean | bigint | number | string;

export type Expression =
  | { readonly kind: 'constant'; readonly value: Constant }
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'list' | 'tuple'; readonly items: readonly Expression[] }
  | { readonly kind: 'dict'; readonly entries: readonly (readonly [Expression, Expression])[] }
  | { readonly kind: 'attribute'; readonly target: Expression; readonly name: string }
  | { readonly kind: 'item'; readonly target: Expression; readonly index: Expression }
  | { readonly kind: 'slice'; readonly target: Expression; readonly bounds: readonly (Expression | undefined)[] }
  | { readonly kind: 'call'; readonly target: Expression; readonly args: Arguments }
  | {
      readonly kind: 'filter';
      readonly target: Expression | undefined;
      readonly name: string;
      readonly args: Arguments;
    }
  | { readonly kind: 'test'; readonly target: Expression; readonly name: string; readonly args: Arguments }
  | { readonly kind: 'not'; readonly target: Expression }
  | { readonly kind: 'sign'; readonly sign: '+' | '-'; readonly target: Expression }
  | {
      readonly kind: 'binary';
      readonly operator: BinaryOperator;
      readonly left: Expression;
      readonly right: Expression;
    }
  | { readonly kind: 'concat'; readonly parts: readonly Expression[] }
  | { readonly kind: 'compare'; readonly first: Expression; readonly rest: readonly Comparison[] }
  | { readonly kind: 'and' | 'or'; readonly left: Expression; readonly right: Expression }
  | {
      readonly kind: 'condition';
      readonly test: Expression;
      readonly value: Expression;
      readonly otherwise: Expression | undefined;
    };

export type BinaryOperator = '+' | '-' | '*' | '/' | '//' | '%' | '**';

export type Comparison = {
  readonly operator: '==' | '!=' | '<' | '<=' | '>' | '>=' | 'in' | 'not in';
  readonly right: Expression;
};

export type Arguments = {
  readonly positional: readonly Expression[];
  readonly named: readonly (readonly [string, Expression])[];
  /** `*list` and `**dict`. */
  readonly spread: Expression | undefined;
  readonly namedSpread: Expression | undefined;
};

export type Target =
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'field'; readonly name: string; readonly field: string }
  | { readonly kind: 'tuple'; readonly items: readonly Target[] };

export type Parameter = { readonly name: string; readonly otherwise: Expression | undefined };

export type Block = readonly Statement[];

export type Statement = { readonly line: number } & (
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'output'; readonly value: Expression }
  | { readonly kind: 'if'; readonly branches: readonly (readonly [Expression, Block])[]; readonly otherwise: Block }
  | {
      readonly kind: 'for';
      readonly target: Target;
      readonly iterable: Expression;
      readonly test: Expression | undefined;
      readonly recursive: boolean;
      readonly body: Block;
      readonly otherwise: Block;
    }
  | { readonly kind: 'set'; readonly target: Target; readonly value: Expression }
  | {
      readonly kind: 'set-block';
      readonly target: Target;
      readonly filter: Expression | undefined;
      readonly body: Block;
    }
  | { readonly kind: 'with'; readonly bindings: readonly (readonly [Target, Expression])[]; readonly body: Block }
  | { readonly kind: 'macro'; readonly macro: MacroSyntax }
  | { readonly kind: 'call'; readonly call: Expression; readonly caller: MacroSyntax }
  | { readonly kind: 'filter'; readonly filter: Expression; readonly body: Block }
  | { readonly kind: 'generation'; readonly body: Block }
  | { readonly kind: 'break' | 'continue' }
);

export type MacroSyntax = {
  readonly name: string;
  readonly parameters: readonly Parameter[];
  readonly body: Block;
  /** The body reads `varargs`, `kwargs`, `caller`: only then may a call give more than the parameters. */
  readonly reads: { readonly varargs: boolean; readonly kwargs: boolean; readonly caller: boolean };
};
