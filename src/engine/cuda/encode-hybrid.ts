// Instructions of hybrid and mixture models: convolutions and delta rules along a sequence, the router and its experts, small
// dense matrices. As kernels/cuda/hybrid.cuh reads them.

import { mostOf, type OpOf, uses } from '../gpu/operands.ts';
import type { BufferId, GroupedWeight, Op, Program, WeightId } from '../program.ts';
import { defined, ENDINGS, type Instruction, type MatrixFields, MOST_MATRICES, SOURCES, TYPES } from './instruction.ts';
import type { Chain, Memory, Shape } from './shape.ts';

/** What the encoder knows, as far as these operations need it. */
export type Context = {
  readonly program: Program;
  readonly memory: Memory;
  readonly shape: Shape;
  rows(buffer: BufferId): number;
  width(buffer: BufferId): number;
  address(buffer: BufferId): number;
  codes(codes: BufferId, scale: BufferId): Partial<Instruction>;
  matrix(weight: WeightId, out: BufferId): MatrixFields;
  status(op: Op): number;
  at<K extends Op['op']>(i: number, kind: K): OpOf<K> | undefined;
  /** Does anything from operation `from` on read what the buffer holds now? */
  isLive(buffer: BufferId, from: number): boolean;
};

/** Instructions, and how many operations they are. */
export type Taken = { readonly list: readonly Instruction[]; readonly length: number };

/** Tokens from which choices are sorted, so that an expert's weights are read once for all of its tokens. */
const MANY_CHOICES = 8;
/** Rows of codes of a tile of choices: EXPERT_TILE of hybrid.cuh. */
const EXPERT_TILE = 8;
/** Channels of a piece of a convolution without heads. */
const PIECE = 128;
/** Columns of a slice of the delta rule's state. */
const SLICE = 32;
const ALIGN = 256;

/** Most that the kernels' shared memory holds. */
export const HYBRID_LIMITS = { deltaDim: 512, taps: 64, experts: 1024, choices: 64 } as const;

/** A row in shared memory: 16 times `lane_stride` of rows.cuh. */
export const rowBytes = (width: number) => 16 * (Math.ceil(width / 128) * 8 + 4) * 4;

const aligned = (bytes: number) => Math.ceil(bytes / ALIGN) * ALIGN;

/** Where a sequence's recurrent states lie in their memory. */
export type StateLayout = {
  /** By state, in bytes. */
  readonly offsets: readonly number[];
  /** From one copy of a convolution's state to the other, by state; 0 of a delta rule, which has one. */
  readonly copies: readonly number[];
  readonly bytes: number;
};

export function layStates({ ops, recurrent = [] }: Pick<Program, 'ops' | 'recurrent'>): StateLayout {
  const heads = new Map<number, number>();
  for (const op of ops) {
    if (op.op !== 'gatedDelta') continue;
    heads.set(op.state, op.valueHeads * Math.ceil(op.headDim / SLICE) * SLICE * op.headDim * 4);
  }
  const offsets: number[] = [];
  const copies: number[] = [];
  let bytes = 0;
  recurrent.forEach(({ width }, state) => {
    const ofDelta = heads.get(state);
    const copy = ofDelta === undefined ? aligned(4 * width) : 0;
    offsets.push(bytes);
    copies.push(copy);
    bytes += ofDelta === undefined ? 2 * copy : aligned(ofDelta);
  });
  return { offsets, copies, bytes };
}

/** Bytes of the choices of so many tokens, sorted by expert: `Sorted` of hybrid.cuh. */
export function sortedBytes(program: Program, tokens: number): number {
  const n = tokens * (program.choices ?? 0);
  return n === 0 ? 0 : 4 * (4 + 3 * (mostOf(program).experts + Math.ceil(n / EXPERT_TILE)) + n);
}

