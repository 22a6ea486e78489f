// From a checkpoint's tensors to the weights of a program. Ternary matrices stay packed as the file has them; masters
// are made ternary once, here. Every shape is compared with the config before a byte is read.

import { quantizeHeadNative } from '../engine/cpu/quantize-head.ts';
import { mastersToRowquadNative } from '../engine/cpu/ternarize-masters.ts';
import type { DenseWeight, Int8Weight, TernaryWeight, VectorWeight } from '../engine/program.ts';
import { BitnetError } from '../errors.ts';
import type { Checkpoint } from '../formats/checkpoint.ts';
import { absmean } from '../quant/absmean.ts';
import { detectPrescaled } from '../quant/prescaled.ts';
import { checkRowquad, packRowquad, rowquadByteLength } from '../quant/rowquad.ts';
import { toFloat32 } from '../quant/to-float32.ts';
import { type Allocate, plainMemory } from '../tensor/allocate.ts';
import type { TensorView } from '../tensor/tensor-view.ts';
import type { ModelConfig } from './config.ts';
import { FewAtOnce } from './few-at-once.ts';
import { quantizeHead } from './head.ts';
import type { LayerWeights, ModelWeights } from './record.ts';
import { Scratch } from './scratch.ts';

/** A tensor is missing, has the wrong shape or dtype, or holds values no sound checkpoint has. */
export class WeightError extends BitnetError {
  readonly code = 'BAD_WEIGHT';
  readonly fault = 'job';
}

export type LoadWeightsOptions = {
  /** `int8Above`: int8 if the head's bytes exceed this, else as the checkpoint has it. */
  readonly head: 'full' | 'int8' | { readonly int8Above: number };
  /** Where the bytes of matrices go; plain memory when not given. */
  readonly allocate?: Allocate;
  /** Called after each layer. */
  readonly onLayer?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
};

/** Reads and checks single weights by the names of a file format. */
export interface WeightReader {
  has(name: string): boolean;
  vector(name: string, length: number): Promise<VectorWeight>;
  dense(name: string, rows: number, columns: number): Promise<DenseWeight>;
  /** `heads`: for projections whose rows a format may order by head (q and k). */
  ternary(name: string, rows: number, columns: number, heads?: number): Promise<TernaryWeight>;
  /** Throws unless the named matrix, which a tied head repeats, is the embedding. */
  requireEqual(name: string, embedding: DenseWeight): Promise<void>;
  /** A tensor nobody asked for means that the graph is not the one the config claims. */
  requireAllUsed(): void;
}

/** Names of a format's tensors; `layer` makes the full name from a layer's index and the name within it. */
export type WeightNames = {
  readonly embedding: string;
  readonly finalNorm: string;
  readonly head: string;
  readonly layer: (index: number, name: string) => string;
  readonly inputNorm: string;
  readonly q: string;
  readonly k: string;
  readonly v: string;
  readonly attnSubNorm: string;
  readonly o: string;
  readonly postAttentionNorm: string;
  readonly gate: string;
  readonly up: string;
  readonly ffnSubNorm: string;
  readonly down: string;
};

export const HUGGING_FACE_NAMES: WeightNames = {
  embedding: 'model.embed_tokens.weight',
  finalNorm: 'model.norm.weight',
  head: 'lm_head.weight',
  layer: (index, name) => `model.layers.${index}.${name}.weight`,
  inputNorm: 'input_layernorm',
  q: 'self_attn.q_proj',
  k: 'self_attn.k_proj',
  v: 'self_attn.v_proj',
  attnSubNorm: 'self_attn.attn_sub_norm',
  o: 'self_attn.o_proj',
  postAttentionNorm: 'post_attention_layernorm',
  gate: 'mlp.gate_proj',
  up: 'mlp.up_proj',
  ffnSubNorm: 'mlp.ffn_sub_norm',
  down: 'mlp.down_proj',
};

const ONEBITLLM: WeightNames = {
  ...HUGGING_FACE_NAMES,
  attnSubNorm: 'self_attn.inner_attn_ln',
  ffnSubNorm: 'mlp.ffn_layernorm',
};

/** A window of a head that must equal the embedding: the whole of it would be a second embedding in memory. */
const COMPARED_BYTES = 4 << 20;

