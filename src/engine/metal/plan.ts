// From the recorded program to fused kernel runs. A dispatch costs microseconds on the GPU whatever it does, and every
// buffer that is written only to be read once costs bandwidth, so neighbouring operations are joined where one of the
// fused kernels fits. Pure: no sizes of a step, no GPU; `encode.ts` turns runs into dispatches.
//
// A BitNet layer becomes 10 runs:
//   [add +] norm + quantize · q, k, v · rope + append · attention · norm + quantize · o
//   add + norm + quantize · gate, up · activation + norm + quantize · down
// A program with group-scaled matrices is to have the reference's bits, so its float sums keep the reference's order: other
// kernels (exact.metal, grouped.metal), of which one takes every chain between two products. A Qwen3 layer becomes 11 runs:
//   [add +] norm + quantize · q, k, v · head norms · rope + append · attention · quantize · o
//   add + norm + quantize · gate, up · activation + quantize · down
// A rotation (hadamard) joins the chain before the rounding that reads it, and moves heads on the way. What else hybrid and
// mixture models add (hybrid.metal) is one run each. A rotated layer of Qwen3.5 with the delta rule becomes 14 runs:
//   [add +] norm + rotate + quantize · qkv, z · beta · alpha · convolution · q and k to length 1 · delta rule · head norms ·
//   gate + rotate + quantize · o · add + norm + rotate + quantize · gate, up · activation + rotate + quantize · down

import { uses } from '../gpu/operands.ts';
import type { BufferId, Op, Program, WeightId } from '../program.ts';
import { MetalUnsupportedError } from './addon.ts';

type Quantize = {
  readonly codes: BufferId;
  readonly scale: BufferId;
  readonly label: string;
  /** Which quantization of the program this is, from 0: where it reports NaN. */
  readonly index: number;
};

/** Blocks that are transformed together, after heads of headDim elements moved where keyHeads > 0. */
type Rotation = {
  readonly signs: WeightId;
  readonly block: number;
  readonly keyHeads: number;
  readonly headDim: number;
};

type Norm = { readonly weight: WeightId; readonly eps: number };

/** x; x += y; f(x) * y; x += the experts' sum. Numbered as exact.metal numbers them. */
export const CHAIN_SOURCES = ['x', 'sum', 'relu2', 'silu', 'sigmoid', 'clampedSilu', 'experts'] as const;
type ChainSource = (typeof CHAIN_SOURCES)[number];

