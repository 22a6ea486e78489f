// Loads an exported decoder with what config.json says of it.

import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { ArgumentError } from '../../errors.ts';
import { refuseLfsPointer } from '../../formats/lfs-pointer.ts';
import { parseJson } from '../../formats/strict-json.ts';
import { readConfigBytes } from '../../model/config-bytes.ts';
import type { LoadedProgram, LoadRequest } from '../engine.ts';
import { OnnxDecoder } from './decoder.ts';
import { OnnxModelError, OnnxRuntimeMissingError } from './errors.ts';
import { readGraph } from './graph.ts';
import { onnxRuntime } from './runtime.ts';

/** Tokens of a prompt in one run, so that a cancellation is noticed soon. */
const MAX_ROWS = 64;

type Config = Readonly<Record<string, unknown>>;

/** Throws OnnxRuntimeMissingError without the optional package, OnnxModelError for what is no decoder. */
export async function loadOnnx(
  { folder, file }: { readonly folder: string; readonly file: string },
  request: LoadRequest,
): Promise<LoadedProgram> {
  const { head, threads } = request;
  // `full` is what a graph always has.
  if (head === 'int8') {
    throw new ArgumentError({
      what: 'the head of an ONNX graph cannot be made int8: a graph has its own precision everywhere',
      fix: 'leave head out, and name the .onnx file with the precision you want',
    });
  }
  const runtime = await onnxRuntime();
  const config = await readConfig(folder);
  const contextLength = number(config, 'max_position_embeddings', 'n_positions', 'n_ctx', 'max_seq_len', 'seq_length');
  if (contextLength === undefined) {
    throw new OnnxModelError({
      what: 'the config does not tell how many tokens the model holds (max_position_embeddings)',
      where: join(folder, 'config.json'),
      fix: 'add it',
    });
  }
  for (const part of await graphFiles(file)) refuseLfsPointer(part);
  const session = await runtime.InferenceSession.create(file, {
    executionProviders: ['cpu'],
    // Errors come as exceptions; its own lines would mix with ours.
    logSeverityLevel: 4,
    // Else weights of 2 and 4 bits are multiplied with activations rounded to int8, in a graph that says float32: 0.6 % off.
    extra: { session: { qdq_matmulnbits_accuracy_level: '0' } },
    ...(threads === undefined ? {} : { intraOpNumThreads: threads }),
  }).catch((cause: unknown) => {
    const what = `onnxruntime cannot load the graph: ${(cause as Error).message.split('\n')[0]}`;
    const fix = 'check that its external data lies beside it and that the download is complete';
    throw new OnnxModelError({ what, where: file, fix }, { cause });
  });
  try {
    if (session.inputMetadata === undefined) {
      throw new OnnxRuntimeMissingError(`version ${runtime.env.versions.node} does not describe the inputs of a graph`);
    }
    const heads = number(config, 'num_attention_heads', 'n_head');
    const hidden = number(config, 'hidden_size', 'n_embd');
    const graph = readGraph(
      session,
      {
        vocabSize: number(config, 'vocab_size'),
        keyValueHeads: number(config, 'num_key_value_heads') ?? heads,
        headDim:
          number(config, 'head_dim') ?? (heads === undefined || hidden === undefined ? undefined : hidden / heads),
      },
      file,
    );
    if (graph.vocabSize === undefined) {
      throw new OnnxModelError({
        what: 'neither the graph nor the config tells the size of the vocabulary',
        where: join(folder, 'config.json'),
        fix: 'add vocab_size',
      });
    }
    // A graph that reads everything again, or whose cached branch was traced for one token, gets the prompt whole.
    const whole = graph.pasts.length === 0 || graph.hasCacheBranch;
    return {
      executable: new OnnxDecoder({ runtime, session, graph, file }),
      info: { backend: 'onnx', ...(threads === undefined ? {} : { threads }) },
      contextLength,
      vocabSize: graph.vocabSize,
      warnings: [],
      eosTokenIds: [config.eos_token_id].flat().filter((id): id is number => typeof id === 'number'),
      // No guesses and no shared caches: in another runtime the last bits of a row depend on the rows beside it, and
      // the same request must give the same text.
      scheduling: { maxRows: whole ? contextLength : MAX_ROWS, maxDrafts: 0, cachedTokens: 0 },
    };
  } catch (error) {
    await session.release();
    throw error;
  }
}

/** The graph and the files beside it that hold its weights: model.onnx_data, model.onnx_data_1, model.onnx.data. */
async function graphFiles(file: string): Promise<string[]> {
  const names = await readdir(dirname(file)).catch((): string[] => []);
  const parts = names.filter(
    (name) => name.startsWith(basename(file)) && /^[._]data/.test(name.slice(basename(file).length)),
  );
  return [file, ...parts.map((name) => join(dirname(file), name))];
}

/** config.json; that of the language model where one for several media is wrapped around it. */
async function readConfig(folder: string): Promise<Config> {
  const file = join(folder, 'config.json');
  const fix = 'copy the config.json of the model beside its graph';
  const bad = (what: string) => new OnnxModelError({ what, where: file, fix });
  const text = await readConfigBytes(folder);
  if (text === undefined) throw bad('there is no config.json');
  const json = parseJson(text, { where: file, fix });
  if (typeof json !== 'object' || json === null || Array.isArray(json)) throw bad('config.json holds no object');
  const { text_config: inner, ...outer } = json as Config;
  return typeof inner === 'object' && inner !== null ? { ...outer, ...inner } : outer;
}

/** The first of these keys that is a positive whole number. */
function number(config: Config, ...keys: readonly string[]): number | undefined {
  return keys
    .map((key) => config[key])
    .find((value): value is number => Number.isSafeInteger(value) && (value as number) > 0);
}