/** The operation at i, joined with what follows where an instruction does both; undefined where it is none of these. */
export function takeHybrid(context: Context, i: number): Taken | undefined {
  const { program, memory, shape } = context;
  const op = program.ops.length === 0 ? undefined : operationAt(context, i);
  if (op === undefined) return undefined;
  switch (op.op) {
    case 'splitHeads': {
      const instruction: Instruction = {
        op: 'split',
        rows: context.rows(op.x),
        heads: op.heads,
        headDim: op.headDim,
        x: context.address(op.x),
        y: context.address(op.first),
        out: context.address(op.second),
      };
      return { list: [instruction], length: 1 };
    }
    case 'causalConv':
      return convolution(context, op, i);
    case 'l2NormHeads': {
      const instruction: Instruction = {
        op: 'lengths',
        rows: context.rows(op.x),
        heads: op.heads,
        headDim: op.headDim,
        window: op.offset,
        eps: op.eps,
        scale: op.scale,
        x: context.address(op.x),
        xStride: context.width(op.x),
      };
      return { list: [instruction], length: 1 };
    }
    case 'gatedDelta': {
      const { offsets } = layStates(program);
      const instruction: Instruction = {
        op: 'delta',
        rows: shape.tokens,
        heads: op.valueHeads,
        keyHeads: op.keyHeads,
        headDim: op.headDim,
        type: op.order === 'grouped' ? 1 : 0,
        x: context.address(op.x),
        xStride: context.width(op.x),
        y: context.address(op.beta),
        codes: context.address(op.alpha),
        weight: memory.weights[op.decay]!.address,
        weight2: memory.weights[op.bias]!.address,
        scratch: offsets[op.state]!,
        out: context.address(op.out),
        outStride: context.width(op.out),
      };
      return { list: [instruction], length: 1 };
    }
    case 'routeExperts': {
      const choices = program.choices ?? 0;
      const route: Instruction = {
        op: 'route',
        rows: shape.tokens,
        width: context.width(op.x),
        choices,
        limit: op.least,
        status: context.status(op),
        failed: memory.failed,
        x: context.address(op.x),
        xStride: context.width(op.x),
        out: context.address(op.experts),
        y: context.address(op.weights),
      };
      if (shape.tokens < MANY_CHOICES) return { list: [route], length: 1 };
      const sort: Instruction = {
        op: 'sort',
        rows: shape.tokens,
        choices,
        heads: mostOf(program).experts,
        x: context.address(op.experts),
        out: memory.choices,
      };
      return { list: [route, sort], length: 1 };
    }
    case 'expertMatmul':
      return experts(context, op, i);
    case 'addExperts': {
      const instruction: Instruction = {
        op: 'addExperts',
        rows: shape.tokens,
        width: context.width(op.x),
        choices: program.choices ?? 0,
        x: context.address(op.x),
        y: context.address(op.y),
        weight: context.address(op.weights),
      };
      return { list: [instruction], length: 1 };
    }
    default:
      return undefined;
  }
}

const HYBRID = [
  'splitHeads',
  'causalConv',
  'l2NormHeads',
  'gatedDelta',
  'routeExperts',
  'expertMatmul',
  'addExperts',
] as const;

function operationAt(context: Context, i: number) {
  for (const kind of HYBRID) {
    const op = context.at(i, kind);
    if (op !== undefined) return op;
  }
  return undefined;
}

/** A convolution, and the lengths of the heads at its start where nothing else is between. */
function convolution(context: Context, op: OpOf<'causalConv'>, i: number): Taken {
  const { program, memory } = context;
  const { offsets, copies } = layStates(program);
  const width = context.width(op.x);
  const norms: OpOf<'l2NormHeads'>[] = [];
  while (norms.length < 2) {
    const norm = context.at(i + 1 + norms.length, 'l2NormHeads');
    const first = norms[0] ?? norm;
    if (norm === undefined || norm.x !== op.out || norm.headDim !== first!.headDim || norm.eps !== first!.eps) break;
    if (norm.offset !== (norms[0] === undefined ? 0 : norms[0].heads * norms[0].headDim)) break;
    norms.push(norm);
  }
  const [first, second] = norms;
  const instruction: Instruction = {
    op: 'conv',
    rows: context.shape.tokens,
    width,
    parts: op.taps,
    headDim: first?.headDim ?? Math.min(width, PIECE),
    heads: first?.heads ?? 0,
    kvHeads: second?.heads ?? 0,
    eps: first?.eps ?? 0,
    scale: first?.scale ?? 0,
    limit: second?.scale ?? 0,
    x: context.address(op.x),
    xStride: width,
    weight: memory.weights[op.weight]!.address,
    scratch: offsets[op.state]!,
    counters: copies[op.state]!,
    out: context.address(op.out),
    outStride: context.width(op.out),
  };
  return { list: [instruction], length: 1 + norms.length };
}

