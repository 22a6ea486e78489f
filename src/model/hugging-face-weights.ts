// Weights of a checkpoint in Hugging Face's names. Ternary matrices stay packed as the file has them, or become panels;
// masters are made ternary once, here. Every shape is compared with the config before a byte is read.

import type { DenseWeight, GroupedWeight, TernaryWeight, VectorWeight } from '../engine/program.ts';
import type { WeightPreparation } from '../engine/weight-preparation.ts';
import type { Checkpoint } from '../formats/checkpoint.ts';
import { absmean } from '../quant/absmean.ts';
import type { FloatType } from '../quant/grouped/floats.ts';
import type { GroupedRows } from '../quant/grouped/grouped-matrix.ts';
import { decodeGrouped, type GroupedBytes } from '../quant/grouped/repack-panel64.ts';
import { unpackedGroup } from '../quant/grouped/unpacked.ts';
import { checkRowquad, packRowquad, rowquadByteLength } from '../quant/rowquad.ts';
import { toFloat32 } from '../quant/to-float32.ts';
import { type Allocate, plainMemory } from '../tensor/allocate.ts';
import type { TensorView } from '../tensor/tensor-view.ts';
import { assembleWeights } from './assemble-weights.ts';
import { graphOf } from './graphs/all.ts';
import { expertsWeight, groupedWeight, prescaledWeight } from './grouped-weight.ts';
import type { ModelConfig } from './model-config.ts';
import type { LinearWeight, ModelWeights, TableWeight } from './model-weights.ts';
import { Scratch } from './scratch.ts';
import {
  fittingShape,
  type LinearOptions,
  type LoadWeightsOptions,
  strangerOf,
  WeightError,
  type WeightReader,
} from './weight-reader.ts';

/** A window of a head that must equal the embedding: the whole of it would be a second embedding in memory. */
const COMPARED_BYTES = 4 << 20;

/** Tensors that some files carry and no graph of ours reads. */
const IGNORED = [/\.rotary_emb\.inv_freq$/];
/** Checked with a rotation's contract. */
const SIGNS = /\.signs$/;

const FLOATS: readonly string[] = ['F32', 'F16', 'BF16'];

const moduleOf = (name: string) => name.replace(/\.weight$/, '');

export function loadWeights(
  checkpoint: Checkpoint,
  config: ModelConfig,
  options: LoadWeightsOptions,
): Promise<ModelWeights> {
  return assembleWeights(new HuggingFaceReader(checkpoint, config, options), 'hf', config, options);
}

class HuggingFaceReader implements WeightReader {
  readonly #checkpoint: Checkpoint;
  readonly #config: ModelConfig;
  readonly #allocate: Allocate;
  readonly #prepare: WeightPreparation | undefined;
  readonly #scratch = new Scratch();
  readonly #used = new Set<string>();

  constructor(checkpoint: Checkpoint, config: ModelConfig, { allocate = plainMemory, prepare }: LoadWeightsOptions) {
    this.#checkpoint = checkpoint;
    this.#config = config;
    this.#allocate = allocate;
    this.#prepare = prepare;
  }

  has(name: string): boolean {
    return this.#checkpoint.has(name);
  }

  async vector(name: string, shapes: readonly (readonly number[])[]): Promise<VectorWeight> {
    this.#expect(name, fittingShape(shapes, this.#checkpoint, name), FLOATS);
    const values = toFloat32(await this.#checkpoint.read(name));
    // `includes` is quick before any code of ours is.
    const sound = ![Number.NaN, Infinity, -Infinity].some((value) => values.includes(value));
    const bad = sound ? -1 : values.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) this.fail(`element ${bad} is ${values[bad]}`, name, 'the file is damaged: download it again');
    return { kind: 'vector', name, values };
  }

  async table(name: string, rows: number, columns: number): Promise<TableWeight> {
    const { linearStorage } = this.#config;
    if (linearStorage === 'mlx') return this.#mlxOrDense(name, rows, columns);
    if (linearStorage === 'unpacked') return this.#unpacked(name, rows, columns);
    return this.#dense(name, rows, columns);
  }

