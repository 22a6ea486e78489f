// Weights stored in a rotated basis (Ternary Bonsai 2): W' = W H S, of which W' is ternary and W is not. A product is then
// W' H(s * x), with H a blockwise Walsh-Hadamard transform and s a vector of signs, and a row of the embedding is
// s * H(row). A contract of keys says which matrices; a wrong one gives noise without any error, so it is checked whole.
// Source: PrismML's `prism.hadamard.*`, versions 1 and 2.

export type Rotation = {
  /** Columns of a block of H; a power of two. */
  readonly block: number;
  /** Of an input of this width, each +1 or -1. */
  readonly signs: (width: number) => Float32Array;
  /** Matrices whose input is rotated, as the file names them. */
  readonly matrices: ReadonlySet<string>;
  /** Rows of the embedding are rotated back. */
  readonly embedding: boolean;
  /** Where a delta net's output is rotated, its heads come in key heads' order first. */
  readonly groupedColumns: boolean;
};

/** What the contract is held against. */
export type RotatedModel = {
  /** Of a matrix in the file; undefined for names that it does not have. */
  readonly columnsOf: (name: string) => number | undefined;
  readonly embedding: string;
  readonly head: string;
  /** The layer of a matrix that may be rotated; undefined for every other name. */
  readonly layerOfFoldable: (name: string) => number | undefined;
  /** Layers that are run: those behind them only draft tokens. */
  readonly layers: number;
  readonly hasDeltaNet: boolean;
};

type Fail = (what: string, fix: string) => never;

const TRANSFORM = 'normalized-sylvester-walsh-hadamard';
const AXIS = 'input-last-dimension';

const AGAIN = 'download the model again, or convert it with a converter that keeps its keys as they are';
const NEWER = 'look for a newer version of this program, or take another file of the model';

/**
 * The rotation that a contract describes. `keys`: by name within the contract; arrays are plain arrays. `nameOf`: as the
 * file spells a key. Throws by `fail`.
 */
export function readRotation(
  keys: ReadonlyMap<string, unknown>,
  nameOf: (key: string) => string,
  model: RotatedModel,
  refuse: Fail,
): Rotation {
  const fail = failOf(refuse);
  const contract = new Contract(keys, nameOf, fail);
  const version = contract.version();
  const tied = contract.flag('tied_output');
  if (tied !== (version === 2)) {
    fail(
      `${nameOf('version')} is ${version} and ${nameOf('tied_output')} is ${tied}`,
      `version 2 is for tied heads, 1 for others: ${AGAIN}`,
    );
  }
  contract.only('transform', [TRANSFORM]);
  contract.only('axis', [AXIS]);
  const mode = contract.only('sign_mode', ['identity', 'explicit']);
  const block = contract.block();
  const explicit = contract.signs(mode, block);

  const latent = contract.inverseNames(model.embedding);
  const hasHead = model.columnsOf(model.head) !== undefined;
  if (tied && (hasHead || !latent)) {
    fail(
      hasHead
        ? `${nameOf('tied_output')} is true and there is a "${model.head}" as well`
        : `${nameOf('tied_output')} is true and ${nameOf('inverse_weight_names')} does not name "${model.embedding}"`,
      AGAIN,
    );
  }
  if (!tied && latent && !hasHead) {
    fail(
      `${nameOf('version')} is 1, ${nameOf('inverse_weight_names')} names "${model.embedding}", and there is no "${model.head}": the head would read rotated rows`,
      AGAIN,
    );
  }
  const names = contract.weightNames(model, tied);
  const matrices = names.filter((name) => name === model.embedding || model.layerOfFoldable(name)! < model.layers);
  const rotated = new Set([...matrices, ...(tied ? [model.embedding] : [])]);

  for (const name of [...names, ...(latent ? [model.embedding] : [])]) {
    const width = model.columnsOf(name)!;
    if (width % block !== 0) {
      fail(`${nameOf('block_size')} is ${block}, and "${name}" has inputs of ${width}, no multiple of it`, AGAIN);
    }
    if (explicit !== undefined && !explicit.has(width)) {
      fail(`${nameOf('sign_widths')} has no ${width}, which is how wide the input of "${name}" is`, AGAIN);
    }
  }
  const groupedColumns = contract.flag('gdn_v_grouped');
  if (groupedColumns && !model.hasDeltaNet) {
    fail(`${nameOf('gdn_v_grouped')} is true in a graph without linear layers`, AGAIN);
  }
  const signs = (width: number) => explicit?.get(width) ?? new Float32Array(width).fill(1);
  return { block, signs, matrices: rotated, embedding: latent, groupedColumns };
}

/** Refuses a contract whose version is missing or unknown, by `refuse`. */
export function rotationVersion(
  keys: ReadonlyMap<string, unknown>,
  nameOf: (key: string) => string,
  refuse: Fail,
): 1 | 2 {
  return new Contract(keys, nameOf, failOf(refuse)).version();
}

const failOf =
  (refuse: Fail): Fail =>
  (what, fix) =>
    refuse(`this is a rotated model (Hadamard, as Ternary Bonsai 2), but ${what}`, fix);

/** Names of GGUF that may be rotated: the head's, and those of these matrices of a layer. */
const FOLDABLE =
  /^blk\.(\d+)\.(?:attn_(?:q|k|v|qkv|gate|output)|ffn_(?:gate|up|down)(?:_exps|_shexp)?|ffn_gate_up_exps|ssm_out)\.weight$/;

