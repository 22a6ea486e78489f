// The backend "onnx" on graphs made here, against the same sums in double. onnxruntime-node is there on request (npm run
// onnx); without it these tests say that they skip.

import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { ArgumentError, BitnetError } from '../../../src/errors.ts';
import { Engine } from '../../../src/generate/engine.ts';
import { evaluateIds, evaluateText } from '../../../src/generate/evaluate.ts';
import { generateWith } from '../../../src/generate/generate.ts';
import { OnnxModelError, OnnxRuntimeMissingError } from '../../../src/generate/onnx/errors.ts';
import { loadOnnx } from '../../../src/generate/onnx/load.ts';
import { findOnnxRuntime } from '../../../src/generate/onnx/runtime.ts';
import type { GenerateHooks, GenerateRequest } from '../../../src/generate/types.ts';
import { loadTokenizer } from '../../../src/tokenizer/load-tokenizer.ts';
import { runCli } from '../../cli/run-cli.ts';
import {
  addGraph,
  CONTEXT,
  TOY_CONFIG,
  type ToyOptions,
  toyFolder,
  toyGraph,
  toyLogits,
  VOCAB,
} from './toy-decoder.ts';

const found = await findOnnxRuntime();
const missing = typeof found === 'string' ? found : undefined;
if (missing !== undefined) console.warn(`skipped, onnxruntime-node: ${missing} (npm run onnx installs it)`);

const folders: string[] = [];
const folderOf = (...args: Parameters<typeof toyFolder>) => {
  folders.push(toyFolder(...args));
  return folders.at(-1)!;
};
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true });
});

const PROMPT = 'The little fox ran home.';

async function run(model: string, request: Partial<GenerateRequest> = {}, hooks: GenerateHooks = {}) {
  using engine = new Engine();
  const begin = request.messages === undefined && request.continuation === undefined ? { prompt: PROMPT } : {};
  return await generateWith(engine, { model, backend: 'onnx', maxTokens: 12, ...begin, ...request }, hooks);
}

const argmax = (logits: Float64Array) => logits.reduce((best, value, id, all) => (value > all[best]! ? id : best), 0);

describe.skipIf(missing !== undefined)('greedy text and log-probabilities are those of the sums', () => {
  test.each<[string, ToyOptions, number]>([
    ['with a cache', {}, 1e-4],
    ['without a cache', { cache: false }, 1e-4],
    ['with a cache of float16 and logits of float16', { type: 'f16' }, 0.2],
    ['with ids of 32 bits', { ids: 'i32' }, 1e-4],
    ['of a merged export, whose first step takes the other branch', { merged: true }, 1e-4],
    ['of an export that keeps few logits', { keepsLogits: true }, 1e-4],
    ['with a 2-bit ternary head (MatMulNBits)', { ternaryHead: true }, 1e-4],
  ])('%s', async (_, options, tolerance) => {
    const folder = folderOf(options);
    const tokens = (await loadTokenizer(folder)).encode(PROMPT);
    const promptTokens = tokens.length;
    const { trace, usage, output, completion, engine } = await run(folder);
    expect(trace).toHaveLength(12);
    for (const { tokenId, logprob, step } of trace) {
      const logits = toyLogits(tokens, options, step > 0);
      // float16 may choose another of two close tokens: what it chose must be as good.
      expect(logits[argmax(logits)]! - logits[tokenId!]!).toBeLessThanOrEqual(2 * tolerance);
      const total = logits.reduce((sum, value) => sum + Math.exp(value - logits[tokenId!]!), 0);
      expect(Math.abs(logprob! + Math.log(total))).toBeLessThanOrEqual(2 * tolerance);
      tokens.push(tokenId!);
    }
    expect(usage).toEqual({ promptTokens, completionTokens: 12 });
    expect(engine).toEqual({ backend: 'onnx' });
    expect(output).toBe(`${PROMPT}${completion}`);
    expect(trace.map(({ token }) => token).join('')).toBe(completion);
    expect(trace.slice(0, 3).map(({ color }) => color)).toEqual(['#6404C3', '#EB6AF7', '#7F1747']);
  });
});