export type Run =
  | { readonly run: 'embed'; readonly table: WeightId; readonly out: BufferId }
  | {
      readonly run: 'rows';
      readonly kernel:
        | 'quantize_rows'
        | 'norm_rows'
        | 'norm_quantize'
        | 'add_norm_quantize'
        | 'relu2_norm_quantize'
        | 'silu_norm_quantize'
        | 'silu_quantize'
        | 'add_rows'
        | 'relu2_rows'
        | 'silu_rows'
        | 'chain_rows';
      /** Of `chain_rows`: what the row is made of. */
      readonly source?: ChainSource;
      /** Of `clampedSilu`. */
      readonly limit?: number;
      /** Of `experts`: the weights of y's rows. */
      readonly mix?: BufferId;
      /** The row that is read; the gate of an activation; the sum of an addition. */
      readonly x: BufferId;
      /** The addend, or the up projection. */
      readonly y?: BufferId;
      readonly norm?: Norm;
      /** The normed or gated row, where it is stored. */
      readonly out?: BufferId;
      /** Between the norm and the rounding; nothing else reads its result. */
      readonly rotate?: Rotation;
      readonly quantize?: Quantize;
    }
  | {
      /** One or two buffers, their heads normed by a vector each. */
      readonly run: 'heads';
      readonly headDim: number;
      readonly eps: number;
      readonly parts: readonly {
        readonly x: BufferId;
        readonly weight: WeightId;
        readonly heads: number;
        readonly out: BufferId;
      }[];
    }
  | {
      /** Matrices of one group size. */
      readonly run: 'grouped';
      readonly codes: BufferId;
      readonly scale: BufferId;
      /** One to three. */
      readonly matrices: readonly { readonly weight: WeightId; readonly out: BufferId }[];
    }
  | {
      readonly run: 'ternary';
      readonly codes: BufferId;
      readonly scale: BufferId;
      /** One to three. */
      readonly matrices: readonly { readonly weight: WeightId; readonly out: BufferId }[];
    }
  | {
      readonly run: 'rope';
      readonly headDim: number;
      readonly q?: { readonly x: BufferId; readonly heads: number };
      /** `rotate`: heads to rotate before k is stored; 0 when it was rotated before or never. */
      readonly append?: {
        readonly layer: number;
        readonly k: BufferId;
        readonly v: BufferId;
        readonly rotate: number;
      };
    }
  | {
      readonly run: 'attention';
      readonly layer: number;
      readonly q: BufferId;
      readonly out: BufferId;
      readonly heads: number;
      readonly kvHeads: number;
      readonly headDim: number;
      readonly scale: number;
      readonly exact: boolean;
    }
  | { readonly run: 'select'; readonly x: BufferId; readonly y?: BufferId; readonly out: BufferId }
  | {
      readonly run: 'dense';
      readonly x: BufferId;
      readonly weight: WeightId;
      readonly out: BufferId;
      readonly exact: boolean;
    }
  | {
      readonly run: 'int8';
      readonly codes: BufferId;
      readonly scale: BufferId;
      readonly weight: WeightId;
      readonly out: BufferId;
    }
  | (Rotation & { readonly run: 'hadamard'; readonly x: BufferId; readonly inverse: boolean; readonly out: BufferId })
  | {
      readonly run: 'split';
      readonly x: BufferId;
      readonly first: BufferId;
      readonly second: BufferId;
      readonly heads: number;
      readonly headDim: number;
    }
  | {
      /** One or two ranges of columns of a buffer, their heads made of a length. */
      readonly run: 'lengths';
      readonly x: BufferId;
      readonly headDim: number;
      readonly eps: number;
      readonly parts: readonly { readonly offset: number; readonly heads: number; readonly scale: number }[];
    }
  | (Omit<Op & { op: 'causalConv' }, 'op'> & { readonly run: 'conv' })
  | (Omit<Op & { op: 'gatedDelta' }, 'op'> & { readonly run: 'delta' })
  | {
      readonly run: 'route';
      readonly x: BufferId;
      readonly experts: BufferId;
      readonly weights: BufferId;
      readonly least: number;
      /** As that of a quantization: where it reports NaN. */
      readonly index: number;
    }
  | {
      /** Matrices of one group size, chosen per row of the output. */
      readonly run: 'experts';
      readonly codes: BufferId;
      readonly scale: BufferId;
      readonly experts: BufferId;
      /** One to three. */
      readonly matrices: readonly { readonly weight: WeightId; readonly out: BufferId }[];
    }
  | { readonly run: 'count'; readonly x: BufferId; readonly index: number };

export type Plan = {
  readonly runs: readonly Run[];
  /** Labels of the operations that report NaN, by their index. */
  readonly labels: readonly string[];
  /** Buffers that hold a quantization's scale: (scale, sum of codes) per row, or the scale of int16 codes alone. */
  readonly scales: ReadonlySet<BufferId>;
};

/** Must the program's logits equal the reference's bit for bit? */
export function isExact(program: Program): boolean {
  return program.weights.some(({ kind }) => kind === 'grouped') || program.ops.some(({ op }) => op === 'quantize16');
}

