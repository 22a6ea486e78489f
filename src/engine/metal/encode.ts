// From fused runs to dispatches: which kernel, how large a grid, which buffers and arguments, for a step of a given shape.

import { mostOf, wrongKind } from '../gpu/operands.ts';
import type { BufferId, Program, WeightId } from '../program.ts';
import { type Dispatch, dispatch, MetalUnsupportedError } from './addon.ts';
import { type Gpu, type GpuBuffer, padded } from './gpu.ts';
import { BLOCK_POSITIONS, type KvPool } from './kv-pool.ts';
import { CHAIN_SOURCES, LIMITS, type Plan, type Run } from './plan.ts';
import type { KernelName, StructValues } from './signatures.ts';
import type { StatePool } from './state-pool.ts';
import { defaultChoice, QUADS_OF, shapeKey, type TernaryChoice, type Tuning } from './tuning.ts';
import type { PlacedWeight } from './weights.ts';

/** Positions per threadgroup of attention: enough threadgroups for a long context, no second pass for a short one. */
const ATTENTION_SPLIT = 256;
/** Tokens from which the matrix units beat vector kernels that read the weights once per four tokens. */
const GEMM_FROM = 9;
/** Rows of a panel of a grouped matrix, and column blocks of a slice: SLICE_BLOCKS of grouped.metal. */
const PANEL_ROWS = 64;
const SLICE_BLOCKS = 64;
/** Panels below which a threadgroup gets more simdgroups, or most of a large GPU would idle. */
const FEW_PANELS = 64;
/** Elements of a row that a threadgroup rotates, if blocks are no longer. */
const ROTATED_TILE = 1024;
/** Blocks of positions of a split of exact attention, and floats of its statistics: SPLIT_* of exact.metal. */
const SPLIT_BLOCKS = 4;
const SPLIT_STATS = 8;
/** Rows for which exact attention is shared out: more of them fill a GPU with a threadgroup per head each. */
const SHARED_ROWS = 4;
/** What that may take: a row of 262,144 positions with 24 heads of 256 takes 122 MiB. */
const SHARED_BYTES = 128 << 20;
/** Scores that a threadgroup of exact attention holds. */
export const HELD_SCORES = 2048;
/** DENSE_* of dense.metal. */
const DENSE_TYPES = { f32: 0, f16: 1, bf16: 2 } as const;
/** Logits per threadgroup of the first stage of a top-k: TOP_CHUNK of top.metal at most. */
export const TOP_CHUNK = 4096;
/** ROW_SLICES of rows.metal: vectors of a row that a thread holds. */
const ROW_SLICES = 8;

/** Everything that decides a tape but the contents of buffers. */
export type Shape = {
  readonly tokens: number;
  readonly outputs: number;
  /** Sequences of which it has rows; 0 where the program has no recurrent states, to which alone it matters. */
  readonly sequences: number;
  /** Of the longest row; see `splitsAt`. */
  readonly splits: number;
  readonly traced: boolean;
  /** Best logits per output row to find; 0 for none. */
  readonly top: number;
};

/** The buffers that dispatches name. The executable makes and replaces them. */
export type StepMemory = {
  readonly weights: readonly PlacedWeight[];
  readonly cosine: GpuBuffer;
  readonly sine: GpuBuffer;
  readonly pool: KvPool;
  readonly states: StatePool;
  /** By buffer id, for `rows` tokens. */
  readonly activations: GpuBuffer[];
  rows: number;
  /** Status words of an operation: as many as its rows can be. */
  statusRows: number;
  readonly scratch: Map<string, GpuBuffer & { readonly memory: ArrayBuffer }>;
};

/** Threadgroups that share the keys of a row at `position`. */
export function splitsAt(position: number): number {
  return Math.floor(position / ATTENTION_SPLIT) + 1;
}

export function rowsOf(program: Program, buffer: BufferId, { tokens, outputs }: Shape): number {
  const counts = { tokens, outputs, choices: tokens * (program.choices ?? 0) };
  return counts[program.buffers[buffer]!.rows];
}

/**
 * Bytes that exact attention shares out a step's rows with, by buffer; undefined where a threadgroup takes a row and head:
 * below `least` splits, for many rows, or where it would take too much.
 */
export function sharedAttention(program: Program, { tokens, splits }: Shape, least = 2) {
  if (splits < least || tokens > SHARED_ROWS) return undefined;
  const floats = tokens * splits * mostOf(program).heads * 4;
  const bytes = {
    parts: floats * SPLIT_BLOCKS * program.kv.headDim,
    scores: floats * ATTENTION_SPLIT,
    stats: floats * SPLIT_STATS,
  };
  return bytes.parts + bytes.scores + bytes.stats > SHARED_BYTES ? undefined : bytes;
}

/** Entries of a sequence's row of the block table. */
export function tableStride(program: Program): number {
  return Math.ceil(program.contextLength / BLOCK_POSITIONS);
}

/** Whole simdgroups for `wanted` threads, as far as the pipeline goes. */
function threadsFor(gpu: Gpu, kernel: KernelName, wanted: number, most = 1024): number {
  const limit = Math.min(most, Math.floor(gpu.pipeline(kernel).maxThreads / 32) * 32);
  return Math.min(limit, Math.ceil(wanted / 32) * 32);
}