describe.skipIf(missing !== undefined)('a generation', () => {
  test('goes on from a handle as if it had not stopped, and repeats with its seed', async () => {
    const folder = folderOf();
    const sampling = { temperature: 1, topK: 50, sampleSeed: 3n };
    const long = await run(folder, sampling);
    const first = await run(folder, { ...sampling, maxTokens: 5 });
    const second = await run(folder, { continuation: first.continuation!, maxTokens: 7 });
    expect([...first.trace, ...second.trace]).toEqual(long.trace);
    expect(second.output).toBe(long.output);
    expect((await run(folder, { ...sampling, sampleSeed: 4n })).completion).not.toBe(long.completion);
    using engine = new Engine();
    const elsewhere = generateWith(engine, { model: folder, backend: 'js', continuation: first.continuation! });
    await expect(elsewhere).rejects.toThrow(/made by the backend "onnx", this is "js"/);
  });

  test('beside another writes what it writes alone', async () => {
    const folder = folderOf();
    using engine = new Engine();
    const start = (prompt: string) => generateWith(engine, { model: folder, backend: 'onnx', prompt, maxTokens: 10 });
    const alone = [await start(PROMPT), await start('Once upon a time')];
    const together = await Promise.all([start(PROMPT), start('Once upon a time')]);
    expect(together.map(({ completion }) => completion)).toEqual(alone.map(({ completion }) => completion));
  });

  test('ends at an end token of the config', async () => {
    const folder = folderOf();
    const { trace } = await run(folder);
    const stopAt = trace[4]!.tokenId!;
    writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...TOY_CONFIG, eos_token_id: [VOCAB - 1, stopAt] }));
    const stopped = await run(folder);
    expect(stopped.finishReason).toBe('stop');
    expect(stopped.trace).toEqual(
      trace.slice(
        0,
        trace.findIndex(({ tokenId }) => tokenId === stopAt),
      ),
    );
  });

  test('ends when the context is full', async () => {
    const result = await run(folderOf(), { maxTokens: 500 });
    expect(result.finishReason).toBe('length');
    expect(result.usage.promptTokens! + result.usage.completionTokens).toBe(CONTEXT);
    expect(result).not.toHaveProperty('continuation');
    await expect(run(folderOf(), { prompt: 'long '.repeat(CONTEXT) })).rejects.toThrow(/holds 96 with its answer/);
  });

  test('is cancelled within a token', async () => {
    const controller = new AbortController();
    const onStep = ({ step }: { step: number }) => step === 3 && controller.abort();
    const result = await run(folderOf(), { maxTokens: 60 }, { signal: controller.signal, onStep });
    expect(result.finishReason).toBe('cancelled');
    expect(result.trace).toHaveLength(4);
  });
});

