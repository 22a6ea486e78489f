import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { ALL_TOOLS } from '../../src/tools/all-tools.ts';
import { balanceTriadTool } from '../../src/tools/balance-triad.ts';
import { type JsonSchema, jsonSchemaOf } from '../../src/tools/define-tool.ts';
import { morphismStepTool } from '../../src/tools/morphism-step.ts';
import { schemaFiles, withToolTable } from '../../src/tools/schema-files.ts';

const schemasFolder = new URL('../../schemas/', import.meta.url);

test('the tools are these, in this order', () => {
  expect(ALL_TOOLS.map(({ name }) => name)).toEqual([
    'generate_with_trace',
    'analyze_layer',
    'color_at',
    'palette',
    'balance_triad',
    'morphism_step',
    'morphism_invert',
  ]);
});

test('schemas/ holds what the declarations say (npm run schemas writes it)', () => {
  const files = schemaFiles(ALL_TOOLS);
  expect(readdirSync(schemasFolder).sort()).toEqual([...files.keys()].sort());
  for (const [name, text] of files) expect(readFileSync(new URL(name, schemasFolder), 'utf8'), name).toBe(text);
});

test('the README lists the tools as the declarations say (npm run schemas writes it)', () => {
  const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');
  expect(withToolTable(readme, ALL_TOOLS)).toBe(readme);
});

// What breaks clients: the model API refuses or Claude Code drops a tool with such a schema.
const ROOT_FORBIDDEN = ['oneOf', 'anyOf', 'allOf', 'not', 'if'];
const ANYWHERE_FORBIDDEN = [
  '$ref',
  '$defs',
  'definitions',
  'prefixItems',
  'patternProperties',
  'allOf',
  'not',
  'const',
  'exclusiveMinimum',
  'exclusiveMaximum',
];

/** Every schema in a schema, with its path. */
function* walk(schema: JsonSchema, path: string): Generator<[JsonSchema, string]> {
  yield [schema, path];
  for (const [name, child] of Object.entries(schema.properties ?? {})) yield* walk(child, `${path}.${name}`);
  if (schema.items !== undefined) yield* walk(schema.items, `${path}[]`);
  for (const [i, child] of (schema.anyOf ?? []).entries()) yield* walk(child, `${path}|${i}`);
}

describe.each(ALL_TOOLS.flatMap((tool) => (['input', 'output'] as const).map((io) => ({ tool, io, name: tool.name }))))(
  '$name $io',
  ({ tool, io }) => {
    const schema = jsonSchemaOf(tool[io], io);

    test('is a plain object at the root', () => {
      expect(schema.type).toBe('object');
      expect(schema.additionalProperties).toBe(false);
      expect(Object.keys(schema).filter((key) => ROOT_FORBIDDEN.includes(key))).toEqual([]);
    });

    test('uses only what clients accept, in every part', () => {
      for (const [part, path] of walk(schema, tool.name)) {
        expect(
          Object.keys(part).filter((key) => ANYWHERE_FORBIDDEN.includes(key)),
          path,
        ).toEqual([]);
        expect(part.type === undefined ? part.anyOf?.length : typeof part.type, `${path} has a type`).toBeTruthy();
        // Gemini's clients refuse the whole request for one of these.
        expect(
          (part.enum ?? []).every((value) => typeof value === 'string'),
          `${path} has an enum of text`,
        ).toBe(true);
        expect(typeof part.default === 'bigint', path).toBe(false);
        expect(Array.isArray(part.items), `${path} is a tuple`).toBe(false);
        for (const name of Object.keys(part.properties ?? {})) expect(name).toMatch(/^[a-z0-9_]{1,64}$/);
      }
    });
  },
);

test('what is above 0, or one of -1, 0 and 1, is checked as before', () => {
  const sent = { model: 'default', text: ['a'] };
  expect(morphismStepTool.input.safeParse({ ...sent, lr: 0 }).success).toBe(false);
  expect(morphismStepTool.input.safeParse({ ...sent, lr: 1e-9 }).success).toBe(true);
  expect(jsonSchemaOf(morphismStepTool.input, 'input').properties!.lr).toMatchObject({ minimum: 0, maximum: 10 });
  expect(jsonSchemaOf(balanceTriadTool.input, 'input').properties!.trits!.items).toEqual({
    type: 'integer',
    minimum: -1,
    maximum: 1,
  });
  expect(balanceTriadTool.input.safeParse({ trits: [0.5] }).success).toBe(false);
});

test('every file of schemas/ holds no number in an enum and no exclusive limit', () => {
  for (const [name, text] of schemaFiles(ALL_TOOLS)) {
    JSON.parse(text, (key, value) => {
      if (key === 'enum') for (const one of value) expect(one, name).toBeTypeOf('string');
      expect(key, name).not.toMatch(/^(exclusive(Minimum|Maximum)|const)$/);
      return value;
    });
  }
});

describe.each(ALL_TOOLS.map((tool) => ({ name: tool.name, tool })))('$name', ({ tool }) => {
  test('describes itself and its arguments within what clients read', () => {
    expect(tool.name).toMatch(/^[a-z][a-z0-9_]{0,63}$/);
    expect(tool.title.length).toBeGreaterThan(0);
    expect(tool.description.length).toBeLessThanOrEqual(2048);
  });

  test('takes its own example', () => {
    expect(tool.input.safeParse(tool.example).success).toBe(true);
  });
});

test('all tools together stay small in a model’s context', () => {
  const listed = ALL_TOOLS.map((tool) => ({
    name: tool.name,
    title: tool.title,
    description: tool.description,
    inputSchema: jsonSchemaOf(tool.input, 'input'),
    outputSchema: jsonSchemaOf(tool.output, 'output'),
  }));
  expect(JSON.stringify(listed).length).toBeLessThan(22_118);
});
