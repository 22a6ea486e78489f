// The colors of a trace as a picture. They depend on the stream and on the number of tokens only, so that the picture
// needs neither the text nor the server that wrote it.

import { palette } from '../color/palette.ts';
import { FIRST_INDEX, SCHEMES, type Scheme } from '../color/scheme.ts';
import { ArgumentError } from '../errors.ts';
import { gf3Residue, isConserved, tritSum } from '../gf3/sums.ts';
import { parseSeed } from '../random/seed.ts';
import type { TraceColorsRequest } from './desk-requests.ts';
import { inTurn, type TurnContext } from './in-turn.ts';

/** For completions of a scheme's name. */
export const TRACE_SCHEMES: readonly string[] = SCHEMES;

/** As many as `palette` draws. */
const MAX_TOKENS = 4096;

export type { TraceColorsRequest } from './desk-requests.ts';

/** A PNG of the colors of tokens 1 to `tokens`, with their GF(3) sum below. Throws ArgumentError. */
export async function traceColors(
  { scheme, seed: seedText, tokens }: TraceColorsRequest,
  context: TurnContext,
): Promise<Uint8Array> {
  if (!SCHEMES.includes(scheme as Scheme)) {
    throw new ArgumentError({
      what: `unknown scheme ${JSON.stringify(scheme.slice(0, 40))}`,
      fix: `use one of ${SCHEMES.join(', ')}`,
    });
  }
  if (tokens < 1 || tokens > MAX_TOKENS) {
    throw new ArgumentError({ what: `tokens must be from 1 to ${MAX_TOKENS}, got ${tokens}`, fix: 'ask for fewer' });
  }
  const seed = parseSeed(seedText, 'seed');
  const { desk } = context.services;
  return inTurn('server', context, async () => {
    if (desk !== undefined) return await desk.traceColors({ scheme, seed: seedText, tokens });
    const colors = palette({ seed, start: FIRST_INDEX, n: tokens, scheme: scheme as Scheme });
    const sum = tritSum(colors.map(({ trit }) => trit));
    const balance = `GF(3) trit sum ${sum} mod 3 = ${gf3Residue(sum)}${isConserved(sum) ? ', conserved' : ''}`;
    const { swatchPng } = await import('../image/swatches.ts');
    return swatchPng(colors, { caption: `seed ${seed}, ${scheme}: ${balance}` });
  });
}
