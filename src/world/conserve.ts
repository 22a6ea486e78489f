// Conservation of a step: the sum of all trit changes is made 0 mod 3 by flipping the trits that are least certain, those
// whose latents lie nearest to a rounding boundary.
//
// A trit is decided by v = w / m against -0.5 and 0.5, and m, the mean of |w| over the matrix, moves with w. So a latent
// is put just across the boundary that holds after the move: with S' the sum of |w| of the other N - 1 latents,
// |w| / m(w) = 0.5 at |w| = 0.5 S' / (N - 0.5) (or half the floor of m). Then the whole matrix is quantized again and counted: the result is taken
// only if the sum is right and no more than two trits have changed.

import { BitnetError } from '../errors.ts';
import { gf3Residue } from '../gf3/sums.ts';
import type { Trit } from '../gf3/trit.ts';
import { ABSMEAN_FLOOR } from '../quant/absmean.ts';
import { type LatentMatrix, quantizeMatrices } from '../train/ops/bit-linear.ts';

/** No latent can be moved so that the sum becomes 0 mod 3. Every real model has millions that can. */
export class ConserveError extends BitnetError {
  readonly code = 'CANNOT_CONSERVE';
  readonly fault = 'job';
}

/** A matrix whose trits are those of `w` now; both are changed when one of its trits is flipped. */
export type ConservedMatrix = LatentMatrix & {
  /** Scale of `w` now. */
  scale: number;
  /** Trits before the step. */
  readonly before: Int8Array;
};

export type ExtraFlip = {
  readonly name: string;
  /** Element of the matrix, row-major. */
  readonly index: number;
  readonly from: Trit;
  readonly to: Trit;
  /** How far the latent was from the boundary, in units of the matrix's scale. */
  readonly distance: number;
};

/** At most so many trits change beyond those of the step itself. */
export const MAX_EXTRA_FLIPS = 2;
/** Candidates kept; nearly always the first will do. */
const CANDIDATES = 64;
/** Pairs are tried only where no single flip works, which takes matrices of a few elements. */
const PAIR_CANDIDATES = 24;
/** Floats tried beyond the boundary until rounding agrees. */
const NUDGES = 16;

type Candidate = {
  readonly matrix: ConservedMatrix;
  readonly index: number;
  readonly to: Trit;
  readonly distance: number;
};

/** Sum of the changes of all trits. */
export function tritDeltaSum(matrices: readonly { readonly trits: Int8Array; readonly before: Int8Array }[]): number {
  let sum = 0;
  for (const { trits, before } of matrices) for (let i = 0; i < trits.length; i += 1) sum += trits[i]! - before[i]!;
  return sum;
}

/** Moves latents, where needed, so that the sum of trit changes is 0 mod 3; returns the flips this took. */
export function conserve(matrices: readonly ConservedMatrix[]): readonly ExtraFlip[] {
  const residue = gf3Residue(tritDeltaSum(matrices));
  if (residue === 0) return [];
  // The change that is needed, modulo 3: -1 for residue 1, +1 for residue 2.
  const needed = residue === 1 ? -1 : 1;
  const singles = nearest(matrices, needed, CANDIDATES);
  for (const candidate of singles) {
    const flips = tryFlips([candidate], needed);
    if (flips !== undefined) return flips;
  }
  const halves = nearest(matrices, -needed as 1 | -1, PAIR_CANDIDATES);
  for (const [i, first] of halves.entries()) {
    for (const second of halves.slice(i + 1)) {
      if (first.matrix === second.matrix && first.index === second.index) continue;
      const flips = tryFlips([first, second], needed);
      if (flips !== undefined) return flips;
    }
  }
  throw new ConserveError({
    what: `the trit changes of this step sum to ${residue} mod 3 and no flip of at most ${MAX_EXTRA_FLIPS} trits makes it 0`,
    fix: 'take the step with conserve false, or with another learning rate',
  });
}

