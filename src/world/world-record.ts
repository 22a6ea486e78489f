// What the store keeps of a world beside its state.

import type { Morphism } from './morphism.ts';

export type RecordedMorphism = Morphism & {
  /** Exactly one of both. */
  readonly text?: readonly string[];
  readonly tokens?: readonly (readonly number[])[];
};

export type RecordedReport = {
  readonly lossBefore: number;
  readonly lossAfter: number;
  readonly flips: number;
  readonly tritDeltaSum: number;
};

export type WorldRecord = {
  readonly format: 1;
  readonly id: string;
  readonly parent: string | null;
  readonly base: {
    readonly id: string;
    /** As it was called, for people; and where it was, for replay. */
    readonly model: string;
    readonly folder: string;
  };
  readonly stepCount: number;
  /** Undefined for a world that begins. */
  readonly morphism?: RecordedMorphism;
  readonly report?: RecordedReport;
  /** ISO time at which it was last reached, or begun; no part of the id. */
  readonly created: string;
};
