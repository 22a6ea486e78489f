// What the encoders of both GPUs ask of a program's operations.

import type { BufferId, Op, Program } from '../program.ts';

export type OpOf<K extends Op['op']> = Op & { op: K };

/** Buffers an operation reads, and those it overwrites whole. An operation in place is among the readers only. */
export function uses(op: Op): { reads: readonly BufferId[]; writes: readonly BufferId[] } {
  switch (op.op) {
    case 'embed':
    case 'embedGrouped':
      return { reads: [], writes: [op.out] };
    case 'rmsNorm':
    case 'rmsNormHeads':
    case 'denseMatmul':
    case 'selectOutputs':
      return { reads: [op.x], writes: [op.out] };
    case 'quantize':
    case 'quantize16':
      return { reads: [op.x], writes: [op.codes, op.scale] };
    case 'groupedMatmul':
    case 'ternaryMatmul':
    case 'int8Matmul':
      return { reads: [op.codes, op.scale], writes: [op.out] };
    case 'rope':
    case 'countTrits':
      return { reads: [op.x], writes: [] };
    case 'kvAppend':
      return { reads: [op.k, op.v], writes: [] };
    case 'attention':
      return { reads: [op.q], writes: [op.out] };
    case 'gatedActivation':
      return { reads: [op.gate, op.up], writes: [op.out] };
    case 'add':
      return { reads: [op.x, op.y], writes: [] };
    case 'hadamard':
    case 'causalConv':
      return { reads: [op.x], writes: [op.out] };
    case 'splitHeads':
      return { reads: [op.x], writes: [op.first, op.second] };
    case 'l2NormHeads':
      return { reads: [op.x], writes: [] };
    case 'gatedDelta':
      return { reads: [op.x, op.beta, op.alpha], writes: [op.out] };
    case 'routeExperts':
      return { reads: [op.x], writes: [op.experts, op.weights] };
    case 'expertMatmul':
      return { reads: [op.codes, op.scale, op.experts], writes: [op.out] };
    case 'addExperts':
      return { reads: [op.x, op.y, op.weights], writes: [] };
  }
}

/** What every step asks of a program: the most query heads, the most of them that share keys, and a matrix's experts at most. */
export type Most = { readonly heads: number; readonly group: number; readonly experts: number };
const known = new WeakMap<Program, Most>();

/** Found once: a program has some hundred operations, and a step on a GPU may take a millisecond. */
export function mostOf(program: Program): Most {
  const found = known.get(program);
  if (found !== undefined) return found;
  let [heads, group, experts] = [0, 1, 0];
  for (const op of program.ops) {
    if (op.op !== 'attention') continue;
    heads = Math.max(heads, op.heads);
    group = Math.max(group, Math.ceil(op.heads / op.kvHeads));
  }
  for (const weight of program.weights) {
    if (weight.kind === 'grouped') experts = Math.max(experts, weight.experts ?? 0);
  }
  const most = { heads, group, experts };
  known.set(program, most);
  return most;
}

export function wrongKind({ name, kind }: { name: string; kind: string }, wanted: string): TypeError {
  return new TypeError(`weight "${name}" is ${kind}, the program uses it as ${wanted}`);
}
