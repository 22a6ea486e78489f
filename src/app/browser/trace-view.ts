// A generation: its text with every token in its color, what is known of the token looked at, and how the GF(3) sum ran.

import { gf3Residue } from '../../gf3/sums.ts';
import type { Trit } from '../../gf3/trit.ts';
import { balanceBadge, balanceText, definitions, h, isHex, lineWise, paint, picker, tritText } from './dom.ts';
import type { Host } from './host.ts';

type Counts = { readonly minus: number; readonly ergodic: number; readonly plus: number };

export type Trace = {
  readonly model: string;
  readonly output: string;
  readonly completion: string;
  readonly finish_reason: string;
  readonly seed: string;
  readonly trit_sum: number;
  readonly gf3_residue: number;
  readonly gf3_conserved: boolean;
  readonly trace: readonly {
    readonly step: number;
    readonly token: string;
    readonly token_id?: number;
    readonly logprob?: number;
    readonly color: string;
    readonly trit: Trit;
    readonly activations?: readonly Counts[];
  }[];
};

export function traceView(result: Trace, host: Host): HTMLElement {
  const { trace } = result;
  const tokens = trace.map(({ token, color, trit, step }) =>
    paint(
      h(
        'span',
        { class: 'token', 'aria-label': `token ${step}: ${JSON.stringify(token)}, ${tritText(trit)}` },
        shown(token),
      ),
      color,
    ),
  );
  const sums = runningSums(trace.map(({ trit }) => trit));
  const chart = sumChart(sums);
  const details = h('div', { class: 'details', 'aria-live': 'polite' });

  const look = (index: number) => {
    const { step, token, token_id, logprob, color, trit, activations } = trace[index]!;
    chart.mark(index);
    details.replaceChildren(
      paint(h('div', { class: 'swatch' }, isHex(color) ? color : ''), color),
      definitions([
        ['token', h('code', {}, JSON.stringify(token))],
        ['id', token_id === undefined ? 'not told' : String(token_id)],
        ['step', `${step} (color index ${step + 1})`],
        ['trit', tritText(trit)],
        ['logprob', logprob === undefined ? 'not told' : `${nats(logprob)} (${percent(Math.exp(logprob))})`],
        ['sum so far', `${sums[index]} mod 3 = ${gf3Residue(sums[index]!)}`],
      ]),
      ...(activations === undefined ? [] : [activationBars(activations)]),
    );
  };
  const list = picker({
    label: 'Tokens that the model wrote',
    options: tokens,
    vertical: lineWise(tokens),
    onLook: look,
    onPick: (index) => {
      const { step, token, logprob, trit } = trace[index]!;
      host.tellModel(
        `The user points at token ${step} of the trace: ${JSON.stringify(token)}, logprob ${logprob === undefined ? 'not told' : nats(logprob)}, trit ${trit}.`,
      );
    },
  });
  list.element.classList.add('text');
  const prompt = result.output.slice(0, result.output.length - result.completion.length);
  list.element.prepend(h('span', { class: 'prompt' }, prompt));

  const view = h(
    'section',
    {},
    h(
      'header',
      {},
      h('h1', {}, `${trace.length} tokens by ${result.model}`),
      h('p', {}, `${balanceText(result.trit_sum, result.gf3_residue)} `, balanceBadge(result.gf3_conserved)),
    ),
    list.element,
    chart.element,
    details,
    h('footer', {}, `seed ${result.seed}, ended by ${result.finish_reason}`),
  );
  if (trace.length > 0) list.select(0);
  else details.append('The model wrote nothing.');
  return view;
}

/** A token with its line breaks seen. */
function shown(token: string): string {
  return token.replaceAll('\n', '⏎\n').replaceAll('\t', '⇥\t') || '∅';
}

/** A log-probability; what rounds to nothing has no sign. */
function nats(logprob: number): string {
  return logprob.toFixed(3).replace('-0.000', '0.000');
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.001 ? 3 : 1)}%`;
}

function runningSums(trits: readonly number[]): number[] {
  let sum = 0;
  return trits.map((trit) => {
    sum += trit;
    return sum;
  });
}

const SVG = 'http://www.w3.org/2000/svg';

function svg(name: string, attributes: Readonly<Record<string, string | number>>): SVGElement {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  return element;
}

/** The running sum as a line of steps; dots where it is 0 mod 3. */
function sumChart(sums: readonly number[]): { element: HTMLElement; mark: (index: number) => void } {
  const width = 1000;
  const height = 90;
  const pad = 8;
  const least = Math.min(0, ...sums);
  const most = Math.max(0, ...sums);
  const x = (i: number) => (sums.length < 2 ? width / 2 : pad + (i * (width - 2 * pad)) / (sums.length - 1));
  const y = (sum: number) => height - pad - ((sum - least) * (height - 2 * pad)) / Math.max(1, most - least);
  const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  picture.append(svg('line', { class: 'zero', x1: 0, x2: width, y1: y(0), y2: y(0) }));
  const points = sums.map((sum, i) => `${x(i).toFixed(1)},${y(sum).toFixed(1)}`).join(' ');
  picture.append(svg('polyline', { class: 'sum', points }));
  const cursor = svg('line', { class: 'cursor', y1: 0, y2: height });
  picture.append(cursor);
  sums.forEach((sum, i) => {
    // A line without length and with round ends: a circle would be stretched with the picture.
    if (gf3Residue(sum) === 0)
      picture.append(svg('line', { class: 'dot', x1: x(i), x2: x(i), y1: y(sum), y2: y(sum) }));
  });
  const last = sums.at(-1) ?? 0;
  const caption = `Running GF(3) sum, from ${least} to ${most}, at the end ${last}; dots: 0 mod 3`;
  return {
    element: h('figure', { class: 'chart' }, picture as unknown as Node, h('figcaption', {}, caption)),
    mark: (index) => {
      cursor.setAttribute('x1', String(x(index)));
      cursor.setAttribute('x2', String(x(index)));
    },
  };
}

/** Trits of each layer's activations for one token. */
function activationBars(layers: readonly Counts[]): HTMLElement {
  const bars = layers.map(({ minus, ergodic, plus }, layer) =>
    h(
      'div',
      { class: 'bar', title: `layer ${layer}: - ${minus}, o ${ergodic}, + ${plus}` },
      ...shares([minus, ergodic, plus]),
    ),
  );
  return h('div', { class: 'activations' }, h('h2', {}, 'Activations by layer: - o +'), ...bars);
}

/** Parts of a bar by share, in the classes minus, ergodic, plus. */
export function shares(counts: readonly number[]): HTMLElement[] {
  return ['minus', 'ergodic', 'plus'].map((name, i) => {
    const part = h('span', { class: name });
    part.style.flexGrow = String(counts[i] ?? 0);
    return part;
  });
}
