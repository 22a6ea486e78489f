// The template interpreter against Python's Jinja2, set up as transformers does it; and what it may cost.

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ChatTemplate } from '../../src/tokenizer/chat-template.ts';
import { JinjaError } from '../../src/tokenizer/jinja/jinja-error.ts';
import { JinjaTemplate } from '../../src/tokenizer/jinja/jinja-template.ts';

type Outcome = { readonly text?: string; readonly error?: string };
type Variables = Record<string, unknown>;

const golden = <T>(name: string): T =>
  JSON.parse(readFileSync(new URL(`../golden/tokenizer/${name}`, import.meta.url), 'utf8')) as T;

const { context, features } = golden<{
  context: Variables;
  features: readonly (Outcome & { readonly template: string })[];
}>('jinja/features.json');

const { templates, conversations, settings, chats } = golden<{
  templates: Record<string, string>;
  conversations: Record<string, object[]>;
  settings: Variables[];
  chats: readonly (Outcome & { readonly template: string; readonly conversation: string; readonly setting: number })[];
}>('jinja/chats.json');

/** The time of the golden files. */
const now = () => new Date(2026, 6, 5, 15, 4, 9, 123);

/** What Python renders and we refuse, by the reason: nothing else may differ. */
const REFUSED: ReadonlyMap<string, RegExp> = new Map([["{{ '١٢' | int }}", /digits that are not ASCII/]]);

/** The text, or the error that stops the template; any other error is a fault of ours. */
function outcome(render: () => string): string | JinjaError {
  try {
    return render();
  } catch (error) {
    if (error instanceof JinjaError) return error;
    throw error;
  }
}

describe('features, as Python renders them', () => {
  const single = features.filter(({ template }) => !(template.includes('١٢') && template.length > 20));

  test('there are enough of them, and errors among them', () => {
    expect(single.length).toBeGreaterThan(800);
    expect(single.filter(({ error }) => error !== undefined).length).toBeGreaterThan(80);
  });

  test.each(single)('$template', ({ template, text }) => {
    const result = outcome(() => new JinjaTemplate(template).render(context, now));
    const reason = REFUSED.get(template);
    if (reason !== undefined) expect((result as JinjaError).message).toMatch(reason);
    else if (text !== undefined) expect(result).toBe(text);
    else expect(result).toBeInstanceOf(JinjaError);
  });
});

describe('subscripts, by the grammar of Jinja2 3.1.6', () => {
  const render = (template: string) => outcome(() => new JinjaTemplate(template).render({ x: [1, 2], y: { a: 1 } }));

  test.each([
    ["{{ ''[] }}|", '|'],
    ['{{ x[::] }}', '[1, 2]'],
    ['{{ x[:1] }}{{ x[1:] }}', '[1][2]'],
  ])('%s', (template, text) => expect(render(template)).toBe(text));

  test.each(["{{ ''[,] }}", '{{ x[1,] }}', '{{ x[,1] }}', '{{ x[1,,2] }}', '{{ x[:,] }}', '{{ x[:1:,] }}'])(
    '%s does not parse',
    (template) => expect(render(template)).toMatchObject({ stop: 'syntax' }),
  );

  // Python compiles none of the first three, and renders the others.
  test.each(['{{ x[1,:] }}', '{{ x[:,1] }}', '{{ x[1:2,1:2] }}', '{{ y[] is defined }}', '{{ y[1, 2] }}'])(
    '%s is refused in words',
    (template) => expect(render(template)).toMatchObject({ stop: 'unsupported' }),
  );
});

describe('whole templates, as Python renders them', () => {
  test.each(Object.keys(templates))('%s', (name) => {
    const own = chats.filter((chat) => chat.template === name);
    expect(own.length).toBe(Object.keys(conversations).length * settings.length);
    const template = new JinjaTemplate(templates[name]!);
    for (const { conversation, setting, text } of own) {
      const variables = { tools: null, documents: null, bos_token: '<s>', eos_token: '</s>', ...settings[setting] };
      const result = outcome(() => template.render({ ...variables, messages: conversations[conversation] }, now));
      const where = `${name}, ${conversation}, ${JSON.stringify(Object.keys(settings[setting]!))}`;
      if (text !== undefined) expect(result, where).toBe(text);
      else expect(result, where).toBeInstanceOf(JinjaError);
    }
  });

  test('most of them render', () => {
    expect(chats.filter(({ text }) => text !== undefined).length).toBeGreaterThan(400);
  });
});

