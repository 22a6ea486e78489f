// What stands at the end of a tokenizer.json's stages: one piece of text to ids.

import type { InSteps } from './text-encoding.ts';

export type TokenModel = {
  /** Ids in `avoid` do not come out, except where a character is unknown. */
  encode(piece: string, avoid?: ReadonlySet<number>): readonly number[];
  /** The same for a piece that may be the whole of a long text. */
  encodeLong(piece: string, avoid?: ReadonlySet<number>): InSteps<readonly number[]>;
  /** Whether every character of a piece is in one of its ids, and no id stands for any number of unknown ones. */
  readonly keepsAll: boolean;
};