/** `traced`: keep the `countTrits` operations; without them more can be joined. */
export function planProgram(program: Program, { traced }: { readonly traced: boolean }): Plan {
  const ops = program.ops.filter((op) => traced || op.op !== 'countTrits');
  const runs: Run[] = [];
  const labels: string[] = [];
  const scales = new Set<BufferId>();
  const exact = isExact(program);

  /** Does anything from ops[from] on read what the buffer holds now? */
  const isLive = (buffer: BufferId, from: number): boolean => {
    for (let i = from; i < ops.length; i += 1) {
      const { reads, writes } = uses(ops[i]!);
      if (reads.includes(buffer)) return true;
      if (writes.includes(buffer)) return false;
    }
    return buffer === program.logits;
  };
  const indexOf = (label: string) => labels.push(label) - 1;
  const quantizeOf = (op: Op & { op: 'quantize' | 'quantize16' }): Quantize => {
    scales.add(op.scale);
    return { codes: op.codes, scale: op.scale, label: op.label, index: indexOf(op.label) };
  };
  const at = <K extends Op['op']>(i: number, kind: K): (Op & { op: K }) | undefined => {
    const op = ops[i];
    return op?.op === kind ? (op as Op & { op: K }) : undefined;
  };
  const groupOf = (weight: WeightId) => {
    const found = program.weights[weight]!;
    return found.kind === 'grouped' ? found.group : undefined;
  };
  /** `out` of a fused run: stored only if someone still reads it. */
  const kept = (out: BufferId, from: number) => (isLive(out, from) ? { out } : {});

  /** The rotation at ops[i] of `row` and the rounding that alone reads it. */
  const rotationAt = (i: number, row: BufferId, normed: boolean): (Op & { op: 'hadamard' }) | undefined => {
    const rotation = at(i, 'hadamard');
    if (rotation?.x !== row || rotation.direction !== 'forward') return undefined;
    if (at(i + 1, 'quantize16')?.x !== rotation.out || isLive(rotation.out, i + 2)) return undefined;
    // Moved heads are loaded where they go, in whole vectors; a norm adds up the row in its own order.
    if (rotation.keyHeads > 0 && (normed || rotation.headDim % 4 !== 0)) return undefined;
    return rotation;
  };

  /** [sum or gate], [norm], [rotation], [quantize16] from ops[i] on as one run; undefined where ops[i] starts no such chain. */
  const chainAt = (i: number): { readonly run: Run; readonly length: number } | undefined => {
    const op = ops[i]!;
    let source: ChainSource = 'x';
    let row: BufferId;
    let next = i;
    if (op.op === 'add' || op.op === 'addExperts') {
      [source, row, next] = [op.op === 'add' ? 'sum' : 'experts', op.x, i + 1];
    } else if (op.op === 'gatedActivation') {
      [source, row, next] = [op.fn, op.out, i + 1];
    } else if (op.op === 'rmsNorm' || op.op === 'quantize16') {
      row = op.x;
    } else if (op.op === 'hadamard' && rotationAt(i, op.x, false) !== undefined) {
      row = op.x;
    } else {
      return undefined;
    }
    /** Is the row in registers only? Sums are stored by the kernel itself. */
    let hidden = op.op === 'gatedActivation';
    const sum = source === 'sum' || source === 'experts';
    const norm = at(next, 'rmsNorm');
    // Nothing may want the sum or the gated row that a norm in place or in registers would hide.
    const fits =
      norm?.x === row && (source === 'x' || (sum ? norm.out !== row : norm.out === row || !isLive(row, next + 1)));
    if (norm !== undefined && fits) {
      row = norm.out;
      hidden = true;
      next += 1;
    }
    const rotation = rotationAt(next, row, fits);
    if (rotation !== undefined) next += 1;
    const quantize = at(next, 'quantize16');
    const quantized = quantize?.x === (rotation?.out ?? row) ? quantize : undefined;
    if (quantized !== undefined) next += 1;
    const stored = hidden && (quantized === undefined || isLive(row, next));
    const { signs = 0, block = 0, keyHeads = 0, headDim = 0 } = rotation ?? {};
    return {
      run: {
        run: 'rows',
        kernel: 'chain_rows',
        source,
        x: op.op === 'gatedActivation' ? op.gate : op.x,
        ...(op.op === 'gatedActivation' ? { y: op.up, limit: op.limit ?? Infinity } : {}),
        ...(op.op === 'add' || op.op === 'addExperts' ? { y: op.y } : {}),
        ...(op.op === 'addExperts' ? { mix: op.weights } : {}),
        ...(fits ? { norm: { weight: norm!.weight, eps: norm!.eps } } : {}),
        ...(stored ? { out: row } : {}),
        ...(rotation === undefined ? {} : { rotate: { signs, block, keyHeads, headDim } }),
        ...(quantized === undefined ? {} : { quantize: quantizeOf(quantized) }),
      },
      length: next - i,
    };
  };

  let i = 0;
  while (i < ops.length) {
    const op = ops[i]!;
    // A sum that is only selected from is left to the case below.
    const selected = op.op === 'add' && at(i + 1, 'selectOutputs') !== undefined;
    // The newer gates and the experts' sum have no other kernel.
    const only = op.op === 'addExperts' || (op.op === 'gatedActivation' && op.fn !== 'relu2' && op.fn !== 'silu');
    const chain = only || (exact && !selected) ? chainAt(i) : undefined;
    if (chain !== undefined) {
      runs.push(chain.run);
      i += chain.length;
      continue;
    }
    switch (op.op) {
      case 'embed':
      case 'embedGrouped':
        runs.push({ run: 'embed', table: op.table, out: op.out });
        i += 1;
        break;

      case 'add': {
        const norm = at(i + 1, 'rmsNorm');
        const quantize = at(i + 2, 'quantize');
        const select = at(i + 1, 'selectOutputs');
        if (norm?.x === op.x && norm.out !== op.x && quantize !== undefined && quantize.x === norm.out) {
          runs.push({
            run: 'rows',
            kernel: 'add_norm_quantize',
            x: op.x,
            y: op.y,
            norm: { weight: norm.weight, eps: norm.eps },
            ...kept(norm.out, i + 3),
            quantize: quantizeOf(quantize),
          });
          i += 3;
        } else if (select?.x === op.x && !isLive(op.x, i + 2)) {
          runs.push({ run: 'select', x: op.x, y: op.y, out: select.out });
          i += 2;
        } else {
          runs.push({ run: 'rows', kernel: 'add_rows', x: op.x, y: op.y });
          i += 1;
        }
        break;
      }

      case 'gatedActivation': {
        const norm = at(i + 1, 'rmsNorm');
        const quantize = at(i + (norm === undefined ? 1 : 2), 'quantize');
        // The gated row exists in registers only, so nothing else may want it.
        const hidden = norm !== undefined && (norm.out === op.out || !isLive(op.out, i + 2));
        if (norm?.x === op.out && quantize !== undefined && quantize.x === norm.out && hidden) {
          runs.push({
            run: 'rows',
            kernel: op.fn === 'relu2' ? 'relu2_norm_quantize' : 'silu_norm_quantize',
            x: op.gate,
            y: op.up,
            norm: { weight: norm.weight, eps: norm.eps },
            ...kept(norm.out, i + 3),
            quantize: quantizeOf(quantize),
          });
          i += 3;
        } else if (op.fn === 'silu' && norm === undefined && quantize?.x === op.out) {
          runs.push({
            run: 'rows',
            kernel: 'silu_quantize',
            x: op.gate,
            y: op.up,
            ...kept(op.out, i + 2),
            quantize: quantizeOf(quantize),
          });
          i += 2;
        } else {
          runs.push({
            run: 'rows',
            kernel: op.fn === 'relu2' ? 'relu2_rows' : 'silu_rows',
            x: op.gate,
            y: op.up,
            out: op.out,
          });
          i += 1;
        }
        break;
      }

      case 'rmsNormHeads': {
        const { headDim, eps } = op;
        const part = ({ x, weight, heads, out }: typeof op) => ({ x, weight, heads, out });
        const second = at(i + 1, 'rmsNormHeads');
        const parts = [part(op)];
        if (
          second?.headDim === headDim &&
          second.eps === eps &&
          program.buffers[second.x]!.rows === program.buffers[op.x]!.rows &&
          second.x !== op.out &&
          second.out !== op.out &&
          second.out !== op.x
        ) {
          parts.push(part(second));
        }
        runs.push({ run: 'heads', headDim, eps, parts });
        i += parts.length;
        break;
      }

      case 'groupedMatmul': {
        const matrices = [{ weight: op.weight, out: op.out }];
        i += 1;
        for (let next = at(i, 'groupedMatmul'); matrices.length < 3; next = at(i, 'groupedMatmul')) {
          if (next?.codes !== op.codes || next.scale !== op.scale) break;
          if (groupOf(next.weight) !== groupOf(op.weight)) break;
          if (matrices.some(({ out }) => out === next.out)) break;
          matrices.push({ weight: next.weight, out: next.out });
          i += 1;
        }
        runs.push({ run: 'grouped', codes: op.codes, scale: op.scale, matrices });
        break;
      }

      case 'rmsNorm': {
        const quantize = at(i + 1, 'quantize');
        const norm = { weight: op.weight, eps: op.eps };
        if (quantize?.x === op.out) {
          const out = kept(op.out, i + 2);
          runs.push({ run: 'rows', kernel: 'norm_quantize', x: op.x, norm, ...out, quantize: quantizeOf(quantize) });
          i += 2;
        } else {
          runs.push({ run: 'rows', kernel: 'norm_rows', x: op.x, norm, out: op.out });
          i += 1;
        }
        break;
      }

      case 'quantize':
        runs.push({ run: 'rows', kernel: 'quantize_rows', x: op.x, quantize: quantizeOf(op) });
        i += 1;
        break;

      case 'ternaryMatmul': {
        const matrices = [{ weight: op.weight, out: op.out }];
        i += 1;
        for (let next = at(i, 'ternaryMatmul'); matrices.length < 3; next = at(i, 'ternaryMatmul')) {
          if (next?.codes !== op.codes || next.scale !== op.scale) break;
          if (matrices.some(({ out }) => out === next.out)) break;
          matrices.push({ weight: next.weight, out: next.out });
          i += 1;
        }
        runs.push({ run: 'ternary', codes: op.codes, scale: op.scale, matrices });
        break;
      }

      case 'rope': {
        const { headDim } = op;
        const second = at(i + 1, 'rope');
        const append = at(i + (second === undefined ? 1 : 2), 'kvAppend');
        const ropes = second === undefined ? [op] : [op, second];
        const ofK = ropes.find(({ x }) => x === append?.k);
        const ofQ = ropes.find(({ x }) => x !== append?.k);
        const fits = ofK !== undefined && ropes.length === (ofQ === undefined ? 1 : 2);
        if (append !== undefined && fits && ropes.every((rope) => rope.headDim === program.kv.headDim)) {
          runs.push({
            run: 'rope',
            headDim,
            ...(ofQ === undefined ? {} : { q: { x: ofQ.x, heads: ofQ.heads } }),
            append: { layer: append.layer, k: append.k, v: append.v, rotate: ofK.heads },
          });
          i += ropes.length + 1;
        } else {
          runs.push({ run: 'rope', headDim, q: { x: op.x, heads: op.heads } });
          i += 1;
        }
        break;
      }

      case 'kvAppend':
        runs.push({
          run: 'rope',
          headDim: program.kv.headDim,
          append: { layer: op.layer, k: op.k, v: op.v, rotate: 0 },
        });
        i += 1;
        break;

      case 'attention': {
        const { op: _, ...attention } = op;
        runs.push({ run: 'attention', ...attention, exact });
        i += 1;
        break;
      }
      case 'selectOutputs':
        runs.push({ run: 'select', x: op.x, out: op.out });
        i += 1;
        break;
      case 'denseMatmul':
        runs.push({ run: 'dense', x: op.x, weight: op.weight, out: op.out, exact });
        i += 1;
        break;
      case 'int8Matmul':
        runs.push({ run: 'int8', codes: op.codes, scale: op.scale, weight: op.weight, out: op.out });
        i += 1;
        break;
      case 'countTrits':
        runs.push({ run: 'count', x: op.x, index: op.index });
        i += 1;
        break;

      case 'hadamard': {
        const { x, signs, block, keyHeads, headDim, out, direction } = op;
        runs.push({ run: 'hadamard', x, signs, block, keyHeads, headDim, out, inverse: direction === 'inverse' });
        i += 1;
        break;
      }

      case 'splitHeads': {
        const { op: _, ...split } = op;
        runs.push({ run: 'split', ...split });
        i += 1;
        break;
      }

      case 'l2NormHeads': {
        const { x, headDim, eps } = op;
        const part = ({ offset, heads, scale }: typeof op) => ({ offset, heads, scale });
        const endOf = ({ offset, heads }: typeof op) => offset + heads * headDim;
        const second = at(i + 1, 'l2NormHeads');
        const parts = [part(op)];
        if (
          second?.x === x &&
          second.headDim === headDim &&
          second.eps === eps &&
          (second.offset >= endOf(op) || endOf(second) <= op.offset)
        ) {
          parts.push(part(second));
        }
        runs.push({ run: 'lengths', x, headDim, eps, parts });
        i += parts.length;
        break;
      }

      case 'causalConv': {
        const { op: _, ...conv } = op;
        runs.push({ run: 'conv', ...conv });
        i += 1;
        break;
      }

      case 'gatedDelta': {
        const { op: _, ...delta } = op;
        runs.push({ run: 'delta', ...delta });
        i += 1;
        break;
      }

      case 'routeExperts': {
        const { x, experts, weights, least, label } = op;
        runs.push({ run: 'route', x, experts, weights, least, index: indexOf(label) });
        i += 1;
        break;
      }

      case 'expertMatmul': {
        const { codes, scale, experts } = op;
        const matrices = [{ weight: op.weight, out: op.out }];
        i += 1;
        for (let next = at(i, 'expertMatmul'); matrices.length < 3; next = at(i, 'expertMatmul')) {
          if (next?.codes !== codes || next.scale !== scale || next.experts !== experts) break;
          if (groupOf(next.weight) !== groupOf(op.weight)) break;
          if (matrices.some(({ out }) => out === next.out)) break;
          matrices.push({ weight: next.weight, out: next.out });
          i += 1;
        }
        runs.push({ run: 'experts', codes, scale, experts, matrices });
        break;
      }

      default:
        // addExperts is always a chain; anything else was refused by `checkProgram`.
        throw new TypeError(`operation ${op.op} has no kernel`);
    }
  }
  return { runs, labels, scales };
}

