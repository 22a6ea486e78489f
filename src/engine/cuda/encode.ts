// From the recorded program to instructions for a step of a given shape. Neighbouring operations are joined where an
// instruction does both: every instruction is a barrier of the whole grid. A BitNet layer of one token becomes 5:
//   norm + codes + q, k, v · rope + append + attention · norm + codes + o + add · norm + codes + gate, up + activation ·
//   norm + codes + down + add
// With more tokens norms and codes are instructions of their own, and so are positions where a sequence has several rows.

import { mostOf, type OpOf, uses, wrongKind } from '../gpu/operands.ts';
import type { BufferId, GroupedWeight, Op, Program, WeightId } from '../program.ts';
import { CudaUnsupportedError } from './addon.ts';
import { type Context, gathered, HYBRID_LIMITS, rowBytes, smallDense, spread, takeHybrid } from './encode-hybrid.ts';
import { type KernelName, SHARED_BYTES } from './gpu.ts';
import {
  defined,
  ENDINGS,
  type Instruction,
  itemsOf,
  type MatrixFields,
  MOST_MATRICES,
  type Operation,
  SOURCES,
  type Source,
  TYPES,
} from './instruction.ts';
import type { AttentionKind, Chain, Memory, Shape } from './shape.ts';
import { chunked } from './weights.ts';

/** Threads of a block, as in rows.cuh; bytes of a block's own fields, at most. */
const THREADS = 512;
const WARPS = THREADS / 32;
const OWN_BYTES = 3072;
export const POOL_BYTES = SHARED_BYTES - OWN_BYTES;
/** Vectors of weights that a lane fetches ahead, at most; pieces of a warp's ring. */
const MOST_STAGED = 16;
const MOST_PLACES = 8;
/** Group-scaled panels are taken whole, in halves or in quarters; MOST_PIECES of rows.cuh, and what a group has of scales and products. */
const CUTS: readonly number[] = [0, 1, 2];
/**
 * Of each: hundreds of clocks that a block's warps take for 16 groups, and what it costs that a block of 9.0 or later copies the whole panel
 * (measured with rows of 2,048 and 6,144).
 */
const CUT_CLOCKS: readonly number[] = [10, 5.5, 4.3];
const CUT_COPIES: readonly number[] = [0, 0.5, 2];
const MOST_PIECES = 4;
const GROUP_SCALES = 256;
const GROUP_PRODUCTS = 64 * 4;
/** PLACES times PLACE_FLOATS and `parts` of attend-split.cuh, SHARE_TILES and SHARE_TURNED of rows.cuh; heads of a kv head there, at most. */
const SPLIT_PLACES = 4 * 128 * 64;
const SPLIT_PARTS = 16 * 2 * 64;
const SHARE_TILES = 64;
const SHARE_TURNED = 64;
const SPLIT_GROUP = 16;
/** Shares of a row of logits whose largest are found at once, at most; of few largest, and of more, whose lists are then read together. */
const SHARES = 128;
const SHARES_OF_MORE = 64;
const FEW_LARGEST = 8;
/** Positions up to which one block does a row's attention where its heads are too wide for tiles. */
const WHOLE_POSITIONS = 256;
/** TILE_DIM of attention.cuh; QUERIES and HEADS_AT_ONCE of attention_rows.cuh. */
const TILE_DIM = 128;
const QUERIES = 32;
const HEADS_AT_ONCE = 4;
/** Floats of two tiles. */
const TILES = 2 * TILE_DIM * 64;
/** Rows a sequence from which they are worth a tile. */
const ROWS_OF_RUNS = 4;
/** Dimensions of heads that `ready` knows. */
const READY_DIMS: readonly number[] = [32, 64, 128];
/** The least dimensions of heads whose queries `attend_rows` turns, and of those that it multiplies. */
const LEAST_TURNED_DIM = 64;
const LEAST_ROWS_DIM = 16;
/** Positions that the splits of a list grow by, so that a list serves many steps. */
const SPLIT_STEP = 8;

/** Floats of a head that a warp makes of one length: a convolution's share of shared memory. */
const MOST_HEAD_ROW = 1024;

/** Rows up to which the weights of ternary products are fetched ahead, and the rest of such a product: `SomeMemory` of products_many.cuh. */
const SOME_ROWS = 64;
const SOME_BYTES = SOME_ROWS * (8 + 32 * 4) + 8 * THREADS * 16;

/** Tiles of products of more rows, by number: rows of the matrix (of gate and up together) and tokens; `ternary_tiles` of products_many.cuh. */
const TILES_OF_MANY: readonly { readonly rows: number; readonly tokens: number }[] = [
  { rows: 256, tokens: 128 },
  { rows: 128, tokens: 128 },
  { rows: 128, tokens: 96 },
];
/** What a tile takes beside its products, as rows times tokens. */
const TILE_COST = 4096;

/** What the kernels can hold. */
export const LIMITS = { ternaryColumns: 131_071, headDim: 256, heads: 512 } as const;

/** Sums of a row's groups in shared memory. */
const sumBytes = (width: number) => width / 8;
/** The widest row that shared memory holds with them. */
export const MOST_WIDTH = 128 * Math.floor((POOL_BYTES - rowBytes(0)) / (rowBytes(128) - rowBytes(0) + sumBytes(128)));
/** The widest row that each block makes for itself, with codes of 8 bits and of 16: `make_bytes` and `make_words` of one-row.cuh. */
const MOST_ONE_WIDTH = 8 * 4 * THREADS;
const MOST_ONE_WIDTH16 = 6 * 4 * THREADS;
/** What the norm of a step's only row needs of shared memory: `codes_place` of one-row.cuh. */
const normBytes = (width: number) => 2 * Math.ceil(width / 256) * 1024 + 256;

