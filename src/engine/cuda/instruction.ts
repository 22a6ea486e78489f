// Instructions as kernels/cuda/instruction.cuh reads them: the same fields in the same order.

export const OPERATIONS = [
  'embed',
  'rows',
  'ternary',
  'grouped',
  'int8',
  'dense',
  'heads',
  'rope',
  'attend',
  'scores',
  'values',
  'select',
  'count',
  'topOfShares',
  'attendOne',
  'attendRows',
  'tellTop',
  'split',
  'conv',
  'lengths',
  'delta',
  'route',
  'sort',
  'experts',
  'addExperts',
  'denseSmall',
  'ready',
  'attendBatch',
  'segments',
  'round',
  'narrow',
  'attendSplit',
] as const;
export type Operation = (typeof OPERATIONS)[number];

export const SOURCES = ['plain', 'sum', 'relu2', 'silu', 'sigmoid', 'clampedSilu'] as const;
export type Source = (typeof SOURCES)[number];

export const ENDINGS = ['store', 'add', 'gate'] as const;
export const TYPES = ['f32', 'f16', 'bf16', 'group'] as const;

const WORDS = [
  ['op', 'u32'],
  ['rows', 'u32'],
  ['width', 'u32'],
  ['xStride', 'u32'],
  ['source', 'u32'],
  ['norm', 'u32'],
  ['keep', 'u32'],
  ['quantize', 'u32'],
  ['eps', 'f32'],
  ['limit', 'f32'],
  ['scale', 'f32'],
  ['status', 'u32'],
  ['codeStride', 'u32'],
  ['group', 'u32'],
  ['heads', 'u32'],
  ['kvHeads', 'u32'],
  ['headDim', 'u32'],
  ['layer', 'u32'],
  ['window', 'u32'],
  ['parts', 'u32'],
  ['ending', 'u32'],
  ['fused', 'u32'],
  ['gate', 'u32'],
  ['yStride', 'u32'],
  ['rotary', 'u32'],
  ['splits', 'u32'],
  ['outStride', 'u32'],
  ['type', 'u32'],
  ['turn', 'u32'],
  ['back', 'u32'],
  ['keyHeads', 'u32'],
  ['choices', 'u32'],
  ['items', 'u32'],
  ['cut', 'u32'],
  ['groups', 'u32'],
  ['chunk', 'u32'],
] as const;
const ADDRESSES = [
  'x',
  'y',
  'weight',
  'out',
  'codes',
  'scales',
  'cosine',
  'sine',
  'scratch',
  'failed',
  'weight2',
  'counters',
] as const;

/** Tiles of a product: of gate and up, which are taken together, one's. */
export const itemsOf = (matrices: readonly MatrixFields[], gate: boolean): number =>
  gate ? matrices[0]!.tiles : matrices.reduce((n, { tiles }) => n + tiles, 0);

/** A matrix of a product and where it goes; strides in bytes (weights) and floats (out). */
export type MatrixFields = {
  readonly weights: number;
  readonly scales: number;
  readonly out: number;
  readonly rows: number;
  readonly tiles: number;
  readonly stride: number;
  readonly outStride: number;
  readonly quads: number;
  readonly half: number;
  readonly scale: number;
};

type Numbers = Partial<Record<(typeof WORDS)[number][0] | (typeof ADDRESSES)[number], number>>;

export type Instruction = Omit<Numbers, 'op'> & {
  readonly op: Operation;
  readonly rows: number;
  readonly matrices?: readonly MatrixFields[];
};

/** The fields that have a value. */
export function defined<T extends object>(fields: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>;
  };
}

export const INSTRUCTION_BYTES = 464;
const MATRICES_AT = WORDS.length * 4 + ADDRESSES.length * 8;
const MATRIX_BYTES = 56;
export const MOST_MATRICES = 4;
/** What `first` is of a matrix that is not there. */
const NO_MATRIX = 0xffff_ffff;

export function writeInstructions(list: readonly Instruction[]): Uint8Array {
  const bytes = new Uint8Array(list.length * INSTRUCTION_BYTES);
  const view = new DataView(bytes.buffer);
  list.forEach((instruction, i) => {
    const at = i * INSTRUCTION_BYTES;
    const { matrices = [], ending = 0 } = instruction;
    const items = matrices.length > 0 ? itemsOf(matrices, ENDINGS[ending] === 'gate') : 0;
    const fields: Numbers = { ...instruction, op: OPERATIONS.indexOf(instruction.op), items };
    WORDS.forEach(([name, type], k) => {
      const value = fields[name] ?? 0;
      if (type === 'f32') view.setFloat32(at + 4 * k, value, true);
      else view.setUint32(at + 4 * k, value, true);
    });
    ADDRESSES.forEach((name, k) => {
      view.setBigUint64(at + 4 * WORDS.length + 8 * k, BigInt(fields[name] ?? 0), true);
    });
    let first = 0;
    for (let k = 0; k < MOST_MATRICES; k += 1) {
      view.setUint32(at + MATRICES_AT + k * MATRIX_BYTES + 52, k < matrices.length ? first : NO_MATRIX, true);
      first += matrices[k]?.tiles ?? 0;
    }
    matrices.forEach((matrix, k) => {
      const to = at + MATRICES_AT + k * MATRIX_BYTES;
      const { weights, scales, out, rows, tiles, stride, outStride, quads, half, scale } = matrix;
      [weights, scales, out].forEach((address, j) => {
        view.setBigUint64(to + 8 * j, BigInt(address), true);
      });
      [rows, tiles, stride, outStride, quads, half].forEach((word, j) => {
        view.setUint32(to + 24 + 4 * j, word, true);
      });
      view.setFloat32(to + 48, scale, true);
    });
  });
  return bytes;
}
