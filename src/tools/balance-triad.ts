import { z } from 'zod';
import { balanceOf } from '../triads/balance.ts';
import { defineTool } from './define-tool.ts';
import { residue, trit } from './fields.ts';

export const balanceTriadTool = defineTool({
  name: 'balance_triad',
  title: 'Balance a triad',
  description:
    'Sums trits over GF(3) and names the one trit that, added to them, brings the sum to 0 mod 3. For a triad give its ' +
    'three trits to check it, or two to complete it.',
  input: z.strictObject({
    trits: z.array(trit).min(1).max(4096).describe('Each -1, 0 or 1'),
  }),
  output: z.strictObject({ sum: z.int(), residue, conserved: z.boolean(), completing_trit: trit }),
  hints: { readOnly: true, idempotent: true },
  example: { trits: [1, -1] },
  run: ({ trits }) => {
    const { completingTrit, ...balance } = balanceOf(trits);
    return { ...balance, completing_trit: completingTrit };
  },
  summarize: ({ sum, conserved, completing_trit }) =>
    conserved ? `sum ${sum}: conserved` : `sum ${sum}: not conserved; trit ${completing_trit} completes it`,
});