/** `layerOfFoldable` for GGUF's names; the head counts as layer -1. */
export function foldableInGguf(name: string): number | undefined {
  if (name === 'output.weight') return -1;
  const layer = FOLDABLE.exec(name)?.[1];
  return layer === undefined ? undefined : Number(layer);
}

/** Values of the contract by key, each of the type that it has to be. */
class Contract {
  readonly #keys: ReadonlyMap<string, unknown>;
  readonly #nameOf: (key: string) => string;
  readonly #fail: Fail;

  constructor(keys: ReadonlyMap<string, unknown>, nameOf: (key: string) => string, fail: Fail) {
    this.#keys = keys;
    this.#nameOf = nameOf;
    this.#fail = fail;
  }

  #refuse(key: string, what: string, fix = AGAIN): never {
    return this.#fail(`${this.#nameOf(key)} ${what}`, fix);
  }

  version(): 1 | 2 {
    const version = this.#keys.get('version');
    if (version === undefined) {
      const beside = this.#nameOf([...this.#keys.keys()][0]!);
      this.#refuse('version', `is missing beside ${beside}: without it nothing says how the weights are rotated`);
    }
    if (version === 1 || version === 2) return version;
    return this.#refuse('version', `is ${shown(version)}; 1 and 2 are known`, NEWER);
  }

  flag(key: string): boolean {
    const value = this.#keys.get(key) ?? false;
    return typeof value === 'boolean' ? value : this.#refuse(key, `is ${shown(value)}, expected true or false`);
  }

  only<T extends string>(key: string, known: readonly T[]): T {
    const value = this.#keys.get(key);
    const found = known.find((word) => word === value);
    return found ?? this.#refuse(key, `is ${shown(value)}; known: ${known.join(', ')}`, NEWER);
  }

  block(): number {
    const value = this.#keys.get('block_size');
    const isPower = typeof value === 'number' && Number.isInteger(value) && value > 1 && value <= 1 << 20;
    if (isPower && (value & (value - 1)) === 0) return value;
    return this.#refuse('block_size', `is ${shown(value)}, expected a power of two above 1`);
  }

  /** By width; undefined where all are +1. */
  signs(mode: 'identity' | 'explicit', block: number): ReadonlyMap<number, Float32Array> | undefined {
    const widths = this.#numbers('sign_widths');
    const values = this.#numbers('sign_values');
    const wrong = values.findIndex((value) => value !== 1 && value !== -1);
    if (wrong >= 0) this.#refuse('sign_values', `has ${values[wrong]} at ${wrong}, expected 1 or -1`);
    if (mode === 'identity') {
      if (!values.includes(-1)) return undefined;
      return this.#refuse('sign_mode', `is "identity", and ${this.#nameOf('sign_values')} has -1`);
    }
    if (widths.length === 0) this.#refuse('sign_widths', 'is missing or empty, and the signs are explicit');
    if (values.length === 0) this.#refuse('sign_values', 'is missing or empty, and the signs are explicit');
    const signs = new Map<number, Float32Array>();
    let at = 0;
    for (const width of widths) {
      if (!(Number.isInteger(width) && width > 0) || width % block !== 0) {
        this.#refuse('sign_widths', `has ${width}, no multiple of ${this.#nameOf('block_size')} (${block})`);
      }
      if (signs.has(width)) this.#refuse('sign_widths', `has ${width} twice`);
      signs.set(width, Float32Array.from(values.slice(at, at + width)));
      at += width;
    }
    if (at === values.length) return signs;
    return this.#refuse('sign_values', `has ${values.length} signs; ${this.#nameOf('sign_widths')} adds up to ${at}`);
  }

  /** Whether the embedding is listed. */
  inverseNames(embedding: string): boolean {
    const names = this.#strings('inverse_weight_names');
    const other = names.find((name) => name !== embedding);
    if (other !== undefined) this.#refuse('inverse_weight_names', `names "${other}"; only "${embedding}" can be`);
    if (names.length > 1) this.#refuse('inverse_weight_names', `names "${embedding}" twice`);
    return names.length === 1;
  }

  weightNames({ columnsOf, layerOfFoldable, embedding }: RotatedModel, tied: boolean): string[] {
    const names = this.#strings('weight_names');
    if (names.length === 0) this.#refuse('weight_names', 'is missing or empty: no matrix would be rotated');
    const seen = new Set<string>();
    for (const name of names) {
      if (seen.has(name)) this.#refuse('weight_names', `has "${name}" twice`);
      seen.add(name);
      // With a tied head, the embedding is also a matrix whose input is rotated.
      const isKnown = layerOfFoldable(name) !== undefined || (tied && name === embedding);
      if (!isKnown) this.#refuse('weight_names', `has "${name}", whose input is never rotated`);
      if (columnsOf(name) === undefined) this.#refuse('weight_names', `has "${name}", which the file does not hold`);
    }
    return names;
  }

  #numbers(key: string): number[] {
    const value = this.#keys.get(key) ?? [];
    if (Array.isArray(value) && value.every((n) => typeof n === 'number' || typeof n === 'bigint'))
      return value.map(Number);
    return this.#refuse(key, 'is no list of whole numbers');
  }

  #strings(key: string): string[] {
    const value = this.#keys.get(key) ?? [];
    if (Array.isArray(value) && value.every((name) => typeof name === 'string')) return value;
    return this.#refuse(key, 'is no list of names');
  }
}

const shown = (value: unknown): string =>
  value === undefined ? 'missing' : typeof value === 'string' ? `"${value.slice(0, 80)}"` : String(value).slice(0, 80);
