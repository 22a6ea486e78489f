// A model's ternary layers, found by name or glob, for the tools and commands that look at weights. No model is built.

import { dirname, join } from 'node:path';
import { ArgumentError, BitnetError } from '../errors.ts';
import type { Checkpoint } from '../formats/checkpoint.ts';
import { GgufFile } from '../formats/gguf-file.ts';
import {
  fallbackType,
  type GgufKind,
  ggufKind,
  ggufWarning,
  rotatedWeights,
  rotationRemark,
} from '../formats/gguf-kind.ts';
import { openCheckpoint } from '../formats/open-checkpoint.ts';
import { parseJson } from '../formats/strict-json.ts';
import { listTernaryLayers, type SkippedTensor, type TernaryLayer } from '../formats/ternary-layers.ts';
import { resolveModel } from '../hub/resolve-model.ts';
import { readConfigBytes } from '../model/config-bytes.ts';
import { nearest } from './nearest.ts';

export type TernaryModel = Disposable & {
  readonly checkpoint: Checkpoint;
  /** Parsed config.json, where there is one. */
  readonly config: Readonly<Record<string, unknown>> | undefined;
  readonly layers: readonly TernaryLayer[];
  readonly skipped: readonly SkippedTensor[];
};

/** A checkpoint without a single ternary matrix. */
export class NoTernaryLayersError extends BitnetError {
  readonly code = 'NO_TERNARY_LAYERS';
  readonly fault = 'call';
}

export type TernaryModelOptions = {
  readonly allowedRoots?: readonly string[] | undefined;
};

/** @throws NoTernaryLayersError, and what resolving and opening throw. */
export async function openTernaryModel(
  name: string,
  { allowedRoots }: TernaryModelOptions = {},
): Promise<TernaryModel> {
  const location = await resolveModel(name, allowedRoots === undefined ? {} : { allowedRoots });
  const checkpoint = await openCheckpoint(location.path);
  try {
    const config = await readConfig(location.kind === 'folder' ? location.path : dirname(location.path));
    const { layers, skipped } = await listTernaryLayers(checkpoint, config === undefined ? {} : { config });
    if (layers.length === 0) {
      const first = skipped[0];
      const reason = reasonOf(checkpoint, first?.name);
      if (reason !== undefined) throw new NoTernaryLayersError({ ...reason, where: checkpoint.path });
      throw new NoTernaryLayersError({
        what: `the model ${JSON.stringify(name)} has no ternary layers${first === undefined ? '' : ` (${first.name}: ${first.reason})`}`,
        where: checkpoint.path,
        fix: 'give a BitNet, 1bitLLM or other ternary checkpoint',
      });
    }
    return { checkpoint, config, layers, skipped, [Symbol.dispose]: () => checkpoint[Symbol.dispose]() };
  } catch (error) {
    checkpoint[Symbol.dispose]();
    throw error;
  }
}

/** What a file is, where its weights alone do not tell. */
export function remarksOn({ checkpoint, config }: TernaryModel): string[] {
  const type = config?.model_type;
  if (typeof type === 'string' && /hadamard/i.test(type)) return [rotatedWeights(`model_type ${type}`)];
  if (!(checkpoint instanceof GgufFile)) return [];
  const remarks = [ggufKind(checkpoint)?.what, rotationRemark(checkpoint), ggufWarning(checkpoint)];
  return remarks.filter((remark) => remark !== undefined);
}

/** What a GGUF file is that has no ternary layers, or why the tensor `skipped` has lost its trits. */
function reasonOf(checkpoint: Checkpoint, skipped: string | undefined): GgufKind | undefined {
  if (!(checkpoint instanceof GgufFile)) return undefined;
  return ggufKind(checkpoint) ?? (skipped === undefined ? undefined : fallbackType(checkpoint, skipped));
}

/** A weights file may lie alone; a config that is there must be readable, since it decides what the bytes mean. */
async function readConfig(folder: string): Promise<Record<string, unknown> | undefined> {
  const text = await readConfigBytes(folder);
  if (text === undefined) return undefined;
  const where = join(folder, 'config.json');
  const value = parseJson(text, { where });
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new ArgumentError({ what: 'config.json is not a JSON object', where, fix: 'download it again' });
}

/** The layers that a name or glob (`*` any text, `?` one character) selects. Throws ArgumentError when it selects none. */
export function selectLayers(layers: readonly TernaryLayer[], pattern: string | undefined): readonly TernaryLayer[] {
  if (pattern === undefined || pattern === '*') return layers;
  const names = layers.map(({ name }) => name);
  const chosen = layers.filter(
    ({ name }) => name === pattern || globMatches(pattern, name) || globMatches(pattern, name.replace(/\.weight$/, '')),
  );
  if (chosen.length > 0) return chosen;
  const guess = nearest(pattern, names);
  throw new ArgumentError({
    what: `no ternary layer matches ${JSON.stringify(pattern)}`,
    where: 'layer',
    fix: `${guess === undefined ? '' : `did you mean ${guess}? `}the ${names.length} layers${blocksOf(names)} are ${listed(names)}`,
  });
}

/**
 * No regular expression: a pattern such as `*?*?*?Z` makes one backtrack for years. Here only the last star is ever
 * tried again, so the steps are at most the product of the two lengths.
 */
function globMatches(glob: string, text: string): boolean {
  let g = 0;
  let t = 0;
  // Where to go on when what follows the last star does not fit: let that star take one character more.
  let afterStar = -1;
  let starEnd = 0;
  while (t < text.length) {
    // The star first: the text may hold one, too.
    if (glob[g] === '*') {
      afterStar = ++g;
      starEnd = t;
    } else if (g < glob.length && (glob[g] === '?' || glob[g] === text[t])) {
      g++;
      t++;
    } else if (afterStar !== -1) {
      g = afterStar;
      t = ++starEnd;
    } else {
      return false;
    }
  }
  while (glob[g] === '*') g++;
  return g === glob.length;
}

/** Which numbers blocks have, where names tell: who asked for one more than there are need not guess. */
function blocksOf(names: readonly string[]): string {
  const numbers = names.flatMap((name) => /(?:^|\.)(?:layers|blk|h|blocks)\.(\d{1,6})\./.exec(name)?.[1] ?? []);
  if (numbers.length === 0) return '';
  return `, of blocks ${Math.min(...numbers.map(Number))} to ${Math.max(...numbers.map(Number))},`;
}

function listed(names: readonly string[]): string {
  const shown = names.slice(0, 7);
  return `${shown.join(', ')}${names.length > shown.length ? `, ... ${names.at(-1)}` : ''}`;
}