/** Products with the same choices and codes; of few tokens gate and up are joined by their activation. */
function experts(context: Context, op: OpOf<'expertMatmul'>, i: number): Taken {
  const { program, memory, shape } = context;
  const weightOf = (id: WeightId) => program.weights[id] as GroupedWeight;
  const first = weightOf(op.weight);
  const outputs = [{ weight: op.weight, out: op.out }];
  while (outputs.length < MOST_MATRICES) {
    const other = context.at(i + outputs.length, 'expertMatmul');
    if (other?.codes !== op.codes || other.scale !== op.scale || other.experts !== op.experts) break;
    const { group, experts: count } = weightOf(other.weight);
    if (group !== first.group || count !== first.experts || outputs.some(({ out }) => out === other.out)) break;
    outputs.push({ weight: other.weight, out: other.out });
  }
  const codes = context.codes(op.codes, op.scale);
  const end = i + outputs.length;
  const isMany = shape.tokens >= MANY_CHOICES && expertTileBytes(program, op.codes, first.group) <= memory.poolBytes;
  const gate = context.at(end, 'gatedActivation');
  const [one, two] = outputs;
  const hidden = (buffer: BufferId) => buffer === gate?.out || !context.isLive(buffer, end + 1);
  const joins =
    (!isMany || first.group % 32 !== 0) &&
    gate !== undefined &&
    outputs.length === 2 &&
    gate.gate === one!.out &&
    gate.up === two!.out &&
    first.rows === weightOf(two!.weight).rows &&
    hidden(one!.out) &&
    hidden(two!.out);
  const matrix = (weight: WeightId, out: BufferId): MatrixFields => {
    const { bytes, experts: count = 1 } = weightOf(weight);
    return { ...context.matrix(weight, out), stride: bytes.length / count };
  };
  const instruction: Instruction = {
    op: 'experts',
    rows: context.rows(op.out),
    width: context.width(op.codes),
    ...codes,
    heads: first.experts ?? 1,
    choices: program.choices ?? 0,
    kvHeads: program.buffers[op.codes]!.rows === 'choices' ? 1 : 0,
    x: context.address(op.experts),
    counters: isMany ? memory.choices : 0,
    parts: outputs.length,
    ...(joins
      ? { ending: ENDINGS.indexOf('gate'), gate: SOURCES.indexOf(gate.fn), limit: gate.limit ?? Infinity }
      : {}),
    matrices: outputs.map(({ weight, out }) => matrix(weight, joins ? gate.out : out)),
  };
  return { list: [instruction], length: outputs.length + (joins ? 1 : 0) };
}

/** Shared memory of a tile of choices: `staged_codes` of hybrid.cuh. */
function expertTileBytes(program: Program, codes: BufferId, group: number): number {
  const { width } = program.buffers[codes]!;
  const plane = Math.ceil(width / 128) * 128;
  return EXPERT_TILE * (Math.ceil((2 * plane + 4 * (width / group)) / 128) * 128 + 16);
}

/** Rows from which a dense matrix is multiplied tile by tile, and rows of a matrix that few tokens take two at a time. */
const DENSE_MANY = 9;
const DENSE_ROWS = 4096;

/**
 * Dense products of the row at operation i with small matrices (a router, the gates of a delta rule), or of many rows: what the
 * instruction is, and how many operations; undefined where the plain one is better.
 */
export function smallDense(
  context: Context,
  i: number,
): { readonly fields: Partial<Instruction>; readonly length: number; readonly outputs: readonly Output[] } | undefined {
  const { program, memory } = context;
  const op = context.at(i, 'denseMatmul');
  const weight = op && program.weights[op.weight];
  if (op === undefined || weight?.kind !== 'dense') return undefined;
  const rows = context.rows(op.x);
  const isMany = rows >= DENSE_MANY;
  if (!isMany && (weight.rows > DENSE_ROWS || 3 * rowBytes(weight.columns) > memory.poolBytes)) return undefined;
  const outputs = [{ weight: op.weight, out: op.out }];
  while (outputs.length < MOST_MATRICES) {
    const other = context.at(i + outputs.length, 'denseMatmul');
    const next = other && program.weights[other.weight];
    if (other?.x !== op.x || next?.kind !== 'dense' || next.dtype !== weight.dtype) break;
    if ((!isMany && next.rows > DENSE_ROWS) || outputs.some(({ out }) => out === other.out)) break;
    outputs.push({ weight: other.weight, out: other.out });
  }
  const fields = {
    op: 'denseSmall',
    splits: isMany ? 1 : 0,
    type: TYPES.indexOf(weight.dtype),
    parts: outputs.length,
  } as const;
  return { fields, length: outputs.length, outputs };
}