/** Tensors that some files carry and no graph of ours reads. */
const IGNORED = [/\.rotary_emb\.inv_freq$/];

/** Weights of a checkpoint in Hugging Face's names. */
export function loadWeights(
  checkpoint: Checkpoint,
  config: ModelConfig,
  options: LoadWeightsOptions,
): Promise<ModelWeights> {
  const names = config.family === 'onebitllm' ? ONEBITLLM : HUGGING_FACE_NAMES;
  return assembleWeights(new HuggingFaceReader(checkpoint, config, options.allocate), names, config, options);
}

/** All weights of a model, every shape compared with the config. */
export async function assembleWeights(
  reader: WeightReader,
  names: WeightNames,
  config: ModelConfig,
  options: LoadWeightsOptions,
): Promise<ModelWeights> {
  const { hiddenSize, intermediateSize, numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim } = config;
  const attentionWidth = heads * headDim;
  const kvWidth = kvHeads * headDim;
  const withSubNorms = config.family !== 'llama';

  const ahead = new FewAtOnce(options.signal);
  const dense = (name: string) => ahead.run(() => reader.dense(name, config.vocabSize, hiddenSize));
  const vector = (name: string, length: number) => ahead.run(() => reader.vector(name, length));
  const ternary = (name: string, rows: number, columns: number, ofHeads?: number) =>
    ahead.run(() => reader.ternary(name, rows, columns, ofHeads));
  const loadLayer = async (index: number): Promise<LayerWeights> => {
    const at = (name: string) => names.layer(index, name);
    const reads = {
      inputNorm: vector(at(names.inputNorm), hiddenSize),
      q: ternary(at(names.q), attentionWidth, hiddenSize, heads),
      k: ternary(at(names.k), kvWidth, hiddenSize, kvHeads),
      v: ternary(at(names.v), kvWidth, hiddenSize),
      o: ternary(at(names.o), hiddenSize, attentionWidth),
      postAttentionNorm: vector(at(names.postAttentionNorm), hiddenSize),
      gate: ternary(at(names.gate), intermediateSize, hiddenSize),
      up: ternary(at(names.up), intermediateSize, hiddenSize),
      down: ternary(at(names.down), hiddenSize, intermediateSize),
    };
    const subNorms = withSubNorms && {
      attnSubNorm: vector(at(names.attnSubNorm), attentionWidth),
      ffnSubNorm: vector(at(names.ffnSubNorm), intermediateSize),
    };
    return { ...(await allOf(reads)), ...(subNorms && (await allOf(subNorms))) };
  };

  const embeddingRead = dense(names.embedding);
  const headRead = config.tieWordEmbeddings ? embeddingRead : dense(names.head);
  const finalNormRead = vector(names.finalNorm, hiddenSize);
  // Threads of its own round it while the layers are read.
  const headMade = awaitedLater(headRead.then((head) => finishHead(head, options)));
  const layers: LayerWeights[] = [];
  let next = awaitedLater(loadLayer(0));
  for (let index = 1; index <= config.numHiddenLayers; index += 1) {
    const current = next;
    // One layer ahead and not all: a config may claim more layers than there is memory for their names.
    if (index < config.numHiddenLayers) next = awaitedLater(loadLayer(index));
    layers.push(await current);
    options.onLayer?.(index, config.numHiddenLayers);
  }
  const embedding = await embeddingRead;
  const finalNorm = await finalNormRead;
  await headRead;
  if (config.tieWordEmbeddings && reader.has(names.head)) await reader.requireEqual(names.head, embedding);
  reader.requireAllUsed();
  return { embedding, layers, finalNorm, head: await headMade };
}

/** A promise that is awaited after others: should one of them reject, nobody will ask for the rejection of this one. */
function awaitedLater<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

/** The values of promises, by their names. */
async function allOf<T extends Readonly<Record<string, Promise<unknown>>>>(promises: T) {
  const values = await Promise.all(Object.values(promises));
  const entries = Object.keys(promises).map((key, i) => [key, values[i]]);
  return Object.fromEntries(entries) as { readonly [K in keyof T]: Awaited<T[K]> };
}