describe('budgets', () => {
  const messages = [{ role: 'user', content: 'Hi' }];
  const stopped = (source: string, variables: Variables = {}): string => {
    const result = outcome(() => new JinjaTemplate(source).render({ messages, ...variables }));
    expect(result).toBeInstanceOf(JinjaError);
    expect((result as JinjaError).stop, String(result)).toBe('limit');
    return (result as JinjaError).message;
  };
  const deep = (open: string, close: string, count: number): string => open.repeat(count) + close.repeat(count);

  test.each([
    ['loops within loops', '{% for a in range(5000) %}{% for b in range(5000) %}{% endfor %}{% endfor %}', /steps/],
    [
      'a macro that calls itself twice',
      '{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}',
      /steps/,
    ],
    ...[
      ['characters to strip', "'a'.strip(s ~ j)"],
      ['a key', '{}[s ~ j]'],
      ['a number in it', '(s ~ j) | int'],
      ['its title', '(s ~ j).title()'],
      ['its beginning', '(s ~ j) | truncate(9)'],
      ['two of them compared', '(s ~ j) == (s ~ i)'],
      ['two of them sorted', '[s ~ j, s ~ i] | sort'],
    ].map(([what, expression]): [string, string, RegExp] => [
      `a long text read again and again: ${what}`,
      `{% set s = "ab" * 1900000 %}{% for i in range(9999) %}{% for j in range(9999) %}{% set q = ${expression} %}{% endfor %}{% endfor %}`,
      /characters/,
    ]),
    ['a range of a million', '{{ range(1000000) | list | length }}', /range/],
    [
      'a list doubled',
      '{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = n.l + n.l %}{% endfor %}',
      /steps/,
    ],
    ['a list times a million', '{{ ([1, 2] * 100000000) | length }}', /steps/],
    [
      'a text doubled',
      '{% set n = namespace(s="x") %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}',
      /text of more than/,
    ],
    ['a text times a billion', '{{ "x" * 1000000000 }}', /text of more than/],
    ['output without end', '{% for i in range(99999) %}{{ "x" * 1000 }}{% endfor %}', /text of more than|characters/],
    [
      'replace that grows',
      '{% set n = namespace(s="a") %}{% for i in range(60) %}{% set n.s = n.s | replace("a", "aa") %}{% endfor %}',
      /text of more than|characters|steps/,
    ],
    [
      'replace of nothing',
      '{% set n = namespace(s="a") %}{% for i in range(60) %}{% set n.s = n.s.replace("", "-") %}{% endfor %}',
      /text of more than|characters|steps/,
    ],
    [
      'join that grows',
      '{% set n = namespace(s="ab") %}{% for i in range(60) %}{% set n.s = n.s | join(n.s) %}{% endfor %}',
      /text of more than|characters|steps/,
    ],
    [
      'searching a long text again and again',
      '{% set s = "ab" * 1000000 %}{% for i in range(99999) %}{% if "ac" in s %}{% endif %}{% endfor %}',
      /characters/,
    ],
    [
      'many copies of a long text',
      '{% set s = "ab" * 1000000 %}{% set n = namespace(l=[]) %}{% for i in range(99999) %}{% set n.l = n.l + [s.upper()] %}{% endfor %}',
      /characters/,
    ],
    [
      'JSON of a shared list',
      '{% set n = namespace(l=[]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l | tojson }}',
      /steps|nests/,
    ],
    [
      'printing a shared list',
      '{% set n = namespace(l=[]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}',
      /steps|nests/,
    ],
    [
      'comparing shared lists',
      '{% set n = namespace(l=[], m=[]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% set n.m = [n.m, n.m] %}{% endfor %}{{ n.l == n.m }}',
      /steps|nests/,
    ],
    [
      'a list in a list in a list',
      '{% set n = namespace(l=[]) %}{% for i in range(5000) %}{% set n.l = [n.l] %}{% endfor %}{{ n.l | tojson }}',
      /nests/,
    ],
    ['an indent of a billion', '{{ messages | tojson(indent=1000000000) }}', /width/],
    ['a width of a billion', '{{ "%1000000000d" % 1 }}', /width/],
    ['center, ljust, zfill of a billion', '{{ "a".center(1000000000) }}', /width/],
    ['a format of a billion', '{{ "{:>1000000000}".format(1) }}', /width/],
    ['a number of millions of digits', '{{ 10 ** 10000000 }}', /integer/],
    [
      'a number squared again and again',
      '{% set n = namespace(x=3) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}',
      /integer/,
    ],
    ['batch that fills', '{{ [1] | batch(1000000000, 0) | list }}', /steps/],
    ['slices without end', '{{ [1] | slice(1000000000) | list }}', /steps/],
    ['a macro without end', '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', /nests/],
    [
      'a caller without end',
      '{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}',
      /nests/,
    ],
    ['a recursive loop', '{% for n in [1] recursive %}{{ loop([1]) }}{% endfor %}', /nests/],
    ['parentheses', `{{ ${deep('(', ')', 5000).replace('()', '(1)')} }}`, /nests/],
    ['lists', `{{ ${deep('[', ']', 5000)} }}`, /nests/],
    ['not not not', `{{ ${'not '.repeat(5000)}1 }}`, /nests/],
    ['signs', `{{ ${'-'.repeat(5000)}1 }}`, /nests/],
    ['a long sum', `{{ ${'1 + '.repeat(5000)}1 }}`, /nests/],
    ['a long chain of filters', `{{ 1${' | string'.repeat(5000)} }}`, /nests/],
    ['a long chain of attributes', `{{ 'a'${'.x'.repeat(5000)} }}`, /nests/],
    ['conditions within conditions', `${'{% if 1 %}'.repeat(5000)}${'{% endif %}'.repeat(5000)}`, /nests/],
    ['a condition of many elses', `{{ ${'1 if 0 else '.repeat(5000)}1 }}`, /nests/],
  ])('%s', (_, source, limit) => {
    expect(stopped(source)).toMatch(limit);
  });

  test('each says where, and how much was too much', () => {
    const template = new ChatTemplate(
      'a\n{% for a in range(99999) %}\n{{ "x" * 1000 }}{% endfor %}',
      'model/chat_template.jinja',
    );
    expect(() => template.render(messages)).toThrow(
      expect.objectContaining({
        code: 'BAD_CHAT_TEMPLATE',
        message: expect.stringMatching(
          /^the chat template was stopped in line 3: it makes a text of more than \d+ characters \(model\/chat_template\.jinja\); send less/,
        ),
      }),
    );
  });

  test('a thousand messages and fifty tools are rendered by every template', () => {
    const tool = (i: number) => ({
      type: 'function',
      function: {
        name: `tool_${i}`,
        description: 'Does what it is called. '.repeat(20),
        parameters: {
          type: 'object',
          properties: Object.fromEntries(
            Array.from({ length: 12 }, (_, p) => [
              `p${p}`,
              { type: 'string', description: 'A text that matters. '.repeat(4), enum: ['a', 'b'] },
            ]),
          ),
          required: ['p0', 'p1'],
        },
      },
    });
    const tools = Array.from({ length: 50 }, (_, i) => tool(i));
    const text =
      '<think>\nfirst this, then that\n</think>\n\n' +
      'A sentence with some words in it, and code: `x = [1, 2]`.\n'.repeat(40);
    const plain = Array.from({ length: 1000 }, (_, i) => ({
      role: i % 2 === 0 ? 'user' : 'assistant',
      content: `${i} ${text}`,
    }));
    const calling = Array.from({ length: 1000 }, (_, i) => {
      if (i % 4 === 0) return { role: 'user', content: `${i} ${text}` };
      if (i % 4 === 1) {
        const call = {
          id: 'call00001',
          type: 'function',
          function: { name: 'tool_1', arguments: { p0: 'a', p1: text.slice(0, 200) } },
        };
        return { role: 'assistant', content: '', reasoning_content: 'hm', tool_calls: [call] };
      }
      return i % 4 === 2
        ? { role: 'tool', content: text, tool_call_id: 'call00001' }
        : { role: 'assistant', content: text };
    });
    for (const [name, source] of Object.entries({ ...templates, ...{ qwen3 } })) {
      const template = new JinjaTemplate(source);
      for (const [kind, conversation] of Object.entries({ plain, calling })) {
        const variables = {
          messages: conversation,
          tools,
          documents: null,
          bos_token: '<s>',
          eos_token: '</s>',
          add_generation_prompt: true,
        };
        const result = outcome(() => template.render(variables));
        if (result instanceof JinjaError) expect(result.stop, `${name}, ${kind}: ${result.message}`).toBe('raised');
        else if (name !== 'masked') expect(result.length, `${name}, ${kind}`).toBeGreaterThan(400_000);
      }
    }
  });
});

