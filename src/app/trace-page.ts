// A trace as one HTML file to share: tokens in their colors with the log-probability below each, what else was likely when
// one is pointed at, and the running GF(3) sum. It runs no script and loads nothing, so that it reads the same offline, in
// a mail and years from now; text of a model is text in it, whatever it says.

import { createHash } from 'node:crypto';
import { gf3Residue } from '../gf3/sums.ts';
import { role, tritSymbol } from '../gf3/trit.ts';
import { inkOn, isHex } from './ink.ts';
import { nats, percent, type TextPart, textParts, tokenParts } from './shown-text.ts';
import { promptOf, runningSums, type Trace, type TraceStep, toldLogprob } from './trace.ts';

const STYLE = `
:root { color-scheme: light dark; --paper: light-dark(#fff, #1c1c1e); --panel: light-dark(#f3f3f5, #2a2a2d);
  --ink: light-dark(#1a1a1c, #f0f0f2); --muted: light-dark(#5c5c62, #a8a8b0); --line: light-dark(#d5d5da, #46464c);
  --bar: light-dark(#3b5bdb, #8ab4f8); --good: light-dark(#146c2e, #6dd58c);
  background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1000px; padding: 20px 20px 240px; }
header { display: flex; flex-wrap: wrap; gap: 2px 16px; align-items: baseline; justify-content: space-between; }
h1 { font-size: 18px; margin: 0; overflow-wrap: anywhere; }
p { margin: 8px 0; }
.muted, footer, figcaption { color: var(--muted); font-size: 13px; }
.badge { border: 1px solid var(--line); border-radius: 99px; padding: 1px 8px; font-size: 12px; white-space: nowrap; }
.good { color: var(--good); border-color: currentcolor; }
.prompt { white-space: pre-wrap; overflow-wrap: anywhere; color: var(--muted); border-left: 3px solid var(--line);
  padding-left: 10px; max-height: 30em; overflow: auto; }
.trace { line-height: 1.35; }
.step { display: inline-flex; flex-direction: column; vertical-align: top; max-width: 100%; margin: 0 1px 8px 0;
  border-radius: 4px; cursor: default; }
.token { white-space: pre-wrap; overflow-wrap: anywhere; padding: 3px 3px; border-radius: 4px; min-width: 1.1em;
  font-size: 17px; }
.logprob { font: 10.5px/1.3 ui-monospace, monospace; color: var(--muted); text-align: center; padding: 1px 2px 0; }
.special { border: 1px solid currentcolor; border-radius: 99px; padding: 0 5px; font: 12px ui-monospace, monospace; }
.step:hover, .step:focus { outline: 2px solid var(--ink); outline-offset: 2px; z-index: 1; }
.facts { display: none; position: fixed; left: 0; right: 0; bottom: 0; max-height: 230px; overflow: auto; z-index: 2;
  background: var(--panel); border-top: 1px solid var(--line); padding: 12px max(20px, calc(50% - 480px));
  gap: 4px 32px; font-size: 14px; font-variant-numeric: tabular-nums; color: var(--ink); cursor: auto; }
.step:hover .facts, .step:focus .facts, .step:focus-within .facts { display: flex; flex-wrap: wrap; }
.trace:hover .step:not(:hover) .facts { display: none; }
.facts table { border-spacing: 0; }
.facts td { padding: 0 14px 0 0; vertical-align: top; overflow-wrap: anywhere; }
.facts td:first-child { color: var(--muted); white-space: nowrap; }
.likely td:first-child { color: inherit; white-space: pre-wrap; }
.likely caption { text-align: left; color: var(--muted); }
.chosen td { font-weight: 700; }
code { font-family: ui-monospace, monospace; white-space: pre-wrap; }
figure { margin: 16px 0; }
svg { display: block; width: 100%; height: 130px; overflow: visible; }
.axis { stroke: var(--line); } .sum { fill: none; stroke: var(--ink); stroke-width: 1.5; } .dot { fill: var(--good); }
.axis, .sum { vector-effect: non-scaling-stroke; }
.dot { stroke: var(--good); stroke-width: 7; stroke-linecap: round; vector-effect: non-scaling-stroke; }
@media (max-width: 480px) { body { padding: 12px 12px 240px; } }
@media print { .facts { display: none !important; } body { padding-bottom: 0; } }
`;

/** Text as HTML, in an element or in a quoted attribute. */
export function escapeHtml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&#39;');
}