async function finishHead(head: DenseWeight, options: LoadWeightsOptions): Promise<DenseWeight | Int8Weight> {
  const limit = typeof options.head === 'object' ? options.head.int8Above : options.head === 'int8' ? -1 : Infinity;
  if (head.bytes.byteLength <= limit) return head;
  const memory = await (options.allocate ?? plainMemory)(head.rows * head.columns);
  const codes = new Int8Array(memory.buffer, memory.byteOffset, memory.byteLength);
  return (await quantizeHeadNative(head, codes)) ?? quantizeHead(head, codes);
}

class HuggingFaceReader implements WeightReader {
  readonly #checkpoint: Checkpoint;
  readonly #config: ModelConfig;
  readonly #allocate: Allocate;
  readonly #scratch = new Scratch();
  readonly #used = new Set<string>();

  constructor(checkpoint: Checkpoint, config: ModelConfig, allocate: Allocate = plainMemory) {
    this.#checkpoint = checkpoint;
    this.#config = config;
    this.#allocate = allocate;
  }

  has(name: string): boolean {
    return this.#checkpoint.has(name);
  }

  async vector(name: string, length: number): Promise<VectorWeight> {
    this.#expect(name, [length], ['F32', 'F16', 'BF16']);
    const values = toFloat32(await this.#checkpoint.read(name));
    // `includes` is quick before any code of ours is.
    const sound = ![Number.NaN, Infinity, -Infinity].some((value) => values.includes(value));
    const bad = sound ? -1 : values.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) this.#fail(`element ${bad} is ${values[bad]}`, name, 'the file is damaged: download it again');
    return { kind: 'vector', name, values };
  }

  async dense(name: string, rows: number, columns: number): Promise<DenseWeight> {
    const dtype = this.#expect(name, [rows, columns], ['F32', 'F16', 'BF16']);
    const { bytes } = await this.#checkpoint.read(name, this.#allocate);
    return { kind: 'dense', name, rows, columns, dtype: dtype.toLowerCase() as DenseWeight['dtype'], bytes };
  }

