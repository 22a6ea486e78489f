// What a GGUF file is when it is no model that can be run: said instead of what is missing from it.

import type { GgufFile } from './gguf-file.ts';

export type GgufKind = {
  /** A sentence without its end. */
  readonly what: string;
  readonly fix: string;
};

const NAMED_BY_TYPE: Readonly<Record<string, GgufKind>> = {
  mmproj: {
    what: 'this is a vision tower (mmproj), not a language model',
    fix: "name the model's own .gguf, which lies beside it",
  },
  imatrix: {
    what: 'this is an importance matrix that a model was quantized with, not a model',
    fix: "name the model's own .gguf",
  },
  adapter: {
    what: 'this is an adapter (LoRA) for a model, not a model',
    fix: 'merge it into its model first, with the tools of its author',
  },
  vocab: { what: 'this file holds a vocabulary and no weights', fix: "name the model's own .gguf" },
};

/** What the file is, where that is the reason why it cannot be run; undefined for everything else. */
export function ggufKind(gguf: GgufFile): GgufKind | undefined {
  const type = stringOf(gguf, 'general.type');
  if (gguf.architecture === 'clip') return NAMED_BY_TYPE.mmproj;
  if (type !== undefined && Object.hasOwn(NAMED_BY_TYPE, type)) return NAMED_BY_TYPE[type];
  if (gguf.metadata.has('imatrix.datasets') || gguf.metadata.has('imatrix.chunk_count')) return NAMED_BY_TYPE.imatrix;
  const inputNorm = gguf.names().find((name) => /\.(attn|ffn)_\w+_norm_in\.weight$/.test(name));
  if (inputNorm !== undefined) {
    return {
      what: `this is a BitNet-Embedding model (it has a norm before each projection, ${inputNorm}): it turns a text into one vector and writes none`,
      fix: 'use it with a program that makes embeddings; here models that write text are run',
    };
  }
  return undefined;
}

/** PrismML's keys are prism.hadamard.*; whoever writes others means the same. */
function rotationKey(gguf: GgufFile): string | undefined {
  return [...gguf.metadata.keys()].find((key) => /hadamard/i.test(key));
}

/** What the weights of a rotated model are, for whoever looks at them; undefined for others. */
export function rotationRemark(gguf: GgufFile): string | undefined {
  const key = rotationKey(gguf);
  return key === undefined ? undefined : rotatedWeights(key);
}

export const rotatedWeights = (sign: string) =>
  `matrices are stored in a rotated basis (Hadamard; ${sign}): these are trits as stored, the weights they stand for are sums of them`;

/** A remark for a file that is run all the same; undefined where there is none. */
export function ggufWarning(gguf: GgufFile): string | undefined {
  if (rotationKey(gguf) !== undefined) return undefined;
  const tensor = [...gguf.tensors.values()].find(({ dtype }) => dtype === 'PQ2_0' || dtype === 'PTQ1_0');
  if (tensor === undefined) return undefined;
  const about = `"${tensor.name}" is ${tensor.dtype}, and the file has no prism.hadamard keys`;
  // The graph of Ternary Bonsai 2, whose published files all have them.
  if (gguf.architecture?.startsWith('qwen35')) {
    return `${about}: it may be a rotated Ternary Bonsai 2 whose converter dropped them, which then writes noise`;
  }
  return `${about}: right for Ternary Bonsai 1.7B to 8B, but weights taken from a Ternary Bonsai 2 may be rotated`;
}

/** By general.file_type: what a quantizer was asked for. */
const TERNARY_FILE_TYPES: ReadonlyMap<number, string> = new Map([
  [36, 'TQ1_0'],
  [37, 'TQ2_0'],
]);

/**
 * Why a matrix of a file that calls itself ternary holds no exact trits: llama.cpp's quantizer takes another type, without
 * failing, for rows that are no multiple of 256. Undefined for every other matrix.
 */
export function fallbackType(gguf: GgufFile, tensor: string): GgufKind | undefined {
  const fileType = gguf.metadata.get('general.file_type');
  const claimed = typeof fileType === 'number' ? TERNARY_FILE_TYPES.get(fileType) : undefined;
  const { dtype, shape } = gguf.info(tensor);
  const columns = shape.at(-1) ?? 1;
  if (claimed === undefined || shape.length !== 2 || columns % 256 === 0 || !/^I?Q\d/.test(dtype)) return undefined;
  return {
    what:
      `"${tensor}" is ${dtype} in a file that calls itself ${claimed}: its rows have ${columns} elements, no multiple of ` +
      `256, so the quantizer took ${dtype} instead, which rounds trits away`,
    fix: 'quantize the original to Q2_0 (rows in multiples of 64) or I2_S, or take another file of the model',
  };
}

function stringOf(gguf: GgufFile, key: string): string | undefined {
  const value = gguf.metadata.get(key);
  return typeof value === 'string' ? value : undefined;
}
