// A training step: what it did to the loss, which layers' trits it flipped, and from which world to which it led.

import type { Trit } from '../../gf3/trit.ts';
import { isHex } from '../ink.ts';
import { balanceBadge, balanceText, definitions, h, paint, picker, tritText } from './dom.ts';
import type { Host } from './host.ts';

type Change = { readonly name: string; readonly flips: number; readonly trit_delta_sum: number };

export type Morphism = {
  readonly world_before: string;
  readonly world_after: string;
  readonly loss_before: number;
  readonly loss_after: number;
  readonly wev: number;
  readonly wev_ratio: number;
  /** Those whose trits flipped, and perhaps others. */
  readonly layers: readonly Change[];
  /** How many are not in the list. */
  readonly unchanged_layers?: number;
  readonly trit_delta_sum: number;
  readonly gf3_residue: number;
  readonly conserved: boolean;
  readonly morphism_color: { readonly index: number; readonly hex: string; readonly trit: Trit };
};

export function morphismView(result: Morphism, host: Host): HTMLElement {
  const { world_before, world_after, loss_before, loss_after, morphism_color: color } = result;
  const changed = result.layers.filter(({ flips }) => flips > 0).sort((a, b) => b.flips - a.flips);
  const flips = changed.reduce((sum, layer) => sum + layer.flips, 0);
  const most = changed[0]?.flips ?? 1;
  const rows = changed.map(({ name, flips: count, trit_delta_sum: sum }) => {
    const bar = h('span', { class: 'flips' });
    bar.style.width = `${(100 * count) / most}%`;
    return h(
      'div',
      { class: 'layer', 'aria-label': `${name}: ${count} flips, sum ${signed(sum)}` },
      h('span', { class: 'name' }, h('bdi', {}, name.replace(/\.weight$/, ''))),
      h('span', { class: 'track' }, bar),
      h('span', { class: 'sum' }, String(count)),
    );
  });
  const details = h('div', { class: 'details', 'aria-live': 'polite' });
  const list = picker({
    label: 'Layers whose trits flipped',
    options: rows,
    onLook: (index) => {
      const { name, flips: count, trit_delta_sum: sum } = changed[index]!;
      // Each flip moves a trit by one step or by two; the sum is what rose less what fell.
      details.replaceChildren(
        definitions([
          ['layer', name],
          ['flips', `${count} (${((100 * count) / flips).toFixed(1)}% of the step’s)`],
          ['rose less fell', signed(sum)],
        ]),
      );
    },
    onPick: (index) => {
      const { name, flips: count, trit_delta_sum: sum } = changed[index]!;
      host.tellModel(
        `The user points at ${name}: the step to world ${short(world_after)} flipped ${count} of its trits, sum ${signed(sum)}.`,
      );
    },
  });
  list.element.classList.add('layers');

  const swatch = paint(h('div', { class: 'swatch' }, isHex(color?.hex) ? color.hex : ''), color?.hex);
  const view = h(
    'section',
    {},
    h(
      'header',
      {},
      h('h1', {}, 'A step from World to World′'),
      h('p', {}, `${balanceText(result.trit_delta_sum, result.gf3_residue)} `, balanceBadge(result.conserved)),
    ),
    h(
      'div',
      { class: 'details' },
      swatch,
      definitions([
        ['world', h('code', { title: world_before }, short(world_before))],
        ['world′', h('code', { title: world_after }, short(world_after))],
        ['loss', `${nats(loss_before)} → ${nats(loss_after)} nats per token`],
        [
          'gained (WEV)',
          `${signed(Number(result.wev.toFixed(4)))}, ratio ${signed(Number(result.wev_ratio.toFixed(4)))}`,
        ],
        [
          'trits flipped',
          flips === 0
            ? 'none: only embedding, norms and scales moved'
            : `${flips} in ${changed.length} of ${result.layers.length + (result.unchanged_layers ?? 0)} layers`,
        ],
        ...(isHex(color?.hex)
          ? [['color of the batch', `index ${color.index}, ${tritText(color.trit)}`] as const]
          : []),
      ]),
    ),
    lossBars(loss_before, loss_after),
    ...(changed.length === 0 ? [] : [h('h2', { class: 'list-title' }, 'Flips by layer'), list.element, details]),
    h('footer', {}, 'morphism_invert takes the step back.'),
  );
  if (changed.length > 0) list.select(0);
  return view;
}

function lossBars(before: number, after: number): HTMLElement {
  const most = Math.max(before, after);
  const bar = (label: string, loss: number) => {
    const part = h('span', { class: 'loss' });
    part.style.width = `${most > 0 ? (100 * loss) / most : 0}%`;
    return [h('span', {}, label), h('span', { class: 'track' }, part), h('span', {}, nats(loss))];
  };
  return h(
    'div',
    { class: 'losses', role: 'img', 'aria-label': `loss ${nats(before)} before, ${nats(after)} after` },
    ...bar('before', before),
    ...bar('after', after),
  );
}

const short = (world: string) => String(world).slice(0, 12);
const nats = (loss: number) => loss.toFixed(4);
const signed = (value: number) => (value > 0 ? `+${value}` : `${value}`);
