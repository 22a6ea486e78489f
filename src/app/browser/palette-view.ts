// A palette: swatches in order, and all that is known of the one looked at.

import { type Trit, tritSymbol } from '../../gf3/trit.ts';
import { balanceBadge, balanceText, definitions, h, lineWise, paint, picker, tritText } from './dom.ts';
import type { Host } from './host.ts';

export type Palette = {
  readonly seed: string;
  readonly scheme: string;
  readonly start: number;
  readonly trit_sum: number;
  readonly gf3_residue: number;
  readonly conserved: boolean;
  readonly colors: readonly {
    readonly index: number;
    readonly hex: string;
    readonly rgb: readonly number[];
    readonly hsl: { readonly h: number; readonly s: number; readonly l: number };
    readonly oklch: { readonly l: number; readonly c: number; readonly h: number };
    readonly trit: Trit;
  }[];
};

/** More swatches than this are drawn small, with their trit alone. */
const MAX_LABELLED = 256;

export function paletteView(result: Palette, host: Host): HTMLElement {
  const { colors } = result;
  const labelled = colors.length <= MAX_LABELLED;
  const swatches = colors.map(({ index, hex, trit }) =>
    paint(
      h(
        'div',
        { class: 'cell', 'aria-label': `color ${index}: ${hex}, ${tritText(trit)}` },
        ...(labelled
          ? [h('small', {}, String(index), h('b', { class: 'trit' }, tritSymbol(trit))), h('span', {}, hex)]
          : [tritSymbol(trit)]),
      ),
      hex,
    ),
  );
  const details = h('div', { class: 'details', 'aria-live': 'polite' });
  const list = picker({
    label: 'Colors',
    options: swatches,
    vertical: lineWise(swatches),
    onLook: (i) => {
      const { index, hex, rgb, hsl, oklch, trit } = colors[i]!;
      details.replaceChildren(
        paint(h('div', { class: 'swatch' }, hex), hex),
        definitions([
          ['index', String(index)],
          ['trit', tritText(trit)],
          ['rgb', rgb.join(' ')],
          ['hsl', `${round(hsl.h)}° ${round(hsl.s)} ${round(hsl.l)}`],
          ['oklch', `${round(oklch.l)} ${round(oklch.c)} ${round(oklch.h)}°`],
        ]),
      );
    },
    onPick: (i) => {
      const { index, hex, trit } = colors[i]!;
      host.tellModel(
        `The user points at color ${index} of seed ${result.seed} (${result.scheme}): ${hex}, trit ${trit}.`,
      );
    },
  });
  list.element.classList.add(labelled ? 'grid' : 'fine-grid');
  const view = h(
    'section',
    {},
    h(
      'header',
      {},
      h('h1', {}, `${colors.length} colors of seed ${result.seed}`),
      h('p', {}, `${balanceText(result.trit_sum, result.gf3_residue)} `, balanceBadge(result.conserved)),
    ),
    list.element,
    details,
    h('footer', {}, `scheme ${result.scheme}, from index ${result.start}; trits: ${countsText(colors)}`),
  );
  list.select(0);
  return view;
}

function round(value: number): string {
  return String(Math.round(value * 1000) / 1000);
}

/** How many of each trit. */
function countsText(colors: Palette['colors']): string {
  return ([-1, 0, 1] as const)
    .map((trit) => `${colors.filter((color) => color.trit === trit).length} ${tritText(trit)}`)
    .join(', ');
}
