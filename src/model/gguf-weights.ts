// Weights of a GGUF file. Files of architecture "llama" hold q and k with the rows of each head interleaved.

import type { DenseWeight, GroupedWeight, TernaryWeight, VectorWeight } from '../engine/program.ts';
import type { WeightPreparation } from '../engine/weight-preparation.ts';
import type { GgufFile } from '../formats/gguf-file.ts';
import { f32ToF16 } from '../quant/f16.ts';
import {
  decodeBlocks,
  decodeGgml,
  type GgmlTernaryType,
  isGgmlBlockFloat,
  isGgmlFloat,
  isGgmlTernary,
  singleScale,
} from '../quant/ggml.ts';
import type { BlockLayoutName } from '../quant/grouped/block-layout.ts';
import { isBlockLayout } from '../quant/grouped/codec.ts';
import type { FloatType } from '../quant/grouped/floats.ts';
import { unpackQuads } from '../quant/grouped/quads.ts';
import { decodeGrouped, type GroupedBytes } from '../quant/grouped/repack-panel64.ts';
import { unpackedGroup } from '../quant/grouped/unpacked.ts';
import { detectPrescaled } from '../quant/prescaled.ts';
import { repackGgml } from '../quant/repack.ts';
import { packRowquad, rowquadByteLength } from '../quant/rowquad.ts';
import { scaleOfBlocks } from '../quant/ternary-scale.ts';
import { type Allocate, plainMemory } from '../tensor/allocate.ts';
import { assembleWeights } from './assemble-weights.ts';
import type { Graph } from './graph.ts';
import { graphOf } from './graphs/all.ts';
import { expertsWeight, groupedWeight, prescaledWeight, stackedExpertsWeight } from './grouped-weight.ts';
import { interleavedRow, rowsMoved } from './interleaved-heads.ts';
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

const isPlainFloat = (type: string): type is FloatType => type === 'F32' || type === 'F16' || type === 'BF16';

/** Values of a table that are decoded at once. */
const WINDOW_VALUES = 1 << 21;

/** How the blocks of a type are laid out, where each has a scale; I2_S has one for all. */
function layoutOf(type: string): BlockLayoutName | undefined {
  return isBlockLayout(type) ? type : undefined;
}

/** Bytes of a tensor as a grouped matrix; undefined for types and values that are none. */
function groupedSource(
  dtype: string,
  bytes: Uint8Array,
  columns: number,
): Exclude<GroupedBytes, { form: 'mlx' }> | undefined {
  const layout = layoutOf(dtype);
  if (layout !== undefined) return { form: 'blocks', layout, bytes };
  if (!isPlainFloat(dtype)) return undefined;
  const group = unpackedGroup(bytes, dtype, columns);
  return group === undefined ? undefined : { form: 'floats', type: dtype, bytes, group };
}

export function loadGgufWeights(
  file: GgufFile,
  config: ModelConfig,
  options: LoadWeightsOptions,
): Promise<ModelWeights> {
  return assembleWeights(new GgufReader(file, config, options), 'gguf', config, options);
}

/** Blocks behind the last layer that only draft tokens. */
function isDraft(name: string, { numHiddenLayers: layers, draftBlocks = 0 }: ModelConfig): boolean {
  const block = Number(/^blk\.(\d+)\./.exec(name)?.[1] ?? -1);
  return block >= layers && block < layers + draftBlocks;
}

class GgufReader implements WeightReader {
  readonly #file: GgufFile;
  readonly #config: ModelConfig;
  readonly #graph: Graph;
  readonly #allocate: Allocate;
  readonly #prepare: WeightPreparation | undefined;
  readonly #used = new Set<string>();
  readonly #scratch = new Scratch();

  constructor(file: GgufFile, config: ModelConfig, { allocate = plainMemory, prepare }: LoadWeightsOptions) {
    this.#file = file;
    this.#config = config;
    this.#graph = graphOf(config.family);
    this.#allocate = allocate;
    this.#prepare = prepare;
  }

  has(name: string): boolean {
    return this.#file.has(name);
  }