/** Distances between rows: codes in bytes; of int16 codes two planes and the sums of the groups. */
export function codesStride(program: Program, codes: BufferId): number {
  const { dtype, width, group } = program.buffers[codes]!;
  if (dtype === 'i8') return chunked(width);
  return Math.ceil((2 * chunked(width) + 4 * (width / (group ?? width))) / 64) * 64;
}

type Quantize = OpOf<'quantize' | 'quantize16'>;

/** What reports a NaN or infinity under its label. */
const reports = (op: Op): op is OpOf<'quantize' | 'quantize16' | 'routeExperts'> =>
  op.op === 'quantize' || op.op === 'quantize16' || op.op === 'routeExperts';

/** Labels of the roundings, by the number under which their instructions report. */
export function labelsOf(program: Program): string[] {
  return program.ops.flatMap((op) => (reports(op) ? [op.label] : []));
}

/** Blocks of the grid, and their shared memory. */
export type Together = { readonly grid: number; readonly sharedBytes: number };

/**
 * Of several rows the kind that takes the fewest clocks, as far as a few measured thousands can say. `sequences`: of the step, whose
 * rows are the tokens; `waits`: blocks of the grid can wait for one another.
 */
export function attentionFor(
  program: Program,
  tokens: number,
  sequences: number,
  positions: number,
  together: Together,
  waits: boolean,
): AttentionKind {
  const { headDim, kvHeads } = program.kv;
  const { grid } = together;
  const { group } = mostOf(program);
  const tiled = headDim <= TILE_DIM && headDim % 4 === 0;
  if (tokens === 1 && waits && canSplit(program, positions, together)) return 'split';
  if (!tiled) {
    return positions <= WHOLE_POSITIONS && attendBytes(1, headDim, positions) <= POOL_BYTES ? 'whole' : 'blocks';
  }
  if (tokens === 1) return positions <= 64 ? 'one' : 'blocks';
  const blocks = Math.ceil(positions / 64);
  const items = tokens * kvHeads * Math.ceil(group / HEADS_AT_ONCE);
  const costs: [AttentionKind, number][] = [
    ['batch', Math.max((4 + blocks) * Math.ceil(items / grid), (3 * items * blocks) / grid)],
    ['blocks', 15 + 4 * Math.max(1, (tokens * kvHeads * blocks) / grid)],
  ];
  if (tokens >= ROWS_OF_RUNS * sequences && group <= QUERIES && headDim >= LEAST_ROWS_DIM) {
    const tiles = Math.ceil(tokens / Math.floor(QUERIES / group)) * kvHeads;
    costs.push(['rows', 10 * blocks * Math.max(1, tiles / grid)]);
  }
  return costs.reduce((best, next) => (next[1] < best[1] ? next : best))[0];
}

/** Has every kv head a block, and the block memory for its tiles, their scores, and what it adds up? */
function canSplit(program: Program, positions: number, { grid, sharedBytes }: Together): boolean {
  const { headDim, kvHeads } = program.kv;
  const { group } = mostOf(program);
  const { rotaryDim } = program.rope;
  if (headDim % 16 !== 0 || headDim > TILE_DIM || group > SPLIT_GROUP || grid < kvHeads) return false;
  if (rotaryDim > headDim || rotaryDim / 2 > SHARE_TURNED) return false;
  const tiles = Math.ceil(positions / 64);
  // Up to two tiles are a block's alone.
  const each = Math.max(Math.ceil(tiles / Math.floor(grid / kvHeads)), Math.min(tiles, 2));
  if (each > SHARE_TILES || each * group * headDim + tiles * (1 + group) > SPLIT_PLACES) return false;
  const behind = headDim * (4 + 2 * (group + 1) + group + 1) + group * (each * 65 + 1) + 4 + SPLIT_PARTS;
  return OWN_BYTES + 4 * (SPLIT_PLACES + behind) <= sharedBytes;
}

/** Bytes of what blocks tell one another: the largest scores, then sums of tiles. */
export function packetBytes(program: Program, { grid }: Together, splits: number): number {
  return 8 * mostOf(program).heads * (grid + splits * (program.kv.headDim + 1));
}

/** Blocks of 64 positions that scratch is for. */
export const splitsFor = (positions: number) => Math.ceil(Math.ceil(positions / 64) / SPLIT_STEP) * SPLIT_STEP;

function attendBytes(heads: number, headDim: number, positions: number): number {
  return 4 * (heads * headDim + headDim + 64 + THREADS + heads * positions);
}

/** Floats of scratch of a row. */
export function scratchFloats(program: Program, kind: AttentionKind, splits: number): number {
  if (kind !== 'blocks') return 0;
  return mostOf(program).heads * splits * (66 + program.kv.headDim);
}

/** Floats of scratch of a block of the grid: the scores of what it works on. */
export function blockScratchFloats(kind: AttentionKind, splits: number): number {
  // Four more than the queries: QUERY_STRIDE.
  if (kind === 'rows') return 2 * splits * 64 * (QUERIES + 4);
  return kind === 'batch' ? 2 * splits * 64 * HEADS_AT_ONCE : 0;
}

export function encode(program: Program, memory: Memory, shape: Shape): Instruction[] {
  return new Encoder(program, memory, shape).list();
}

/** The kernel of an instruction that is launched alone: kernels.cu. */
export function kernelOf({ op, rows }: Instruction): KernelName {
  if (rows === 1) return 'bitnet_phase';
  switch (op) {
    case 'rows':
      return 'bitnet_rows';
    case 'ternary':
      return rows <= SOME_ROWS ? 'bitnet_some' : 'bitnet_tiles';
    case 'int8':
      return 'bitnet_head';
    case 'ready':
      return 'bitnet_ready';
    case 'attendRows':
      return 'bitnet_attend_rows';
    case 'attendBatch':
      return 'bitnet_attend_batch';
    default:
      return 'bitnet_phase';
  }
}
/**
 * Kernels whose blocks have all the shared memory there is; of the others' the rest is cache. A card that has once divided a
 * multiprocessor's memory keeps to it.
 */
