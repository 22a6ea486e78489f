// A decoder small enough to compute by hand and strict enough to notice every mistake around it: its logits depend on all
// tokens so far (through keys and values), on the mask, on the positions and on whether the cached branch is taken.
//
//     k_s = K[x_s], v_s = U[x_s]    c_t = sum over s <= t of mask_s * k_s * v_s    logits_t = c_t . W + P[t] (+ B if cached)

import { cpSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type OnnxNode, type OnnxTensor, type OnnxValue, onnxModel, TYPE } from '../../../scripts/onnx-model.mjs';
import { SplitMix64 } from '../../../src/random/splitmix64.ts';

/** At least the tokens of the golden tokenizer `llama3`. */
export const VOCAB = 1024;
export const CONTEXT = 96;
const D = 32;
/** Exported names of sizes that a run decides. */
const [PAST, TOTAL, T] = ['past_sequence_length', 'past_sequence_length + 1', 'sequence_length'];

export type ToyOptions = {
  readonly cache?: boolean;
  /** Type of the pasts and of the logits. */
  readonly type?: 'f32' | 'f16';
  readonly ids?: 'i64' | 'i32';
  /** A merged export with its two branches. */
  readonly merged?: boolean;
  readonly keepsLogits?: boolean;
  /** The head as 2-bit ternary weights of the runtime's own operator. */
  readonly ternaryHead?: boolean;
  /** More to declare or to break. */
  readonly inputs?: Readonly<Record<string, OnnxValue>>;
  /** Shape of the pasts. */
  readonly pastDims?: readonly (number | string)[];
};

const random = new SplitMix64(20n);
const table = (rows: number, columns: number, size: number) =>
  Float32Array.from({ length: rows * columns }, () => size * (random.nextFloat() - 0.5));
const KEYS = table(VOCAB, D, 2);
const VALUES = table(VOCAB, D, 2);
const POSITIONS = table(CONTEXT, VOCAB, 2);
const BRANCH = table(1, VOCAB, 8);
const HEAD = table(D, VOCAB, 2);
/** (VOCAB, D) */
const TRITS = Int8Array.from({ length: VOCAB * D }, () => Math.floor(random.nextFloat() * 3) - 1);

/** The last logits (V,) of tokens, in double. `cached`: the last one was read in a step of its own. */
export function toyLogits(
  tokens: readonly number[],
  { merged, ternaryHead }: ToyOptions,
  cached: boolean,
): Float64Array {
  const context = new Float64Array(D);
  for (const token of tokens)
    for (let d = 0; d < D; d += 1) context[d]! += KEYS[token * D + d]! * VALUES[token * D + d]!;
  const logits = new Float64Array(VOCAB);
  for (let v = 0; v < VOCAB; v += 1) {
    let sum = POSITIONS[(tokens.length - 1) * VOCAB + v]!;
    if (merged && cached) sum += BRANCH[v]!;
    for (let d = 0; d < D; d += 1) sum += context[d]! * (ternaryHead ? 0.5 * TRITS[v * D + d]! : HEAD[d * VOCAB + v]!);
    logits[v] = sum;
  }
  return logits;
}

