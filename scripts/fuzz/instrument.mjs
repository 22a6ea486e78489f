// Counters in a bundle: one for every function, branch, loop body and right side of an operator that may not run. Block
// coverage of V8's inspector tells the same, at some ten milliseconds a look; a counter costs an increment.

import { parseAst } from 'vitest/node';

/** Names of counters in the bundle that are in no one's way. */
const COUNTERS = '__fuzzCounters';

const MIN_WORD = 2;
const MAX_WORD = 40;

/**
 * The code with counters, which `globalThis.__fuzzCounters` holds once it is loaded: a Uint8Array that wraps. `words` and
 * `numbers` are those that the code itself writes, without its sentences: what an input has to say to get further.
 */
export function instrument(code) {
  const insertions = [];
  const words = new Set();
  const numbers = new Set();
  let counters = 0;
  const hit = () => `${COUNTERS}[${counters++}]++`;
  const at = (position, text, order) => insertions.push({ position, text, order });
  /** Wraps that begin further out come first; those that end further out come last. */
  const wrap = (node, before, after) => {
    at(node.start, before, node.end - node.start + 1);
    at(node.end, after, -(node.end - node.start + 1));
  };
  const expression = (node) => wrap(node, `(${hit()},`, ')');
  const statement = (node) => {
    if (node.type === 'BlockStatement') at(node.start + 1, `${hit()};`, Number.MAX_SAFE_INTEGER);
    else wrap(node, `{${hit()};`, '}');
  };
  const visitors = {
    IfStatement(node) {
      statement(node.consequent);
      if (node.alternate) statement(node.alternate);
      else at(node.end, ` else {${hit()}}`, -(node.end - node.start + 0.5));
    },
    ConditionalExpression: (node) => [node.consequent, node.alternate].forEach(expression),
    LogicalExpression: (node) => expression(node.right),
    AssignmentPattern: (node) => expression(node.right),
    AssignmentExpression(node) {
      if (/^(&&|\|\||\?\?)=$/.test(node.operator)) expression(node.right);
    },
    CatchClause: (node) => statement(node.body),
    SwitchCase(node) {
      if (node.consequent.length > 0) at(node.consequent[0].start, `${hit()};`, Number.MAX_SAFE_INTEGER);
    },
    Literal({ value }) {
      if (Number.isSafeInteger(value)) numbers.add(value);
      if (typeof value !== 'string' || value.length < MIN_WORD || value.length > MAX_WORD) return;
      if (!/ .* /.test(value)) words.add(value);
    },
    Property({ key }) {
      if (key.type === 'Identifier' && key.name.length >= MIN_WORD && key.name.length <= MAX_WORD) words.add(key.name);
    },
  };
  for (const loop of ['ForStatement', 'ForInStatement', 'ForOfStatement', 'WhileStatement', 'DoWhileStatement']) {
    visitors[loop] = (node) => statement(node.body);
  }
  for (const fn of ['FunctionDeclaration', 'FunctionExpression', 'ArrowFunctionExpression']) {
    visitors[fn] = ({ body }) => {
      if (body?.type === 'BlockStatement') statement(body);
      else if (body) expression(body);
    };
  }
  visit(parseAst(code), visitors);
  insertions.sort((a, b) => a.position - b.position || ends(b) - ends(a) || b.order - a.order);
  let out = `const ${COUNTERS} = globalThis.${COUNTERS} = new Uint8Array(${counters});\n`;
  let from = 0;
  for (const { position, text } of insertions) {
    out += code.slice(from, position) + text;
    from = position;
  }
  return {
    code: out + code.slice(from),
    counters,
    words: [...words].sort(),
    numbers: [...numbers].sort((a, b) => a - b),
  };
}

/** At one position what ends comes before what begins; of what ends, the inner comes first. */
function ends({ order }) {
  return order < 0 ? 1 : 0;
}

function visit(node, visitors) {
  visitors[node.type]?.(node);
  for (const key in node) {
    const child = node[key];
    if (Array.isArray(child)) {
      for (const item of child) if (item !== null && typeof item?.type === 'string') visit(item, visitors);
    } else if (child !== null && typeof child === 'object' && typeof child.type === 'string') {
      visit(child, visitors);
    }
  }
}