export const WHOLE_MEMORY: ReadonlySet<KernelName> = new Set([
  'bitnet_rows',
  'bitnet_some',
  'bitnet_head',
  'bitnet_attend_rows',
  'bitnet_attend_batch',
]);
/** What the kernel for steps of one row has; products only of rows that are made there. */
const ONE_ROW: ReadonlySet<Operation> = new Set([
  'embed',
  'attendSplit',
  'dense',
  'denseSmall',
  'topOfShares',
  'tellTop',
]);
const FUSED_PRODUCTS: ReadonlySet<Operation> = new Set(['ternary', 'grouped', 'int8']);

/** The kernel for a list of one row with its kinds of products; undefined where it has other operations. */
export function oneRowKernel(list: readonly Instruction[]): KernelName | undefined {
  if (!isOneRow(list)) return undefined;
  const has = (...ops: Operation[]) => list.some(({ op }) => ops.includes(op));
  if (has('dense', 'denseSmall') || (has('ternary') && has('grouped'))) return 'bitnet_one_any';
  return has('grouped') ? 'bitnet_one_grouped' : 'bitnet_one';
}

const isOneRow = (list: readonly Instruction[]): boolean =>
  list.every(({ op, fused }) => ONE_ROW.has(op) || (fused === 1 && FUSED_PRODUCTS.has(op)));

class Encoder {
  readonly #program: Program;
  readonly #memory: Memory;
  readonly #shape: Shape;
  readonly #ops: readonly Op[];
  readonly #list: Instruction[] = [];
  /** Number of each rounding of the program. */
  readonly #status = new Map<Op, number>();
  /** Rows that are read in place of a buffer's: the only row of a step is the row that was selected. */
  readonly #alias = new Map<BufferId, BufferId>();
  readonly #context: Context;

  constructor(program: Program, memory: Memory, shape: Shape) {
    this.#program = program;
    this.#memory = memory;
    this.#shape = shape;
    for (const op of program.ops) {
      if (reports(op)) this.#status.set(op, this.#status.size);
    }
    // What only outputs want is not done without any.
    const wanted = program.ops.filter(
      (op) => (shape.traced || op.op !== 'countTrits') && (shape.outputs > 0 || !this.#ofOutputs(op)),
    );
    this.#ops = gathered(wanted);
    this.#context = {
      program,
      memory,
      shape,
      rows: (buffer) => this.#rows(buffer),
      width: (buffer) => this.#width(buffer),
      address: (buffer) => this.#address(buffer),
      codes: (codes, scale) => this.#codes(codes, scale),
      matrix: (weight, out) => this.#matrix(weight, out),
      status: (op) => this.#status.get(op)!,
      at: (i, kind) => this.#at(i, kind),
      isLive: (buffer, from) => this.#isLive(buffer, from),
    };
  }

