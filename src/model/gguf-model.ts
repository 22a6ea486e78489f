// BitNet models in GGUF: metadata to a config, tensors to weights. What GGUF does not say is decided here: no key names
// the FFN's activation, and files of architecture "llama" hold q and k with the rows of each head interleaved.

import type { DenseWeight, TernaryWeight, VectorWeight } from '../engine/program.ts';
import type { GgufFile } from '../formats/gguf-file.ts';
import { decodeBlocks, decodeGgml, isGgmlBlockFloat, isGgmlFloat, isGgmlTernary, singleScale } from '../quant/ggml.ts';
import { repackGgml } from '../quant/repack.ts';
import { rowquadByteLength } from '../quant/rowquad.ts';
import { type Allocate, plainMemory } from '../tensor/allocate.ts';
import { ConfigError, type ModelConfig } from './config.ts';
import {
  assembleWeights,
  type LoadWeightsOptions,
  prescaledWeight,
  WeightError,
  type WeightNames,
  type WeightReader,
} from './load.ts';
import type { ModelWeights } from './record.ts';
import { Scratch } from './scratch.ts';

export const GGUF_NAMES: WeightNames = {
  embedding: 'token_embd.weight',
  finalNorm: 'output_norm.weight',
  head: 'output.weight',
  layer: (index, name) => `blk.${index}.${name}.weight`,
  inputNorm: 'attn_norm',
  q: 'attn_q',
  k: 'attn_k',
  v: 'attn_v',
  attnSubNorm: 'attn_sub_norm',
  o: 'attn_output',
  postAttentionNorm: 'ffn_norm',
  gate: 'ffn_gate',
  up: 'ffn_up',
  ffnSubNorm: 'ffn_sub_norm',
  down: 'ffn_down',
};

/** The architectures we run, and whether their graph is Llama's or one with sub-norms. */
const FAMILIES = { bitnet: 'onebitllm', 'bitnet-25': 'bitnet', 'bitnet-b1.58': 'bitnet', llama: 'llama' } as const;

const LIMIT = 1 << 24;

/** The config that a GGUF's metadata amounts to. Throws `ConfigError` for what we do not run. */
export function ggufConfig(file: GgufFile): ModelConfig {
  const fail = (what: string, fix: string): never => {
    throw new ConfigError({ what, where: file.path, fix });
  };
  const architecture = file.architecture ?? fail('general.architecture is missing', 'the file is not a language model');
  if (!Object.hasOwn(FAMILIES, architecture)) {
    fail(`architecture "${architecture}"`, `supported: ${Object.keys(FAMILIES).join(', ')}`);
  }
  const family = FAMILIES[architecture as keyof typeof FAMILIES];
  const number = (key: string, fallback?: number): number => {
    const value = file.number(`${architecture}.${key}`) ?? fallback;
    return value ?? fail(`${architecture}.${key} is missing`, 'the file is incomplete: convert the model again');
  };
  const size = (key: string, fallback?: number): number => {
    const value = number(key, fallback);
    return Number.isInteger(value) && value >= 1 && value <= LIMIT
      ? value
      : fail(`${architecture}.${key} is ${value}`, `expected a whole number from 1 to ${LIMIT}`);
  };

  const hiddenSize = size('embedding_length');
  const numAttentionHeads = size('attention.head_count');
  const numKeyValueHeads = size('attention.head_count_kv', numAttentionHeads);
  const headDim = size('attention.key_length', hiddenSize / numAttentionHeads);
  const numHiddenLayers = size('block_count');
  if (numAttentionHeads % numKeyValueHeads !== 0 || headDim % 2 !== 0) {
    fail(
      `${numAttentionHeads} heads of ${headDim} on ${numKeyValueHeads} key/value heads`,
      'head counts must divide, head size be even',
    );
  }
  const rotated = size('rope.dimension_count', headDim);
  if (rotated !== headDim) fail(`rope.dimension_count is ${rotated}`, `only whole heads (${headDim}) are supported`);
  const scaling = file.string(`${architecture}.rope.scaling.type`) ?? 'none';
  if (scaling !== 'none' && !(scaling === 'linear' && number('rope.scaling.factor', 1) === 1)) {
    fail(`rope.scaling.type is "${scaling}"`, 'only unscaled RoPE is supported');
  }
  if (!file.has(GGUF_NAMES.embedding))
    fail(`there is no ${GGUF_NAMES.embedding}`, 'this GGUF holds no weights (a vocabulary only?)');
  const vocabSize = file.info(GGUF_NAMES.embedding).shape[0] ?? 0;

  // The 2B-4T model under the name of 1bitLLM's architecture: its FFN is ReLU² all the same.
  const is2B4T = family === 'onebitllm' && numHiddenLayers === 30 && hiddenSize === 2560 && vocabSize === 128256;
  const eos = file.number('tokenizer.ggml.eos_token_id');
  return {
    family: is2B4T ? 'bitnet' : family,
    hiddenSize,
    intermediateSize: size('feed_forward_length'),
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    vocabSize,
    maxPositionEmbeddings: size('context_length', 2048),
    ropeTheta: number('rope.freq_base', 10000),
    rmsNormEps: number('attention.layer_norm_rms_epsilon'),
    hiddenAct: family === 'bitnet' || is2B4T ? 'relu2' : 'silu',
    tieWordEmbeddings: !file.has(GGUF_NAMES.head),
    linearStorage: 'packed-multiply',
    bosTokenId: file.number('tokenizer.ggml.bos_token_id'),
    eosTokenIds: eos === undefined ? [] : [eos],
    unknownKeys: [],
  };
}

