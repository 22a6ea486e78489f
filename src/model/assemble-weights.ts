// All weights of a model, by its graph's table of tensors: layer after layer, a few reads at a time.

import type { DenseWeight, VectorWeight } from '../engine/program.ts';
import { ArgumentError } from '../errors.ts';
import { plainMemory } from '../tensor/allocate.ts';
import { FewAtOnce } from './few-at-once.ts';
import { MODEL_TENSORS, type Spelling, tensorsOf, type VectorSpec } from './graph.ts';
import { graphOf } from './graphs/all.ts';
import { quantizeHead } from './head.ts';
import type { ModelConfig } from './model-config.ts';
import type { HeadWeight, LayerWeights, ModelWeights, TableWeight } from './model-weights.ts';
import { type LoadWeightsOptions, WeightError, type WeightReader } from './weight-reader.ts';

/** Every shape compared with the config. `spelling`: the format's names. */
export async function assembleWeights(
  reader: WeightReader,
  spelling: Spelling,
  config: ModelConfig,
  options: LoadWeightsOptions,
): Promise<ModelWeights> {
  const graph = graphOf(config.family);
  const { hiddenSize, vocabSize, numHiddenLayers } = config;
  const ahead = new FewAtOnce(options.signal);
  const table = (name: string) => ahead.run(() => reader.table(name, vocabSize, hiddenSize));
  const vector = async (
    name: string,
    shapes: readonly (readonly number[])[],
    convert: VectorSpec['convert'],
  ): Promise<VectorWeight> => {
    const weight = await ahead.run(() => reader.vector(name, shapes));
    if (convert === undefined) return weight;
    const fail = (what: string, fix: string) => reader.fail(what, name, fix);
    return { ...weight, values: convert(weight.values, { spelling, config, fail }) };
  };
  const loadLayer = async (index: number): Promise<LayerWeights> => {
    const reads = tensorsOf(graph, config, index, spelling).map(async ({ tensor, name }) => {
      if (tensor.kind === 'vector') {
        const shapes = tensor.shapes?.(config) ?? [[tensor.length(config)]];
        return [tensor.role, await vector(name, shapes, tensor.convert)] as const;
      }
      const [rows, columns] = tensor.shape(config);
      const { floats } = tensor;
      const options = { heads: tensor.heads?.(config), experts: tensor.experts?.(config), floats };
      return [tensor.role, await ahead.run(() => reader.linear(name, rows, columns, options))] as const;
    });
    return Object.fromEntries(await Promise.all(reads)) as LayerWeights;
  };

  const embeddingRead = table(MODEL_TENSORS.embedding[spelling]);
  const headRead = config.tieWordEmbeddings ? embeddingRead : table(MODEL_TENSORS.head[spelling]);
  const finalNormRead = awaitedLater(vector(MODEL_TENSORS.finalNorm[spelling], [[hiddenSize]], graph.finalNorm));
  // Threads of its own round it while the layers are read.
  const headMade = awaitedLater(headRead.then((head) => finishHead(head, options)));
  const layers: LayerWeights[] = [];
  let next = awaitedLater(loadLayer(0));
  for (let index = 1; index <= numHiddenLayers; index += 1) {
    const current = next;
    // One layer ahead and not all: a config may claim more layers than there is memory for their names.
    if (index < numHiddenLayers) next = awaitedLater(loadLayer(index));
    const layer = await current;
    if (layers.length === 0) requireTernary(layer, config);
    layers.push(layer);
    options.onLayer?.(index, numHiddenLayers);
  }
  const embedding = await embeddingRead;
  const finalNorm = await finalNormRead;
  await headRead;
  const headName = MODEL_TENSORS.head[spelling];
  if (config.tieWordEmbeddings && reader.has(headName)) await reader.requireEqual(headName, embedding);
  reader.requireAllUsed();
  return { embedding, layers, finalNorm, head: await headMade };
}

/** Of a model that declares nothing, some matrices may be dense, but not all of a layer. */
function requireTernary(layer: LayerWeights, { floatModules, family }: ModelConfig): void {
  const matrices = Object.values(layer).filter((weight) => weight !== undefined && weight.kind !== 'vector');
  if (floatModules !== undefined || graphOf(family).floats === true || matrices.some(({ kind }) => kind !== 'dense'))
    return;
  throw new WeightError({
    what: 'no matrix of the first layer holds trits times scales: an ordinary float model',
    where: `tensor "${matrices[0]!.name}" and its neighbors`,
    fix: 'this engine runs ternary models; if these are QAT masters, declare it in config.json: {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}',
  });
}

/** A promise that is awaited after others: should one of them reject, nobody will ask for the rejection of this one. */
function awaitedLater<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

async function finishHead(head: TableWeight, options: LoadWeightsOptions): Promise<HeadWeight> {
  if (head.kind === 'grouped') {
    if (options.head !== 'int8') return head;
    throw new ArgumentError({
      what: 'the output head of this model is ternary: int8 would be larger and less exact',
      where: head.name,
      fix: 'use --head full',
    });
  }
  const limit = typeof options.head === 'object' ? options.head.int8Above : options.head === 'int8' ? -1 : Infinity;
  if (head.bytes.byteLength <= limit) return head;
  return int8Head(head, options);
}

async function int8Head(head: DenseWeight, { allocate = plainMemory, prepare }: LoadWeightsOptions) {
  const memory = await allocate(head.rows * head.columns);
  const codes = new Int8Array(memory.buffer, memory.byteOffset, memory.byteLength);
  return (await prepare?.quantizeHead(head, codes)) ?? quantizeHead(head, codes);
}
