// The balance of trits or skills over GF(3): balance_triad from a terminal.

import { ArgumentError } from '../errors.ts';
import { type Trit, tritSymbol } from '../gf3/trit.ts';
import { balanceTriadTool } from '../tools/balance-triad.ts';
import { callTool } from '../tools/call-tool.ts';
import { conservationLine } from './color-line.ts';
import { defineCommand } from './command.ts';
import { NO_SERVICES } from './tool-command.ts';
import { wrap } from './wrap.ts';

type Balance = {
  readonly skills?: readonly { readonly name: string; readonly trit: Trit; readonly note?: string }[];
  readonly sum: number;
  readonly residue: number;
  readonly completing_trit: Trit;
  readonly suggestions: readonly string[];
};

const NUMBER = /^[+-]?\d+(\.\d+)?$/;

export const command = defineCommand({
  name: 'triad',
  summary: 'Whether trits or skills sum to 0 mod 3, and what completes them',
  positionals: [{ name: 'MEMBER', description: 'trits (-1, 0, 1), or names of skills', many: true }],
  flags: {},
  examples: ['triad mlx-bitnet-gf3 worlding geb', 'triad mlx-bitnet-gf3 unworlding-involution', 'triad 1 1 -1'],
  run: async ({ positionals, json, output, signal }) => {
    const numbers = positionals.filter((text) => NUMBER.test(text));
    if (numbers.length > 0 && numbers.length < positionals.length) {
      const name = positionals.find((text) => !NUMBER.test(text));
      throw new ArgumentError({
        what: `trits and skills together: ${numbers[0]} and ${name}`,
        fix: 'give either trits or names of skills',
      });
    }
    const bad = numbers.find((text) => ![-1, 0, 1].includes(Number(text)));
    if (bad !== undefined) throw new ArgumentError({ what: `a trit is -1, 0 or 1, got "${bad}"` });
    const args = numbers.length > 0 ? { trits: numbers.map((text) => Number(text) + 0) } : { skills: [...positionals] };
    const { structured } = await callTool(balanceTriadTool, args, { services: NO_SERVICES, signal });
    if (json) {
      output.json(structured);
      return 0;
    }
    const { skills = [], sum, residue, completing_trit: completing, suggestions } = structured as Balance;
    for (const { name, trit, note } of skills) {
      output.line(
        wrap(`  [${tritSymbol(trit)}] ${name}${note === undefined ? '' : `  (${note})`}`, output.width, '    '),
      );
    }
    output.line(conservationLine(sum, residue));
    const others = suggestions.join(', ') || 'no other skill';
    const more =
      residue === 0
        ? `skills that keep it so: ${others}`
        : `a trit ${completing > 0 ? '+' : ''}${completing} completes it: ${others}`;
    output.line(wrap(more, output.width, '  '));
    return 0;
  },
});
