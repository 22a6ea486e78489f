// A generation: its text with every token in its color, what is known of the token looked at, and how the GF(3) sum ran.
// A color depends on the token's position only; what the model itself says of a token is its log-probability, drawn as a
// line below the token and as a bar in the chart.

import { gf3Residue } from '../../gf3/sums.ts';
import { isHex } from '../ink.ts';
import { nats, percent } from '../shown-text.ts';
import { type Alternative, type Counts, promptOf, runningSums, type Trace, toldLogprob } from '../trace.ts';
import { balanceBadge, balanceText, definitions, h, lineWise, paint, picker, tritText } from './dom.ts';
import type { Host } from './host.ts';
import { marked, markedToken } from './marks.ts';
import { legend, shares } from './trits.ts';

export function traceView(result: Trace, host: Host): HTMLElement {
  const { trace } = result;
  const tokens = trace.map((one) => {
    const { token, color, trit, step } = one;
    const logprob = toldLogprob(one);
    const said = logprob === undefined ? '' : `, probability ${percent(Math.exp(logprob))}`;
    const label = `token ${step}: ${JSON.stringify(token)}, ${tritText(trit)}${said}`;
    const element = paint(h('span', { class: 'token', 'aria-label': label }, ...markedToken(token)), color);
    // The part of the line below the token that is filled.
    if (logprob !== undefined) element.style.setProperty('--p', `${(100 * Math.exp(logprob)).toFixed(1)}%`);
    return element;
  });
  const sums = runningSums(trace);
  const chart = sumChart(sums);
  const logprobs = logprobChart(trace.map(toldLogprob));
  const details = h('div', { class: 'details', 'aria-live': 'polite' });

  const look = (index: number) => {
    const { step, token, token_id, color, trit, activations, top_logprobs } = trace[index]!;
    const logprob = toldLogprob(trace[index]!);
    chart.mark(index);
    logprobs?.mark(index);
    details.replaceChildren(
      paint(h('div', { class: 'swatch' }, isHex(color) ? color : ''), color),
      definitions([
        ['token', h('code', {}, ...marked(JSON.stringify(token)))],
        ['id', token_id === undefined ? 'not told' : String(token_id)],
        ['step', `${step} (color index ${step + 1})`],
        ['trit', tritText(trit)],
        [
          'logprob (the model’s)',
          logprob === undefined ? 'not told' : `${nats(logprob)} (${percent(Math.exp(logprob))})`,
        ],
        ['sum so far', `${sums[index]} mod 3 = ${gf3Residue(sums[index]!)}`],
      ]),
      ...(Array.isArray(top_logprobs) && top_logprobs.length > 0 ? [alternatives(top_logprobs, token)] : []),
      ...(activations === undefined ? [] : [activationBars(activations)]),
    );
  };
  const list = picker({
    label: 'Tokens that the model wrote',
    options: tokens,
    vertical: lineWise(tokens),
    onLook: look,
    onPick: (index) => {
      const { step, token, trit } = trace[index]!;
      const logprob = toldLogprob(trace[index]!);
      host.tellModel(
        `The user points at token ${step} of the trace: ${JSON.stringify(token)}, logprob ${logprob === undefined ? 'not told' : nats(logprob)}, trit ${trit}.`,
      );
    },
  });
  list.element.classList.add('text');
  list.element.prepend(h('span', { class: 'prompt' }, ...marked(promptOf(result))));

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
    h(
      'p',
      { class: 'note' },
      'Color and trit: of the position only. Line below a token: its probability, which is the model’s.',
    ),
    ...(logprobs === undefined ? [] : [logprobs.element]),
    chart.element,
    details,
    h('footer', {}, `seed ${result.seed}, ended by ${result.finish_reason}`),
  );
  if (trace.length > 0) list.select(0);
  else details.append('The model wrote nothing.');
  return view;
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

/** Log-probabilities as bars that hang down: the longer, the less the model expected the token. */
function logprobChart(
  logprobs: readonly (number | undefined)[],
): { element: HTMLElement; mark: (index: number) => void } | undefined {
  const told = logprobs.filter((value) => value !== undefined);
  if (told.length === 0) return undefined;
  const width = 1000;
  const height = 60;
  const least = Math.min(-1, ...told.filter(Number.isFinite));
  const step = width / logprobs.length;
  const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  const bars = logprobs.map((logprob, i) => {
    const share = Math.min(1, Math.max(0.02, (logprob ?? 0) / least));
    const at = { x: (i + 0.1) * step, width: 0.8 * step, y: 0, height: logprob === undefined ? 0 : height * share };
    const bar = svg('rect', { class: 'surprise', ...at });
    picture.append(bar);
    return bar;
  });
  const mean = told.reduce((sum, value) => sum + value, 0) / told.length;
  const caption = `Log-probability of each token, from 0 down to ${nats(least)}, mean ${nats(mean)}: short is expected`;
  let marked = 0;
  return {
    element: h('figure', { class: 'chart low' }, picture as unknown as Node, h('figcaption', {}, caption)),
    mark: (index) => {
      bars[marked]?.classList.remove('marked');
      bars[index]?.classList.add('marked');
      marked = index;
    },
  };
}

/** What else the model might have written there, the likeliest first. */
function alternatives(list: readonly Alternative[], token: string): HTMLElement {
  const rows = list.flatMap((one) => {
    const text = one.token;
    const logprob = toldLogprob(one) ?? Number.NEGATIVE_INFINITY;
    const bar = h('span', { class: 'loss' });
    bar.style.width = `${Math.min(100, 100 * Math.exp(logprob)).toFixed(1)}%`;
    const chosen = text === token;
    return [
      h('code', { class: chosen ? 'chosen' : undefined }, ...markedToken(String(text))),
      h('span', { class: 'track' }, bar),
      h('span', {}, `${nats(logprob)} (${percent(Math.exp(logprob))})`),
    ];
  });
  return h('div', { class: 'alternatives' }, h('h2', {}, 'Likeliest here'), h('div', { class: 'losses' }, ...rows));
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
  return h('div', { class: 'activations' }, h('h2', {}, 'Activations by layer'), legend(), ...bars);
}
