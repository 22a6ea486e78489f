// Calls of tools: what a model wrote as data, and what holds it to write them.

import { Ajv2020 } from 'ajv/dist/2020.js';
import { describe, expect, test } from 'vitest';
import { Matcher } from '../../../src/generate/structure/matcher.ts';
import { automatonOfTools } from '../../../src/generate/structure/tool-automaton.ts';
import { withParsedArguments } from '../../../src/generate/tools/call-arguments.ts';
import { parseToolCalls } from '../../../src/generate/tools/tool-calls.ts';
import { readTools, styleOf, toolsOf } from '../../../src/generate/tools/tool-request.ts';
import { StreamedText } from '../../../src/openai/streamed-text.ts';
import { drawFrom } from './random-schemas.ts';

const SEARCH = {
  name: 'search',
  parameters: {
    type: 'object',
    properties: {
      query: { type: 'string' },
      limit: { type: 'integer', minimum: 1 },
      tags: { type: 'array', items: { type: 'string' } },
      exact: { type: 'boolean' },
      order: { enum: ['new', 'old', 1] },
      after: { anyOf: [{ type: 'string', pattern: '^\\d{4}$' }, { type: 'null' }] },
    },
    required: ['query'],
  },
};
const tools = readTools([{ type: 'function', function: SEARCH }]);
const argumentsIn = (text: string) =>
  parseToolCalls(text, tools, '').calls.map((call) => JSON.parse(call.arguments) as unknown);

describe('calls in a text', () => {
  test('JSON style, with text around and several calls', () => {
    const text =
      'I look.\n<tool_call>\n{"name": "search", "arguments": {"query": "a </tool_call> b"}}\n</tool_call>\n' +
      '<tool_call>{"name":"other","arguments":"{\\"x\\":1}"}</tool_call>';
    const { content, calls } = parseToolCalls(text, tools, 'salt');
    expect(content).toBe('I look.');
    expect(calls.map(({ name, arguments: given }) => [name, given])).toEqual([
      ['search', '{"query":"a </tool_call> b"}'],
      ['other', '{"x":1}'],
    ]);
    expect(calls[0]!.id).toMatch(/^call_[A-Za-z0-9]{20,24}$/);
    expect(new Set(calls.map(({ id }) => id)).size).toBe(2);
    expect(parseToolCalls(text, tools, 'salt').calls).toEqual(calls);
    expect(parseToolCalls(text, tools, 'other').calls[0]!.id).not.toBe(calls[0]!.id);
  });

  test('XML style: values by their schema', () => {
    const call =
      '<tool_call>\n<function=search>\n<parameter=query>\n12\nand "more" <b>\n</parameter>\n<parameter=limit>\n5\n</parameter>\n' +
      '<parameter=tags>\n["a", "b"]\n</parameter>\n<parameter=exact>\ntrue\n</parameter>\n<parameter=order>\n1\n</parameter>\n' +
      '<parameter=after>\nnull\n</parameter>\n</function>\n</tool_call>';
    expect(argumentsIn(call)).toEqual([
      { query: '12\nand "more" <b>', limit: 5, tags: ['a', 'b'], exact: true, order: 1, after: null },
    ]);
    const one = (value: string) =>
      argumentsIn(
        `<tool_call>\n<function=search>\n<parameter=query>\n${value}\n</parameter>\n</function>\n</tool_call>`,
      );
    for (const value of ['12', 'true', 'null', '{"a": 1}', '"quoted"', '', ' x '])
      expect(one(value)).toEqual([{ query: value }]);
    const unknown =
      '<tool_call>\n<function=nobody>\n<parameter=x>\n[1]\n</parameter>\n<parameter=y>\n7\n</parameter>\n</function>\n</tool_call>';
    expect(argumentsIn(unknown)).toEqual([{ x: [1], y: '7' }]);
    expect(argumentsIn('<tool_call>\n<function=search>\n</function>\n</tool_call>')).toEqual([{}]);
  });

  test.each([
    'no call at all',
    '<tool_call>\n{"name": "search", "arguments": {"que',
    '<tool_call>\n{"name": 5}\n</tool_call>',
    '<tool_call>\n{"name": "search", "arguments": [1]}\n</tool_call>',
    '<tool_call>\nsearch(query)\n</tool_call>',
    '<tool_call>\n<function=search>\n<parameter=query>\nx\n</function>\n</tool_call>',
    '</tool_call> <tool_call>',
  ])('what is no whole call stays text: %j', (text) => {
    expect(parseToolCalls(text, tools, '')).toEqual({ content: text, calls: [] });
  });

  test('arguments go to a template as objects, where they are', () => {
    const call = (given: unknown) => [
      { role: 'assistant', tool_calls: [{ id: 'a', function: { name: 'f', arguments: given } }] },
    ];
    expect(withParsedArguments(call('{"a":1}'))).toEqual(call({ a: 1 }));
    expect(withParsedArguments(call('no json'))).toEqual(call('no json'));
    const plain: { role: string; content: string; tool_calls?: unknown }[] = [{ role: 'user', content: 'x' }];
    expect(withParsedArguments(plain)).toBe(plain);
  });
});