  async ternary(name: string, rows: number, columns: number): Promise<TernaryWeight> {
    const info = this.#info(name);
    if (info.dtype === 'U8') return this.#packed(name, rows, columns);
    this.#expect(name, [rows, columns], ['F32', 'F16', 'BF16']);
    return this.#scratch.lend(async (take) => {
      const view = await this.#checkpoint.read(name, take);
      if (this.#config.linearStorage === 'masters') return this.#fromMasters(view, rows, columns);
      return prescaledWeight(name, toFloat32(view), rows, columns, info.file);
    });
  }

  async #fromMasters(masters: TensorView, rows: number, columns: number): Promise<TernaryWeight> {
    const { name } = masters;
    const bytes = await this.#allocate(rowquadByteLength(rows, columns));
    let scale = await mastersToRowquadNative(masters, rows, columns, bytes);
    if (scale === undefined) {
      const slow = absmean(toFloat32(masters), rows, columns, name);
      packRowquad(slow.trits, rows, columns, bytes);
      scale = slow.scale;
    }
    return { kind: 'ternary', name, rows, columns, layout: 'rowquad', bytes, scale };
  }

  async #packed(name: string, rows: number, columns: number): Promise<TernaryWeight> {
    const packedRows = Math.ceil(rows / 4);
    const { shape } = this.#info(name);
    if (shape.length === 2 && shape[0] === rows && shape[1] === Math.ceil(columns / 4)) {
      this.#fail(
        `packed shape [${shape.join(', ')}] holds four neighbouring inputs in a byte`,
        name,
        `expected Hugging Face's layout [${packedRows}, ${columns}], four rows in a byte`,
      );
    }
    this.#expect(name, [packedRows, columns], ['U8']);
    const scaleName = `${name}_scale`;
    const stored = this.#info(scaleName);
    const count = stored.shape.reduce((product, size) => product * size, 1);
    if (count !== 1) this.#fail(`shape [${stored.shape.join(', ')}], expected one element`, scaleName);
    this.#expect(scaleName, stored.shape, ['F32', 'F16', 'BF16']);
    const value = toFloat32(await this.#checkpoint.read(scaleName))[0]!;
    const scale = this.#config.linearStorage === 'packed-divide' ? Math.fround(1 / value) : value;
    if (!(scale > 0 && Number.isFinite(scale))) {
      this.#fail(`scale ${value}, expected a positive number`, scaleName, 'the file is damaged: download it again');
    }
    const { bytes } = await this.#checkpoint.read(name, this.#allocate);
    checkRowquad(bytes, rows, columns, { tensor: name, file: this.#info(name).file });
    return { kind: 'ternary', name, rows, columns, layout: 'rowquad', bytes, scale };
  }

  async requireEqual(name: string, embedding: DenseWeight): Promise<void> {
    const dtype = this.#expect(name, [embedding.rows, embedding.columns], ['F32', 'F16', 'BF16']);
    const { bytes } = embedding;
    let equal = dtype.toLowerCase() === embedding.dtype;
    for (let start = 0; equal && start < bytes.byteLength; start += COMPARED_BYTES) {
      const mine = bytes.subarray(start, start + COMPARED_BYTES);
      const stored = await this.#checkpoint.readRange(name, start, start + mine.byteLength);
      equal = Buffer.compare(stored, mine) === 0;
    }
    if (!equal) {
      this.#fail(
        'differs from the embedding',
        name,
        'set tie_word_embeddings to false in the config if it is a head of its own',
      );
    }
  }

  requireAllUsed(): void {
    const unused = this.#checkpoint
      .names()
      .filter((name) => !this.#used.has(name) && !IGNORED.some((pattern) => pattern.test(name)));
    if (unused.length > 0) {
      const shown = unused.slice(0, 3).join(', ');
      this.#fail(
        `${unused.length} tensor${unused.length === 1 ? '' : 's'} that a ${this.#config.family} model of ${this.#config.numHiddenLayers} layers does not have`,
        shown + (unused.length > 3 ? ', ...' : ''),
        'check architectures and num_hidden_layers in config.json',
      );
    }
  }

  #info(name: string) {
    this.#used.add(name);
    if (!this.#checkpoint.has(name)) {
      this.#fail('a tensor is missing', name, 'the download is incomplete or the config is of another model');
    }
    return this.#checkpoint.info(name);
  }

  #expect(name: string, shape: readonly number[], dtypes: readonly string[]): string {
    const info = this.#info(name);
    if (!dtypes.includes(info.dtype)) this.#fail(`dtype ${info.dtype}, expected ${dtypes.join(' or ')}`, name);
    if (info.shape.length !== shape.length || info.shape.some((size, axis) => size !== shape[axis])) {
      this.#fail(
        `shape [${info.shape.join(', ')}], the config asks for [${shape.join(', ')}]`,
        name,
        'config.json and the weights belong to different models',
      );
    }
    return info.dtype;
  }

  #fail(what: string, tensor: string, fix?: string): never {
    const file = this.#checkpoint.has(tensor) ? this.#checkpoint.info(tensor).file : this.#checkpoint.path;
    const where = `tensor "${tensor}" in ${file}`;
    throw new WeightError({ what, where, ...(fix === undefined ? {} : { fix }) });
  }
}

/**
 * Floats of a matrix that a file declares ternary without saying how: some exports hold trit * scale. One magnitude in
 * the whole matrix proves it; anything else is refused, because float weights may as well be QAT masters.
 */
export function prescaledWeight(
  name: string,
  values: Float32Array,
  rows: number,
  columns: number,
  file: string,
): TernaryWeight {
  const found = detectPrescaled(values, rows, columns);
  const scale = found?.scale;
  if (found === undefined || scale?.kind !== 'tensor') {
    throw new WeightError({
      what:
        scale?.kind === undefined
          ? 'float weights that are not trits times one scale, though the file declares ternary layers'
          : 'trits with more than one scale, this engine runs models with one scale a matrix',
      where: `tensor "${name}" in ${file}`,
      fix: 'if they are QAT masters, set quantization_config.quantization_mode to "online" in config.json',
    });
  }
  const bytes = packRowquad(found.trits, rows, columns);
  return { kind: 'ternary', name, rows, columns, layout: 'rowquad', bytes, scale: scale.value };
}
