// Every graph that we run. A new one is a page beside these and a row here.

import type { Graph } from '../graph.ts';
import type { ModelFamily } from '../model-config.ts';
import { bitnet } from './bitnet.ts';
import { llama } from './llama.ts';
import { onebitllm } from './onebitllm.ts';
import { qwen3 } from './qwen3.ts';

export const GRAPHS: readonly Graph[] = [bitnet, onebitllm, llama, qwen3];

export function graphOf(family: ModelFamily): Graph {
  return GRAPHS.find((graph) => graph.family === family)!;
}