describe('input that is no JSON, or too deep', () => {
  const template = new ChatTemplate('{{ messages | tojson }}{{ tools | tojson }}', 'test');
  const nested = (count: number): unknown => {
    let value: unknown = 1;
    for (let i = 0; i < count; i++) value = [value];
    return value;
  };
  const circular: Record<string, unknown> = { role: 'user' };
  circular.self = circular;

  test.each([
    ['thousands of levels', { messages: [{ role: 'user', content: nested(50_000) }] }, /nests deeper than 100 levels/],
    ['itself', { messages: [circular] }, /nests deeper than 100 levels/],
    ['a function', { messages: [{ role: 'user', content: () => 1 }] }, /holds a function/],
    ['a symbol', { messages: [{ role: 'user', content: Symbol('x') }] }, /holds a symbol/],
    ['a Map', { messages: [{ role: 'user', content: new Map() }] }, /holds a Map/],
    ['messages as text', { messages: 'Hi' }, /messages must be a list of objects, not string/],
    ['messages of texts', { messages: ['Hi'] }, /one of its items is string/],
    ['messages of null', { messages: [null] }, /one of its items is null/],
    ['no messages', { messages: null }, /not null/],
    ['tools as an object', { messages: [], tools: { a: 1 } }, /tools must be a list of objects, not object/],
    ['tools by name', { messages: [], tools: ['now'] }, /tools must be a list of objects; one of its items is string/],
    ['documents as text', { messages: [], documents: 'x' }, /documents must be a list/],
    ['a variable', { messages: [], extra: nested(50_000) }, /variable 'extra' nests deeper/],
  ])('%s', (_, { messages, ...variables }, message) => {
    expect(() => template.render(messages as object[], variables)).toThrow(
      expect.objectContaining({ code: 'BAD_CHAT_TEMPLATE', message: expect.stringMatching(message) }),
    );
  });

  test('what JSON leaves out is left out, and other realms are plain objects, too', () => {
    const odd = Object.assign(Object.create(null), { role: 'user', gone: undefined, n: -0, big: 2 ** 60 });
    expect(template.render([odd])).toBe('[{"role": "user", "n": -0.0, "big": 1.152921504606847e+18}]null');
  });
});

const qwen3 = readFileSync(new URL('../golden/tokenizer/qwen3-chat/chat_template.jinja', import.meta.url), 'utf8');

describe('Qwen3, as its own template renders', () => {
  type Case = {
    readonly name: string;
    readonly messages: object[];
    readonly arguments: Variables;
    readonly text?: string;
    readonly starts?: string;
    readonly ends?: string;
  };
  const { cases } = golden<{ cases: Case[] }>('qwen3-chat/chat.json');

  test.each(cases)('$name', ({ messages, arguments: variables, text, starts, ends }) => {
    const result = new ChatTemplate(qwen3, 'test').render(messages, variables);
    if (text !== undefined) expect(result).toBe(text);
    else {
      // The sentence that introduces the tools is Qwen's own; what stands around it is ours as well.
      expect(result.startsWith(starts!.slice(0, -1))).toBe(true);
      expect(result.endsWith(ends!)).toBe(true);
      expect(result).toContain(
        '<tools>\n{"type": "function", "function": {"name": "add", "description": "adds", "parameters"',
      );
    }
  });
});