  async vector(name: string, shapes: readonly (readonly number[])[]): Promise<VectorWeight> {
    const values = await this.#floats(name, fittingShape(shapes, this.#file, name));
    const bad = values.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) this.fail(`element ${bad} is ${values[bad]}`, name, 'the file is damaged: download it again');
    return { kind: 'vector', name, values };
  }

  async table(name: string, rows: number, columns: number): Promise<TableWeight> {
    const { dtype, file, offset } = this.#expect(name, [rows, columns]);
    const layout = layoutOf(dtype);
    if (layout !== undefined) {
      if (this.#graph.oneScale === 'int16') return this.#blocks(name, layout, rows, columns);
      this.fail(
        `type ${dtype}: an embedding or head in trits`,
        name,
        'the converter packed it by mistake: convert again',
      );
    }
    if (dtype === 'F16' || dtype === 'BF16' || dtype === 'F32') {
      return (await this.#trits(name, rows, columns, 'table')) ?? this.#dense(name, rows, columns);
    }
    if (!isGgmlBlockFloat(dtype)) return this.#unreadable(dtype, name);
    if (dtype === 'Q4_K') return this.#halves(name, rows, columns);
    const bytes = await this.#allocate(4 * rows * columns);
    const values = new Float32Array(bytes.buffer, bytes.byteOffset, rows * columns);
    decodeBlocks(dtype, await this.#file.readBytes(name), { tensor: name, file, offset }, values);
    return { kind: 'dense', name, rows, columns, dtype: 'f32', bytes };
  }

  /** Q4_K as f16, which rounds its values (of at most 2^-11 their size), and not as f32: Maple's tables are a gigabyte so. */
  async #halves(name: string, rows: number, columns: number): Promise<DenseWeight> {
    const { file, offset, byteLength } = this.#expect(name, [rows, columns]);
    const rowBytes = byteLength / rows;
    const bytes = await this.#allocate(2 * rows * columns);
    const window = Math.max(1, Math.floor(WINDOW_VALUES / columns));
    for (let row = 0; row < rows; row += window) {
      const end = Math.min(rows, row + window);
      const stored = await this.#file.readRange(name, row * rowBytes, end * rowBytes);
      const values = decodeBlocks(
        'Q4_K',
        stored,
        { tensor: name, file, offset: offset + row * rowBytes },
        new Float32Array((end - row) * columns),
      );
      const wrong = values.findIndex((value) => Math.abs(value) > 65_504);
      if (wrong >= 0) this.fail(`a value of ${values[wrong]}, no f16`, name, 'take the file with an F16 head');
      bytes.set(f32ToF16(values), 2 * row * columns);
    }
    return { kind: 'dense', name, rows, columns, dtype: 'f16', bytes };
  }

  async #plainFloats(name: string, rows: number, columns: number): Promise<DenseWeight> {
    const { dtype } = this.#expect(name, [rows, columns]);
    if (!isPlainFloat(dtype)) this.fail(`type ${dtype}, where floats belong`, name, 'convert the model again');
    return this.#dense(name, rows, columns);
  }

  async #dense(name: string, rows: number, columns: number): Promise<DenseWeight> {
    const { dtype } = this.#expect(name, [rows, columns]);
    const bytes = await this.#file.readBytes(name, this.#allocate);
    return { kind: 'dense', name, rows, columns, dtype: dtype.toLowerCase() as DenseWeight['dtype'], bytes };
  }

  async linear(
    name: string,
    rows: number,
    columns: number,
    { heads, experts, floats }: LinearOptions = {},
  ): Promise<LinearWeight> {
    if (floats === true) return this.#plainFloats(name, rows, columns);
    if (experts !== undefined) return this.#experts(name, rows, columns, experts);
    const { dtype, file, offset } = this.#expect(name, [rows, columns]);
    const sourceRow =
      heads !== undefined && this.#graph.gguf.interleavedHeads ? interleavedRow(rows / heads) : undefined;
    const layout = layoutOf(dtype);
    if (layout === undefined && dtype !== 'I2_S') return this.#floatLinear(name, rows, columns, sourceRow);
    if (layout !== undefined && this.#graph.oneScale === 'int16') {
      return this.#blocks(name, layout, rows, columns, sourceRow);
    }
    const factor = await this.#factor(name);
    if (layout !== undefined && !isGgmlTernary(dtype)) {
      return (
        (await this.#oneScale(name, layout, rows, columns, { factor, sourceRow })) ??
        this.#blocks(name, layout, rows, columns, sourceRow)
      );
    }
    const bytes = await this.#allocate(rowquadByteLength(rows, columns));
    const found = await this.#scratch.lend(async (take) => {
      const stored = await this.#file.readBytes(name, take);
      const matrix = {
        type: dtype as GgmlTernaryType,
        bytes: stored,
        rows,
        columns,
        ...(sourceRow !== undefined && { sourceRow }),
      };
      const at = { tensor: name, file, offset };
      const scale = repackGgml(matrix, bytes, at);
      if (scale.kind === 'tensor' || layout === undefined) return { scale: singleScale(scale, name) };
      // Several scales: trained on weights alone, whatever the architecture is called.
      return { source: { form: 'blocks', layout, bytes: stored } satisfies GroupedBytes, at };
    });
    if (found.source !== undefined) return this.#blocks(name, found.source.layout, rows, columns, sourceRow);
    const scale = this.#positive(Math.fround(found.scale * factor), name);
    return { kind: 'ternary', name, rows, columns, layout: 'rowquad', bytes, scale };
  }

  /** Blocks of a graph with BitLinear layers, if all have the one scale of such a matrix. */
  async #oneScale(
    name: string,
    layout: BlockLayoutName,
    rows: number,
    columns: number,
    { factor, sourceRow }: { readonly factor: number; readonly sourceRow: ((row: number) => number) | undefined },
  ): Promise<TernaryWeight | undefined> {
    const { file, offset } = this.#expect(name, [rows, columns]);
    return this.#scratch.lend(async (take) => {
      const bytes = await this.#file.readBytes(name, take);
      const source: GroupedBytes = { form: 'blocks', layout, bytes };
      const matrix = decodeGrouped(source, rows, columns, { at: { tensor: name, file, offset } });
      const found = scaleOfBlocks(matrix.scales, matrix.group);
      const codes = unpackQuads(matrix.quads, rows, columns);
      if (found.kind !== 'tensor' || codes.includes(3)) return undefined;
      const trits = Int8Array.from(codes, (code) => code - 1);
      const ordered = sourceRow === undefined ? trits : rowsMoved(trits, rows, columns, sourceRow);
      const scale = this.#positive(Math.fround(found.value * factor), name);
      return {
        kind: 'ternary',
        name,
        rows,
        columns,
        layout: 'rowquad',
        bytes: packRowquad(ordered, rows, columns),
        scale,
      };
    });
  }

  /** A matrix of ggml blocks with a scale each. */
  async #blocks(
    name: string,
    layout: BlockLayoutName,
    rows: number,
    columns: number,
    sourceRow?: (row: number) => number,
  ): Promise<GroupedWeight> {
    const { file, offset } = this.#expect(name, [rows, columns]);
    if ((await this.#factor(name)) !== 1) {
      this.fail('a scale beside a matrix that has scales of its own', name, 'convert the model again');
    }
    return this.#scratch.lend(async (take) => {
      const bytes = await this.#file.readBytes(name, take);
      return groupedWeight(name, { form: 'blocks', layout, bytes }, rows, columns, {
        at: { tensor: name, file, offset },
        allocate: this.#allocate,
        prepare: this.#prepare,
        sourceRow,
      });
    });
  }

  /** Floats that are trits times scales, or, in a graph of weights alone, a dense matrix. */
  async #floatLinear(
    name: string,
    rows: number,
    columns: number,
    sourceRow: ((row: number) => number) | undefined,
  ): Promise<LinearWeight> {
    const { dtype, file } = this.#expect(name, [rows, columns]);
    if (this.#graph.oneScale === 'int16') {
      if (!isPlainFloat(dtype)) return this.#unreadable(dtype, name);
      return (await this.#trits(name, rows, columns, 'linear')) ?? this.#dense(name, rows, columns);
    }
    if (!isGgmlFloat(dtype)) return this.#unreadable(dtype, name);
    const factor = await this.#factor(name);
    const stored = await this.#floats(name, [rows, columns]);
    const values = sourceRow === undefined ? stored : rowsMoved(stored, rows, columns, sourceRow);
    const found = detectPrescaled(values, rows, columns);
    if (found !== undefined && found.scale.kind !== 'tensor' && isPlainFloat(dtype)) {
      const several = await this.#trits(name, rows, columns, 'linear', sourceRow);
      if (several !== undefined) return several;
    }
    if (found?.scale.kind !== 'tensor') this.#notTernary(name, dtype, columns);
    const weight = prescaledWeight(name, values, rows, columns, file);
    return { ...weight, scale: Math.fround(weight.scale * factor) };
  }

  /** Why floats of a file whose layers ought to be ternary are none. */
  #notTernary(name: string, dtype: string, columns: number): never {
    // What llama.cpp falls back to for rows that its ternary blocks of 256 do not divide.
    const fellBack = !isPlainFloat(dtype) && columns % 256 !== 0;
    return this.fail(
      fellBack
        ? `type ${dtype}, which cannot hold trits: rows of ${columns} are no multiple of 256, so a quantizer asked for TQ1_0 or TQ2_0 wrote ${dtype} instead`
        : `type ${dtype}, and the values are not trits times one scale`,
      name,
      fellBack
        ? 'quantize the original again to Q2_0 or I2_S, or convert it with this program (--to gguf-q2_0)'
        : 'this engine runs ternary models; a GGUF of QAT masters has to be quantized first',
    );
  }

  /** Plain floats as a grouped matrix, if they are trits times scales. A table is tried in graphs of weights alone. */
  async #trits(
    name: string,
    rows: number,
    columns: number,
    use: 'table' | 'linear',
    sourceRow?: (row: number) => number,
  ): Promise<GroupedWeight | undefined> {
    if (use === 'table' && this.#graph.oneScale !== 'int16') return undefined;
    const { dtype, file, offset } = this.#expect(name, [rows, columns]);
    const type = dtype as FloatType;
    return this.#scratch.lend(async (take) => {
      const bytes = await this.#file.readBytes(name, take);
      const group = unpackedGroup(bytes, type, columns);
      if (group === undefined) return undefined;
      return groupedWeight(name, { form: 'floats', type, bytes, group }, rows, columns, {
        at: { tensor: name, file, offset },
        allocate: this.#allocate,
        sourceRow,
      });
    });
  }

  /** One tensor [experts, rows, columns] as one weight: see `GroupedWeight.experts`. */
  async #experts(name: string, rows: number, columns: number, experts: number): Promise<GroupedWeight> {
    const { dtype, file, offset, byteLength } = this.#expect(name, [experts, rows, columns]);
    const at = { tensor: name, file, offset };
    return this.#scratch.lend(async (take) => {
      const bytes = await this.#file.readBytes(name, take);
      const source = groupedSource(dtype, bytes, columns);
      if (source === undefined) {
        this.fail(`type ${dtype}, and the values are no trits under scales`, name, 'take a ternary file of the model');
      }
      const how = { prepare: this.#prepare, allocate: this.#allocate };
      const stacked = await stackedExpertsWeight(name, source, experts, rows, columns, how);
      if (stacked !== undefined) return stacked;
      const each = byteLength / experts;
      const read = async (expert: number) => {
        const part = { ...source, bytes: bytes.subarray(expert * each, (expert + 1) * each) };
        return decodeGrouped(part, rows, columns, { at, firstRow: expert * rows });
      };
      return expertsWeight(name, experts, read, { at, allocate: this.#allocate });
    });
  }

  async requireEqual(): Promise<void> {
    // `tieWordEmbeddings` is defined by the absence of the head: nothing can differ.
  }

  requireAllUsed(): void {
    const unused = this.#file.names().filter((name) => !this.#used.has(name) && !isDraft(name, this.#config));
    if (unused.length > 0) {
      const stranger = strangerOf(unused);
      if (stranger !== undefined) this.fail(stranger.what, unused[0]!, stranger.fix);
      this.fail(
        `${unused.length} tensor${unused.length === 1 ? '' : 's'} that this graph does not use`,
        unused[0]!,
        'the graph is not one we run',
      );
    }
  }

  /** The optional multiplier `<name>.scale` beside a matrix. */
  async #factor(name: string): Promise<number> {
    const factorName = name.replace(/\.weight$/, '.scale');
    if (!this.#file.has(factorName)) return 1;
    return this.#positive((await this.#floats(factorName, [1]))[0]!, factorName);
  }

  #positive(value: number, name: string): number {
    if (value > 0 && Number.isFinite(value)) return value;
    return this.fail(`scale ${value}, expected a positive number`, name, 'the file is damaged: download it again');
  }

  async #floats(name: string, shape: readonly number[]): Promise<Float32Array> {
    const { dtype, file, offset } = this.#expect(name, shape);
    if (!isGgmlFloat(dtype)) return this.#unreadable(dtype, name);
    const count = shape.reduce((product, size) => product * size, 1);
    return decodeGgml(dtype, await this.#file.readBytes(name), count, { tensor: name, file, offset });
  }

  #expect(name: string, shape: readonly number[]) {
    this.#used.add(name);
    if (!this.#file.has(name)) this.fail('a tensor is missing', name, 'the file is incomplete: download it again');
    const info = this.#file.info(name);
    if (info.shape.length !== shape.length || info.shape.some((size, axis) => size !== shape[axis])) {
      this.fail(
        `shape [${info.shape.join(', ')}], the metadata asks for [${shape.join(', ')}]`,
        name,
        'convert the model again',
      );
    }
    return info;
  }

  #unreadable(type: string, name: string): never {
    return this.fail(`type ${type}`, name, 'convert the file to one of the types we read');
  }

  fail(what: string, tensor: string, fix: string): never {
    throw new WeightError({ what, where: `tensor "${tensor}" in ${this.#file.path}`, fix });
  }
}
