// Every graph that we run. A new one is a page beside these and a row here.

import type { Graph } from '../graph.ts';
import { bitnet } from './bitnet.ts';
import { llama } from './llama.ts';
import { maple } from './maple.ts';
import { onebitllm } from './onebitllm.ts';
import { qwen3 } from './qwen3.ts';
import { qwen35 } from './qwen35.ts';

const graphs: Graph[] = [bitnet, onebitllm, llama, qwen3, qwen35, maple];

export const GRAPHS: readonly Graph[] = graphs;

/** Throws RangeError for a family that no graph has. */
export function graphOf(family: string): Graph {
  const found = graphs.find((graph) => graph.family === family);
  if (found === undefined) throw new RangeError(`no graph is called ${family}`);
  return found;
}

/** Runs models of one more graph until the result is disposed of: for a graph that is being written, and its test. */
export function addGraph(graph: Graph): Disposable {
  graphs.push(graph);
  return { [Symbol.dispose]: () => void graphs.splice(graphs.indexOf(graph), 1) };
}