  list(): Instruction[] {
    for (let i = 0; i < this.#ops.length; ) i += this.#take(i);
    if (this.#shape.top > 0 && this.#shape.outputs > 0) this.#top();
    return this.#list;
  }

  #ofOutputs(op: Op): boolean {
    const { reads, writes } = uses(op);
    return [...reads, ...writes].some((buffer) => this.#program.buffers[buffer]!.rows === 'outputs');
  }

  #at<K extends Op['op']>(i: number, kind: K): OpOf<K> | undefined {
    const op = this.#ops[i];
    return op?.op === kind ? (op as OpOf<K>) : undefined;
  }

  #rows(buffer: BufferId): number {
    const { tokens, outputs } = this.#shape;
    const { rows } = this.#program.buffers[buffer]!;
    return rows === 'outputs' ? outputs : rows === 'choices' ? tokens * (this.#program.choices ?? 0) : tokens;
  }
  #width(buffer: BufferId): number {
    return this.#program.buffers[buffer]!.width;
  }
  #address(buffer: BufferId): number {
    return this.#memory.buffers[this.#alias.get(buffer) ?? buffer]!;
  }

  /** Does anything from operation `from` on read what the buffer holds now? */
  #isLive(buffer: BufferId, from: number): boolean {
    for (let i = from; i < this.#ops.length; i += 1) {
      const { reads, writes } = uses(this.#ops[i]!);
      if (reads.includes(buffer)) return true;
      if (writes.includes(buffer)) return false;
    }
    return buffer === this.#program.logits;
  }

  /** Encodes what begins at operation i; how many operations that is. */
  #take(i: number): number {
    const op = this.#ops[i]!;
    const chain = this.#chain(i);
    if (chain !== undefined) {
      const product = this.#product(i + chain.length, chain);
      if (product > 0) return chain.length + product;
      this.#list.push(...(spread(chain, this.#memory) ?? [chain.instruction]));
      return chain.length;
    }
    const product = this.#product(i, undefined);
    if (product > 0) return product;
    switch (op.op) {
      case 'embed':
      case 'embedGrouped': {
        const weight = this.#program.weights[op.table]!;
        if (weight.kind !== 'dense' && weight.kind !== 'grouped') throw wrongKind(weight, 'dense or grouped');
        this.#list.push({
          op: 'embed',
          rows: this.#shape.tokens,
          width: this.#width(op.out),
          out: this.#address(op.out),
          outStride: this.#width(op.out),
          type: TYPES.indexOf(weight.kind === 'dense' ? weight.dtype : 'group'),
          group: weight.kind === 'grouped' ? weight.group : 0,
          matrices: [this.#matrix(op.table, op.out)],
        });
        return 1;
      }
      case 'selectOutputs':
        // The row itself, where there is but one.
        if (this.#shape.tokens === 1 && this.#at(i + 1, 'rmsNorm')?.x === op.out) {
          this.#alias.set(op.out, op.x);
          return 1;
        }
        this.#list.push({
          op: 'select',
          rows: this.#rows(op.out),
          width: this.#width(op.x),
          x: this.#address(op.x),
          xStride: this.#width(op.x),
          out: this.#address(op.out),
          outStride: this.#width(op.out),
        });
        return 1;
      case 'rmsNormHeads': {
        const fused = this.#attention(i);
        if (fused > 0) return fused;
        this.#list.push({
          op: 'heads',
          rows: this.#rows(op.x),
          heads: op.heads,
          headDim: op.headDim,
          eps: op.eps,
          x: this.#address(op.x),
          xStride: this.#width(op.x),
          weight: this.#memory.weights[op.weight]!.address,
          out: this.#address(op.out),
          outStride: this.#width(op.out),
        });
        return 1;
      }
      case 'rope': {
        const fused = this.#attention(i);
        if (fused > 0) return fused;
        this.#list.push({
          ...this.#positions(),
          op: 'rope',
          rows: this.#shape.tokens,
          heads: op.heads,
          headDim: op.headDim,
          x: this.#address(op.x),
          xStride: this.#width(op.x),
        });
        return 1;
      }
      case 'kvAppend':
        this.#list.push({
          ...this.#positions(),
          op: 'rope',
          rows: this.#shape.tokens,
          keep: 1,
          layer: op.layer,
          kvHeads: this.#program.kv.kvHeads,
          headDim: this.#program.kv.headDim,
          y: this.#address(op.k),
          yStride: this.#width(op.k),
          weight: this.#address(op.v),
          outStride: this.#width(op.v),
        });
        return 1;
      case 'attention':
        this.#attend(op, {});
        return 1;
      case 'countTrits':
        this.#list.push({
          op: 'count',
          rows: this.#shape.tokens,
          width: this.#width(op.x),
          x: this.#address(op.x),
          xStride: this.#width(op.x),
          out: this.#memory.counts + 12 * op.index,
          outStride: 3 * this.#program.tracePoints,
        });
        return 1;
      default: {
        const taken = takeHybrid(this.#context, i);
        if (taken === undefined) throw new TypeError(`${op.op} was not encoded`);
        this.#list.push(...taken.list);
        return taken.length;
      }
    }
  }

  /** [sum, or gate, perhaps of normed heads], [norm], [rotation], [rounding] from operation i on; undefined where none begins there. */
  #chain(from: number): Chain | undefined {
    const heads = this.#gatedHeads(from);
    const i = heads === undefined ? from : from + 1;
    const op = this.#ops[i]!;
    let source: Source = 'plain';
    let row: BufferId;
    let next = i;
    if (op.op === 'add') [source, row, next] = ['sum', op.x, i + 1];
    else if (op.op === 'gatedActivation') [source, row, next] = [op.fn, op.out, i + 1];
    else if (op.op === 'rmsNorm' || op.op === 'quantize' || op.op === 'quantize16' || op.op === 'hadamard') row = op.x;
    else return undefined;
    const x = op.op === 'gatedActivation' ? op.gate : op.x;
    /** Is the row nowhere yet? A sum is stored by the instruction itself. */
    let hidden = op.op === 'gatedActivation';
    const norm = this.#at(next, 'rmsNorm');
    const fits =
      heads === undefined &&
      norm?.x === row &&
      (source === 'plain' || (source === 'sum' ? norm.out !== row : norm.out === row || !this.#isLive(row, next + 1)));
    if (norm !== undefined && fits) {
      row = norm.out;
      hidden = true;
      next += 1;
    }
    const before = row;
    const turn = this.#turn(next, row, heads);
    if (turn !== undefined) {
      row = turn.out;
      next += 1;
    }
    const rounding = this.#at(next, 'quantize') ?? this.#at(next, 'quantize16');
    const quantize: Quantize | undefined = rounding?.x === row ? rounding : undefined;
    if (quantize !== undefined) next += 1;
    const isLeft = quantize === undefined || this.#isLive(row, next);
    const stored = turn === undefined ? hidden && isLeft : hidden && row !== before && this.#isLive(before, next);
    const instruction: Instruction = {
      op: 'rows',
      rows: this.#rows(x),
      width: this.#width(x),
      source: SOURCES.indexOf(source),
      limit: op.op === 'gatedActivation' ? (op.limit ?? Infinity) : 0,
      x: this.#address(x),
      xStride: this.#width(x),
      ...(op.op === 'add' ? { y: this.#address(op.y), yStride: this.#width(op.y) } : {}),
      ...(op.op === 'gatedActivation' ? { y: this.#address(op.up), yStride: this.#width(op.up) } : {}),
      ...(norm !== undefined && fits
        ? { norm: 1, weight: this.#memory.weights[norm.weight]!.address, eps: norm.eps }
        : {}),
      ...(heads === undefined
        ? {}
        : {
            heads: heads.heads,
            headDim: heads.headDim,
            eps: heads.eps,
            weight: this.#memory.weights[heads.weight]!.address,
          }),
      ...(turn === undefined ? {} : this.#turned(turn)),
      // A row in place of an alias goes to its own buffer.
      ...(turn !== undefined && isLeft ? { cosine: this.#memory.buffers[row]! } : {}),
      ...(stored ? { keep: 1, out: this.#memory.buffers[before]!, outStride: this.#width(before) } : {}),
      ...(quantize === undefined ? {} : this.#rounding(quantize)),
    };
    if (norm !== undefined && fits) this.#alias.delete(norm.out);
    if (turn !== undefined) this.#alias.delete(turn.out);
    const codes = quantize === undefined ? {} : { codes: quantize.codes };
    const alone = heads !== undefined || turn !== undefined;
    const place = this.#memory.buffers[row]!;
    const { x: own, y: other } = instruction;
    const clashes =
      place === own || place === other || (stored && (instruction.out === own || instruction.out === other));
    return { instruction, length: next - from, row, alone, place, clashes, ...codes };
  }

  /** The norm of heads at operation i whose result only the gate behind it reads. */
  #gatedHeads(i: number): OpOf<'rmsNormHeads'> | undefined {
    const norm = this.#at(i, 'rmsNormHeads');
    const gate = this.#at(i + 1, 'gatedActivation');
    if (norm === undefined || gate === undefined || norm.out !== norm.x) return undefined;
    const own = gate.up === norm.x && gate.gate !== norm.x && gate.out !== norm.x;
    const whole = norm.heads * norm.headDim === this.#width(norm.x) && norm.heads <= LIMITS.heads;
    if (!own || !whole || this.#isLive(norm.x, i + 2)) return undefined;
    return rowBytes(this.#width(norm.x)) + 4 * norm.heads <= POOL_BYTES ? norm : undefined;
  }

  /** A rotation of the row at operation i; heads that move have the length of those that were normed. */
  #turn(i: number, row: BufferId, heads: OpOf<'rmsNormHeads'> | undefined): OpOf<'hadamard'> | undefined {
    const turn = this.#at(i, 'hadamard');
    if (turn?.x !== row) return undefined;
    return heads !== undefined && turn.keyHeads > 0 && turn.headDim !== heads.headDim ? undefined : turn;
  }

  #turned({ block, direction, keyHeads, headDim, signs }: OpOf<'hadamard'>): Partial<Instruction> {
    return {
      turn: block,
      back: direction === 'inverse' ? 1 : 0,
      weight2: this.#memory.weights[signs]!.address,
      scale: Math.fround(1 / Math.sqrt(block)),
      ...(keyHeads > 0 ? { keyHeads, headDim } : {}),
    };
  }

  #rounding(op: Quantize): Partial<Instruction> {
    return {
      quantize: op.op === 'quantize' ? 8 : 16,
      status: this.#status.get(op)!,
      failed: this.#memory.failed,
      ...this.#codes(op.codes, op.scale),
    };
  }

  #codes(codes: BufferId, scale: BufferId): Partial<Instruction> {
    const { width, group, dtype } = this.#program.buffers[codes]!;
    return {
      codes: this.#memory.buffers[codes]!,
      scales: this.#memory.buffers[scale]!,
      codeStride: chunked(width),
      group: dtype === 'i8' ? width : (group ?? width),
      splits: codesStride(this.#program, codes),
    };
  }

  #matrix(id: WeightId, out: BufferId): MatrixFields {
    const weight = this.#program.weights[id]!;
    if (weight.kind === 'vector') throw wrongKind(weight, 'a matrix');
    const { address, scales, stride } = this.#memory.weights[id]!;
    const quads = Math.ceil(weight.rows / 4);
    const tiles = {
      ternary: Math.ceil(quads / 8),
      int8: Math.ceil(weight.rows / 16),
      grouped: Math.ceil(weight.rows / 64),
    };
    return {
      weights: address,
      scales,
      out: this.#memory.buffers[out]!,
      rows: weight.rows,
      tiles: weight.kind === 'dense' ? 0 : tiles[weight.kind],
      stride,
      outStride: this.#width(out),
      quads,
      half: weight.kind === 'grouped' && weight.scaleType === 'f16' ? 1 : 0,
      scale: weight.kind === 'ternary' ? weight.scale : 0,
    };
  }

  /**
   * The products at operation i, of one row of codes; 0 where there are none. `chain`: what was made just before; one row of it
   * is made by every block for itself, if nothing else wants it.
   */
  #product(i: number, chain: Chain | undefined): number {
    const first = this.#ops[i];
    if (first === undefined) return 0;
    const one = (buffer: BufferId) => this.#rows(buffer) === 1;
    switch (first.op) {
      case 'ternaryMatmul':
      case 'groupedMatmul': {
        const matrices = [{ weight: first.weight, out: first.out }];
        const groupOf = (id: WeightId) => (this.#program.weights[id] as GroupedWeight).group;
        let next = i + 1;
        for (; matrices.length < MOST_MATRICES; next += 1) {
          const other = this.#at(next, first.op);
          if (other?.codes !== first.codes || other.scale !== first.scale) break;
          if (matrices.some(({ out }) => out === other.out)) break;
          if (first.op === 'groupedMatmul' && groupOf(other.weight) !== groupOf(first.weight)) break;
          matrices.push({ weight: other.weight, out: other.out });
        }
        const ending = this.#ending(next, matrices);
        const end = next + ending.length;
        const instruction: Instruction = {
          op: first.op === 'ternaryMatmul' ? 'ternary' : 'grouped',
          rows: this.#rows(first.codes),
          width: this.#width(first.codes),
          quantize: first.op === 'ternaryMatmul' ? 8 : 16,
          ...this.#codes(first.codes, first.scale),
          ...ending.fields,
          parts: matrices.length,
          matrices: matrices.map(({ weight, out }) => this.#matrix(weight, ending.out ?? out)),
        };
        const ahead = this.#ahead(chain, first.codes, next, one(first.codes), instruction);
        if (chain !== undefined && ahead === undefined) return 0;
        this.#list.push({ ...instruction, ...(ahead ?? this.#stagedOfRows(instruction)) });
        return end - i;
      }
      case 'int8Matmul': {
        const instruction: Instruction = {
          op: 'int8',
          rows: this.#rows(first.codes),
          width: this.#width(first.codes),
          quantize: 8,
          ...this.#codes(first.codes, first.scale),
          parts: 1,
          matrices: [this.#matrix(first.weight, first.out)],
        };
        const ahead = this.#ahead(chain, first.codes, i + 1, one(first.codes), instruction);
        if (chain !== undefined && ahead === undefined) return 0;
        this.#list.push({ ...instruction, ...ahead });
        return 1;
      }
      case 'denseMatmul': {
        const weight = this.#program.weights[first.weight]!;
        if (weight.kind !== 'dense') throw wrongKind(weight, 'dense');
        const small = smallDense(this.#context, i);
        const matrices = small?.outputs ?? [{ weight: first.weight, out: first.out }];
        const ending = this.#ending(i + matrices.length, matrices);
        const length = matrices.length + ending.length;
        const instruction: Instruction = {
          op: 'dense',
          rows: this.#rows(first.x),
          width: this.#width(first.x),
          x: this.#address(first.x),
          xStride: this.#width(first.x),
          type: TYPES.indexOf(weight.dtype),
          parts: 1,
          ...small?.fields,
          ...ending.fields,
          matrices: matrices.map(({ weight: id, out }) => this.#matrix(id, ending.out ?? out)),
        };
        if (chain === undefined) {
          this.#list.push(instruction);
          return length;
        }
        const { source, quantize } = chain.instruction;
        const fits = one(first.x) && chain.row === first.x && source === 0 && (quantize ?? 0) === 0 && !chain.alone;
        if (!fits || this.#isLive(first.x, i + matrices.length)) return 0;
        const { norm, weight: normWeight, eps, x, xStride } = chain.instruction;
        const fused = small === undefined ? {} : { fused: 1 };
        this.#list.push({ ...instruction, ...fused, ...defined({ norm, weight: normWeight, eps, x, xStride }) });
        return length;
      }
      default:
        return 0;
    }
  }

  /** What every block does for itself before the product; undefined where an instruction of its own has to. */
  #ahead(
    chain: Chain | undefined,
    codes: BufferId,
    next: number,
    one: boolean,
    product: Instruction,
  ): Partial<Instruction> | undefined {
    if (chain === undefined || !one || chain.codes !== codes) return undefined;
    const { instruction } = chain;
    if (chain.alone) return undefined;
    const { norm, weight, eps, x, xStride, status, failed } = instruction;
    const { group = 0, width = 0 } = product;
    if (instruction.source !== 0 || (instruction.keep ?? 0) !== 0 || this.#isLive(codes, next)) return undefined;
    const isGrouped = product.op === 'grouped';
    if (width % 4 !== 0 || width > (isGrouped ? MOST_ONE_WIDTH16 : MOST_ONE_WIDTH)) return undefined;
    if (isGrouped && group % 32 !== 0) return undefined;
    const left = this.#memory.sharedBytes - OWN_BYTES - (norm === 1 ? normBytes(width) : 0);
    const staged = this.#staged(product, left);
    if (staged === undefined) return undefined;
    return { fused: 1, ...staged, ...defined({ norm, weight, eps, x, xStride, status, failed }) };
  }

  /** Of some rows, how many vectors of weights a lane can fetch before it has them (`staged_chunks` of products_many.cuh); of many, their tiles. */
  #stagedOfRows(product: Instruction): Partial<Instruction> {
    const { op, rows } = product;
    if (op !== 'ternary') return {};
    if (rows > SOME_ROWS) return { cut: this.#tilesOf(product) };
    const { sharedBytes, mostSharedBytes } = this.#memory;
    const left = Math.floor(((rows === 1 ? sharedBytes : mostSharedBytes) - OWN_BYTES - SOME_BYTES) / (THREADS * 16));
    return { splits: Math.max(0, Math.min(MOST_STAGED, left)) };
  }

  /** The tiles that the multiprocessor with most of them is done with first. */
  #tilesOf({ rows: tokens, ending, matrices = [] }: Instruction): number {
    if (ending === ENDINGS.indexOf('gate')) return 0;
    const costs = TILES_OF_MANY.map((tile) => {
      const panels = matrices.reduce((n, { rows }) => n + Math.ceil(rows / tile.rows), 0);
      const rounds = Math.ceil((panels * Math.ceil(tokens / tile.tokens)) / this.#memory.grid);
      return rounds * (tile.rows * tile.tokens + TILE_COST);
    });
    return costs.indexOf(Math.min(...costs));
  }

  /**
   * What a product of one row asks for before it has the row, in `left` bytes with its codes and sums: tiles of a ternary one, places
   * of a warp's ring; into what pieces a block takes panels. Undefined where the product cannot do with so few bytes.
   */
  #staged(product: Instruction, left: number): Partial<Instruction> | undefined {
    const { op, ending, width = 0, group = 1, codeStride = 0, matrices = [] } = product;
    const { grid, wholePanels } = this.#memory;
    const gate = ending === ENDINGS.indexOf('gate');
    const each = gate ? 2 : 1;
    const items = itemsOf(matrices, gate);
    switch (op) {
      case 'ternary': {
        const tiles = Math.ceil(items / grid) * each;
        const room = left - codeStride - 128 - tiles * WARPS * 128;
        if (room < 0) return undefined;
        return { splits: Math.min(tiles, each * Math.floor(room / (each * 8 * codeStride))) };
      }
      case 'int8': {
        const pieces = Math.ceil(matrices[0]!.rows / (grid * WARPS));
        const bytes = WARPS * Math.ceil(codeStride / 512) * 512;
        const splits = Math.min(MOST_PLACES, pieces, Math.floor((left - codeStride - 128) / bytes));
        return splits < 1 ? undefined : { splits };
      }
      default: {
        const room = left - (2 * (codeStride + 32) + width / 8 + 128);
        const groups = width / group;
        const ways = CUTS.flatMap((cut) => {
          const mine = Math.ceil((items << cut) / grid);
          const bytes = ((group * 16) >> (wholePanels ? 0 : cut)) + GROUP_SCALES;
          const pieces = this.#pieces(groups, mine, each, bytes, room);
          if (pieces === undefined) return [];
          const rounds = each * Math.ceil(groups / pieces.chunk) * Math.ceil(pieces.chunk / WARPS);
          const work = mine * (rounds * CUT_CLOCKS[cut]! + (wholePanels ? CUT_COPIES[cut]! : 0));
          return [{ cut, ...pieces, work }];
        });
        if (ways.length === 0) return undefined;
        // As little as possible for the block that has most.
        const { work: _, ...best } = ways.reduce((best, way) => (way.work < best.work ? way : best));
        return { ...best, groups };
      }
    }
  }

  /**
   * Groups of a piece and places for pieces, of a block's `mine` items of so many groups of `each` matrices; bytes of a group of one. Whole
   * items if there is room, else what its warps take at once, as often as there is room for two; undefined where there is none.
   */
  #pieces(groups: number, mine: number, each: number, bytes: number, room: number) {
    const sizes = [groups, ...[48, 32, 16, 8, 4, 2, 1].filter((size) => size < groups)];
    for (const chunk of sizes) {
      const pieces = mine * Math.ceil(groups / chunk);
      const left = room - Math.min(2, pieces) * each * chunk * GROUP_PRODUCTS;
      const splits = Math.min(MOST_PIECES, pieces, Math.floor(left / (each * chunk * bytes)));
      if (splits >= Math.min(2, pieces)) return { chunk, splits };
    }
    return undefined;
  }

  /** What follows a product and is done with its results. */
  #ending(
    next: number,
    matrices: readonly { weight: WeightId; out: BufferId }[],
  ): { length: number; fields: Partial<Instruction>; out?: BufferId } {
    const none = { length: 0, fields: {} };
    const add = this.#at(next, 'add');
    if (add !== undefined && matrices.length === 1 && add.y === matrices[0]!.out && add.x !== add.y) {
      if (this.#isLive(add.y, next + 1)) return none;
      return { length: 1, fields: { ending: ENDINGS.indexOf('add') }, out: add.x };
    }
    const gate = this.#at(next, 'gatedActivation');
    const [first, second] = matrices;
    const isDense = this.#program.weights[first!.weight]!.kind === 'dense';
    if (
      gate !== undefined &&
      !isDense &&
      matrices.length === 2 &&
      gate.gate === first!.out &&
      gate.up === second!.out
    ) {
      const rowsOf = (id: WeightId) => (this.#program.weights[id] as { rows: number }).rows;
      const hidden = (buffer: BufferId) => buffer === gate.out || !this.#isLive(buffer, next + 1);
      if (!hidden(gate.gate) || !hidden(gate.up) || rowsOf(first!.weight) !== rowsOf(second!.weight)) return none;
      const fields = {
        ending: ENDINGS.indexOf('gate'),
        gate: SOURCES.indexOf(gate.fn),
        limit: gate.limit ?? Infinity,
      };
      return { length: 1, fields, out: gate.out };
    }
    return none;
  }

  #positions(): Partial<Instruction> {
    const { cosine, sine } = this.#memory;
    return { cosine, sine, rotary: this.#program.rope.rotaryDim };
  }

  /**
   * [Norms of heads,] positions, append and attention: of one row as one, as of a row of each of many sequences, of others as two
   * instructions; 0 where the operations are others.
   */
  #attention(i: number): number {
    let next = i;
    const norms: OpOf<'rmsNormHeads'>[] = [];
    for (let norm = this.#at(next, 'rmsNormHeads'); norm !== undefined; norm = this.#at(next, 'rmsNormHeads')) {
      if (norm.out !== norm.x) return 0;
      norms.push(norm);
      next += 1;
    }
    const [first, second] = [this.#at(next, 'rope'), this.#at(next + 1, 'rope')];
    // Some layers have no positions.
    const turns = first === undefined ? 0 : 2;
    const append = this.#at(next + turns, 'kvAppend');
    const attention = this.#at(next + turns + 1, 'attention');
    if (append === undefined || attention === undefined) return 0;
    const end = next + turns + 2;
    const { headDim } = this.#program.kv;
    if (attention.headDim !== headDim || append.layer !== attention.layer) return 0;
    if (first !== undefined) {
      if (first.x !== attention.q || second?.x !== append.k) return 0;
      if (first.headDim !== headDim || second.headDim !== headDim) return 0;
      if (first.heads !== attention.heads || second.heads !== attention.kvHeads) return 0;
    }
    if (attention.out === append.v || attention.out === append.k || attention.out === attention.q) return 0;
    if ([attention.q, append.k].some((buffer) => this.#isLive(buffer, end))) return 0;
    if (norms.length > 0) {
      const [q, k] = norms;
      if (norms.length !== 2 || q!.x !== attention.q || k!.x !== append.k || q!.eps !== k!.eps) return 0;
      if (q!.headDim !== headDim || k!.headDim !== headDim) return 0;
    }
    const fields: Partial<Instruction> = {
      ...(first === undefined ? {} : this.#positions()),
      y: this.#address(append.k),
      yStride: this.#width(append.k),
      weight: this.#address(append.v),
      ...(norms.length === 0
        ? {}
        : {
            eps: norms[0]!.eps,
            codes: this.#memory.weights[norms[0]!.weight]!.address,
            weight2: this.#memory.weights[norms[1]!.weight]!.address,
          }),
    };
    if (this.#shape.tokens === 1) {
      this.#attend(attention, { ...fields, fused: 1 });
      return end - i;
    }
    if (first === undefined || !READY_DIMS.includes(headDim) || ![0, headDim].includes(this.#program.rope.rotaryDim))
      return 0;
    if (this.#shape.attention === 'batch' && this.#shape.single) {
      this.#attend(attention, { ...fields, fused: 1 });
      return end - i;
    }
    // Queries are turned where they are multiplied, if one thread has both elements of a pair, and they have no norms.
    const turnsThere = this.#shape.attention === 'rows' && norms.length === 0 && headDim >= LEAST_TURNED_DIM;
    this.#list.push({
      ...fields,
      op: 'ready',
      rows: this.#shape.tokens,
      heads: turnsThere ? 0 : attention.heads,
      kvHeads: attention.kvHeads,
      headDim,
      layer: attention.layer,
      x: this.#address(attention.q),
      xStride: this.#width(attention.q),
    });
    this.#attend(attention, turnsThere ? this.#positions() : {});
    return end - i;
  }

  #attend(op: OpOf<'attention'>, extra: Partial<Instruction>): void {
    const { tokens, attention, splits, positions } = this.#shape;
    const group = op.heads / op.kvHeads;
    const together = tokens > 1 && attendBytes(group, op.headDim, positions) <= POOL_BYTES ? group : 1;
    const instruction = {
      ...extra,
      rows: tokens,
      heads: op.heads,
      kvHeads: op.kvHeads,
      headDim: op.headDim,
      layer: op.layer,
      window: this.#program.kv.windows?.[op.layer] ?? 0,
      scale: op.scale,
      x: this.#address(op.q),
      xStride: this.#width(op.q),
      out: this.#address(op.out),
      outStride: this.#width(op.out),
      scratch: this.#memory.scratch,
      counters: this.#memory.counters,
      splits,
    };
    const push = (kind: Operation, parts: number) => this.#list.push({ ...instruction, op: kind, parts });
    if (attention === 'split' && extra.fused === 1) {
      this.#list.push({ ...instruction, op: 'attendSplit', scratch: this.#memory.packets });
    } else if (attention === 'one' && extra.fused === 1) push('attendOne', 1);
    else if (attention === 'rows') push('attendRows', 1);
    else if (attention === 'batch') push('attendBatch', 1);
    else if (attention === 'blocks' || attention === 'split') {
      push('scores', 1);
      push('values', 1);
    } else push('attend', together);
  }

  #top(): void {
    const { logits, vocabSize } = this.#program;
    const most = this.#shape.top <= FEW_LARGEST ? SHARES : SHARES_OF_MORE;
    const common = {
      rows: this.#shape.outputs,
      width: vocabSize,
      x: this.#address(logits),
      xStride: vocabSize,
      y: this.#memory.logits,
      // Of many rows two for each block.
      parts: Math.max(1, Math.min(most, Math.floor((2 * this.#memory.grid) / this.#shape.outputs))),
      group: this.#shape.top,
      scratch: this.#memory.scratch,
      out: this.#memory.tops,
    };
    this.#list.push({ ...common, op: 'topOfShares' }, { ...common, op: 'tellTop' });
  }
}

/** Bytes of scratch of the search for the largest: `TopMemory` of top.cuh. */
export const topScratchBytes = (outputs: number, top: number) => outputs * (8 * top * SHARES + 16);
/** Words that are told of a row: the sum of its weights (2), a count of NaN, one unused, ids, values. */
export const topWords = (top: number) => 4 + 2 * top;

/** Throws `CudaUnsupportedError` for a program that the kernels do not run. */
export function checkProgram(program: Program): void {
  const refuse = (what: string, where: string): never => {
    throw new CudaUnsupportedError(what, `${program.name}, ${where}`);
  };
  const widthOf = (buffer: BufferId) => program.buffers[buffer]!.width;
  for (const op of program.ops) {
    switch (op.op) {
      case 'attention': {
        const group = op.heads / op.kvHeads;
        if (!Number.isInteger(group) || op.heads > LIMITS.heads || op.headDim > LIMITS.headDim)
          refuse(`${op.heads} heads of ${op.headDim} and ${op.kvHeads} kv heads`, 'attention');
        if (4 * (TILES + (group + 1) * op.headDim + group * 65) > POOL_BYTES)
          refuse(`${group} heads of ${op.headDim} for one kv head`, 'attention');
        break;
      }
      case 'hadamard':
        if (op.keyHeads > 0 && 2 * rowBytes(widthOf(op.x)) + sumBytes(widthOf(op.x)) > POOL_BYTES)
          refuse(`a rotation that moves the heads of rows of ${widthOf(op.x)}`, program.buffers[op.x]!.name);
        break;
      case 'causalConv':
        if (op.taps < 2 || op.taps > HYBRID_LIMITS.taps)
          refuse(`a convolution of ${op.taps} taps, the limit is ${HYBRID_LIMITS.taps}`, program.buffers[op.x]!.name);
        break;
      case 'gatedDelta':
        if (op.headDim > HYBRID_LIMITS.deltaDim || op.valueHeads % op.keyHeads !== 0)
          refuse(`a delta rule with ${op.valueHeads} and ${op.keyHeads} heads of ${op.headDim}`, 'operations');
        break;
      case 'l2NormHeads':
        if (op.headDim > MOST_HEAD_ROW) refuse(`heads of ${op.headDim} of one length`, 'operations');
        break;
      case 'routeExperts': {
        const [experts, choices] = [widthOf(op.x), program.choices ?? 0];
        if (experts > HYBRID_LIMITS.experts || choices > HYBRID_LIMITS.choices || choices > experts)
          refuse(`${choices} of ${experts} experts`, op.label);
        break;
      }
      case 'rmsNorm':
      case 'quantize':
      case 'quantize16':
        break;
      default:
        continue;
    }
    // What is made of a whole row has it in shared memory.
    if (
      'x' in op &&
      op.op !== 'causalConv' &&
      op.op !== 'gatedDelta' &&
      op.op !== 'l2NormHeads' &&
      widthOf(op.x) > MOST_WIDTH
    )
      refuse(`rows of ${widthOf(op.x)}, the limit is ${MOST_WIDTH}`, program.buffers[op.x]!.name);
  }
  for (const weight of program.weights) {
    if (weight.kind === 'vector') continue;
    if (weight.columns > MOST_WIDTH) refuse(`${weight.columns} columns, the limit is ${MOST_WIDTH}`, weight.name);
  }
}
