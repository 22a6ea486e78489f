// How the weights of any file format are read: one by one, by the names of the format, checked on the way.

import type { VectorWeight } from '../engine/program.ts';
import type { WeightPreparation } from '../engine/weight-preparation.ts';
import { BitnetError } from '../errors.ts';
import type { Checkpoint } from '../formats/checkpoint.ts';
import type { Allocate } from '../tensor/allocate.ts';
import type { LinearWeight, TableWeight } from './model-weights.ts';

/** A tensor is missing, has the wrong shape or dtype, or holds values no sound checkpoint has. */
export class WeightError extends BitnetError {
  readonly code = 'BAD_WEIGHT';
  readonly fault = 'job';
}

export type LoadWeightsOptions = {
  /** `int8Above`: int8 if the head's bytes exceed this, else as the checkpoint has it. A ternary head stays ternary. */
  readonly head: 'full' | 'int8' | { readonly int8Above: number };
  /** Where the bytes of matrices go; plain memory when not given. */
  readonly allocate?: Allocate | undefined;
  /** Faster ways to make weights; JavaScript's when not given. */
  readonly prepare?: WeightPreparation | undefined;
  /** Called after each layer. */
  readonly onLayer?: ((done: number, total: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
};

export type LinearOptions = {
  /** Of projections whose rows a format may order by head (q and k). */
  readonly heads?: number | undefined;
  /** Matrices of that shape; a format may have one tensor for each (its number for `*` in the name). */
  readonly experts?: number | undefined;
  /** Never trits, whatever the values. */
  readonly floats?: boolean | undefined;
};

/** Reads and checks single weights by the names of a file format. */
export interface WeightReader {
  has(name: string): boolean;
  /** In one of these shapes. */
  vector(name: string, shapes: readonly (readonly number[])[]): Promise<VectorWeight>;
  /** The embedding or an untied head. */
  table(name: string, rows: number, columns: number): Promise<TableWeight>;
  linear(name: string, rows: number, columns: number, options?: LinearOptions): Promise<LinearWeight>;
  /** Refuses the named tensor. */
  fail(what: string, tensor: string, fix: string): never;
  /** Throws unless the named matrix, which a tied head repeats, is the embedding. */
  requireEqual(name: string, embedding: TableWeight): Promise<void>;
  /** A tensor nobody asked for means that the graph is not the one the config claims. */
  requireAllUsed(): void;
}

/** Of the shapes that a tensor may have, its own, or else the first, with which it will be refused. */
export function fittingShape(
  shapes: readonly (readonly number[])[],
  file: Pick<Checkpoint, 'has' | 'info'>,
  name: string,
): readonly number[] {
  const own = file.has(name) ? file.info(name).shape : [];
  return shapes.find((shape) => shape.length === own.length && shape.every((size, i) => size === own[i])) ?? shapes[0]!;
}

/** What a tensor that no graph here has tells of the model it belongs to. */
export function strangerOf(names: readonly string[]): { readonly what: string; readonly fix: string } | undefined {
  if (names.some((name) => /(?:_norm_in|_proj\.norm)\.weight$/.test(name))) {
    return {
      what: 'every projection has a norm of its own on its input: a BitNet-Embedding model, which gives vectors and does not write text',
      fix: 'use a language model; this engine has no embedding models',
    };
  }
  if (names.some((name) => /\.bias$/.test(name))) {
    return { what: 'the layers have biases', fix: 'models with biases are not supported' };
  }
  return undefined;
}