/** The bounds that keep sums exact in float32 and registers in reach; see the kernels. */
export const LIMITS = {
  /** Sums of codes 0..2 times int8: 2 * 128 * columns < 2^24. */
  ternaryColumns: 65535,
  /** A lane's sum of int8 times int8: 128 * 127 * columns / 32 < 2^24. */
  int8Columns: 32768,
  headDim: 256,
  /** Elements of a row that 1024 threads hold. */
  rowWidth: 32768,
  /** Elements of a rotation's block that threadgroup memory holds: TILE_ELEMENTS of exact.metal. */
  hadamardBlock: 4096,
  /** Elements that a 32-bit index reaches. */
  elements: 2 ** 32 - 1,
} as const;

/** Operations with kernels; a program with any other is refused. */
const KNOWN: ReadonlySet<string> = new Set<Op['op']>([
  'embed',
  'embedGrouped',
  'rmsNorm',
  'rmsNormHeads',
  'quantize',
  'quantize16',
  'groupedMatmul',
  'ternaryMatmul',
  'rope',
  'kvAppend',
  'attention',
  'gatedActivation',
  'add',
  'selectOutputs',
  'denseMatmul',
  'int8Matmul',
  'hadamard',
  'splitHeads',
  'causalConv',
  'l2NormHeads',
  'gatedDelta',
  'routeExperts',
  'expertMatmul',
  'addExperts',
  'countTrits',
]);

