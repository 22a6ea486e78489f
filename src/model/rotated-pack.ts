// The contract of a rotated MLX pack: hadamard.json beside its config, and a vector of signs beside each matrix, which must
// say the same. Its heads lie in key heads' order everywhere, so none are moved. The pack brings code along; nobody runs it.

import { join } from 'node:path';
import type { Checkpoint } from '../formats/checkpoint.ts';
import { readSmallFileSync } from '../formats/read-small-file.ts';
import { JsonError, parseJson } from '../formats/strict-json.ts';
import { toFloat32 } from '../quant/to-float32.ts';
import { ConfigError } from './config.ts';
import { MODEL_TENSORS } from './graph.ts';
import type { ModelConfig } from './model-config.ts';
import { type Rotation, readRotation } from './rotation.ts';
import { WeightError } from './weight-reader.ts';

/** That of the 27B model has 28,672 signs and 401 names. */
const MAX_BYTES = 8 << 20;

const FILE = 'hadamard.json';
const PREFIX = 'prism.hadamard.';

const FOLDABLE =
  /^model\.layers\.(\d+)\.(?:self_attn\.[qkvo]_proj|linear_attn\.(?:in_proj_qkv|in_proj_z|out_proj)|mlp\.(?:gate|up|down)_proj)\.weight$/;

/** `layerOfFoldable` for names of Hugging Face; the head counts as layer -1. */
function foldable(name: string): number | undefined {
  if (name === MODEL_TENSORS.head.hf) return -1;
  const layer = FOLDABLE.exec(name)?.[1];
  return layer === undefined ? undefined : Number(layer);
}

/** Names of modules, with or without what stands around them, as those of their matrices. */
function weightName(name: unknown): unknown {
  if (typeof name !== 'string') return name;
  const inner = name.replace(/^language_model\./, '');
  return inner.endsWith('.weight') ? inner : `${inner}.weight`;
}

/** The config with the rotation that a pack's folder describes. Throws ConfigError, and WeightError for other signs. */
export async function withPackRotation(
  config: ModelConfig,
  checkpoint: Checkpoint,
  folder: string,
): Promise<ModelConfig> {
  const path = join(folder, FILE);
  const fail = (what: string, fix: string): never => {
    throw new ConfigError({ what, where: path, fix });
  };
  const json = readJson(path, fail);
  const keys = new Map<string, unknown>();
  for (const [key, value] of Object.entries(json)) {
    const short = key.startsWith(PREFIX) ? key.slice(PREFIX.length) : key;
    keys.set(short, /weight_names$/.test(short) && Array.isArray(value) ? value.map(weightName) : value);
  }
  const rotation = readRotation(
    keys,
    (key) => (`${PREFIX}${key}` in json ? `${PREFIX}${key}` : key),
    {
      columnsOf: (name) => columnsOf(checkpoint, name, config),
      embedding: MODEL_TENSORS.embedding.hf,
      head: MODEL_TENSORS.head.hf,
      layerOfFoldable: foldable,
      layers: config.numHiddenLayers,
      hasDeltaNet: config.deltaNet !== undefined,
    },
    fail,
  );
  requireSameModules(rotation, config, fail);
  await requireSameSigns(checkpoint, rotation, config);
  return { ...config, rotation: { ...rotation, groupedColumns: false } };
}

/** The config says of each matrix whether it is rotated, and must say the same. */
function requireSameModules(
  rotation: Rotation,
  { rotatedPack }: ModelConfig,
  fail: (what: string, fix: string) => never,
): void {
  for (const { path, block } of rotatedPack?.modules ?? []) {
    const name = weightName(path) as string;
    const isRotated = rotation.matrices.has(name) || (rotation.embedding && name === MODEL_TENSORS.embedding.hf);
    const wanted = isRotated ? rotation.block : 0;
    if (block === wanted) continue;
    fail(
      `this is a rotated MLX pack (Ternary Bonsai 2) that says two things of "${path}": blocks of ${block} in config.json, ${wanted} here`,
      'download the whole folder again',
    );
  }
}

function readJson(path: string, fail: (what: string, fix: string) => never): Readonly<Record<string, unknown>> {
  const bytes = readSmallFileSync(path, MAX_BYTES);
  if (bytes === undefined) {
    return fail(
      `this is a rotated MLX pack (Ternary Bonsai 2) without its ${FILE}, which says how the weights are rotated`,
      'download the whole folder again',
    );
  }
  let json: unknown;
  try {
    json = parseJson(bytes, { where: path, fix: 'download the file again' });
  } catch (cause) {
    throw cause instanceof JsonError ? new ConfigError(cause.text, { cause }) : cause;
  }
  if (typeof json === 'object' && json !== null && !Array.isArray(json)) return json as Record<string, unknown>;
  return fail('expected a JSON object', 'download the file again');
}

function columnsOf(checkpoint: Checkpoint, name: string, { mlx }: ModelConfig): number | undefined {
  if (!checkpoint.has(name)) return undefined;
  const { dtype, shape } = checkpoint.info(name);
  const last = shape.at(-1);
  return last === undefined || dtype !== 'U32' ? last : (last * 32) / (mlx?.bits ?? 2);
}

/** Signs that lie beside a matrix are those of its width, and lie beside no others. */
async function requireSameSigns(checkpoint: Checkpoint, rotation: Rotation, config: ModelConfig): Promise<void> {
  const embedding = rotation.embedding ? [MODEL_TENSORS.embedding.hf] : [];
  const rotated = new Set([...rotation.matrices, ...embedding]);
  for (const name of checkpoint.names()) {
    if (!name.endsWith('.signs')) continue;
    const matrix = name.replace(/\.signs$/, '.weight');
    const wanted = rotated.has(matrix) ? rotation.signs(columnsOf(checkpoint, matrix, config)!) : undefined;
    const signs = toFloat32(await checkpoint.read(name));
    if (wanted !== undefined && wanted.length === signs.length && wanted.every((sign, i) => sign === signs[i]))
      continue;
    throw new WeightError({
      what:
        wanted === undefined
          ? `it has signs of a rotation, and ${FILE} does not list the matrix`
          : `the signs are not those of ${FILE}`,
      where: `tensor "${name}" in ${checkpoint.info(name).file}`,
      fix: 'the parts of the pack do not belong together: download the whole folder again',
    });
  }
}