export type Output = { readonly weight: WeightId; readonly out: BufferId };

/**
 * Operations in an order in which what is made of one row stands together: roundings and rotations of a row that dense
 * matrices also read come before those products, on which they do not depend.
 */
export function gathered(ops: readonly Op[]): Op[] {
  const list = [...ops];
  for (let i = 1; i < list.length; i += 1) {
    const op = list[i]!;
    if (op.op !== 'quantize' && op.op !== 'quantize16' && op.op !== 'hadamard') continue;
    const { reads, writes } = uses(op);
    for (let at = i; at > 0; at -= 1) {
      const before = list[at - 1]!;
      if (before.op !== 'denseMatmul' && before.op !== 'routeExperts') break;
      const other = uses(before);
      const clashes = writes.some((id) => other.reads.includes(id) || other.writes.includes(id));
      if (clashes || reads.some((id) => other.writes.includes(id))) break;
      list[at - 1] = op;
      list[at] = before;
    }
  }
  return list;
}

/** Rows that are made by several blocks each, and pieces of a row, at most; from so many columns on it is worth a barrier. */
const SPREAD_ROWS = 8;
const MOST_PIECES = 256;
const SPREAD_WIDTH = 4096;
/** Columns of a piece, about. */
const PIECE_COLUMNS = 512;
export const MAXIMA_BYTES = SPREAD_ROWS * MOST_PIECES * 4;

/** Columns of a row that a warp can make: NARROW of hybrid.cuh. */
const NARROW_WIDTH = 1024;

/**
 * The instructions of a chain of few wide rows, or of rotated ones, in which many blocks make each row: its pieces, then its
 * codes; or of many narrow rows, which a warp makes each. Undefined where one block a row is as good, or another order of reads and writes would
 * show. (A sum is stored by whoever has the row.)
 */
export function spread({ instruction, alone, place, clashes }: Chain, memory: Memory): Instruction[] | undefined {
  const { rows, width = 0, source = 0, norm = 0, heads = 0, headDim = 1, turn = 0, keyHeads = 0 } = instruction;
  const { group = 1, quantize = 0, x = 0, xStride = 0 } = instruction;
  if (quantize !== 16 || group % 32 !== 0 || source === SOURCES.indexOf('sum')) return undefined;
  const isNarrow = !alone && norm === 0 && width <= NARROW_WIDTH;
  if (isNarrow && rows > SPREAD_ROWS) return [{ ...instruction, op: 'narrow' }];
  if (rows > SPREAD_ROWS) return undefined;
  if (!alone && (width < SPREAD_WIDTH || norm === 1)) return undefined;
  const columns = group * Math.ceil(PIECE_COLUMNS / group);
  const { codes, scales, splits, codeStride, status, failed } = instruction;
  const round = { op: 'round', rows, width, window: columns, group, quantize, xStride: width } as const;
  const rounding = { ...round, ...defined({ codes, scales, splits, codeStride, status, failed }) };
  if (!alone && source === 0) return [{ ...rounding, x, xStride, parts: 0 }];
  const piece = turn > 0 ? turn : headDim * Math.ceil(PIECE_COLUMNS / headDim);
  const pieces = Math.ceil(width / piece);
  if (pieces > MOST_PIECES || (heads > 0 && piece % headDim !== 0)) return undefined;
  // What others still read may not be written.
  if ((norm === 1 || keyHeads > 0) && clashes) return undefined;
  const shared = Math.max(
    norm === 1 ? rowBytes(width) : 0,
    rowBytes(piece) + (heads > 0 ? 4 * Math.ceil(piece / headDim) : 0),
  );
  if (shared > memory.poolBytes) return undefined;
  const made: Instruction = {
    ...instruction,
    op: 'segments',
    quantize: 0,
    window: piece,
    cosine: place,
    scratch: memory.maxima,
  };
  return [made, { ...rounding, x: place, scratch: memory.maxima, parts: pieces }];
}