describe('tools of a request', () => {
  test('in the shapes that clients send', () => {
    expect(readTools([SEARCH])).toEqual(tools);
    expect(readTools([{ name: 'search', inputSchema: SEARCH.parameters }])).toEqual(tools);
    expect(toolsOf({ tools: [SEARCH], toolChoice: 'none' })).toEqual([]);
    expect(() => toolsOf({ tools: [SEARCH], toolChoice: { name: 'x' } })).toThrow('tool_choice names "x"');
    expect(() => toolsOf({ toolChoice: 'required' })).toThrow('a tool must be called');
    expect(() => readTools([SEARCH, SEARCH])).toThrow('the same name');
    expect(() => readTools([{ name: 'a b' }])).toThrow('tools[0] has no name');
    expect(() => readTools([{ name: 'a', parameters: 3 }])).toThrow('parameters of tool "a"');
  });

  test('the style of a template', () => {
    expect(styleOf('{% if tools %}<tool_call>{% endif %}')).toBe('json');
    expect(styleOf('{% for t in tools %}{% endfor %}<function=')).toBe('xml');
    expect(styleOf('{{ messages }}')).toBeUndefined();
    expect(styleOf(undefined)).toBeUndefined();
  });
});

describe('what a text with calls may be', () => {
  const fits = (more: Partial<Parameters<typeof automatonOfTools>[0]>) => {
    const matcher = new Matcher(
      automatonOfTools({ style: 'json', mustCall: true, many: true, tools: [SEARCH], ...more }),
    );
    return (text: string) => matcher.walk(matcher.start, Buffer.from(text))?.accepts ?? false;
  };
  const json = (given: string, name = 'search') =>
    `<tool_call>\n{"name": "${name}", "arguments": ${given}}\n</tool_call>`;

  test('a call that must be, in JSON', () => {
    const ok = fits({});
    const call = json('{"query":"x"}');
    expect([call, `${call}\n${call}`].map(ok)).toEqual([true, true]);
    expect(['', `Hello ${call}`, json('{"limit":3}'), json('{}', 'other'), call.slice(0, -1)].map(ok)).toEqual(
      Array(5).fill(false),
    );
    expect(fits({ many: false })(`${call}\n${call}`)).toBe(false);
  });

  test('text first, and a call if the model likes', () => {
    const ok = fits({ mustCall: false });
    const call = json('{"query":"x"}');
    const texts = ['', 'Hello', 'a < b <tool <<tool_call', `Hello\n${call}`, `<${call}`];
    expect(texts.map(ok)).toEqual(Array(5).fill(true));
    expect([`Hello <tool_call>`, `x${json('{"limit":0}')}`, `${call} and more`].map(ok)).toEqual([false, false, false]);
  });

  test('in XML, what is written is what is read', () => {
    const ok = fits({ style: 'xml', many: false });
    const call = (parts: Record<string, string>) =>
      `<tool_call>\n<function=search>${Object.entries(parts)
        .map(([key, value]) => `\n<parameter=${key}>\n${value}\n</parameter>`)
        .join('')}\n</function>\n</tool_call>`;
    const good: Record<string, string>[] = [
      { query: 'a < b\nand "c"' },
      { query: '', limit: '3', exact: 'false' },
      { query: 'x', tags: '["a"]', order: 'new', after: '1999' },
      { query: 'x', order: '1', after: 'null' },
    ];
    expect(good.map((parts) => ok(call(parts)))).toEqual([true, true, true, true]);
    const read = good.map((parts) => argumentsIn(call(parts))[0]);
    expect(read).toEqual([
      { query: 'a < b\nand "c"' },
      { query: '', limit: 3, exact: false },
      { query: 'x', tags: ['a'], order: 'new', after: '1999' },
      { query: 'x', order: 1, after: null },
    ]);
    const bad: Record<string, string>[] = [
      {},
      { limit: '3' },
      { query: 'x</parameter>' },
      { query: 'x', limit: '0' },
      { query: 'x', order: '"new"' },
      { query: 'x', after: '"1999"' },
    ];
    expect(bad.map((parts) => ok(call(parts)))).toEqual(Array(6).fill(false));
  });
});

