// Elements, the list of colored things that every view has, and what trits look like.

import { role, type Trit, tritSymbol } from '../../gf3/trit.ts';
import { inkOn, isHex } from '../ink.ts';

type Attributes = Readonly<Record<string, string | number | boolean | undefined>>;

/** An element with attributes, and children as nodes or text. Nothing is ever parsed as HTML. */
export function h<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Attributes = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[Name] {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    element.setAttribute(key, value === true ? '' : String(value));
  }
  element.append(...children);
  return element;
}

/** Paints an element with a color and an ink that can be read on it. */
export function paint<Element extends HTMLElement>(element: Element, hex: unknown): Element {
  if (!isHex(hex)) return element;
  element.style.background = hex;
  element.style.color = inkOn(hex);
  return element;
}

export function tritText(trit: Trit): string {
  return `${tritSymbol(trit)} ${role(trit)}`;
}

/** A sum as every view shows it: plain, reduced, and whether it is conserved. */
export function balanceText(sum: number, residue: number): string {
  return `GF(3) trit sum ${sum} mod 3 = ${residue}`;
}

export function balanceBadge(conserved: boolean): HTMLElement {
  return h('span', { class: conserved ? 'badge good' : 'badge' }, conserved ? '✓ conserved' : 'not conserved');
}

export type Pairs = readonly (readonly [label: string, value: string | Node])[];

export function definitions(pairs: Pairs): HTMLElement {
  return h('dl', {}, ...pairs.flatMap(([label, value]) => [h('dt', {}, label), h('dd', {}, value)]));
}

export type PickerOptions = {
  readonly label: string;
  readonly options: readonly HTMLElement[];
  /** Under the pointer or the keyboard. */
  readonly onLook: (index: number) => void;
  /** Clicked, or Enter or space. */
  readonly onPick?: (index: number) => void;
  /** Where the arrow up or down leads; by default to the neighbor. */
  readonly vertical?: (index: number, direction: -1 | 1) => number;
};

/**
 * A listbox: one stop for Tab, arrows inside it (Home and End too). The pointer looks as well, and leaving gives back
 * what was selected.
 */
export function picker({ label, options, onLook, onPick, vertical }: PickerOptions): {
  readonly element: HTMLElement;
  readonly select: (index: number) => void;
} {
  const element = h('div', { role: 'listbox', 'aria-label': label, class: 'picker' }, ...options);
  let selected = 0;
  const select = (index: number, focus = false) => {
    options[selected]?.setAttribute('aria-selected', 'false');
    options[selected]?.setAttribute('tabindex', '-1');
    selected = Math.max(0, Math.min(options.length - 1, index));
    options[selected]?.setAttribute('aria-selected', 'true');
    options[selected]?.setAttribute('tabindex', '0');
    if (focus) options[selected]?.focus();
    onLook(selected);
  };
  for (const option of options) {
    option.setAttribute('role', 'option');
    option.setAttribute('aria-selected', 'false');
    option.setAttribute('tabindex', '-1');
  }
  const places = new Map(options.map((option, index) => [option as Element, index]));
  const indexOf = (event: Event) => {
    const target = event.target instanceof Element ? event.target.closest('[role=option]') : null;
    return target === null ? undefined : places.get(target);
  };
  element.addEventListener('pointerover', (event) => {
    const index = indexOf(event);
    if (index !== undefined) onLook(index);
  });
  element.addEventListener('pointerleave', () => onLook(selected));
  element.addEventListener('click', (event) => {
    const index = indexOf(event);
    if (index === undefined) return;
    select(index, true);
    onPick?.(index);
  });
  element.addEventListener('keydown', (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const to: Record<string, () => number> = {
      ArrowRight: () => selected + 1,
      ArrowLeft: () => selected - 1,
      ArrowDown: () => vertical?.(selected, 1) ?? selected + 1,
      ArrowUp: () => vertical?.(selected, -1) ?? selected - 1,
      Home: () => 0,
      End: () => options.length - 1,
    };
    if (to[event.key] !== undefined) select(to[event.key]!(), true);
    else if (event.key === 'Enter' || event.key === ' ') onPick?.(selected);
    else return;
    event.preventDefault();
  });
  return { element, select };
}

/** For a picker whose options wrap into lines: the option of the next line that lies nearest below or above. */
export function lineWise(options: readonly HTMLElement[]): (index: number, direction: -1 | 1) => number {
  return (index, direction) => {
    const from = options[index]!.getBoundingClientRect();
    let best = index;
    let bestCost = Number.POSITIVE_INFINITY;
    for (let i = index + direction; i >= 0 && i < options.length; i += direction) {
      const box = options[i]!.getBoundingClientRect();
      const down = direction * (box.top - from.top);
      if (down < from.height / 2) continue;
      const cost = down * 10 + Math.abs(box.left - from.left);
      if (cost >= bestCost && down > from.height * 3) break;
      if (cost < bestCost) {
        best = i;
        bestCost = cost;
      }
    }
    return best;
  };
}
