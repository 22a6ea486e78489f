// What is asked of the desk beside calls of tools.

export type TraceColorsRequest = {
  readonly scheme: string;
  /** Decimal or 0x text. */
  readonly seed: string;
  readonly tokens: number;
};

export type TritWindowRequest = {
  readonly model: string;
  readonly layer: string;
  /** First row and column, from 0. */
  readonly row: number;
  readonly column: number;
};
