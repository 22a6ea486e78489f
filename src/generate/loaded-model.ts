// A model that is loaded, with what belongs to it.

import type { ModelLocation } from '../hub/resolve-model.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { LogitsModel } from './logits-model.ts';
import type { Scheduler } from './scheduler.ts';
import type { EngineInfo, SamplingDefaults } from './types.ts';

/** A model that computes in this process. */
export type LoadedModel = {
  readonly name: string;
  readonly info: EngineInfo;
  readonly location: ModelLocation;
  /** What its tokenizer is loaded from. */
  readonly home: string;
  readonly tokenizer: Tokenizer;
  readonly executable: LogitsModel;
  readonly scheduler: Scheduler;
  readonly contextLength: number;
  readonly vocabSize: number;
  /** Whether generation ends at an id. */
  readonly isStop: (id: number) => boolean;
  readonly loadMs: number;
  /** How its makers want it sampled. */
  readonly sampling: SamplingDefaults;
  /** What a person should know of its weights; the tokenizer has its own. */
  readonly warnings: readonly string[];
};
