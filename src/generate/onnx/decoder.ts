// An ONNX decoder as the scheduler sees any model: sequences with caches, steps of rows, logits. Sequences run one after
// the other, since graphs with a past take rows of equal length only.

import { type SequenceId, type Step, StepError, type StepResult } from '../../engine/backend.ts';
import { asAsked } from '../../engine/top-logits.ts';
import { f16ToF32 } from '../../quant/f16.ts';
import type { LogitsModel } from '../engine.ts';
import { OnnxModelError } from './errors.ts';
import type { DecoderGraph, PastSlot } from './graph.ts';
import type { OnnxData, OnnxRuntime, OnnxSession, OnnxTensor } from './runtime.ts';

/** `past` has one tensor per slot of the graph, in its order. Neither is changed in place. */
type Sequence = { readonly tokens: readonly number[]; readonly past: readonly OnnxTensor[] };

type Output = { readonly sequence: Sequence; readonly logits: OnnxTensor };

export class OnnxDecoder implements LogitsModel {
  readonly #runtime: OnnxRuntime;
  readonly #session: OnnxSession;
  readonly #graph: DecoderGraph;
  readonly #file: string;
  readonly #sequences = new Map<SequenceId, Sequence>();
  #nextId: SequenceId = 0;

  constructor(parts: { runtime: OnnxRuntime; session: OnnxSession; graph: DecoderGraph; file: string }) {
    this.#runtime = parts.runtime;
    this.#session = parts.session;
    this.#graph = parts.graph;
    this.#file = parts.file;
  }