/** The whole document. */
export function tracePage(result: Trace): string {
  const { trace, model } = result;
  const sums = runningSums(trace);
  // As rules, not as attributes: the page's own policy takes this one style and nothing else.
  const colors = new Map<string, string>();
  const classOf = (hex: string): string => {
    if (!isHex(hex)) return '';
    if (!colors.has(hex)) colors.set(hex, `c${colors.size}`);
    return colors.get(hex)!;
  };
  const steps = trace.map((step, i) => stepHtml(step, sums[i]!, classOf(step.color))).join('');
  const rules = [...colors].map(([hex, name]) => `.${name} { background: ${hex}; color: ${inkOn(hex)}; }`).join('\n');
  const style = `${STYLE}${rules}\n`;
  const hash = createHash('sha256').update(style).digest('base64');
  const policy = `default-src 'none'; style-src 'sha256-${hash}'; base-uri 'none'; form-action 'none'`;
  const title = `${trace.length} ${trace.length === 1 ? 'token' : 'tokens'} by ${model}`;
  const told = trace.map(toldLogprob).filter((value) => value !== undefined);
  const mean = told.reduce((sum, value) => sum + value, 0) / told.length;
  const prompt = promptOf(result);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>${partsHtml(textParts(title), false)}</title>
<style>${style}</style>
</head>
<body>
<header>
<h1>${partsHtml(textParts(title))}</h1>
<p>GF(3) trit sum: ${result.trit_sum} mod 3 = ${result.gf3_residue} <span class="badge${result.gf3_conserved ? ' good' : ''}">${result.gf3_conserved ? '✓ conserved' : 'not conserved'}</span></p>
</header>
<p class="muted">A color and its trit depend on the position only. The number below a token is its log-probability in nats, the part that comes from the model${told.length === 0 ? '; this one was not told' : `; their mean is ${nats(mean)}`}. Point at a token, or reach it with Tab, for more.</p>
${prompt === '' ? '' : `<p class="prompt">${partsHtml(textParts(prompt))}</p>\n`}<div class="trace">${steps}</div>
${sumChart(sums)}
<footer>seed ${escapeHtml(String(result.seed))}, ended by ${escapeHtml(String(result.finish_reason))}; made by bitnet-gf3</footer>
</body>
</html>
`;
}

function partsHtml(parts: readonly TextPart[], marks = true): string {
  return parts
    .map(({ text, special }) =>
      special && marks ? `<span class="special">${escapeHtml(text)}</span>` : escapeHtml(text),
    )
    .join('');
}

function stepHtml(step: TraceStep, sum: number, color: string): string {
  const { token, token_id, trit } = step;
  const logprob = toldLogprob(step);
  const facts: readonly (readonly [string, string])[] = [
    ['token', `<code>${partsHtml(textParts(JSON.stringify(token)))}</code>`],
    ...(token_id === undefined ? [] : [['id', escapeHtml(String(token_id))] as const]),
    ['step', `${step.step} (color index ${step.step + 1})`],
    ['color', isHex(step.color) ? step.color : ''],
    ['trit', `${tritSymbol(trit)} ${role(trit)}`],
    ['log-probability', logprob === undefined ? 'not told' : `${nats(logprob)} (${percent(Math.exp(logprob))})`],
    ['sum so far', `${sum} mod 3 = ${gf3Residue(sum)}`],
  ];
  const rows = facts.map(([name, value]) => `<tr><td>${name}</td><td>${value}</td></tr>`).join('');
  // A line break of the text ends the line here as well.
  const end = token.includes('\n') ? '<br>' : '';
  const shown = tokenParts(token).map((part) => ({ ...part, text: part.text.replace(/\n$/, '') }));
  return (
    `<span class="step" tabindex="0"><span class="token ${color}">${partsHtml(shown)}</span>` +
    `<span class="logprob">${logprob === undefined ? '·' : logprob.toFixed(2).replace('-0.00', '0.00')}</span>` +
    `<span class="facts"><table>${rows}</table>${likelyHtml(step)}</span></span>${end}`
  );
}

function likelyHtml({ top_logprobs, token }: TraceStep): string {
  if (!Array.isArray(top_logprobs) || top_logprobs.length === 0) return '';
  const rows = top_logprobs.map((one) => {
    const logprob = toldLogprob(one);
    const value = logprob === undefined ? 'not told' : `${nats(logprob)} (${percent(Math.exp(logprob))})`;
    return `<tr${one.token === token ? ' class="chosen"' : ''}><td><code>${partsHtml(tokenParts(String(one.token)))}</code></td><td>${value}</td></tr>`;
  });
  return `<table class="likely"><caption>likeliest here</caption>${rows.join('')}</table>`;
}

/** The sum after each token as a line of steps, dots where it is 0 mod 3. */
function sumChart(sums: readonly number[]): string {
  if (sums.length === 0) return '';
  const [width, height, pad] = [1000, 130, 10];
  const least = Math.min(0, ...sums);
  const most = Math.max(0, ...sums);
  const x = (i: number) => (sums.length < 2 ? width / 2 : pad + (i * (width - 2 * pad)) / (sums.length - 1)).toFixed(1);
  const y = (sum: number) =>
    (height - pad - ((sum - least) * (height - 2 * pad)) / Math.max(1, most - least)).toFixed(1);
  const points = sums.map((sum, i) => `${x(i)},${y(sum)}`).join(' ');
  const dots = sums.flatMap((sum, i) =>
    gf3Residue(sum) === 0 ? [`<path class="dot" d="M${x(i)} ${y(sum)}h0"/>`] : [],
  );
  return `<figure><svg viewBox="0 0 ${width} ${height}" preserveAspectRatio="none" role="img" aria-label="Running GF(3) sum"><line class="axis" x1="0" x2="${width}" y1="${y(0)}" y2="${y(0)}"/><polyline class="sum" points="${points}"/>${dots.join('')}</svg>
<figcaption>Running GF(3) sum, from ${least} to ${most}, at the end ${sums.at(-1)}; dots: 0 mod 3</figcaption></figure>`;
}