  async #dense(name: string, rows: number, columns: number): Promise<DenseWeight> {
    const dtype = this.#expect(name, [rows, columns], FLOATS);
    const { bytes } = await this.#checkpoint.read(name, this.#allocate);
    return { kind: 'dense', name, rows, columns, dtype: dtype.toLowerCase() as DenseWeight['dtype'], bytes };
  }

  async linear(
    name: string,
    rows: number,
    columns: number,
    { experts, floats }: LinearOptions = {},
  ): Promise<LinearWeight> {
    if (floats === true) return this.#dense(name, rows, columns);
    if (experts !== undefined) return this.#experts(name, rows, columns, experts);
    const { linearStorage, floatModules } = this.#config;
    if (floatModules?.matches(moduleOf(name)) === true) return this.#dense(name, rows, columns);
    if (linearStorage === 'mlx') return this.#mlxOrDense(name, rows, columns);
    if (linearStorage === 'unpacked') return this.#unpacked(name, rows, columns);
    const info = this.#info(name);
    if (info.dtype === 'U8') return this.#packed(name, rows, columns);
    this.#expect(name, [rows, columns], FLOATS);
    return this.#scratch.lend(async (take) => {
      const view = await this.#checkpoint.read(name, take);
      if (linearStorage === 'masters') return this.#fromMasters(view, rows, columns);
      if (this.#checkpoint.has(`${name}_scale`)) return this.#plainTrits(view, rows, columns);
      return prescaledWeight(name, toFloat32(view), rows, columns, info.file);
    });
  }

  /** A pack, or a matrix that MLX left as it was. */
  async #mlxOrDense(name: string, rows: number, columns: number): Promise<TableWeight> {
    const module = moduleOf(name);
    if (!this.#checkpoint.has(`${module}.scales`)) return this.#dense(name, rows, columns);
    const { bits, groupSize: group } = this.#config.mlx!;
    if (columns % group !== 0) this.fail(`rows of ${columns} are no whole groups of ${group}`, name);
    this.#expect(name, [rows, (columns * bits) / 32], ['U32']);
    const parts = [`${module}.scales`, `${module}.biases`];
    const [scaleType, biasType] = parts.map((part) => this.#expect(part, [rows, columns / group], FLOATS));
    if (scaleType !== biasType) this.fail(`dtype ${biasType}, but the scales are ${scaleType}`, parts[1]!);
    return this.#scratch.lend(async (take) => {
      const weight = await this.#checkpoint.readBytes(name, take);
      const [scales, biases] = [
        await this.#checkpoint.readBytes(parts[0]!),
        await this.#checkpoint.readBytes(parts[1]!),
      ];
      const source: GroupedBytes = {
        form: 'mlx',
        bits,
        group,
        weight,
        scales,
        biases,
        scaleType: scaleType as FloatType,
      };
      return this.#grouped(name, source, rows, columns);
    });
  }

  /** Trits times a scale for every group of columns, or for every row; else dense. */
  async #unpacked(name: string, rows: number, columns: number): Promise<TableWeight> {
    const type = this.#expect(name, [rows, columns], FLOATS) as FloatType;
    const found = await this.#scratch.lend(async (take) => {
      const { bytes } = await this.#checkpoint.read(name, take);
      const group = unpackedGroup(bytes, type, columns);
      return group === undefined
        ? undefined
        : this.#grouped(name, { form: 'floats', type, bytes, group }, rows, columns);
    });
    return found ?? this.#dense(name, rows, columns);
  }

  async #grouped(name: string, source: GroupedBytes, rows: number, columns: number): Promise<GroupedWeight> {
    const { file, offset } = this.#info(name);
    return groupedWeight(name, source, rows, columns, {
      at: { tensor: name, file, offset },
      allocate: this.#allocate,
      prepare: this.#prepare,
    });
  }

  /** Trits as floats beside their `weight_scale`: the form that transformers loads without unpacking. */
  async #plainTrits({ name, ...view }: TensorView, rows: number, columns: number): Promise<TernaryWeight> {
    const values = toFloat32({ name, ...view });
    const trits = new Int8Array(values.length);
    for (let i = 0; i < values.length; i += 1) {
      const value = values[i]!;
      if (value !== 0 && value !== 1 && value !== -1) {
        this.fail(
          `element ${i} is ${value}, expected -1, 0 or 1 beside a weight_scale`,
          name,
          'if they are QAT masters, set quantization_config.quantization_mode to "online" in config.json',
        );
      }
      trits[i] = value;
    }
    const bytes = packRowquad(trits, rows, columns);
    return { kind: 'ternary', name, rows, columns, layout: 'rowquad', bytes, scale: await this.#scaleBeside(name) };
  }

  async #fromMasters(masters: TensorView, rows: number, columns: number): Promise<TernaryWeight> {
    const { name } = masters;
    const bytes = await this.#allocate(rowquadByteLength(rows, columns));
    let scale = await this.#prepare?.mastersToRowquad(masters, rows, columns, bytes);
    if (scale === undefined) {
      const slow = absmean(toFloat32(masters), rows, columns, name);
      packRowquad(slow.trits, rows, columns, bytes);
      scale = slow.scale;
    }
    return { kind: 'ternary', name, rows, columns, layout: 'rowquad', bytes, scale };
  }

  async #packed(name: string, rows: number, columns: number): Promise<TernaryWeight> {
    if (this.#config.linearStorage === 'masters') {
      this.fail(
        'packed trits (U8), but the config says that the weights are QAT masters ("online")',
        name,
        'set quantization_config.quantization_mode to "offline" in config.json',
      );
    }
    const packedRows = Math.ceil(rows / 4);
    const { shape } = this.#info(name);
    if (shape.length === 2 && shape[0] === rows && shape[1] === Math.ceil(columns / 4)) {
      this.fail(
        `packed shape [${shape.join(', ')}] holds four neighbouring inputs in a byte`,
        name,
        `expected Hugging Face's layout [${packedRows}, ${columns}], four rows in a byte`,
      );
    }
    this.#expect(name, [packedRows, columns], ['U8']);
    const scale = await this.#scaleBeside(name);
    const { bytes } = await this.#checkpoint.read(name, this.#allocate);
    checkRowquad(bytes, rows, columns, { tensor: name, file: this.#info(name).file });
    return { kind: 'ternary', name, rows, columns, layout: 'rowquad', bytes, scale };
  }

  /** Of a packed matrix: what its trits are multiplied with. */
  async #scaleBeside(name: string): Promise<number> {
    const scaleName = `${name}_scale`;
    const stored = this.#info(scaleName);
    const count = stored.shape.reduce((product, size) => product * size, 1);
    if (count !== 1) this.fail(`shape [${stored.shape.join(', ')}], expected one element`, scaleName);
    this.#expect(scaleName, stored.shape, FLOATS);
    const value = toFloat32(await this.#checkpoint.read(scaleName))[0]!;
    const scale = this.#config.linearStorage === 'packed-divide' ? Math.fround(1 / value) : value;
    if (!(scale > 0 && Number.isFinite(scale))) {
      this.fail(`scale ${value}, expected a positive number`, scaleName, 'the file is damaged: download it again');
    }
    return scale;
  }

  /** The matrices of all experts, one tensor each, as one weight. */
  async #experts(name: string, rows: number, columns: number, experts: number): Promise<GroupedWeight> {
    const stacked = [name.replace('.*', ''), moduleOf(name.replace('.*', ''))].find((one) => this.#checkpoint.has(one));
    if (stacked !== undefined) return this.#stackedExperts(stacked, rows, columns, experts);
    const nameOf = (expert: number) => name.replace('*', `${expert}`);
    const { file, offset } = this.#info(nameOf(0));
    const at = { tensor: nameOf(0), file, offset };
    const read = (expert: number) => this.#expert(nameOf(expert), rows, columns);
    return expertsWeight(name, experts, read, { at, allocate: this.#allocate });
  }

  /** One tensor [experts, rows, columns]. */
  async #stackedExperts(name: string, rows: number, columns: number, experts: number): Promise<GroupedWeight> {
    const type = this.#expect(name, [experts, rows, columns], FLOATS) as FloatType;
    const { file, offset, byteLength } = this.#info(name);
    const at = { tensor: name, file, offset };
    return this.#scratch.lend(async (take) => {
      const { bytes } = await this.#checkpoint.read(name, take);
      const group = unpackedGroup(bytes, type, columns);
      if (group === undefined) {
        this.fail('the values are no trits under scales', name, 'this engine runs ternary experts only');
      }
      const each = byteLength / experts;
      const read = async (expert: number) => {
        const part = bytes.subarray(expert * each, (expert + 1) * each);
        return decodeGrouped({ form: 'floats', type, bytes: part, group }, rows, columns, {
          at,
          firstRow: expert * rows,
        });
      };
      return expertsWeight(name, experts, read, { at, allocate: this.#allocate });
    });
  }

  async #expert(name: string, rows: number, columns: number): Promise<GroupedRows> {
    const type = this.#expect(name, [rows, columns], FLOATS) as FloatType;
    const { file, offset } = this.#info(name);
    return this.#scratch.lend(async (take) => {
      const { bytes } = await this.#checkpoint.read(name, take);
      const group = unpackedGroup(bytes, type, columns);
      if (group === undefined) {
        this.fail('the values are no trits under scales', name, 'this engine runs ternary experts only');
      }
      const source: GroupedBytes = { form: 'floats', type, bytes, group };
      return decodeGrouped(source, rows, columns, { at: { tensor: name, file, offset } });
    });
  }

  async requireEqual(name: string, embedding: TableWeight): Promise<void> {
    // Of a ternary embedding the codes would have to be compared; the config decides which of two heads counts.
    if (embedding.kind === 'grouped') return this.#takeRepeated(name);
    const dtype = this.#expect(name, [embedding.rows, embedding.columns], FLOATS);
    const { bytes } = embedding;
    let equal = dtype.toLowerCase() === embedding.dtype;
    for (let start = 0; equal && start < bytes.byteLength; start += COMPARED_BYTES) {
      const mine = bytes.subarray(start, start + COMPARED_BYTES);
      const stored = await this.#checkpoint.readRange(name, start, start + mine.byteLength);
      equal = Buffer.compare(stored, mine) === 0;
    }
    if (!equal) {
      this.fail(
        'differs from the embedding',
        name,
        'set tie_word_embeddings to false in the config if it is a head of its own',
      );
    }
  }

  /** A tied folder may carry its head once more, with what belongs to it. */
  #takeRepeated(name: string): void {
    for (const part of [name, `${moduleOf(name)}.scales`, `${moduleOf(name)}.biases`]) {
      if (this.#checkpoint.has(part)) this.#used.add(part);
    }
  }

  requireAllUsed(): void {
    const unused = this.#checkpoint.names().filter((name) => !this.#used.has(name) && !this.#isKnown(name));
    if (unused.length > 0) {
      const stranger = strangerOf(unused);
      if (stranger !== undefined) this.fail(stranger.what, unused[0]!, stranger.fix);
      const shown = unused.slice(0, 3).join(', ');
      this.fail(
        `${unused.length} tensor${unused.length === 1 ? '' : 's'} that a ${graphOf(this.#config.family).title} model of ${this.#config.numHiddenLayers} layers does not have`,
        shown + (unused.length > 3 ? ', ...' : ''),
        'check architectures and num_hidden_layers in config.json',
      );
    }
  }

  #isKnown(name: string): boolean {
    return IGNORED.some((pattern) => pattern.test(name)) || (this.#config.rotation !== undefined && SIGNS.test(name));
  }

  #info(name: string) {
    this.#used.add(name);
    if (!this.#checkpoint.has(name)) {
      this.fail('a tensor is missing', name, 'the download is incomplete or the config is of another model');
    }
    return this.#checkpoint.info(name);
  }

  #expect(name: string, shape: readonly number[], dtypes: readonly string[]): string {
    const info = this.#info(name);
    if (!dtypes.includes(info.dtype)) this.fail(`dtype ${info.dtype}, expected ${dtypes.join(' or ')}`, name);
    if (info.shape.length !== shape.length || info.shape.some((size, axis) => size !== shape[axis])) {
      this.fail(
        `shape [${info.shape.join(', ')}], the config asks for [${shape.join(', ')}]`,
        name,
        'config.json and the weights belong to different models',
      );
    }
    return info.dtype;
  }

  fail(what: string, tensor: string, fix?: string): never {
    const file = this.#checkpoint.has(tensor) ? this.#checkpoint.info(tensor).file : this.#checkpoint.path;
    const where = `tensor "${tensor}" in ${file}`;
    throw new WeightError({ what, where, ...(fix === undefined ? {} : { fix }) });
  }
}
