// Texts without their traces, or many with them: each can be opened, and is drawn when it is.

import type { Trace } from '../trace.ts';
import { h } from './dom.ts';
import type { Host } from './host.ts';
import { marked } from './marks.ts';
import { traceView } from './trace-view.ts';

type Text = Partial<Trace> & { readonly completion: string };

export type Texts = {
  readonly model: string;
  readonly seed: string;
  readonly results: readonly Text[];
  readonly timings?: { readonly tokens_per_second?: number };
};

/** Of a completion, what stands beside its number while it is closed. */
const MAX_HEAD = 120;

export function textsView({ model, seed, results, timings }: Texts, host: Host): HTMLElement {
  const speed = timings?.tokens_per_second;
  const rate = typeof speed === 'number' ? `, ${speed.toFixed(0)} tokens/s together` : '';
  return h(
    'section',
    {},
    h('header', {}, h('h1', {}, `${results.length} texts by ${model}${rate}`)),
    ...results.map((text, i) => {
      const { completion } = text;
      const head = completion.length > MAX_HEAD ? `${completion.slice(0, MAX_HEAD)} ...` : completion;
      const element = h('details', { class: 'one' }, h('summary', {}, `${i}  `, ...marked(head)));
      element.addEventListener(
        'toggle',
        () => element.append(oneText({ ...text, model, seed, output: completion }, host)),
        { once: true },
      );
      return element;
    }),
    h('footer', {}, `seed ${seed}`),
  );
}

/** One result, with its trace or without. */
export function oneText(text: Text, host: Host): HTMLElement {
  if (Array.isArray(text.trace)) return traceView(text as Trace, host);
  return h(
    'section',
    {},
    h('p', { class: 'text' }, ...marked(text.output ?? text.completion)),
    h('footer', {}, `ended by ${text.finish_reason}, without its trace`),
  );
}
