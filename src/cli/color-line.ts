// One color on one line.

import { ansiSwatch, type ColorDepth } from '../color/terminal.ts';
import { type Trit, tritSymbol } from '../gf3/trit.ts';

export type PrintedColor = {
  readonly index: number;
  readonly hex: string;
  readonly rgb: readonly number[];
  readonly trit: Trit;
  readonly role: string;
};

/** `  [-] #6404C3`, with a swatch before the code where the terminal can show one. */
export function colorMark({ hex, trit }: { hex: string; trit: Trit }, depth: ColorDepth): string {
  const swatch = ansiSwatch(hex, depth);
  return `  [${tritSymbol(trit)}] ${swatch === '' ? '' : `${swatch} `}${hex}`;
}

/** `-3 mod 3 = 0 ✓ CONSERVED`. */
export function conservationVerdict(tritSum: number, residue: number): string {
  return `${tritSum} mod 3 = ${residue} ${residue === 0 ? '✓ CONSERVED' : '✗ NOT CONSERVED'}`;
}

/** `GF(3) trit sum: -3 mod 3 = 0 ✓ CONSERVED`. */
export function conservationLine(tritSum: number, residue: number): string {
  return `GF(3) trit sum: ${conservationVerdict(tritSum, residue)}`;
}
