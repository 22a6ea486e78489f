// The trainable parameters of a model as one flat float32 vector: which tensor lies where. Gradients and optimizer
// moments share the plan, so a whole state is hashed, stored and compared as a few vectors.

import { MODEL_TENSORS, tensorsOf } from '../model/graph.ts';
import { graphOf } from '../model/graphs/all.ts';
import type { ModelConfig } from '../model/model-config.ts';

/** What is done with a tensor: ternary layers are quantized when used, the rest is used as it is. */
export type ParameterKind = 'ternary' | 'norm' | 'embedding' | 'head';

export type Parameter = {
  /** As Hugging Face spells it. */
  readonly name: string;
  readonly kind: ParameterKind;
  readonly shape: readonly number[];
  /** First element in the flat vector, and how many. */
  readonly offset: number;
  readonly length: number;
};

export type LayerParameters = {
  readonly inputNorm: Parameter;
  readonly q: Parameter;
  readonly k: Parameter;
  readonly v: Parameter;
  readonly attnSubNorm: Parameter | undefined;
  readonly o: Parameter;
  readonly postAttentionNorm: Parameter;
  readonly gate: Parameter;
  readonly up: Parameter;
  readonly ffnSubNorm: Parameter | undefined;
  readonly down: Parameter;
};

export type ParameterPlan = {
  /** In order of offset. */
  readonly all: readonly Parameter[];
  readonly embedding: Parameter;
  readonly layers: readonly LayerParameters[];
  readonly finalNorm: Parameter;
  /** Undefined when the head is the embedding. */
  readonly head: Parameter | undefined;
  /** Elements of the flat vector. */
  readonly length: number;
};

/** Tensors begin at multiples of 16 floats, a cache line. */
const ALIGNMENT = 16;

export function planParameters(config: ModelConfig): ParameterPlan {
  const all: Parameter[] = [];
  let offset = 0;
  const add = (kind: ParameterKind, name: string, ...shape: number[]): Parameter => {
    const length = shape.reduce((product, size) => product * size, 1);
    const parameter = { name, kind, shape, offset, length };
    all.push(parameter);
    offset += Math.ceil(length / ALIGNMENT) * ALIGNMENT;
    return parameter;
  };
  const { hiddenSize, vocabSize } = config;
  const graph = graphOf(config.family);

  const embedding = add('embedding', MODEL_TENSORS.embedding.hf, vocabSize, hiddenSize);
  const layers = Array.from({ length: config.numHiddenLayers }, (_, index): LayerParameters => {
    const added = tensorsOf(graph, config, index, 'hf').map(({ tensor, name }) => {
      const parameter =
        tensor.kind === 'vector'
          ? add('norm', name, tensor.length(config))
          : add('ternary', name, ...tensor.shape(config));
      return [tensor.role, parameter];
    });
    return { attnSubNorm: undefined, ffnSubNorm: undefined, ...Object.fromEntries(added) } as LayerParameters;
  });
  const finalNorm = add('norm', MODEL_TENSORS.finalNorm.hf, hiddenSize);
  const head = config.tieWordEmbeddings ? undefined : add('head', MODEL_TENSORS.head.hf, vocabSize, hiddenSize);
  return { all, embedding, layers, finalNorm, head, length: offset };
}

/** The part of a flat vector that a tensor is; shares memory. */
export function view(flat: Float32Array, { offset, length }: Parameter): Float32Array {
  return flat.subarray(offset, offset + length);
}