  createSequence(): SequenceId {
    const past = this.#graph.pasts.map(
      ({ type, emptyDims }) =>
        new this.#runtime.Tensor(type, type === 'float32' ? new Float32Array(0) : new Uint16Array(0), emptyDims),
    );
    return this.#add({ tokens: [], past });
  }

  freeSequence(sequence: SequenceId): void {
    this.#sequences.delete(sequence);
  }

  sequenceLength(sequence: SequenceId): number {
    return this.#get(sequence).tokens.length;
  }

  /** A graph's cache is rows of keys and values. */
  rewindLimit(): number {
    return 0;
  }

  truncate(sequence: SequenceId, length: number): void {
    const before = this.#get(sequence);
    if (length < before.tokens.length) this.#sequences.set(sequence, this.#shortened(before, length));
  }

  fork(sequence: SequenceId, length: number): SequenceId {
    return this.#add(this.#shortened(this.#get(sequence), length));
  }

  async step(step: Step): Promise<StepResult> {
    const { tokens, sequences, outputRows } = step;
    const after = new Map<SequenceId, Sequence>();
    const pieces: Float32Array[] = [];
    let from = 0;
    while (from < tokens.length) {
      const id = sequences[from]!;
      let to = from + 1;
      while (to < tokens.length && sequences[to] === id) to += 1;
      const wanted = Array.from(
        outputRows.filter((row) => row >= from && row < to),
        (row) => row - from,
      );
      const { sequence, logits } = await this.#run(this.#get(id), Array.from(tokens.subarray(from, to)), wanted[0]);
      after.set(id, sequence);
      pieces.push(...this.#rows(logits, to - from, wanted));
      from = to;
    }
    for (const [id, sequence] of after) this.#sequences.set(id, sequence);
    const width = pieces[0]?.length ?? 0;
    const all = new Float32Array(pieces.length * width);
    for (const [i, piece] of pieces.entries()) all.set(piece, i * width);
    return { ...asAsked(step, all), tritCounts: new Int32Array(0) };
  }

  [Symbol.dispose](): void {
    this.#sequences.clear();
    // A run that is under way ends first; what it then fails with interests nobody.
    this.#session.release().catch(() => {});
  }

  #add(sequence: Sequence): SequenceId {
    const id = this.#nextId++;
    this.#sequences.set(id, sequence);
    return id;
  }

  #get(id: SequenceId): Sequence {
    const sequence = this.#sequences.get(id);
    if (sequence === undefined) throw new StepError({ what: `there is no sequence ${id}` });
    return sequence;
  }

  /** Runs `rows` tokens behind a sequence; logits are needed from row `firstWanted` on, if any. */
  async #run(before: Sequence, rows: readonly number[], firstWanted: number | undefined): Promise<Output> {
    const { pasts, idType, hasMask, hasPositions, hasCacheBranch, keepsLogits } = this.#graph;
    const { Tensor } = this.#runtime;
    const tokens = [...before.tokens, ...rows];
    const read = pasts.length === 0 ? tokens : rows;
    const start = tokens.length - read.length;
    const integers = (values: ArrayLike<number>) =>
      idType === 'int64' ? BigInt64Array.from(Array.from(values, BigInt)) : Int32Array.from(values);
    const row = (values: ArrayLike<number>) => new Tensor(idType, integers(values), [1, values.length]);
    const feeds: Record<string, OnnxTensor> = { input_ids: row(read) };
    if (hasMask) feeds.attention_mask = row(tokens.map(() => 1));
    if (hasPositions) feeds.position_ids = row(read.map((_, i) => start + i));
    if (hasCacheBranch) feeds.use_cache_branch = new Tensor('bool', Uint8Array.of(start > 0 ? 1 : 0), [1]);
    if (keepsLogits !== undefined) {
      const count = rows.length - (firstWanted ?? rows.length - 1);
      feeds.num_logits_to_keep = new Tensor(
        'int64',
        BigInt64Array.of(BigInt(count)),
        keepsLogits.rank === 0 ? [] : [1],
      );
    }
    for (const [i, { input }] of pasts.entries()) feeds[input] = before.past[i]!;

    const results = await this.#session.run(feeds).catch((cause: unknown) => {
      const what = `onnxruntime could not run the graph: ${(cause as Error).message.split('\n')[0]}`;
      throw new OnnxModelError(
        { what, where: this.#file, fix: 'check the export with the tool that made it' },
        { cause },
      );
    });
    const past = pasts.map(({ output, axis }) => {
      const tensor = results[output]!;
      if (tensor.dims[axis] === tokens.length) return tensor;
      throw this.#broken(
        `${output} holds ${tensor.dims[axis]} tokens after a step that should make it ${tokens.length}`,
      );
    });
    return { sequence: { tokens, past }, logits: results.logits! };
  }

  /** Rows of logits (1, N, V), which belong to the last N of `count` tokens. */
  #rows(logits: OnnxTensor, count: number, wanted: readonly number[]): Float32Array[] {
    const vocabSize = logits.dims.at(-1) ?? 0;
    const values = toFloats(logits);
    const given = vocabSize === 0 ? 0 : values.length / vocabSize;
    return wanted.map((row) => {
      const at = row - count + given;
      if (at < 0) throw this.#broken(`the graph gives the logits of the last ${given} tokens only`);
      return values.subarray(at * vocabSize, (at + 1) * vocabSize);
    });
  }

  #shortened({ tokens, past }: Sequence, length: number): Sequence {
    return { tokens: tokens.slice(0, length), past: past.map((tensor, i) => this.#cut(tensor, i, length)) };
  }

  #cut(tensor: OnnxTensor, slot: number, length: number): OnnxTensor {
    const { axis } = this.#graph.pasts[slot] as PastSlot;
    if (tensor.dims[axis] === length) return tensor;
    const inner = tensor.dims.slice(axis + 1).reduce((product, size) => product * size, 1);
    const outer = tensor.dims.slice(0, axis).reduce((product, size) => product * size, 1);
    const stride = tensor.dims[axis]! * inner;
    const data = tensor.data as Float32Array;
    // The same kind of array, whatever the runtime chose for float16.
    const kept = new (data.constructor as Float32ArrayConstructor)(outer * length * inner);
    for (let i = 0; i < outer; i += 1)
      kept.set(data.subarray(i * stride, i * stride + length * inner), i * length * inner);
    const dims = tensor.dims.map((size, i) => (i === axis ? length : size));
    return new this.#runtime.Tensor(tensor.type, kept as OnnxData, dims);
  }

  #broken(what: string): OnnxModelError {
    return new OnnxModelError({
      what,
      where: this.#file,
      fix: 'export the model for text generation, with a cache that grows',
    });
  }
}

function toFloats({ type, data }: OnnxTensor): Float32Array {
  if (type === 'float32') return data as Float32Array;
  return f16ToF32(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}