/** Fails at load, not at the first step, where this GPU's pipelines take too few threads for the program's rows. */
export function checkRows(gpu: Gpu, program: Program, plans: readonly Plan[]): void {
  for (const run of plans.flatMap(({ runs }) => runs)) {
    if (run.run === 'attention' && run.exact && threadsFor(gpu, 'attention_exact', 256) < run.headDim) {
      throw new MetalUnsupportedError(`heads of ${run.headDim} are too wide for this GPU`, program.name);
    }
    if (run.run !== 'rows') continue;
    const { width } = program.buffers[run.x]!;
    const held = threadsFor(gpu, run.kernel, padded(width) / 4) * ROW_SLICES * 4;
    if (held < padded(width)) {
      const what = `rows of ${width}, this GPU's ${run.kernel} takes up to ${Math.min(held, LIMITS.rowWidth)}`;
      throw new MetalUnsupportedError(what, program.name);
    }
  }
}

/** What a rotation multiplies with, as the reference rounds it. */
function rotationFactor(block: number): number {
  return Math.fround(1 / Math.sqrt(block));
}

/** A group-scaled matrix, or its experts, and where a product with it goes. */
type GroupedMatrix = {
  readonly buffer: GpuBuffer;
  readonly scales: GpuBuffer;
  readonly rows: number;
  /** Of one expert. */
  readonly panels: number;
  readonly blocks: number;
  readonly groups: number;
  readonly groupBlocks: number;
  readonly half: number;
  readonly out: BufferId;
};

/** What no result can show. */
export type AttentionOptions = {
  /** Scores that exact attention holds at a time (default 2048): a multiple of 64, no more. */
  readonly heldScores?: number;
  /** Splits of 256 positions from which few rows are shared out (default 2); 1 shows those kernels to a self-test. */
  readonly shareFrom?: number;
};

export class StepEncoder {
  readonly #gpu: Gpu;
  readonly #program: Program;
  readonly #memory: StepMemory;
  readonly #tuning: Tuning;
  readonly #heldScores: number;
  readonly #shareFrom: number;

  constructor(
    gpu: Gpu,
    program: Program,
    memory: StepMemory,
    tuning: Tuning,
    { heldScores = HELD_SCORES, shareFrom = 2 }: AttentionOptions = {},
  ) {
    this.#gpu = gpu;
    this.#program = program;
    this.#memory = memory;
    this.#tuning = tuning;
    this.#heldScores = heldScores;
    this.#shareFrom = shareFrom;
  }