/** Does the program need what group-scaled transformers do not: states, windows, rotations, experts? */
export function isHybrid(program: Program): boolean {
  const { kv, rope, recurrent = [], choices = 0, ops } = program;
  if (recurrent.length > 0 || choices > 0 || kv.windows?.some((window) => window > 0)) return true;
  if (rope.rotaryDim !== kv.headDim) return true;
  return ops.some(
    (op) =>
      ['hadamard', 'splitHeads', 'l2NormHeads'].includes(op.op) ||
      (op.op === 'gatedActivation' && (op.fn === 'sigmoid' || op.fn === 'clampedSilu')),
  );
}

/** Throws `MetalUnsupportedError` for a program outside `LIMITS`. */
export function checkProgram(program: Program): void {
  const refuse = (what: string, where: string): never => {
    throw new MetalUnsupportedError(what, `${program.name}, ${where}`);
  };
  for (const { op } of program.ops) {
    if (!KNOWN.has(op)) refuse(`there is no Metal kernel for ${op}`, op);
  }
  for (const weight of program.weights) {
    if (weight.kind === 'vector') continue;
    const { kind, name, rows, columns } = weight;
    const most = kind === 'ternary' ? LIMITS.ternaryColumns : kind === 'int8' ? LIMITS.int8Columns : LIMITS.rowWidth;
    if (columns > most) refuse(`${columns} columns, the Metal kernels take ${kind} matrices of up to ${most}`, name);
    if (kind === 'grouped') {
      if (weight.group % 4 !== 0 && weight.group !== columns) {
        refuse(`groups of ${weight.group} columns, the Metal kernels take multiples of 4 or whole rows`, name);
      }
      // Read by words of 16 codes.
      const words = (weight.experts ?? 1) * Math.ceil(rows / 64) * Math.ceil(columns / 4) * 16;
      if (words > LIMITS.elements) refuse(`${words} words are more than a 32-bit index reaches`, name);
      continue;
    }
    const elements = Math.ceil(columns / 16) * 16 * rows;
    if (elements > LIMITS.elements) refuse(`${elements} elements are more than a 32-bit index reaches`, name);
  }
  program.buffers.forEach(({ name, width }, id) => {
    if (id !== program.logits && width > LIMITS.rowWidth)
      refuse(`rows of ${width}, the limit is ${LIMITS.rowWidth}`, name);
  });
  const { headDim } = program.kv;
  if (headDim % 2 !== 0 || headDim > LIMITS.headDim) {
    refuse(`heads of ${headDim} elements, the Metal kernels take even numbers up to ${LIMITS.headDim}`, 'attention');
  }
  for (const op of program.ops) checkOperation(program, op, refuse);
}

