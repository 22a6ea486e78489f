// The scales of a matrix that has several, counted as they come: nearly all are halves, of which there are few.

import { f16BitsToF32Bits } from '../quant/f16.ts';
import { exactHalves } from '../quant/grouped/codec.ts';

export type ScaleSpread = {
  readonly count: number;
  readonly min: number;
  /** The lower of the middle two of an even number. */
  readonly median: number;
  readonly max: number;
  /** Scales of 0: their groups hold only zeros. */
  readonly zeros: number;
  /** Scales equal to the largest, as a part of all. */
  readonly largestShare: number;
};

export class ScaleTally {
  /** By the bits of a half. */
  readonly #halves = new Uint32Array(65536);
  readonly #others: Float32Array[] = [];
  #count = 0;
  /** Made when asked for. */
  #sorted: readonly (readonly [value: number, count: number])[] | undefined;

  get count(): number {
    return this.#count;
  }

  /** Scales, finite. Not kept if they are halves. */
  push(scales: Float32Array): void {
    this.#count += scales.length;
    this.#sorted = undefined;
    const halves = exactHalves(scales);
    if (halves instanceof Uint16Array) for (let i = 0; i < halves.length; i++) this.#halves[halves[i]!]!++;
    else this.#others.push(scales);
  }

  /** The values in rising order with how often each occurs; -0 counts as 0. */
  #values(): readonly (readonly [value: number, count: number])[] {
    if (this.#sorted !== undefined) return this.#sorted;
    const counts = new Map<number, number>();
    const note = (value: number, count: number) => counts.set(value + 0, (counts.get(value + 0) ?? 0) + count);
    const bits = new Uint32Array(1);
    const float = new Float32Array(bits.buffer);
    for (let half = 0; half < 65536; half++) {
      if (this.#halves[half] === 0) continue;
      bits[0] = f16BitsToF32Bits(half);
      note(float[0]!, this.#halves[half]!);
    }
    for (const part of this.#others) for (const value of part) note(value, 1);
    this.#sorted = [...counts].sort(([a], [b]) => a - b);
    return this.#sorted;
  }

  /** The one scale when all are equal but those of 0, which groups of zeros have. */
  common(): number | undefined {
    const live = this.#values().filter(([value]) => value !== 0);
    if (live.length > 1 || this.#count === 0) return undefined;
    return live[0]?.[0] ?? 0;
  }

  mean(): number {
    return this.#values().reduce((sum, [value, count]) => sum + value * count, 0) / this.#count;
  }

  /** Largest absolute value. */
  largest(): number {
    return this.#values().reduce((most, [value]) => Math.max(most, Math.abs(value)), 0);
  }

  /** Of at least one scale. */
  spread(): ScaleSpread {
    const values = this.#values();
    const max = values.at(-1)!;
    let middle = 0;
    for (let left = Math.ceil(this.#count / 2) - values[0]![1]; left > 0; left -= values[middle]![1]) middle++;
    return {
      count: this.#count,
      min: values[0]![0],
      median: values[middle]![0],
      max: max[0],
      zeros: values.find(([value]) => value === 0)?.[1] ?? 0,
      largestShare: max[1] / this.#count,
    };
  }
}