export function loadGgufWeights(
  file: GgufFile,
  config: ModelConfig,
  options: LoadWeightsOptions,
): Promise<ModelWeights> {
  return assembleWeights(new GgufReader(file, config, options.allocate), GGUF_NAMES, config, options);
}

class GgufReader implements WeightReader {
  readonly #file: GgufFile;
  readonly #config: ModelConfig;
  readonly #allocate: Allocate;
  readonly #used = new Set<string>();
  readonly #scratch = new Scratch();

  constructor(file: GgufFile, config: ModelConfig, allocate: Allocate = plainMemory) {
    this.#file = file;
    this.#config = config;
    this.#allocate = allocate;
  }

  has(name: string): boolean {
    return this.#file.has(name);
  }

  async vector(name: string, length: number): Promise<VectorWeight> {
    const values = await this.#floats(name, [length]);
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) this.#fail(`element ${bad} is ${values[bad]}`, name, 'the file is damaged: download it again');
    return { kind: 'vector', name, values };
  }

  async dense(name: string, rows: number, columns: number): Promise<DenseWeight> {
    const { dtype, file, offset } = this.#expect(name, [rows, columns]);
    if (isGgmlTernary(dtype)) {
      this.#fail(
        `type ${dtype}: an embedding or head in trits`,
        name,
        'the converter packed it by mistake: convert again',
      );
    }
    if (dtype === 'F16' || dtype === 'BF16' || dtype === 'F32') {
      const bytes = await this.#file.readBytes(name, this.#allocate);
      return { kind: 'dense', name, rows, columns, dtype: dtype.toLowerCase() as DenseWeight['dtype'], bytes };
    }
    if (!isGgmlBlockFloat(dtype)) return this.#unreadable(dtype, name);
    const bytes = await this.#allocate(4 * rows * columns);
    const values = new Float32Array(bytes.buffer, bytes.byteOffset, rows * columns);
    decodeBlocks(dtype, await this.#file.readBytes(name), { tensor: name, file, offset }, values);
    return { kind: 'dense', name, rows, columns, dtype: 'f32', bytes };
  }

  async ternary(name: string, rows: number, columns: number, heads?: number): Promise<TernaryWeight> {
    const { dtype, file, offset } = this.#expect(name, [rows, columns]);
    const factor = await this.#factor(name);
    if (!isGgmlTernary(dtype)) {
      const weight = prescaledWeight(name, await this.#floats(name, [rows, columns]), rows, columns, file);
      if (heads !== undefined && this.#isInterleaved()) {
        this.#fail(`type ${dtype} under architecture "llama"`, name, 'convert it to TQ2_0 or I2_S first');
      }
      return { ...weight, scale: Math.fround(weight.scale * factor) };
    }
    const bytes = await this.#allocate(rowquadByteLength(rows, columns));
    const sourceRow = heads !== undefined && this.#isInterleaved() ? interleavedRow(rows / heads) : undefined;
    const found = await this.#scratch.lend(async (take) => {
      const stored = await this.#file.readBytes(name, take);
      const matrix = { type: dtype, bytes: stored, rows, columns, ...(sourceRow !== undefined && { sourceRow }) };
      return repackGgml(matrix, bytes, { tensor: name, file, offset });
    });
    const scale = this.#positive(Math.fround(singleScale(found, name) * factor), name);
    return { kind: 'ternary', name, rows, columns, layout: 'rowquad', bytes, scale };
  }

  async requireEqual(): Promise<void> {
    // `tieWordEmbeddings` is defined by the absence of the head: nothing can differ.
  }

  requireAllUsed(): void {
    const unused = this.#file.names().filter((name) => !this.#used.has(name));
    if (unused.length > 0) {
      this.#fail(
        `${unused.length} tensor${unused.length === 1 ? '' : 's'} that this graph does not use`,
        unused[0]!,
        unused.some((name) => name.endsWith('.bias'))
          ? 'models with biases are not supported'
          : 'the graph is not one we run',
      );
    }
  }

  #isInterleaved(): boolean {
    return this.#config.family === 'llama';
  }

  /** The optional multiplier `<name>.scale` beside a matrix. */
  async #factor(name: string): Promise<number> {
    const factorName = name.replace(/\.weight$/, '.scale');
    if (!this.#file.has(factorName)) return 1;
    return this.#positive((await this.#floats(factorName, [1]))[0]!, factorName);
  }

  #positive(value: number, name: string): number {
    if (value > 0 && Number.isFinite(value)) return value;
    return this.#fail(`scale ${value}, expected a positive number`, name, 'the file is damaged: download it again');
  }

  async #floats(name: string, shape: readonly number[]): Promise<Float32Array> {
    const { dtype, file, offset } = this.#expect(name, shape);
    if (!isGgmlFloat(dtype)) return this.#unreadable(dtype, name);
    const count = shape.reduce((product, size) => product * size, 1);
    return decodeGgml(dtype, await this.#file.readBytes(name), count, { tensor: name, file, offset });
  }

  #expect(name: string, shape: readonly number[]) {
    this.#used.add(name);
    if (!this.#file.has(name)) this.#fail('a tensor is missing', name, 'the file is incomplete: download it again');
    const info = this.#file.info(name);
    if (info.shape.length !== shape.length || info.shape.some((size, axis) => size !== shape[axis])) {
      this.#fail(
        `shape [${info.shape.join(', ')}], the metadata asks for [${shape.join(', ')}]`,
        name,
        'convert the model again',
      );
    }
    return info;
  }

  #unreadable(type: string, name: string): never {
    return this.#fail(`type ${type}`, name, 'convert the file to one of the types we read');
  }

  #fail(what: string, tensor: string, fix: string): never {
    throw new WeightError({ what, where: `tensor "${tensor}" in ${this.#file.path}`, fix });
  }
}

/**
 * Where files of architecture "llama" hold a row: those of each head lie as (0, D/2, 1, D/2 + 1, ...), neighbouring RoPE
 * pairs, where we have halves (0, 1, ..., D/2, ...).
 */
export function interleavedRow(headDim: number): (row: number) => number {
  const half = headDim / 2;
  return (row) => {
    const inHead = row % headDim;
    return row - inHead + 2 * (inHead % half) + (inHead >= half ? 1 : 0);
  };
}

/** A matrix with its rows moved to their `interleavedRow`: what files of architecture "llama" hold. */
export function interleavedHeads(trits: Int8Array, rows: number, columns: number, heads: number): Int8Array {
  const place = interleavedRow(rows / heads);
  const out = new Int8Array(trits.length);
  for (let row = 0; row < rows; row += 1) {
    out.set(trits.subarray(row * columns, (row + 1) * columns), place(row) * columns);
  }
  return out;
}
