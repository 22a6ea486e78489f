// What it costs to hold a text to a structure: choosing each token among those that fit, against choosing it among all, over
// the schemas of 51 tools and some harder ones, each met for the first time, with 151,936 tokens of a real vocabulary.
//   node scripts/bench-structure.mjs [--vocabulary 151936] [--runs 3] [--temperature 0.7] [--tokens 80]
// No model runs: logits are made up, so that texts go everywhere. Of each step the quickest of the runs counts, since a busy
// machine only adds; each run begins anew, with nothing kept. `waited for`: by whoever has the logits already, after what a
// model's own computing leaves time for; `at once`: where it leaves none. `free`: a choice without a structure.
import { readFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { transform } from 'esbuild';
import ranks from 'js-tiktoken/ranks/o200k_base';
import { chooseToken } from '../dist/generate/sampler.js';
import { StructuredWriter } from '../dist/generate/structure/structured-writer.js';

const { values } = parseArgs({
  options: {
    vocabulary: { type: 'string', default: '151936' },
    runs: { type: 'string', default: '3' },
    temperature: { type: 'string', default: '0.7' },
    tokens: { type: 'string', default: '80' },
  },
});
const vocabSize = Number(values.vocabulary);
const runs = Number(values.runs);
const room = Number(values.tokens);
const options = { temperature: Number(values.temperature), topK: 0, topP: 1, sampleSeed: 7n };

/** The last id ends texts, as in a chat model. */
const STOP = vocabSize - 1;
const tokens = [];
for (const line of ranks.bpe_ranks.split('\n')) {
  const [, from, ...list] = line.split(' ');
  for (const [i, text] of list.entries()) tokens[Number(from) + i] = new Uint8Array(Buffer.from(text, 'base64'));
}
const bytes = { of: (id) => (id < STOP - 256 ? tokens[id] : undefined), stripsStart: false };

const source = await readFile(new URL('../test/generate/structure/tool-schemas.ts', import.meta.url), 'utf8');
const { code } = await transform(source, { loader: 'ts', format: 'esm' });
const { TOOL_SCHEMAS } = await import(`data:text/javascript,${encodeURIComponent(code)}`);
const string = (more) => ({ type: 'object', properties: { text: { type: 'string', ...more } }, required: ['text'] });
const HARDER = [
  string({ maxLength: 500 }),
  string({ minLength: 2, maxLength: 20 }),
  string({ pattern: '^[a-z0-9_]{1,64}$' }),
  string({ pattern: '[A-Z]{2,}' }),
  string({ pattern: '^\\p{Lu}\\w*( \\w+){0,9}$' }),
  { type: 'object', additionalProperties: { type: ['string', 'number', 'null'] }, properties: { name: {}, named: {} } },
  {},
];

let state = 1;
const random = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return state / 2 ** 32;
};
const sets = Array.from({ length: 8 }, () =>
  Float32Array.from({ length: vocabSize }, () => 12 * random() ** 8 - 4 * random()),
);

/** What a model's computing is: the loop is free until it is done. */
const compute = async (isLong) => {
  for (let turn = 0; turn < (isLong ? 12 : 0); turn++) await new Promise((resolve) => setImmediate(resolve));
};

async function measure(schemas, isLong) {
  const steps = [];
  const setUps = [];
  for (let run = 0; run < runs; run++) {
    const model = { tokenizer: { bytes, tokenId: () => undefined }, vocabSize, isStop: (id) => id === STOP };
    let at = 0;
    for (const [i, schema] of schemas.entries()) {
      const start = performance.now();
      const writer = await StructuredWriter.begin(model, {
        structure: { kind: 'schema', text: JSON.stringify(schema) },
        tokens: [],
        promptTokens: 0,
        room,
        thought: undefined,
        mayThink: false,
      });
      if (i === 0) setUps.push(performance.now() - start);
      for (let left = room; left > 0; left--) {
        await compute(isLong);
        const logits = sets[(at + i) % sets.length];
        const asked = { ...options, sampleSeed: BigInt(i) };
        const begun = performance.now();
        const { token } = writer.choose(logits, { step: left, options: asked, history: undefined, left });
        const between = performance.now();
        chooseToken(logits, left, asked);
        const took = [between - begun, performance.now() - between];
        steps[at] = steps[at]?.map((best, which) => Math.min(best, took[which])) ?? took;
        at += 1;
        if (token < 0 || token === STOP || writer.isOver) break;
      }
    }
    steps.length = at;
  }
  return { steps, setUp: Math.min(...setUps) };
}

const mean = (list) => list.reduce((sum, one) => sum + one, 0) / list.length;

function tell(name, steps) {
  const extra = steps.map(([held, free]) => Math.max(0, held - free)).sort((a, b) => a - b);
  const at = (part) => extra[Math.min(extra.length - 1, Math.floor(part * extra.length))];
  const columns = [mean(extra), at(0.5), at(0.99), at(1), mean(steps.map(([, free]) => free))];
  const text = columns.map((one) => one.toFixed(3).padStart(8)).join('');
  process.stdout.write(`${name.padEnd(26)}${String(extra.length).padStart(6)}${text}\n`);
}

process.stdout.write(
  `${vocabSize} tokens, temperature ${values.temperature}; what a structure adds to a choice, in ms\n`,
);
process.stdout.write(`${''.padEnd(26)} steps    mean  median     p99   worst    free\n`);
for (const [name, schemas] of [
  ['tools', TOOL_SCHEMAS],
  ['harder', HARDER],
]) {
  const { steps, setUp } = await measure(schemas, true);
  tell(`${name}, waited for`, steps);
  tell(`${name}, at once`, (await measure(schemas, false)).steps);
  if (name === 'tools') process.stdout.write(`the vocabulary is read in ${setUp.toFixed(0)} ms, once a model\n`);
}