describe.skipIf(missing !== undefined)('a sequence', () => {
  test.each<[string, ToyOptions, number]>([
    ['with a cache', {}, 1e-3],
    ['with a cache of float16', { type: 'f16' }, 0.2],
    ['without a cache', { cache: false }, 1e-3],
  ])('%s can be cut back and forked, and a failed step leaves it as it was', async (_, options, tolerance) => {
    const folder = folderOf(options);
    const request = { model: folder, backend: 'onnx' } as const;
    const { executable } = await loadOnnx({ folder, file: join(folder, 'model.onnx') }, request);
    using _executable = executable;
    const text: number[] = [];
    const step = async (sequence: number, tokens: readonly number[]) => {
      const start = executable.sequenceLength(sequence);
      const { logits } = await executable.step({
        tokens: Int32Array.from(tokens),
        sequences: new Int32Array(tokens.length).fill(sequence),
        positions: Int32Array.from(tokens, (_, i) => start + i),
        outputRows: Int32Array.of(tokens.length - 1),
      });
      return logits;
    };
    const isOf = (logits: Float32Array, tokens: readonly number[]) => {
      const expected = toyLogits(tokens, options, false);
      expect(logits).toHaveLength(VOCAB);
      expect(logits.reduce((worst, value, v) => Math.max(worst, Math.abs(value - expected[v]!)), 0)).toBeLessThan(
        tolerance,
      );
    };
    const first = executable.createSequence();
    text.push(5, 17, 300, 4, 900, 71);
    isOf(await step(first, text), text);
    const branch = executable.fork(first, 4);
    executable.truncate(first, 2);
    expect([executable.sequenceLength(first), executable.sequenceLength(branch)]).toEqual([2, 4]);
    isOf(await step(first, [8, 9]), [5, 17, 8, 9]);
    isOf(await step(branch, [10]), [5, 17, 300, 4, 10]);
    // An id beyond the table: the runtime refuses to gather it.
    await expect(step(branch, [VOCAB + 5])).rejects.toThrow(/onnxruntime could not run the graph/);
    isOf(await step(branch, [11, 12]), [5, 17, 300, 4, 10, 11, 12]);
    executable.freeSequence(first);
    expect(() => executable.sequenceLength(first)).toThrow(/no sequence/);
  });
});

describe.skipIf(missing !== undefined)('eval', () => {
  test.each<[string, ToyOptions]>([
    ['with a cache', {}],
    ['without a cache', { cache: false }],
    ['that keeps few logits', { keepsLogits: true }],
  ])('gives the logits of every token of a graph %s', async (_, options) => {
    const folder = folderOf(options);
    const ids = Array.from({ length: 70 }, (_, i) => (i * 37) % VOCAB);
    const { logits, vocabSize } = await evaluateIds(folder, ids, { backend: 'onnx', chunk: 16 });
    expect(vocabSize).toBe(VOCAB);
    ids.forEach((_, i) => {
      const expected = toyLogits(ids.slice(0, i + 1), options, false);
      const row = logits.subarray(i * VOCAB, (i + 1) * VOCAB);
      expect(row.reduce((worst, value, v) => Math.max(worst, Math.abs(value - expected[v]!)), 0)).toBeLessThan(1e-3);
    });
  });

  test('of 2-bit weights, with the float32 activations that the graph asks for', async () => {
    const folder = join(import.meta.dirname, '../../golden/onnx/int2_weights');
    const expected = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'));
    const { logits, vocabSize } = await evaluateIds(folder, expected.ids, { backend: 'onnx' });
    expected.ids.forEach((_: number, row: number) => {
      const own = logits.subarray(row * vocabSize, (row + 1) * vocabSize);
      expect(argmax(Float64Array.from(own))).toBe(expected.argmax[row]);
      expect(Math.abs(Math.hypot(...own) - expected.norm[row])).toBeLessThan(1e-4);
      // With int8 activations they are off by up to 0.014.
      expected.logits_first_8[row].forEach((value: number, i: number) => {
        expect(Math.abs(own[i]! - value)).toBeLessThan(1e-4);
      });
    });
  });

  test('of a Git LFS pointer is none, in the place of the graph and of its weights', async () => {
    for (const name of ['model.onnx', 'model.onnx_data']) {
      const folder = folderOf();
      writeFileSync(
        join(folder, name),
        `version https://git-lfs.github.com/spec/v1\noid sha256:${'0'.repeat(64)}\nsize 1180000000\n`,
      );
      await expect(evaluateIds(folder, [1], { backend: 'onnx' })).rejects.toThrow(/Git LFS pointer.*git lfs pull/);
    }
  });

  test('gives the cross-entropy of a text', async () => {
    const { crossEntropy, tokens } = await evaluateText(folderOf(), PROMPT, { backend: 'onnx' });
    expect(tokens).toBeGreaterThan(3);
    expect(crossEntropy).toBeGreaterThan(0);
  });
});

