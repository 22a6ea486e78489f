// A file whose blocks are read at the wrong places still decodes: one byte of a scale among many of codes looks like codes
// drawn at random, so about one weight in a hundred becomes a fourth code, evenly, while scales made of codes go up to
// thousands. Real models hardly use the fourth code, and their scales are far below 1.

/** Files read wrongly have 0.7 to 1.6 percent of +2, by what their scales are; models that use it on purpose are rare. */
const LEAST_SHARE = 0.003;
const MOST_SHARE = 0.03;
/** Bands of rows; with less than this many weights in one, chance is uneven by itself. */
const BANDS = 16;
const BAND_WEIGHTS = 4096;
/** A band may have so many times the mean share, or that part of it. */
const UNEVEN = 3;

/** The share of the fourth code in bands of rows of a matrix. */
export class PlusTwoBands {
  readonly #rowsPerBand: number;
  readonly #twos: Float64Array;
  readonly #weights: Float64Array;

  constructor(rows: number, columns: number) {
    this.#rowsPerBand = Math.max(1, Math.ceil(rows / BANDS), Math.ceil(BAND_WEIGHTS / columns));
    const bands = Math.ceil(rows / this.#rowsPerBand);
    this.#twos = new Float64Array(bands);
    this.#weights = new Float64Array(bands);
  }

  /** Ends of the bands that rows [start, end) lie in, for counting one after the other. */
  ends(start: number, end: number): number[] {
    const ends: number[] = [];
    for (let at = start; at < end; at = ends.at(-1)!) {
      ends.push(Math.min(end, (Math.floor(at / this.#rowsPerBand) + 1) * this.#rowsPerBand));
    }
    return ends;
  }

  /** Rows from `row` on, of one band. */
  push(row: number, twos: number, weights: number): void {
    const band = Math.floor(row / this.#rowsPerBand);
    this.#twos[band]! += twos;
    this.#weights[band]! += weights;
  }

  /** True when the shares of all bands but the last, which may be small, are near their mean. */
  isEven(): boolean {
    const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0);
    const mean = sum(this.#twos) / sum(this.#weights);
    const whole = this.#twos.length > 1 ? this.#twos.subarray(0, -1) : this.#twos;
    return whole.every((twos, band) => {
      const share = twos / this.#weights[band]!;
      return share <= UNEVEN * mean && share >= mean / UNEVEN;
    });
  }

  get share(): number {
    const weights = this.#weights.reduce((total, value) => total + value, 0);
    return weights === 0 ? 0 : this.#twos.reduce((total, value) => total + value, 0) / weights;
  }
}

/** The signs of a layout read at the wrong place in words; undefined where they are not there. */
export function misreadSign(name: string, bands: PlusTwoBands, largestScale: number): string | undefined {
  const { share } = bands;
  if (share < LEAST_SHARE || share > MOST_SHARE || !(largestScale > 1) || !bands.isEven()) return undefined;
  return (
    `${name}: ${(100 * share).toFixed(2)}% of the weights have code 3, evenly over the rows, and scales go up to ` +
    `${Number(largestScale.toPrecision(4))}: signs of blocks read at the wrong place (of another size, or the scale at ` +
    'the other end)'
  );
}