describe('arguments in XML that are hard to tell from their marks', () => {
  const automatonFor = (parameters: object, style: 'json' | 'xml' = 'xml') =>
    automatonOfTools({
      style,
      mustCall: true,
      many: false,
      tools: [{ name: 'f', parameters: parameters as { [keyword: string]: unknown } }],
    });
  const property = (schema: object) => ({ type: 'object', properties: { a: schema }, required: ['a'] });
  const call = (value: string) =>
    `<tool_call>\n<function=f>\n<parameter=a>\n${value}\n</parameter>\n</function>\n</tool_call>`;

  test('no mark stands in the JSON of a value', () => {
    const fits = (schema: object, value: string) => {
      const matcher = new Matcher(automatonFor(property(schema)));
      return matcher.walk(matcher.start, Buffer.from(call(value)))?.accepts ?? false;
    };
    const list = { type: 'array', items: { type: 'string' } };
    expect(
      ['["a < b", "<p>", "a/b", "<<"]', '["</parameter>"]', '["x</"]', '["<</p>"]'].map((v) => fits(list, v)),
    ).toEqual([true, false, false, false]);
    const open = { type: 'object' };
    expect(['{"<a>": "/"}', '{"</tool_call>": 1}', '{"a": {"b": "</"}}'].map((v) => fits(open, v))).toEqual([
      true,
      false,
      false,
    ]);
    const listed = { enum: [['</parameter>'], ['<ok>']] };
    expect(['["<ok>"]', '["</parameter>"]'].map((v) => fits(listed, v))).toEqual([true, false]);
    const short = { type: 'array', items: { type: 'string', minLength: 2, maxLength: 4 } };
    expect(['["a<b"]', '["</"]', '["a</b"]'].map((v) => fits(short, v))).toEqual([true, false, false]);
    // What fits is read as it was written.
    const [read] = parseToolCalls(
      call('["a < b", "<p>"]'),
      readTools([{ name: 'f', parameters: property(list) }]),
      '',
    ).calls;
    expect(JSON.parse(read!.arguments)).toEqual({ a: ['a < b', '<p>'] });
  });

  test.each<[object, string]>([
    [{ type: 'object', properties: { a: {} }, anyOf: [{ required: ['a'] }, {}] }, 'anyOf'],
    [{ type: 'object', properties: { a: {} }, minProperties: 1 }, 'minProperties'],
    [{ type: 'object', properties: { a: {} }, propertyNames: { maxLength: 0 } }, 'propertyNames'],
    [{ type: 'object', properties: { 'a>b': {} } }, 'the name "a>b"'],
    [{ type: 'object', properties: { ' a': {} } }, 'the name " a"'],
    [{ type: 'object', properties: { '': {} } }, 'the name ""'],
    [{ type: 'object', properties: {}, required: ['a'] }, 'required'],
  ])('%j is refused', (parameters, because) => {
    expect(() => automatonFor(parameters)).toThrow(`in this model's style of calls: ${because}; list every`);
    // The order of the fields does not matter where a call is one JSON text.
    if (because === 'anyOf') expect(() => automatonFor(parameters, 'json')).not.toThrow();
  });

  test('arguments are an object', () => {
    for (const style of ['json', 'xml'] as const) {
      expect(() => automatonFor({ type: 'string' }, style)).toThrow('the parameters of tool "f" are of type "string"');
    }
    const matcher = new Matcher(automatonFor({ type: ['object', 'null'], properties: { a: {} } }, 'json'));
    const fits = (given: string) =>
      matcher.walk(matcher.start, Buffer.from(`<tool_call>\n{"name": "f", "arguments": ${given}}\n</tool_call>`))
        ?.accepts ?? false;
    expect(['{"a":1}', 'null'].map(fits)).toEqual([true, false]);
  });
});

