// The three colors that stand for -1, 0 and +1 in pictures of weights: indices 1, 2 and 3 of the seed's stream.

import type { Color } from './color.ts';
import { palette, type Stream } from './palette.ts';

export type TritColors<C = Color> = { readonly minus: C; readonly ergodic: C; readonly plus: C };

export function tritColors(stream: Stream): TritColors {
  const [minus, ergodic, plus] = palette({ ...stream, start: 1, n: 3 });
  return { minus: minus!, ergodic: ergodic!, plus: plus! };
}