describe.skipIf(missing !== undefined)('the graph is found', () => {
  const idsOf = async (model: string) => (await run(model)).trace.map(({ tokenId }) => tokenId);

  test('in the layouts of exporters, or by its own name', async () => {
    const expected = await idsOf(folderOf());
    expect(await idsOf(folderOf({}, { graph: 'onnx/model.onnx' }))).toEqual(expected);
    expect(await idsOf(folderOf({}, { graph: 'onnx/model_q4.onnx' }))).toEqual(expected);
    const several = folderOf({ ternaryHead: true }, { graph: 'onnx/model_q2.onnx' });
    addGraph(several, 'onnx/model_fp16.onnx');
    await expect(run(several)).rejects.toThrow(
      /several ONNX graphs .*name the file of one: model_fp16.onnx, model_q2.onnx/,
    );
    expect(await idsOf(join(several, 'onnx/model_fp16.onnx'))).toEqual(expected);
    addGraph(several, 'onnx/model.onnx');
    expect(await idsOf(several)).toEqual(expected);
  });

  test('in the hub cache', async () => {
    const folder = folderOf({}, { graph: 'onnx/model_q4.onnx' });
    addGraph(folder, 'onnx/model_fp16.onnx', { ternaryHead: true });
    const cache = mkdtempSync(join(tmpdir(), 'hub-'));
    folders.push(cache);
    const snapshots = join(cache, 'models--org--toy', 'snapshots');
    mkdirSync(snapshots, { recursive: true });
    cpSync(folder, join(snapshots, 'a'.repeat(40)), { recursive: true });
    vi.stubEnv('HF_HUB_CACHE', cache);
    try {
      const expected = await idsOf(join(folder, 'onnx/model_q4.onnx'));
      expect(await idsOf('org/toy/onnx/model_q4.onnx')).toEqual(expected);
      expect(await idsOf(`org/toy/onnx/model_q4.onnx@${'a'.repeat(40)}`)).toEqual(expected);
      await expect(run('org/toy/onnx/none.onnx')).rejects.toThrow(
        /no none.onnx .*it holds model_fp16.onnx, model_q4.onnx/,
      );
      await expect(run('org/other/onnx/model.onnx')).rejects.toThrow(/bitnet-gf3 pull org\/other/);
    } finally {
      vi.unstubAllEnvs();
    }
  });

  test('only where paths may lead', async () => {
    const folder = folderOf();
    using engine = new Engine({ allowedRoots: [join(folder, 'inner')] });
    for (const model of [folder, join(folder, 'model.onnx')]) {
      await expect(generateWith(engine, { model, backend: 'onnx', prompt: 'a' })).rejects.toMatchObject({
        code: 'PATH_NOT_ALLOWED',
      });
    }
  });
});