export function toyGraph(options: ToyOptions = {}): Uint8Array {
  const { cache = true, type = 'f32', ids = 'i64', merged = false, keepsLogits = false, ternaryHead = false } = options;
  const past = { type, dims: options.pastDims ?? ['batch_size', 1, PAST!, D] };
  const present = { type, dims: ['batch_size', 1, TOTAL!, D] };
  const inputs: Record<string, OnnxValue> = {
    input_ids: { type: ids, dims: ['batch_size', T!] },
    attention_mask: { type: ids, dims: ['batch_size', TOTAL!] },
    position_ids: { type: ids, dims: ['batch_size', T!] },
    ...(cache ? { 'past_key_values.0.key': past, 'past_key_values.0.value': past } : {}),
    ...(merged ? { use_cache_branch: { type: 'bool', dims: [1] } } : {}),
    ...(keepsLogits ? { num_logits_to_keep: { type: 'i64', dims: [] } } : {}),
    ...options.inputs,
  };
  const outputs: Record<string, OnnxValue> = {
    logits: { type, dims: ['batch_size', T!, VOCAB] },
    ...(cache ? { 'present.0.key': present, 'present.0.value': present } : {}),
  };
  const i64 = (name: string, values: number[], shape = [values.length]): OnnxTensor => ({
    name,
    shape,
    type: 'i64',
    values,
  });
  const f32 = (name: string, shape: number[], values: Float32Array): OnnxTensor => ({
    name,
    shape,
    type: 'f32',
    values,
  });
  const node = (op: string, from: string[], to: string, ints: Record<string, number> = {}): OnnxNode => ({
    op,
    inputs: from,
    outputs: [to],
    ints,
  });
  const nodes: OnnxNode[] = [];
  for (const which of ['key', 'value']) {
    nodes.push(
      node('Gather', [`${which}s`, 'input_ids'], `${which}_rows`),
      node('Unsqueeze', [`${which}_rows`, 'one'], `${which}_new`),
      ...(cache
        ? [
            node('Cast', [`past_key_values.0.${which}`], `${which}_past`, { to: TYPE.f32 }),
            node('Concat', [`${which}_past`, `${which}_new`], `${which}_all`, { axis: 2 }),
            node('Cast', [`${which}_all`], `present.0.${which}`, { to: TYPE[type] }),
          ]
        : [node('Identity', [`${which}_new`], `${which}_all`)]),
    );
  }
  nodes.push(
    node('Cast', ['attention_mask'], 'mask', { to: TYPE.f32 }),
    node('Unsqueeze', ['mask', 'mask_axes'], 'mask_4d'),
    node('Mul', ['key_all', 'value_all'], 'products'),
    // Fails unless the mask covers the cache and the new tokens, neither more nor less.
    node('Mul', ['products', 'mask_4d'], 'masked'),
    node('CumSum', ['masked', 'two'], 'sums'),
    node('Shape', ['input_ids'], 'ids_shape'),
    node('Gather', ['ids_shape', 'one'], 'count'),
    node('Neg', ['count'], 'first'),
    node('Slice', ['sums', 'first', 'far', 'seq_axis'], 'recent'),
    node('Squeeze', ['recent', 'one'], 'context'),
    ...(ternaryHead
      ? [
          {
            op: 'MatMulNBits',
            domain: 'com.microsoft',
            inputs: ['context', 'trits', 'scales', 'zeros'],
            outputs: ['scores'],
            ints: { K: D, N: VOCAB, bits: 2, block_size: D },
          },
        ]
      : [node('MatMul', ['context', 'head'], 'scores')]),
    node('Gather', ['positions', 'position_ids'], 'places'),
    node('Add', ['scores', 'places'], 'placed'),
    ...(merged
      ? [
          node('Cast', ['use_cache_branch'], 'is_cached', { to: TYPE.f32 }),
          node('Mul', ['branch', 'is_cached'], 'shift'),
          node('Add', ['placed', 'shift'], 'shifted'),
        ]
      : [node('Identity', ['placed'], 'shifted')]),
    ...(keepsLogits
      ? [
          node('Neg', ['num_logits_to_keep'], 'keep_from'),
          node('Unsqueeze', ['keep_from', 'zero'], 'keep_start'),
          node('Slice', ['shifted', 'keep_start', 'far', 'one'], 'kept'),
        ]
      : [node('Identity', ['shifted'], 'kept')]),
    node('Cast', ['kept'], 'logits', { to: TYPE[type] }),
  );
  const packed = new Uint8Array((VOCAB * D) / 4);
  TRITS.forEach((trit, i) => {
    packed[i >> 2]! |= (trit + 1) << (2 * (i & 3));
  });
  return onnxModel({
    nodes,
    inputs,
    outputs,
    constants: [
      f32('keys', [VOCAB, D], KEYS),
      f32('values', [VOCAB, D], VALUES),
      f32('positions', [CONTEXT, VOCAB], POSITIONS),
      i64('zero', [0]),
      i64('one', [1]),
      i64('two', [2], []),
      i64('seq_axis', [2]),
      i64('mask_axes', [1, 3]),
      i64('far', [Number.MAX_SAFE_INTEGER]),
      ...(merged ? [f32('branch', [VOCAB], BRANCH)] : []),
      ...(ternaryHead
        ? ([
            { name: 'trits', shape: [VOCAB, 1, D / 4], type: 'u8', values: packed },
            { name: 'scales', shape: [VOCAB], type: 'f32', values: new Float32Array(VOCAB).fill(0.5) },
            { name: 'zeros', shape: [VOCAB], type: 'u8', values: new Uint8Array(VOCAB).fill(1) },
          ] as const)
        : [f32('head', [D, VOCAB], HEAD)]),
    ],
  });
}

const TOKENIZER = fileURLToPath(new URL('../../golden/tokenizer/llama3', import.meta.url));

export const TOY_CONFIG = {
  model_type: 'toy',
  vocab_size: VOCAB,
  max_position_embeddings: CONTEXT,
  num_attention_heads: 1,
  hidden_size: D,
};

/** A model folder as exporters write it; `graph` is the path of the graph in it. */
export function toyFolder(
  options: ToyOptions = {},
  { graph = 'model.onnx', config = TOY_CONFIG as object } = {},
): string {
  const folder = mkdtempSync(join(tmpdir(), 'onnx-'));
  cpSync(TOKENIZER, folder, { recursive: true });
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  addGraph(folder, graph, options);
  return folder;
}

export function addGraph(folder: string, name: string, options: ToyOptions = {}): void {
  mkdirSync(dirname(join(folder, name)), { recursive: true });
  writeFileSync(join(folder, name), toyGraph(options));
}