/** The likeliest single flips whose change is `change` mod 3, nearest to their boundary first. */
function nearest(matrices: readonly ConservedMatrix[], change: 1 | -1, limit: number): Candidate[] {
  const best: Candidate[] = [];
  let worst = Number.POSITIVE_INFINITY;
  const offer = (candidate: Candidate) => {
    let at = best.length;
    while (at > 0 && best[at - 1]!.distance > candidate.distance) at -= 1;
    best.splice(at, 0, candidate);
    if (best.length > limit) best.pop();
    if (best.length === limit) worst = best[limit - 1]!.distance;
  };
  for (const matrix of matrices) {
    const { w, trits, scale } = matrix;
    for (let index = 0; index < w.length; index += 1) {
      const trit = trits[index]!;
      const v = (w[index]! / scale) * change;
      // One boundary away: t + change. Two away, through zero: the opposite sign, which is t - 2 change.
      const oneStep = trit !== change;
      const boundary = oneStep ? (trit === 0 ? 0.5 : -0.5) : -0.5;
      const distance = Math.abs(v - boundary);
      if (distance >= worst) continue;
      offer({ matrix, index, to: (oneStep ? trit + change : -trit) as Trit, distance });
    }
  }
  return best;
}

/** Carries the flips out; undoes them and returns undefined unless the sum comes out right within the limit. */
function tryFlips(candidates: readonly Candidate[], needed: number): readonly ExtraFlip[] | undefined {
  const touched = [...new Set(candidates.map(({ matrix }) => matrix))];
  const saved = touched.map((matrix) => ({
    matrix,
    scale: matrix.scale,
    trits: matrix.trits.slice(),
    latents: candidates
      .filter((candidate) => candidate.matrix === matrix)
      .map(({ index }) => ({ index, value: matrix.w[index]! })),
  }));
  const flips: ExtraFlip[] = [];
  let change = 0;
  if (candidates.every((candidate) => cross(candidate))) {
    for (const { matrix, trits } of saved) {
      for (let index = 0; index < trits.length; index += 1) {
        const from = trits[index]! as Trit;
        const to = matrix.trits[index]! as Trit;
        if (from === to) continue;
        change += to - from;
        const candidate = candidates.find((one) => one.matrix === matrix && one.index === index);
        flips.push({ name: matrix.name, index, from, to, distance: candidate?.distance ?? 0 });
        if (flips.length > MAX_EXTRA_FLIPS) break;
      }
    }
    if (flips.length <= MAX_EXTRA_FLIPS && gf3Residue(change - needed) === 0) return flips;
  }
  for (const { matrix, scale, trits, latents } of saved) {
    for (const { index, value } of latents) matrix.w[index] = value;
    matrix.trits.set(trits);
    matrix.scale = scale;
  }
  return undefined;
}

/** Puts a latent just across its boundary and quantizes its matrix again; false when no float does it. */
function cross({ matrix, index, to }: Candidate): boolean {
  const { w } = matrix;
  const sign = to === 0 ? Math.sign(w[index]!) || 1 : to;
  let others = 0;
  for (let i = 0; i < w.length; i += 1) if (i !== index) others += Math.abs(w[i]!);
  const boundary = Math.max((0.5 * others) / (w.length - 0.5), 0.5 * ABSMEAN_FLOOR);
  const value = new Float32Array([boundary]);
  const bits = new Int32Array(value.buffer);
  for (let attempt = 0; attempt < NUDGES; attempt += 1) {
    // Floats of one sign are ordered like their bits. The step doubles: a mean is rounded, so one ulp may not do.
    if (attempt > 0) bits[0] = Math.max(0, bits[0]! + (to === 0 ? -1 : 1) * 2 ** (attempt - 1));
    // Such a matrix would have no mean.
    if (!Number.isFinite(Math.fround(others + value[0]!))) return false;
    w[index] = sign * value[0]!;
    const [scale] = quantizeMatrices([matrix]);
    matrix.scale = scale!;
    if (matrix.trits[index] === to) return true;
  }
  return false;
}