  /** All dispatches of a step of this shape, in order. */
  encode(plan: Plan, shape: Shape): Dispatch[] {
    const dispatches: Dispatch[] = [];
    for (const run of plan.runs) dispatches.push(...this.#dispatchesOf(run, shape));
    if (shape.top > 0 && shape.outputs > 0) dispatches.push(...this.#topDispatches(shape));
    return dispatches;
  }

  #dispatchesOf(run: Run, shape: Shape): Dispatch[] {
    switch (run.run) {
      case 'embed':
        return [this.#embed(run, shape)];
      case 'rows':
        return rowsOf(this.#program, run.x, shape) === 0 ? [] : [this.#rowsDispatch(run, shape)];
      case 'heads':
        return rowsOf(this.#program, run.parts[0]!.x, shape) === 0 ? [] : [this.#heads(run, shape)];
      case 'grouped':
        return rowsOf(this.#program, run.codes, shape) === 0 ? [] : [this.#grouped(run, shape)];
      case 'ternary':
        return rowsOf(this.#program, run.codes, shape) === 0 ? [] : [this.ternary(run, shape)];
      case 'rope':
        return [this.#rope(run, shape)];
      case 'attention':
        return this.#attention(run, shape);
      case 'select':
        return shape.outputs === 0 ? [] : [this.#select(run, shape)];
      case 'dense':
        return rowsOf(this.#program, run.x, shape) === 0 ? [] : [this.#dense(run, shape)];
      case 'int8':
        return rowsOf(this.#program, run.codes, shape) === 0 ? [] : [this.#int8(run, shape)];
      case 'hadamard':
        return rowsOf(this.#program, run.x, shape) === 0 ? [] : [this.#hadamard(run, shape)];
      case 'split':
        return rowsOf(this.#program, run.x, shape) === 0 ? [] : [this.#split(run, shape)];
      case 'lengths':
        return rowsOf(this.#program, run.x, shape) === 0 ? [] : [this.#lengths(run, shape)];
      case 'conv':
        return [this.#conv(run, shape)];
      case 'delta':
        return [this.#delta(run, shape)];
      case 'route':
        return [this.#route(run, shape)];
      case 'experts':
        return [this.#experts(run, shape)];
      case 'count':
        return [this.#count(run, shape)];
    }
  }

  #embed(run: Run & { run: 'embed' }, { tokens }: Shape): Dispatch {
    const weight = this.#program.weights[run.table]!;
    if (weight.kind === 'grouped') return this.#embedGrouped(run, tokens);
    if (weight.kind !== 'dense') throw wrongKind(weight, 'dense');
    const { buffer, stride } = this.#memory.weights[run.table]!;
    const width = this.#width(run.out);
    const kernel = `embed_${weight.dtype}` as const;
    return dispatch(kernel, [tokens, 1, 1], this.#threads(kernel, padded(width)), {
      table: buffer,
      tokens: this.#memory.scratch.get('tokens')!,
      out: this.#memory.activations[run.out]!,
      a: { width, table_stride: stride, out_stride: padded(width) },
    });
  }

  #groupedWeight(id: WeightId): Omit<GroupedMatrix, 'out'> {
    const weight = this.#program.weights[id]!;
    if (weight.kind !== 'grouped') throw wrongKind(weight, 'grouped');
    const { rows, columns, group } = weight;
    const { buffer, scales } = this.#memory.weights[id]!;
    return {
      buffer,
      scales: scales!,
      rows,
      panels: Math.ceil(rows / PANEL_ROWS),
      blocks: Math.ceil(columns / 4),
      groups: columns / group,
      groupBlocks: Math.ceil(group / 4),
      half: weight.scaleType === 'f16' ? 1 : 0,
    };
  }

  #embedGrouped(run: Run & { run: 'embed' }, tokens: number): Dispatch {
    const { buffer, scales, blocks, groups, groupBlocks, half } = this.#groupedWeight(run.table);
    const stride4 = this.#stride(run.out) / 4;
    return dispatch('embed_grouped', [tokens, 1, 1], this.#threads('embed_grouped', stride4), {
      w: buffer,
      scales,
      tokens: this.#memory.scratch.get('tokens')!,
      out: this.#memory.activations[run.out]!,
      a: {
        width: this.#width(run.out),
        blocks,
        groups,
        group_blocks: groupBlocks,
        half_scales: half,
        out_stride4: stride4,
      },
    });
  }

  #select(run: Run & { run: 'select' }, { outputs }: Shape): Dispatch {
    const stride4 = this.#stride(run.x) / 4;
    const kernel = run.y === undefined ? 'select_rows' : 'select_sum';
    const args = {
      x: this.#memory.activations[run.x]!,
      rows: this.#memory.scratch.get('output rows')!,
      out: this.#memory.activations[run.out]!,
      a: { stride4 },
    };
    const threads = this.#threads(kernel, stride4);
    return run.y === undefined
      ? dispatch('select_rows', [outputs, 1, 1], threads, args)
      : dispatch('select_sum', [outputs, 1, 1], threads, { ...args, y: this.#memory.activations[run.y]! });
  }

  #rowsDispatch(run: Run & { run: 'rows' }, shape: Shape): Dispatch {
    const { kernel } = run;
    const rows = rowsOf(this.#program, run.x, shape);
    const stride4 = this.#stride(run.x) / 4;
    const x = this.#memory.activations[run.x]!;
    const y = run.y === undefined ? x : this.#memory.activations[run.y]!;
    if (kernel === 'chain_rows') {
      const { block = 0, keyHeads = 0, headDim = 0 } = run.rotate ?? {};
      return dispatch(kernel, [rows, 1, 1], this.#threads(kernel, stride4), {
        x,
        y,
        // Never touched where their part of the chain is absent, but every argument has to be bound.
        mix: run.mix === undefined ? x : this.#memory.activations[run.mix]!,
        signs: run.rotate === undefined ? x : this.#memory.weights[run.rotate.signs]!.buffer,
        weight: run.norm === undefined ? x : this.#memory.weights[run.norm.weight]!.buffer,
        out: run.out === undefined ? x : this.#memory.activations[run.out]!,
        codes: run.quantize === undefined ? x : this.#memory.activations[run.quantize.codes]!,
        scales: run.quantize === undefined ? x : this.#memory.activations[run.quantize.scale]!,
        status: this.#memory.scratch.get('status')!,
        a: {
          stride4,
          width: this.#width(run.x),
          eps: run.norm?.eps ?? 0,
          source: CHAIN_SOURCES.indexOf(run.source ?? 'x'),
          limit: run.limit ?? 0,
          choices: this.#program.choices ?? 0,
          mix_stride: run.mix === undefined ? 0 : this.#stride(run.mix),
          norm: run.norm === undefined ? 0 : 1,
          keep: run.out === undefined ? 0 : 1,
          block,
          factor: block === 0 ? 0 : rotationFactor(block),
          head4: keyHeads === 0 ? 0 : headDim / 4,
          key_heads: keyHeads,
          repeats: keyHeads === 0 ? 0 : this.#width(run.x) / (keyHeads * headDim),
          quantize: run.quantize === undefined ? 0 : 1,
          status_at: (run.quantize?.index ?? 0) * this.#memory.statusRows,
        },
      });
    }
    const a: StructValues<'RowArgs'> = {
      stride4,
      width: this.#width(run.x),
      eps: run.norm?.eps ?? 0,
      keep: run.out === undefined ? 0 : 1,
      status_at: (run.quantize?.index ?? 0) * this.#memory.statusRows,
    };
    const args = {
      x,
      gate: x,
      y,
      up: y,
      // Never touched where `keep` is 0, but every argument of a kernel has to be bound.
      out: run.out === undefined ? x : this.#memory.activations[run.out]!,
      weight: run.norm === undefined ? x : this.#memory.weights[run.norm.weight]!.buffer,
      codes: run.quantize === undefined ? x : this.#memory.activations[run.quantize.codes]!,
      scales: run.quantize === undefined ? x : this.#memory.activations[run.quantize.scale]!,
      status: this.#memory.scratch.get('status')!,
      a,
    };
    return dispatch(kernel, [rows, 1, 1], this.#threads(kernel, stride4), args);
  }

  #heads(run: Run & { run: 'heads' }, shape: Shape): Dispatch {
    const { headDim, eps, parts } = run;
    const first = parts[0]!;
    const second = parts[1] ?? { ...first, heads: 0 };
    const heads = first.heads + second.heads;
    const threads = this.#threads('norm_heads', heads * 16, 256);
    return dispatch(
      'norm_heads',
      [Math.ceil((heads * 16) / threads), rowsOf(this.#program, first.x, shape), 1],
      threads,
      {
        x0: this.#memory.activations[first.x]!,
        x1: this.#memory.activations[second.x]!,
        weight0: this.#memory.weights[first.weight]!.buffer,
        weight1: this.#memory.weights[second.weight]!.buffer,
        out0: this.#memory.activations[first.out]!,
        out1: this.#memory.activations[second.out]!,
        a: {
          heads0: first.heads,
          heads,
          head_dim: headDim,
          stride0: this.#stride(first.x),
          stride1: this.#stride(second.x),
          eps,
        },
      },
    );
  }

  #grouped(run: Run & { run: 'grouped' }, shape: Shape): Dispatch {
    const tokens = rowsOf(this.#program, run.codes, shape);
    const matrices = run.matrices.map(({ weight, out }) => ({ ...this.#groupedWeight(weight), out }));
    const panels = matrices.reduce((sum, matrix) => sum + matrix.panels, 0);
    let kernel: KernelName & `grouped_g${string}` = 'grouped_gemm';
    let threads = 128;
    let tokensPerTile = 32;
    if (tokens < GEMM_FROM) {
      const kernels = [
        ['grouped_gemv', 1],
        ['grouped_gemv_t2', 2],
        ['grouped_gemv_t4', 4],
      ] as const;
      const most = tokens === 1 && panels < FEW_PANELS ? 512 : 256;
      // A thread per row and token of the tile is the least that a kernel needs.
      for (const [name, perTile] of kernels) {
        if (perTile > 1 && (perTile >= 2 * tokens || this.#threads(name, most) < PANEL_ROWS * perTile)) break;
        [kernel, tokensPerTile] = [name, perTile];
        threads = this.#threads(name, most);
      }
    }
    return dispatch(kernel, [panels, Math.ceil(tokens / tokensPerTile), 1], threads, {
      ...this.#groupedMemory(matrices),
      codes: this.#memory.activations[run.codes]!,
      x_scales: this.#memory.activations[run.scale]!,
      a: this.#groupedArgs(matrices, run.codes, tokens),
    });
  }

  #experts(run: Run & { run: 'experts' }, shape: Shape): Dispatch {
    const choices = this.#program.choices ?? 0;
    const matrices = run.matrices.map(({ weight, out }) => ({ ...this.#groupedWeight(weight), out }));
    const panels = matrices.reduce((sum, matrix) => sum + matrix.panels, 0);
    // Every choice has threadgroups of its own.
    const most = panels * choices < FEW_PANELS ? 512 : 256;
    return dispatch('expert_gemv', [panels, shape.tokens * choices, 1], this.#threads('expert_gemv', most), {
      ...this.#groupedMemory(matrices),
      codes: this.#memory.activations[run.codes]!,
      x_scales: this.#memory.activations[run.scale]!,
      experts: this.#memory.activations[run.experts]!,
      a: this.#groupedArgs(matrices, run.codes, rowsOf(this.#program, run.codes, shape)),
      e: {
        choices,
        per_choice: this.#program.buffers[run.codes]!.rows === 'choices' ? 1 : 0,
        experts_stride: this.#stride(run.experts),
        panels2: matrices[2]?.panels ?? 0,
      },
    });
  }

  /** Matrix i; an absent one has no panels, and repeats the first one's arguments, because all have to be bound. */
  #groupedAt(matrices: readonly GroupedMatrix[], i: number): GroupedMatrix {
    return matrices[i] ?? { ...matrices[0]!, rows: 0, panels: 0 };
  }

  #groupedMemory(matrices: readonly GroupedMatrix[]) {
    const at = (i: number) => this.#groupedAt(matrices, i);
    const out = (i: number) => this.#memory.activations[at(i).out]!;
    return {
      w0: at(0).buffer,
      w1: at(1).buffer,
      w2: at(2).buffer,
      scales0: at(0).scales,
      scales1: at(1).scales,
      scales2: at(2).scales,
      out0: out(0),
      out1: out(1),
      out2: out(2),
    };
  }

  #groupedArgs(matrices: readonly GroupedMatrix[], codes: BufferId, tokens: number): StructValues<'GroupedArgs'> {
    const at = (i: number) => this.#groupedAt(matrices, i);
    const { blocks, groups, groupBlocks } = at(0);
    return {
      blocks,
      groups,
      group_blocks: groupBlocks,
      slices: Math.ceil(groupBlocks / SLICE_BLOCKS),
      tokens,
      x_stride4: this.#stride(codes) / 4,
      out_stride0: this.#stride(at(0).out),
      out_stride1: this.#stride(at(1).out),
      out_stride2: this.#stride(at(2).out),
      rows0: at(0).rows,
      rows1: at(1).rows,
      rows2: at(2).rows,
      panels0: at(0).panels,
      panels1: at(1).panels,
      halves0: at(0).half,
      halves1: at(1).half,
      halves2: at(2).half,
    };
  }

  /** Key of the matrices' shape in the tuning. */
  shapeOf(run: Run & { run: 'ternary' }): string {
    const matrices = run.matrices.map(({ weight }) => this.#ternaryWeight(weight));
    const quads = matrices.reduce((sum, { rows }) => sum + Math.ceil(rows / 4), 0);
    return shapeKey(quads, padded(matrices[0]!.columns) / 16);
  }

  #ternaryWeight(id: WeightId) {
    const weight = this.#program.weights[id]!;
    if (weight.kind !== 'ternary') throw wrongKind(weight, 'ternary');
    return weight;
  }

  /** `forced`: a choice to measure. */
  ternary(run: Run & { run: 'ternary' }, shape: Shape, forced?: TernaryChoice): Dispatch {
    const tokens = rowsOf(this.#program, run.codes, shape);
    const matrices = run.matrices.map(({ weight, out }) => {
      const { rows, columns, scale } = this.#ternaryWeight(weight);
      return { buffer: this.#memory.weights[weight]!.buffer, rows, columns, scale, quads: Math.ceil(rows / 4), out };
    });
    const groups = this.#stride(run.codes) / 16;
    const quads = matrices.reduce((sum, matrix) => sum + matrix.quads, 0);
    const tuned = forced ?? this.#tuning.get(shapeKey(quads, groups)) ?? defaultChoice(quads);
    let kernel: KernelName & `ternary_${string}` = tuned.kernel;
    let { simdgroups } = tuned;
    let quadsPerTile = kernel === 'ternary_gemv_splitk' ? 1 : QUADS_OF[tuned.kernel] * simdgroups;
    let tokensPerTile = 1;
    if (tokens >= GEMM_FROM) {
      kernel = 'ternary_gemm';
      simdgroups = 4;
      quadsPerTile = 16;
      tokensPerTile = 32;
    } else if (tokens > 1) {
      kernel = tokens === 2 ? 'ternary_gemv_t2' : 'ternary_gemv_t4';
      simdgroups = 4;
      quadsPerTile = 4;
      tokensPerTile = tokens === 2 ? 2 : 4;
    }
    const tiles = matrices.map((matrix) => Math.ceil(matrix.quads / quadsPerTile));
    // An absent matrix has no tiles; its arguments repeat the first one's, because all of them have to be bound.
    const at = (i: number) => matrices[i] ?? { ...matrices[0]!, rows: 0, quads: 0, scale: 0 };
    const out = (i: number) => this.#memory.activations[at(i).out]!;
    return dispatch(
      kernel,
      [tiles.reduce((sum, n) => sum + n, 0), Math.ceil(tokens / tokensPerTile), 1],
      simdgroups * 32,
      {
        w0: at(0).buffer,
        w1: at(1).buffer,
        w2: at(2).buffer,
        codes: this.#memory.activations[run.codes]!,
        scales: this.#memory.activations[run.scale]!,
        out0: out(0),
        out1: out(1),
        out2: out(2),
        a: {
          groups,
          tokens,
          out_stride0: this.#stride(at(0).out),
          out_stride1: this.#stride(at(1).out),
          out_stride2: this.#stride(at(2).out),
          rows0: at(0).rows,
          rows1: at(1).rows,
          rows2: at(2).rows,
          quads0: at(0).quads,
          quads1: at(1).quads,
          quads2: at(2).quads,
          tiles0: tiles[0]!,
          tiles1: tiles[1] ?? 0,
          scale0: at(0).scale,
          scale1: at(1).scale,
          scale2: at(2).scale,
        },
      },
    );
  }

  #cacheArgs(layer: number): StructValues<'CacheArgs'> {
    const { kvHeads, headDim } = this.#program.kv;
    return {
      block_stride: this.#memory.pool.blockStride,
      layer_at: layer * this.#memory.pool.layerStride,
      kv_heads: kvHeads,
      head_dim: headDim,
      head_stride: this.#memory.pool.headStride,
      table_stride: tableStride(this.#program),
    };
  }

  #rope(run: Run & { run: 'rope' }, { tokens }: Shape): Dispatch {
    const { q, append, headDim } = run;
    const any = this.#memory.activations[(q?.x ?? append?.k)!]!;
    const kvHeads = append === undefined ? 0 : this.#program.kv.kvHeads;
    const { rotaryDim } = this.#program.rope;
    const pairs = (q?.heads ?? 0) * (rotaryDim / 2) + 2 * kvHeads * (headDim / 2);
    const threads = this.#threads('rope_append', pairs, 256);
    return dispatch('rope_append', [Math.ceil(pairs / threads), tokens, 1], threads, {
      q: q === undefined ? any : this.#memory.activations[q.x]!,
      k: append === undefined ? any : this.#memory.activations[append.k]!,
      v: append === undefined ? any : this.#memory.activations[append.v]!,
      cosine: this.#memory.cosine,
      sine: this.#memory.sine,
      places: this.#memory.scratch.get('places')!,
      table: this.#memory.scratch.get('block table')!,
      cache: this.#memory.pool.buffer,
      a: {
        heads: q?.heads ?? 0,
        k_heads: append?.rotate ?? 0,
        append: append === undefined ? 0 : 1,
        head_dim: headDim,
        // Where nothing turns, neighbours are stored together.
        rotary_dim: q === undefined && !append?.rotate ? 0 : rotaryDim,
        q_stride: q === undefined ? 0 : this.#stride(q.x),
        k_stride: append === undefined ? 0 : this.#stride(append.k),
      },
      c: this.#cacheArgs(append?.layer ?? 0),
    });
  }

  #exactAttention(run: Run & { run: 'attention' }, shape: Shape, window: number): Dispatch[] {
    const { heads, kvHeads, headDim } = run;
    const { tokens, splits } = shape;
    const cache = {
      cache: this.#memory.pool.buffer,
      places: this.#memory.scratch.get('places')!,
      table: this.#memory.scratch.get('block table')!,
    };
    const { places } = cache;
    const q = this.#memory.activations[run.q]!;
    const out = this.#memory.activations[run.out]!;
    const shared =
      (window === 0 || window > ATTENTION_SPLIT) &&
      sharedAttention(this.#program, shape, this.#shareFrom) !== undefined;
    const a = {
      group_heads: heads / kvHeads,
      scale: run.scale,
      q_stride: this.#stride(run.q),
      out_stride: this.#stride(run.out),
      held: this.#heldScores,
      window,
      splits: shared ? splits : 1,
    };
    const c = this.#cacheArgs(run.layer);
    if (!shared) {
      // Blocks of a long context side by side.
      const threads = this.#threads('attention_exact', Math.min(256 * splits, 1024));
      return [dispatch('attention_exact', [heads, tokens, 1], threads, { q, ...cache, out, a, c })];
    }
    const scores = this.#memory.scratch.get('attention scores')!;
    const stats = this.#memory.scratch.get('attention statistics')!;
    const parts = this.#memory.scratch.get('attention partials')!;
    const grid = [splits, heads, tokens] as const;
    const [first, second, last] = ['attention_exact_scores', 'attention_exact_blocks', 'attention_exact_join'] as const;
    return [
      dispatch(first, grid, this.#threads(first, 256), { q, ...cache, scores, stats, a, c }),
      dispatch(second, grid, this.#threads(second, 256), { scores, stats, ...cache, parts, a, c }),
      dispatch(last, [heads, tokens, 1], this.#threads(last, headDim), { parts, stats, places, out, a, c }),
    ];
  }

  #attention(run: Run & { run: 'attention' }, shape: Shape): Dispatch[] {
    const { tokens, splits } = shape;
    const { heads, kvHeads, headDim } = run;
    const groupHeads = heads / kvHeads;
    const window = this.#program.kv.windows?.[run.layer] ?? 0;
    if (run.exact) return this.#exactAttention(run, shape, window);
    const wide = headDim > 128;
    const tile = wide ? 1 : groupHeads % 4 === 0 ? 4 : groupHeads % 2 === 0 ? 2 : 1;
    const kernel = wide ? 'attention_wide' : (`attention_h${tile}` as 'attention_h1' | 'attention_h2' | 'attention_h4');
    let lanes = 1;
    while (lanes < 32 && lanes * 4 < headDim) lanes *= 2;
    const a: StructValues<'AttentionArgs'> = {
      group_heads: groupHeads,
      split: ATTENTION_SPLIT,
      splits,
      lanes,
      scale: run.scale,
      q_stride: this.#stride(run.q),
      out_stride: this.#stride(run.out),
      window,
    };
    const c = this.#cacheArgs(run.layer);
    const places = this.#memory.scratch.get('places')!;
    const out = this.#memory.activations[run.out]!;
    const partials = this.#memory.scratch.get('attention partials')!;
    const statistics = this.#memory.scratch.get('attention statistics')!;
    const first = dispatch(
      kernel,
      [splits, kvHeads * (groupHeads / tile), tokens],
      this.#threads(kernel, wide ? 128 : 256),
      {
        q: this.#memory.activations[run.q]!,
        cache: this.#memory.pool.buffer,
        places,
        table: this.#memory.scratch.get('block table')!,
        out,
        partials,
        partial_stats: statistics,
        a,
        c,
      },
    );
    if (splits === 1) return [first];
    const merge = dispatch('attention_merge', [heads, tokens, 1], this.#threads('attention_merge', headDim / 4), {
      partials,
      partial_stats: statistics,
      places,
      out,
      a,
      c,
    });
    return [first, merge];
  }

  #dense(run: Run & { run: 'dense' }, shape: Shape): Dispatch {
    const weight = this.#program.weights[run.weight]!;
    if (weight.kind !== 'dense') throw wrongKind(weight, 'dense');
    const { buffer, stride } = this.#memory.weights[run.weight]!;
    const tokens = rowsOf(this.#program, run.x, shape);
    if (run.exact) {
      const threads = this.#threads('dense_exact', 256);
      return dispatch('dense_exact', [Math.ceil((weight.rows * 16) / threads), tokens, 1], threads, {
        w: buffer,
        x: this.#memory.activations[run.x]!,
        out: this.#memory.activations[run.out]!,
        a: {
          rows: weight.rows,
          columns: weight.columns,
          stride,
          type: DENSE_TYPES[weight.dtype],
          x_stride: this.#stride(run.x),
          out_stride: this.#stride(run.out),
        },
      });
    }
    const one = `dense_${weight.dtype}` as const;
    const kernel = tokens === 1 ? one : (`${one}_t4` as const);
    const threads = this.#threads(kernel, 128);
    const rowsPerGroup = (threads / 32) * 4;
    return dispatch(
      kernel,
      [Math.ceil(weight.rows / rowsPerGroup), tokens === 1 ? 1 : Math.ceil(tokens / 4), 1],
      threads,
      {
        w: buffer,
        x: this.#memory.activations[run.x]!,
        out: this.#memory.activations[run.out]!,
        a: {
          rows: weight.rows,
          groups: stride / (weight.dtype === 'f32' ? 4 : 8),
          tokens,
          x_stride4: this.#stride(run.x) / 4,
          out_stride: this.#stride(run.out),
        },
      },
    );
  }

  #int8(run: Run & { run: 'int8' }, shape: Shape): Dispatch {
    const weight = this.#program.weights[run.weight]!;
    if (weight.kind !== 'int8') throw wrongKind(weight, 'int8');
    const { buffer, scales, stride } = this.#memory.weights[run.weight]!;
    const tokens = rowsOf(this.#program, run.codes, shape);
    const kernel = tokens === 1 ? 'int8_gemv' : 'int8_gemv_t4';
    const threads = this.#threads(kernel, 128);
    const rowsPerGroup = (threads / 32) * 4;
    return dispatch(
      kernel,
      [Math.ceil(weight.rows / rowsPerGroup), tokens === 1 ? 1 : Math.ceil(tokens / 4), 1],
      threads,
      {
        w: buffer,
        row_scale: scales!,
        codes: this.#memory.activations[run.codes]!,
        scales: this.#memory.activations[run.scale]!,
        out: this.#memory.activations[run.out]!,
        a: {
          rows: weight.rows,
          groups: stride / 16,
          tokens,
          x_stride4: this.#stride(run.codes) / 4,
          out_stride: this.#stride(run.out),
        },
      },
    );
  }

  #hadamard(run: Run & { run: 'hadamard' }, shape: Shape): Dispatch {
    const { block, keyHeads, headDim } = run;
    const width = this.#width(run.x);
    const tile = Math.max(block, ROTATED_TILE);
    const grid = [Math.ceil(width / tile), rowsOf(this.#program, run.x, shape), 1] as const;
    return dispatch('hadamard_rows', grid, this.#threads('hadamard_rows', Math.min(tile, width) / 4, 256), {
      x: this.#memory.activations[run.x]!,
      signs: this.#memory.weights[run.signs]!.buffer,
      out: this.#memory.activations[run.out]!,
      a: {
        width,
        stride: this.#stride(run.x),
        block,
        tile,
        inverse: run.inverse ? 1 : 0,
        head_dim: keyHeads === 0 ? 0 : headDim,
        key_heads: keyHeads,
        repeats: keyHeads === 0 ? 0 : width / (keyHeads * headDim),
        factor: rotationFactor(block),
      },
    });
  }

  #split(run: Run & { run: 'split' }, shape: Shape): Dispatch {
    const width = 2 * run.heads * run.headDim;
    const threads = this.#threads('split_heads', width, 256);
    return dispatch('split_heads', [Math.ceil(width / threads), rowsOf(this.#program, run.x, shape), 1], threads, {
      x: this.#memory.activations[run.x]!,
      first: this.#memory.activations[run.first]!,
      second: this.#memory.activations[run.second]!,
      a: {
        width,
        head_dim: run.headDim,
        x_stride: this.#stride(run.x),
        first_stride: this.#stride(run.first),
        second_stride: this.#stride(run.second),
      },
    });
  }

  #lengths(run: Run & { run: 'lengths' }, shape: Shape): Dispatch {
    const first = run.parts[0]!;
    const second = run.parts[1] ?? { ...first, heads: 0 };
    const heads = first.heads + second.heads;
    const threads = this.#threads('l2_norm_heads', heads * 16, 256);
    const grid = [Math.ceil((heads * 16) / threads), rowsOf(this.#program, run.x, shape), 1] as const;
    return dispatch('l2_norm_heads', grid, threads, {
      x: this.#memory.activations[run.x]!,
      a: {
        stride: this.#stride(run.x),
        head_dim: run.headDim,
        eps: run.eps,
        heads0: first.heads,
        heads,
        offset0: first.offset,
        offset1: second.offset,
        scale0: first.scale,
        scale1: second.scale,
      },
    });
  }

  #conv(run: Run & { run: 'conv' }, { sequences }: Shape): Dispatch {
    const channels = this.#width(run.x);
    const threads = this.#threads('causal_conv', channels, 64);
    return dispatch('causal_conv', [Math.ceil(channels / threads), sequences, 1], threads, {
      x: this.#memory.activations[run.x]!,
      weight: this.#memory.weights[run.weight]!.buffer,
      runs: this.#memory.scratch.get('runs')!,
      state: this.#memory.states.buffer,
      out: this.#memory.activations[run.out]!,
      a: {
        channels,
        taps: run.taps,
        x_stride: this.#stride(run.x),
        out_stride: this.#stride(run.out),
        state_at: this.#memory.states.offsets[run.state]!,
      },
    });
  }

  #delta(run: Run & { run: 'delta' }, { sequences }: Shape): Dispatch {
    const { keyHeads, valueHeads, headDim } = run;
    // One simdgroup a threadgroup: a token has few heads, and their columns are all the work there is.
    const threads = this.#threads('gated_delta', 32);
    return dispatch('gated_delta', [Math.ceil(headDim / threads), valueHeads, sequences], threads, {
      x: this.#memory.activations[run.x]!,
      beta: this.#memory.activations[run.beta]!,
      alpha: this.#memory.activations[run.alpha]!,
      decay: this.#memory.weights[run.decay]!.buffer,
      bias: this.#memory.weights[run.bias]!.buffer,
      runs: this.#memory.scratch.get('runs')!,
      state: this.#memory.states.buffer,
      out: this.#memory.activations[run.out]!,
      a: {
        key_heads: keyHeads,
        value_heads: valueHeads,
        head_dim: headDim,
        tiled: run.order === 'tiled' ? 1 : 0,
        x_stride: this.#stride(run.x),
        gate_stride: this.#stride(run.beta),
        out_stride: this.#stride(run.out),
        state_at: this.#memory.states.offsets[run.state]!,
      },
    });
  }

  #route(run: Run & { run: 'route' }, { tokens }: Shape): Dispatch {
    return dispatch('route_experts', [tokens, 1, 1], 32, {
      x: this.#memory.activations[run.x]!,
      experts: this.#memory.activations[run.experts]!,
      shares: this.#memory.activations[run.weights]!,
      status: this.#memory.scratch.get('status')!,
      a: {
        width: this.#width(run.x),
        stride: this.#stride(run.x),
        choices: this.#program.choices ?? 0,
        experts_stride: this.#stride(run.experts),
        shares_stride: this.#stride(run.weights),
        least: run.least,
        status_at: run.index * this.#memory.statusRows,
      },
    });
  }

  #count(run: Run & { run: 'count' }, { tokens }: Shape): Dispatch {
    return dispatch('count_trits', [tokens, 1, 1], 32, {
      x: this.#memory.activations[run.x]!,
      counts: this.#memory.scratch.get('trit counts')!,
      a: {
        stride: this.#stride(run.x),
        width: this.#width(run.x),
        counts_at: run.index * 3,
        counts_stride: this.#program.tracePoints * 3,
      },
    });
  }

  #topDispatches({ outputs, top }: Shape): Dispatch[] {
    const { vocabSize, logits } = this.#program;
    const chunks = Math.ceil(vocabSize / TOP_CHUNK);
    const row = this.#memory.activations[logits]!;
    const candidates = this.#memory.scratch.get('top candidates')!;
    const values = this.#memory.scratch.get('top values')!;
    const a = { width: vocabSize, stride: this.#stride(logits), count: top, chunks, chunk: TOP_CHUNK };
    return [
      dispatch('top_chunk', [chunks, outputs, 1], this.#threads('top_chunk', 256), {
        logits: row,
        candidates,
        a,
      }),
      dispatch('top_merge', [1, outputs, 1], this.#threads('top_merge', 256), {
        candidates,
        out_values: values,
        out_ids: this.#memory.scratch.get('top ids')!,
        a,
      }),
      dispatch('top_mass', [chunks, outputs, 1], this.#threads('top_mass', 256), {
        logits: row,
        best: values,
        masses: this.#memory.scratch.get('top masses')!,
        a,
      }),
    ];
  }

  #threads(kernel: KernelName, wanted: number, most = 1024): number {
    return threadsFor(this.#gpu, kernel, wanted, most);
  }

  #width(buffer: BufferId): number {
    return this.#program.buffers[buffer]!.width;
  }

  #stride(buffer: BufferId): number {
    return padded(this.#width(buffer));
  }
}