function checkOperation(program: Program, op: Op, refuse: (what: string, where: string) => never): void {
  /** The reference reckons with the number as it is; a kernel is given a float32. */
  const float32 = (name: string, value: number) => {
    if (Math.fround(value) !== value) refuse(`${name} ${value} is no float32`, op.op);
  };
  switch (op.op) {
    case 'attention':
      if (op.heads % op.kvHeads !== 0) refuse(`${op.heads} heads, ${op.kvHeads} kv heads`, 'attention');
      break;
    case 'rope': {
      const { rotaryDim } = program.rope;
      if (rotaryDim % 2 !== 0 || rotaryDim < 2 || rotaryDim > op.headDim)
        refuse(`${rotaryDim} elements turn of heads of ${op.headDim}`, 'rope');
      break;
    }
    case 'gatedActivation':
      if (!(CHAIN_SOURCES as readonly string[]).includes(op.fn)) refuse(`there is no Metal kernel for ${op.fn}`, op.op);
      if (op.limit !== undefined) float32('limit', op.limit);
      break;
    case 'hadamard': {
      const { block, keyHeads, direction } = op;
      const { width } = program.buffers[op.x]!;
      if (block < 2 || block > LIMITS.hadamardBlock || (block & (block - 1)) !== 0 || width % block !== 0) {
        const what = `blocks of ${block} in rows of ${width}`;
        refuse(
          `${what}, the Metal kernels take powers of two up to ${LIMITS.hadamardBlock} that divide the row`,
          op.op,
        );
      }
      if (keyHeads > 0 && (direction === 'inverse' || op.x === op.out || width % (keyHeads * op.headDim) !== 0))
        refuse('heads move, which is for whole heads, forward and into another buffer', op.op);
      break;
    }
    case 'l2NormHeads':
      float32('eps', op.eps);
      float32('scale', op.scale);
      break;
    case 'routeExperts': {
      float32('least', op.least);
      const { width } = program.buffers[op.x]!;
      if ((program.choices ?? 0) > width) refuse(`${program.choices} choices of ${width} experts`, op.op);
      break;
    }
  }
}
