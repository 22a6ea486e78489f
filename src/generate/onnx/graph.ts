// What an exported decoder wants and gives, read from the names and shapes of its inputs and outputs. The names are those
// of optimum and transformers.js:
//
//     input_ids (1, T) i64             logits (1, T, V)
//     attention_mask (1, P + T) i64    present.N.key, present.N.value (1, H, P + T, D)
//     position_ids (1, T) i64
//     past_key_values.N.key, .value (1, H, P, D)      P: tokens in the cache, 0 at first
//     use_cache_branch (1,) bool                      in "merged" exports: whether there is a past
//     num_logits_to_keep () i64                       in newer exports: logits of the last so many tokens, 0 for all
//
// All but input_ids and logits may be missing; without the pasts every step reads the whole text again.

import { OnnxModelError } from './errors.ts';
import type { OnnxSession, OnnxValueInfo } from './runtime.ts';

export type PastSlot = {
  readonly input: string;
  /** The output that is this input of the next step. */
  readonly output: string;
  readonly type: 'float32' | 'float16';
  /** Shape with no token in it. */
  readonly emptyDims: readonly number[];
  /** The axis along which tokens are added. */
  readonly axis: number;
};

export type DecoderGraph = {
  readonly idType: 'int64' | 'int32';
  readonly hasMask: boolean;
  readonly hasPositions: boolean;
  readonly hasCacheBranch: boolean;
  readonly keepsLogits: { readonly rank: number } | undefined;
  readonly pasts: readonly PastSlot[];
  /** Undefined where neither the graph nor the config tells. */
  readonly vocabSize: number | undefined;
};

export type GraphHints = {
  readonly vocabSize: number | undefined;
  readonly keyValueHeads: number | undefined;
  readonly headDim: number | undefined;
};

const PLAIN = ['input_ids', 'attention_mask', 'position_ids', 'use_cache_branch', 'num_logits_to_keep'];

/** Throws OnnxModelError for a graph that is no such decoder; `file` is for its message. */
export function readGraph(session: OnnxSession, hints: GraphHints, file: string): DecoderGraph {
  const { inputMetadata = [], outputMetadata = [] } = session;
  const inputs = new Map(inputMetadata.map((info) => [info.name, info]));
  const outputs = new Map(outputMetadata.map((info) => [info.name, info]));
  const bad = (what: string) =>
    new OnnxModelError({
      what,
      where: file,
      fix: 'export the model for text generation, as `optimum-cli export onnx --task text-generation-with-past` does',
    });
  const ids = inputs.get('input_ids');
  const logits = outputs.get('logits');
  if (ids === undefined || logits === undefined) {
    const list = (names: Iterable<string>) => [...names].slice(0, 6).join(', ');
    throw bad(
      `the graph is no decoder: it takes ${list(inputs.keys())} and gives ${list(outputs.keys())}, not input_ids and logits`,
    );
  }
  if (ids.type !== 'int64' && ids.type !== 'int32') throw bad(`input_ids has the type ${ids.type}, not int64`);
  const foreign = [...inputs.keys()].find((name) => !PLAIN.includes(name) && !isPast(name));
  if (foreign !== undefined) throw bad(`the graph wants an input "${foreign}" that we do not know`);
  const keep = inputs.get('num_logits_to_keep');
  return {
    idType: ids.type,
    hasMask: inputs.has('attention_mask'),
    hasPositions: inputs.has('position_ids'),
    hasCacheBranch: inputs.has('use_cache_branch'),
    keepsLogits: keep && { rank: keep.shape?.length ?? 0 },
    pasts: inputMetadata
      .filter(({ name }) => isPast(name))
      .map((info) => {
        const output = info.name.replace(/^past(_key_values)?/, 'present');
        if (!outputs.has(output)) throw bad(`the graph takes ${info.name} but does not give ${output}`);
        return pastSlot(info, output, hints, bad);
      }),
    vocabSize: sizeOf(logits.shape?.at(-1)) ?? hints.vocabSize,
  };
}

/** A cache of keys or values; other states (convolutions, recurrences) cannot be cut back to fewer tokens. */
function isPast(name: string): boolean {
  return /^past(_key_values)?[._](\d+|key|value)/.test(name);
}

function pastSlot(
  { name, type, shape = [] }: OnnxValueInfo,
  output: string,
  hints: GraphHints,
  bad: (what: string) => OnnxModelError,
): PastSlot {
  if (type !== 'float32' && type !== 'float16') throw bad(`${name} has the type ${type}, not float32 or float16`);
  const isNamed = (dim: number | string) => sizeOf(dim) === undefined;
  // By its name; else where exporters put it: before the features of a head.
  const named = shape.findIndex((dim, i) => i > 0 && isNamed(dim) && /past|seq|len/i.test(`${dim}`));
  const axis = named >= 0 ? named : shape.length - 2;
  if (axis < 1 || !isNamed(shape[axis]!)) throw bad(`${name} has room for a fixed number of tokens`);
  const emptyDims = shape.map((dim, i) => {
    if (i === axis) return 0;
    const size = sizeOf(dim);
    if (size !== undefined) return size;
    if (i === 0 || /batch/i.test(`${dim}`)) return 1;
    const hint = i === shape.length - 1 ? hints.headDim : hints.keyValueHeads;
    if (hint === undefined) throw bad(`neither the graph nor config.json tells the size "${dim}" of ${name}`);
    return hint;
  });
  return { input: name, output, type, emptyDims, axis };
}

/** Sizes that a run decides come as names, or as -1. */
function sizeOf(dim: number | string | undefined): number | undefined {
  return typeof dim === 'number' && dim > 0 ? dim : undefined;
}