describe('a value in XML is the first of its readings that fits', () => {
  const toolOf = (schema: unknown, more: object = {}) => ({
    name: 'f',
    parameters: { type: 'object', properties: { a: schema }, required: ['a'], ...more },
  });
  const call = (value: string) =>
    `<tool_call>\n<function=f>\n<parameter=a>\n${value}\n</parameter>\n</function>\n</tool_call>`;
  const read = (schema: unknown, value: string, more?: object) => {
    const [found] = parseToolCalls(call(value), readTools([toolOf(schema, more)]), '').calls;
    return (JSON.parse(found!.arguments) as { a: unknown }).a;
  };
  const [text, whole, number] = [{ type: 'string' }, { type: 'integer' }, { type: 'number' }];
  const either = { anyOf: [text, whole] };

  test.each<[string, unknown, [value: string, read: unknown][]]>([
    [
      'a string or an integer',
      either,
      [
        ['42', 42],
        [' 42 ', 42],
        ['-7', -7],
        ['007', '007'],
        ['42.0', '42.0'],
        ['1.5', '1.5'],
        ['1e3', '1e3'],
        ['12345678901234567890', '12345678901234567890'],
        ['1e999', '1e999'],
        ['true', 'true'],
        ['null', 'null'],
        ['"42"', '"42"'],
        ['[42]', '[42]'],
        ['', ''],
      ],
    ],
    [
      'listed types',
      { type: ['string', 'number', 'null'] },
      [
        ['1.5', 1.5],
        ['1.10', '1.10'],
        ['null', null],
        ['Null', 'Null'],
        ['true', 'true'],
      ],
    ],
    [
      'bounds of the integer',
      {
        oneOf: [
          { type: 'string', maxLength: 9 },
          { type: 'integer', maximum: 10 },
        ],
      },
      [
        ['5', 5],
        ['50', '50'],
      ],
    ],
    [
      'a pattern of the string',
      { anyOf: [{ type: 'string', pattern: '^[0-9]{5}$' }, whole] },
      [
        ['12345', 12345],
        ['01234', '01234'],
        ['"01234"', '01234'],
      ],
    ],
    [
      'allOf around it',
      { allOf: [either, { type: ['string', 'integer'], minimum: 3 }] },
      [
        ['42', 42],
        ['2', '2'],
      ],
    ],
    [
      'a list of both',
      { enum: ['1', 2, '2', null] },
      [
        ['1', '1'],
        ['2', '2'],
        ['null', null],
      ],
    ],
    [
      'a list beside a type',
      { anyOf: [{ enum: ['1', 'x'] }, whole] },
      [
        ['1', '1'],
        ['2', 2],
        ['x', 'x'],
      ],
    ],
    ['const', { const: 5 }, [['5', 5]]],
    ['not a string', { type: ['string', 'integer'], not: text }, [['5', 5]]],
    [
      'an object or a text',
      { anyOf: [{ type: 'object' }, text] },
      [
        ['{"x": 1}', { x: 1 }],
        ['{x}', '{x}'],
        ['[1]', '[1]'],
      ],
    ],
    [
      'a number alone',
      number,
      [
        ['1.10', 1.1],
        ['1e3', 1000],
        ['x', 'x'],
      ],
    ],
    [
      'a string alone',
      text,
      [
        ['1', '1'],
        ['null', 'null'],
        ['{"x": 1}', '{"x": 1}'],
      ],
    ],
    [
      'anything',
      {},
      [
        ['1', '1'],
        ['{"x": 1}', { x: 1 }],
        ['"x"', '"x"'],
        ['null', 'null'],
      ],
    ],
    [
      'what cannot be enforced',
      { ...either, if: {} },
      [
        ['42', 42],
        ['x', 'x'],
      ],
    ],
    [
      'nothing that fits',
      { type: 'integer', maximum: 3 },
      [
        ['9', 9],
        ['true', true],
        ['x', 'x'],
      ],
    ],
  ])('%s', (_, schema, cases) => {
    expect(cases.map(([value]) => [value, read(schema, value)])).toEqual(cases);
  });

  test('what a $ref leads to is known', () => {
    const more = {
      $defs: { id: { $ref: '#/$defs/number' }, number: whole, maybe: { anyOf: [text, { type: 'null' }] } },
    };
    expect(read({ $ref: '#/$defs/id' }, '42', more)).toBe(42);
    expect(read({ $ref: '#/$defs/maybe' }, 'null', more)).toBe(null);
    expect(read({ $ref: '#/$defs/maybe' }, '42', more)).toBe('42');
    expect(read({ $ref: '#/$defs/none' }, '42', more)).toBe('42');
    expect(read({ anyOf: [{ $ref: '#/$defs/none' }, whole] }, '[42]', more)).toEqual([42]);
  });

  // Whatever the model was let write is read as a value of the schema.
  test.each<unknown>([
    either,
    { type: ['string', 'number', 'boolean', 'null'], maxLength: 6, maximum: 50 },
    {
      anyOf: [
        { type: 'string', pattern: '^[0-9.e-]{1,6}$' },
        { type: 'integer', minimum: 100 },
      ],
    },
    { anyOf: [{ enum: ['1', 'null', '[]'] }, { type: 'array', maxItems: 2 }, { type: 'null' }] },
    {
      anyOf: [
        { type: 'string', minLength: 2 },
        { type: 'object', properties: { x: whole }, required: ['x'] },
      ],
    },
    { allOf: [{ type: ['string', 'integer'] }, { anyOf: [{ maximum: 9 }, { minLength: 3 }] }] },
    { type: ['string', 'integer'], not: text },
    { $ref: '#/$defs/code' },
    {},
  ])('what fits is read as what fits: %j', (schema) => {
    const more = {
      $defs: {
        code: {
          anyOf: [
            { type: 'string', maxLength: 3 },
            { type: 'integer', multipleOf: 7 },
          ],
        },
      },
    };
    const tool = toolOf(schema, more);
    const matcher = new Matcher(automatonOfTools({ style: 'xml', mustCall: true, many: false, tools: [tool] }));
    const valid = new Ajv2020({ strict: false }).compile(tool.parameters);
    const draw = drawFrom(7);
    const pieces = [
      '1',
      '4',
      '2',
      '0',
      '.',
      'e',
      '-',
      'x',
      'ab',
      'null',
      'true',
      '[',
      ']',
      '{"x": 7}',
      '"',
      ' ',
      ',',
      '\n',
      '[]',
    ];
    let count = 0;
    const values = Array.from({ length: 4000 }, () =>
      Array.from({ length: draw.below(5) }, () => pieces[draw.below(pieces.length)]).join(''),
    );
    for (const value of new Set(values)) {
      if (matcher.walk(matcher.start, Buffer.from(call(value)))?.accepts !== true) continue;
      count += 1;
      expect(valid({ a: read(schema, value, more) }), value).toBe(true);
    }
    expect(count).toBeGreaterThan(2);
  });

  test('a string that is ruled out is not written, and anything may be a bare text', () => {
    const fits = (schema: unknown, value: string) => {
      const matcher = new Matcher(
        automatonOfTools({ style: 'xml', mustCall: true, many: false, tools: [toolOf(schema)] }),
      );
      return matcher.walk(matcher.start, Buffer.from(call(value)))?.accepts ?? false;
    };
    const out = { type: ['string', 'integer'], not: text };
    expect(['5', 'x'].map((value) => fits(out, value))).toEqual([true, false]);
    expect(['5', 'x', '{"x": [1]}', '"x"'].map((value) => fits({}, value))).toEqual([true, true, true, true]);
    expect(() => fits({ type: 'string', not: { enum: ['x'] } }, 'y')).toThrow('this "not" cannot be enforced');
  });
});

test('a stream holds back what may be a call', () => {
  const step = (token: string) => ({ step: 0, token, color: '#000000', trit: 0 as const });
  const text = new StreamedText(true);
  const sent = ['Hi ', '<to', 'ast', ' <tool', '_call>', '{}'].map((token) =>
    text
      .push(step(token))
      .map((one) => one.token)
      .join(''),
  );
  expect(sent).toEqual(['Hi ', '', '<toast', '', '', '']);
  expect(text.beforeCall()).toBe(' ');
  expect(text.end(true)).toEqual([]);
  const other = new StreamedText(true);
  other.push(step('a<'));
  expect(other.end(false).map(({ token }) => token)).toEqual(['a<']);
});
