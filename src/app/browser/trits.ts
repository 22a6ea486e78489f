// One set of colors for trits wherever they are counted, in weights and in activations: those of the pictures, which every
// eye tells apart. A seed's own colors are its tokens', and are named beside.

import { isHex } from '../ink.ts';
import { h } from './dom.ts';

/** As `CONTRAST_COLORS` of the pictures; a test compares. */
export const TRIT_COLORS = { minus: '#0A1C66', ergodic: '#F4F0E6', plus: '#CD5B0A' } as const;

const NAMES = ['minus', 'ergodic', 'plus'] as const;
type Hexes = Readonly<Record<(typeof NAMES)[number], string>>;
const SIGNS = { minus: '-1', ergodic: '0', plus: '+1' } as const;

/** Parts of a bar by share, in the classes minus, ergodic, plus. */
export function shares(counts: readonly number[]): HTMLElement[] {
  return NAMES.map((name, i) => {
    const part = h('span', { class: name });
    part.style.flexGrow = String(counts[i] ?? 0);
    return part;
  });
}

/** The three colors with what they mean; then those of the seed, when they are given. */
export function legend(seedColors?: Hexes, words: Hexes = SIGNS): HTMLElement {
  const chip = (name: string, text: string, hex?: string) => {
    const square = h('i', { class: hex === undefined ? name : undefined });
    if (hex !== undefined) square.style.background = hex;
    return h('span', { class: 'chip' }, square, text);
  };
  const own = NAMES.map((name) => chip(name, words[name]));
  const seeds = seedColors && NAMES.every((name) => isHex(seedColors[name])) ? seedColors : undefined;
  return h(
    'p',
    { class: 'legend' },
    ...own,
    ...(seeds === undefined
      ? []
      : [h('span', {}, 'the seed’s:'), ...NAMES.map((name) => chip(name, seeds[name], seeds[name]))]),
  );
}
