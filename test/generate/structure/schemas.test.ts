// Every completion parses and fits, by a validator that is not ours: drawn schemas and those of tools, sampled at temperature 1.
// STRUCTURE_SCHEMAS and STRUCTURE_SAMPLES draw more: 500 and 4 take some minutes.

import { Ajv2020 } from 'ajv/dist/2020.js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Engine } from '../../../src/generate/engine.ts';
import { generateWith } from '../../../src/generate/generate.ts';
import { automatonOf } from '../../../src/generate/structure/structure.ts';
import { StructureError } from '../../../src/generate/structure/structure-error.ts';
import { drawFrom, randomSchema } from './random-schemas.ts';
import { TOOL_SCHEMAS } from './tool-schemas.ts';

const COUNT = Number(process.env.STRUCTURE_SCHEMAS ?? 40);
const SAMPLES = Number(process.env.STRUCTURE_SAMPLES ?? 2);
const TOOLS = process.env.STRUCTURE_SCHEMAS === undefined ? TOOL_SCHEMAS.filter((_, i) => i % 2 === 0) : TOOL_SCHEMAS;
/** Texts at once: they share the steps of the engine. */
const AT_ONCE = 48;

const FORMATS: Record<string, RegExp> = {
  date: /^\d{4}-\d\d-\d\d$/,
  time: /^\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/,
  'date-time': /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/,
  uuid: /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
  email: /^[^\s@]+@[^\s@]+\.[a-z]+$/,
  ipv4: /^\d{1,3}(\.\d{1,3}){3}$/,
  uri: /^https?:\/\/\S+$/,
};
const ajv = new Ajv2020({ strict: false, validateFormats: true, formats: FORMATS });

let engine: Engine;
beforeAll(() => {
  engine = new Engine();
});
afterAll(() => engine[Symbol.dispose]());

type Case = { readonly schema: object; readonly sample: number };

/** What is wrong, one line each; how many texts there were. */
async function problems(cases: readonly Case[]): Promise<{ texts: number; wrong: string[]; tooLong: number }> {
  const wrong: string[] = [];
  const queue = [...cases];
  let texts = 0;
  let tooLong = 0;
  const work = async () => {
    for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
      const { schema, sample } = next;
      // Short ones come to their forced endings, long ones end by themselves.
      const maxTokens = 24 + 60 * (sample % 3);
      try {
        const result = await generateWith(engine, {
          model: 'default',
          prompt: 'Once upon a time ',
          responseSchema: schema,
          maxTokens,
          temperature: 1,
          sampleSeed: BigInt(1000 * sample + texts),
        });
        texts += 1;
        const value: unknown = JSON.parse(result.completion);
        const isValid = ajv.validate(schema, value);
        if (!isValid) wrong.push(`${JSON.stringify(schema)}: ${result.completion}: ${ajv.errorsText()}`);
        if (result.finishReason !== 'stop') wrong.push(`${result.finishReason}: ${JSON.stringify(schema)}`);
        if (result.usage.completionTokens > maxTokens) wrong.push(`too many tokens: ${JSON.stringify(schema)}`);
      } catch (error) {
        if (error instanceof StructureError && /shortest text/.test(error.message)) tooLong += 1;
        else wrong.push(`${JSON.stringify(schema)}: ${error}`);
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  if (process.env.STRUCTURE_SCHEMAS !== undefined)
    process.stderr.write(
      `${texts} texts, ${wrong.length} wrong; ${tooLong} refused: their shortest text is too long\n`,
    );
  return { texts, wrong, tooLong };
}

const times = (schemas: readonly object[]) =>
  schemas.flatMap((schema) => Array.from({ length: SAMPLES }, (_, sample) => ({ schema, sample })));

describe('texts of the embedded model at temperature 1', { timeout: 600_000 + 6000 * COUNT }, () => {
  test(`${COUNT} drawn schemas`, async () => {
    const schemas: object[] = [];
    for (let seed = 1; schemas.length < COUNT; seed++) {
      const schema = randomSchema(drawFrom(seed));
      try {
        automatonOf({ kind: 'schema', text: JSON.stringify(schema) });
        schemas.push(schema);
      } catch (error) {
        // Two of a draw's parts may exclude each other, and some are refused with a reason.
        if (!(error instanceof StructureError)) throw error;
      }
    }
    const { texts, wrong, tooLong } = await problems(times(schemas));
    expect(wrong).toEqual([]);
    expect(texts).toBeGreaterThan(tooLong * 3);
  });

  test('schemas of tools', async () => {
    expect(TOOL_SCHEMAS.length).toBeGreaterThanOrEqual(50);
    const { texts, wrong } = await problems(times(TOOLS));
    expect(wrong).toEqual([]);
    expect(texts).toBeGreaterThan(TOOLS.length);
  });
});