describe('refused', () => {
  test.each<[string, Partial<GenerateRequest>, RegExp]>([
    ['a model without a graph', { model: 'default' }, /"default" holds no .onnx file .*name a folder with model.onnx/],
    [
      'a graph that is not there',
      { model: './test/nothing.onnx' },
      /there is no nothing.onnx .*it holds no .onnx file/,
    ],
  ])('%s', async (_, request, message) => {
    const failed = run(request.model!, request);
    await expect(failed).rejects.toThrow(message);
    await expect(failed).rejects.toBeInstanceOf(ArgumentError);
  });

  const onGraph = test.skipIf(missing !== undefined);
  onGraph.each<[string, ToyOptions, object, RegExp]>([
    [
      'an input we do not know',
      { inputs: { pixel_values: 4 } },
      TOY_CONFIG,
      /wants an input "pixel_values" that we do not know/,
    ],
    [
      'a cache of a fixed size',
      { pastDims: [1, 1, 16, 32] },
      TOY_CONFIG,
      /past_key_values.0.key has room for a fixed number/,
    ],
    [
      'a cache of unknown width',
      { pastDims: ['b', 1, 'past', 'dim'] },
      { ...TOY_CONFIG, hidden_size: undefined },
      /the size "dim" of past/,
    ],
    ['a config without a context', {}, { vocab_size: VOCAB }, /does not tell how many tokens the model holds/],
    ['a config that is a list', {}, [1], /config.json holds no object/],
  ])('%s', async (_, options, config, message) => {
    const failed = run(folderOf(options, { config }));
    await expect(failed).rejects.toThrow(message);
    await expect(failed).rejects.toBeInstanceOf(OnnxModelError);
  });

  onGraph.each<[string, Uint8Array, RegExp]>([
    ['bytes that are no graph', Buffer.from('not a graph'), /onnxruntime cannot load the graph/],
    ['half of one', toyGraph().subarray(0, 5000), /onnxruntime cannot load the graph/],
    ['an empty file', new Uint8Array(0), /onnxruntime cannot load the graph/],
  ])('%s', async (_, bytes, message) => {
    const folder = folderOf();
    writeFileSync(join(folder, 'model.onnx'), bytes);
    const failed = run(folder);
    await expect(failed).rejects.toThrow(message);
    await expect(failed).rejects.toBeInstanceOf(OnnxModelError);
  });

  onGraph('a folder without config, and one without tokenizer', async () => {
    const folder = folderOf();
    rmSync(join(folder, 'config.json'));
    await expect(run(folder)).rejects.toThrow(/there is no config.json/);
    const other = folderOf();
    rmSync(join(other, 'tokenizer.json'));
    await expect(run(other)).rejects.toMatchObject({ code: expect.stringContaining('TOKENIZER') });
  });

  onGraph.each<[string, Partial<GenerateRequest>, RegExp]>([
    ['activations', { activations: true }, /the trits of the layers cannot be counted with the backend "onnx"/],
    ['a head', { head: 'int8' }, /the head of an ONNX graph cannot be made int8/],
    ['a chat without a template', { messages: [{ role: 'user', content: 'a' }] }, /no chat template/],
  ])('%s', async (_, request, message) => {
    const failed = run(folderOf(), request);
    await expect(failed).rejects.toThrow(message);
    await expect(failed).rejects.toBeInstanceOf(BitnetError);
  });

  test('a machine without the runtime, with the line that installs it', () => {
    expect(new OnnxRuntimeMissingError('it is not installed').message).toBe(
      'the backend "onnx" needs the package onnxruntime-node (it is not installed); run `npm install --ignore-scripts ' +
        'onnxruntime-node` (with -g if bitnet-gf3-mcp was installed so; in a clone `npm run onnx`)',
    );
  });
});

describe.skipIf(missing !== undefined)('the command line', () => {
  test('infer and eval run a graph; verify and bench say that they do not', async () => {
    const folder = folderOf();
    const infer = await runCli([
      'infer',
      PROMPT,
      '--backend',
      'onnx',
      '--model',
      folder,
      '--max-tokens',
      '3',
      '--threads',
      '1',
    ]);
    expect(infer.code).toBe(0);
    expect(infer.stderr).toContain('(onnx, 1 thread)');
    const evaluated = await runCli(['eval', folder, '--ids', '1,2,3', '--backend', 'onnx', '--json']);
    expect(JSON.parse(evaluated.stdout).argmax).toHaveLength(3);
    for (const args of [['verify', 'test/golden/model/bitnet_packed_a_s111'], ['bench']]) {
      const { code, stderr } = await runCli([...args, '--backend', 'onnx']);
      expect(code).toBe(2);
      expect(stderr).toContain('serves infer and eval');
    }
  });

  test('a graph in the working folder', async () => {
    const folder = folderOf();
    mkdirSync(join(folder, 'work'));
    const args = ['infer', PROMPT, '--backend', 'onnx', '--max-tokens', '2', '--json'];
    const here = await runCli([...args, '--model', 'model.onnx'], { cwd: folder });
    const there = await runCli([...args, '--model', `../${basename(folder)}`], { cwd: folder });
    expect(JSON.parse(here.stdout).completion).toBe(JSON.parse(there.stdout).completion);
  });
});
