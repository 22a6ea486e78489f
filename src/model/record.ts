// A model's program: embedding, the layers of its graph, head.

import type { Program } from '../engine/program.ts';
import { GraphRecorder, type RecordOptions } from './graph-recorder.ts';
import { graphOf } from './graphs/all.ts';
import type { ModelConfig } from './model-config.ts';
import type { ModelWeights } from './model-weights.ts';

export function recordProgram(config: ModelConfig, weights: ModelWeights, options: RecordOptions): Program {
  const graph = graphOf(config.family);
  const recorder = new GraphRecorder(config);
  recorder.embed(weights.embedding);
  weights.layers.forEach((layer, index) => {
    graph.recordLayer(recorder, layer, index);
    recorder.tracePoint(index);
  });
  return recorder.finish(recorder.head(weights.finalNorm, weights.head), options);
}
