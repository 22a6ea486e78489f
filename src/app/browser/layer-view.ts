// A model's ternary layers: shares of the three trits for each, and a map of the chosen one's weights. The host reads
// the map from the server, a square at a time; a host that cannot shows the shares, and the picture if the result has
// one.

import type { Trit } from '../../gf3/trit.ts';
import { balanceBadge, balanceText, definitions, h, picker, tritText } from './dom.ts';
import type { Host, ToolResult } from './host.ts';
import { legend, shares, TRIT_COLORS } from './trits.ts';

type Layer = {
  readonly name: string;
  readonly shape: readonly [number, number];
  readonly counts: { readonly minus: number; readonly ergodic: number; readonly plus: number };
  readonly minus_pct: number;
  readonly ergodic_pct: number;
  readonly plus_pct: number;
  readonly trit_sum: number;
  readonly gf3_residue: number;
  readonly conserved: boolean;
  readonly scale: number;
  readonly entropy_bits: number;
  /** Weights of +2 times their scale: no trits. */
  readonly plus_two?: number;
  /** Where a layer has several scales. */
  readonly scales?: Readonly<Record<string, number>>;
};

export type Layers = {
  readonly model: string;
  readonly colors: { readonly minus: string; readonly ergodic: string; readonly plus: string };
  readonly layers: readonly Layer[];
  readonly total: Layer;
};

/** The server's windows have this side. */
const WINDOW = 128;

export function layerView(result: Layers, host: Host, content: ToolResult['content']): HTMLElement {
  const { layers, total, colors } = result;
  const rows = layers.map((layer) =>
    h(
      'div',
      { class: 'layer', 'aria-label': `${layer.name}, ${layer.shape.join(' x ')}` },
      h('span', { class: 'name' }, h('bdi', {}, layer.name.replace(/\.weight$/, ''))),
      bar(layer),
      h('span', { class: 'sum' }, layer.conserved ? '✓' : `${layer.gf3_residue}`),
    ),
  );
  const details = h('div', { class: 'details', 'aria-live': 'polite' });
  const map = h('div', { class: 'map' });
  const list = picker({
    label: 'Layers; Enter shows the weights',
    options: rows,
    onLook: (index) => details.replaceChildren(layerDetails(layers[index]!)),
    onPick: (index) => {
      const layer = layers[index]!;
      host.tellModel(
        `The user looks at layer ${layer.name} of ${result.model}: trit sum ${layer.trit_sum}, ${layer.entropy_bits.toFixed(4)} bits.`,
      );
      if (host.capabilities.serverResources !== undefined) map.replaceChildren(tritMap(result, layer, host));
    },
  });
  list.element.classList.add('layers');
  const picture = content?.find(({ type }) => type === 'image')?.data;
  if (picture !== undefined) {
    map.append(h('img', { src: `data:image/png;base64,${picture}`, alt: 'The trits of the layers as a picture' }));
  }
  const view = h(
    'section',
    {},
    h(
      'header',
      {},
      h('h1', {}, `${layers.length} ternary ${layers.length === 1 ? 'layer' : 'layers'} of ${result.model}`),
      h('p', {}, `${balanceText(total.trit_sum, total.gf3_residue)} `, balanceBadge(total.conserved)),
    ),
    legend(colors),
    list.element,
    details,
    map,
    h(
      'footer',
      {},
      host.capabilities.serverResources === undefined
        ? 'This client cannot read single weights; ask for image: true to see them.'
        : 'Click a layer, or press Enter, to see its weights.',
    ),
  );
  if (layers.length > 0) list.select(0);
  return view;
}

function bar({ counts, minus_pct, ergodic_pct, plus_pct }: Layer): HTMLElement {
  const title = `- ${minus_pct.toFixed(2)}%, o ${ergodic_pct.toFixed(2)}%, + ${plus_pct.toFixed(2)}%`;
  return h('div', { class: 'bar', title }, ...shares([counts.minus, counts.ergodic, counts.plus]));
}

function layerDetails(layer: Layer): HTMLElement {
  return definitions([
    ['layer', layer.name],
    ['shape', layer.shape.join(' x ')],
    ['-1', `${layer.counts.minus} (${layer.minus_pct.toFixed(2)}%)`],
    ['0', `${layer.counts.ergodic} (${layer.ergodic_pct.toFixed(2)}%)`],
    ['+1', `${layer.counts.plus} (${layer.plus_pct.toFixed(2)}%)`],
    ['sum', `${layer.trit_sum} mod 3 = ${layer.gf3_residue}`],
    ...(layer.plus_two ? [['+2', `${layer.plus_two}, no trits: not in the rest`] as const] : []),
    scaleText(layer.scale, layer.scales),
    ['entropy', `${layer.entropy_bits.toFixed(4)} bits`],
  ]);
}

function scaleText(scale: number, scales: Layer['scales']): readonly [string, string] {
  if (scales === undefined) return ['scale', scale.toPrecision(5)];
  const [min, median, max] = ['min', 'median', 'max'].map((key) => scales[key]?.toPrecision(4));
  return ['scales', `${scales.count}: ${min} to ${max}, median ${median}`];
}

/** Of +2, which has no color of the seed's. */
const PLUS_TWO = '#e83ec1';

const TRITS: Readonly<Record<string, Trit>> = { '-': -1, o: 0, '+': 1 };

/** A window of weights as squares; the pointer or the arrows tell which weight is where. */
function tritMap(result: Layers, layer: Layer, host: Host): HTMLElement {
  const [rows, columns] = layer.shape;
  const canvas = h('canvas', {
    tabindex: '0',
    role: 'application',
    'aria-label': `Weights of ${layer.name}; arrows move`,
  });
  const ring = h('i', { class: 'ring' });
  const box = h('div', { class: 'ringed' }, canvas, ring);
  const place = h('p', { class: 'place', 'aria-live': 'polite' }, 'reading ...');
  let origin = { row: 0, column: 0 };
  let cursor = { row: 0, column: 0 };
  let lines: string[] = [];
  /** One window at a time; keys and pointer wait. */
  let reading = false;

  const draw = () => {
    const height = lines.length;
    const width = lines[0]?.length ?? 0;
    const zoom = Math.max(2, Math.min(16, Math.floor(512 / Math.max(width, height, 1))));
    canvas.width = width * zoom;
    canvas.height = height * zoom;
    const pen = canvas.getContext('2d')!;
    const { minus, ergodic, plus } = TRIT_COLORS;
    const hexes: Readonly<Record<string, string>> = { '-': minus, o: ergodic, '+': plus, '2': PLUS_TWO };
    lines.forEach((line, row) => {
      [...line].forEach((symbol, column) => {
        pen.fillStyle = hexes[symbol] ?? '#000';
        pen.fillRect(column * zoom, row * zoom, zoom, zoom);
      });
    });
    look();
  };

  /** Puts the ring around the weight looked at and says what it is. */
  const look = () => {
    const [height, width] = [lines.length, lines[0]!.length];
    const shares = { left: cursor.column / width, top: cursor.row / height, width: 1 / width, height: 1 / height };
    for (const [name, share] of Object.entries(shares)) ring.style.setProperty(name, `${100 * share}%`);
    const symbol = lines[cursor.row]?.[cursor.column];
    const trit = TRITS[symbol ?? ''];
    const isTwo = symbol === '2';
    if (trit === undefined && !isTwo) return;
    // With several scales, which is this weight's is not known here.
    const weight = layer.scales === undefined ? `, weight ${(layer.scale * (trit ?? 2)).toPrecision(4)}` : '';
    place.textContent =
      `row ${origin.row + cursor.row}, column ${origin.column + cursor.column}: ` +
      `${trit === undefined ? '+2 times the scale, no trit' : tritText(trit)}${weight}`;
  };

  const overview = windowOverview(layer, (row, column) => {
    if (reading) return;
    const next = { row: row - (row % WINDOW), column: column - (column % WINDOW) };
    void load(next, { row: row - next.row, column: column - next.column });
  });

  /** Shows the window at `next`; the cursor is relative to it once it is there. */
  const load = async (next: { row: number; column: number }, at: { row: number; column: number }) => {
    const [model, name] = [result.model, layer.name].map(encodeURIComponent);
    place.textContent = 'reading ...';
    reading = true;
    try {
      const text = await host.readText(`bitnet-gf3://models/${model}/trits/${name}/${next.row}/${next.column}`);
      origin = next;
      lines = text.split('\n');
      cursor = at;
      draw();
      overview.mark(origin);
    } catch (error) {
      place.textContent = `the weights could not be read: ${(error as Error).message}`;
    }
    reading = false;
  };

  /** Moves the cursor by weights; over the window's edge, into the next window. */
  const move = (down: number, right: number) => {
    if (reading) return;
    const row = clamp(origin.row + cursor.row + down, rows);
    const column = clamp(origin.column + cursor.column + right, columns);
    const next = { row: row - (row % WINDOW), column: column - (column % WINDOW) };
    const at = { row: row - next.row, column: column - next.column };
    if (next.row !== origin.row || next.column !== origin.column) void load(next, at);
    else {
      cursor = at;
      look();
    }
  };

  const keys: Readonly<Record<string, readonly [number, number]>> = {
    ArrowUp: [-1, 0],
    ArrowDown: [1, 0],
    ArrowLeft: [0, -1],
    ArrowRight: [0, 1],
    PageUp: [-WINDOW, 0],
    PageDown: [WINDOW, 0],
    Home: [0, -columns],
    End: [0, columns],
  };
  canvas.addEventListener('keydown', (event) => {
    const step = keys[event.key];
    if (step === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    move(...step);
  });
  canvas.addEventListener('pointermove', (event) => {
    if (reading || lines.length === 0) return;
    const box = canvas.getBoundingClientRect();
    const row = clamp(Math.floor(((event.clientY - box.top) / box.height) * lines.length), lines.length);
    const column = clamp(Math.floor(((event.clientX - box.left) / box.width) * lines[0]!.length), lines[0]!.length);
    if (row === cursor.row && column === cursor.column) return;
    cursor = { row, column };
    look();
  });

  const button = (text: string, label: string, down: number, right: number) => {
    const element = h('button', { type: 'button', 'aria-label': label }, text);
    element.addEventListener('click', () => move(down * WINDOW, right * WINDOW));
    return element;
  };
  const buttons =
    rows <= WINDOW && columns <= WINDOW
      ? []
      : [
          h(
            'div',
            { class: 'buttons' },
            button('◀', 'Weights to the left', 0, -1),
            button('▲', 'Weights above', -1, 0),
            button('▼', 'Weights below', 1, 0),
            button('▶', 'Weights to the right', 0, 1),
          ),
        ];
  void load(origin, cursor);
  const parts = rows <= WINDOW && columns <= WINDOW ? [box] : [box, overview.element];
  return h(
    'div',
    { class: 'trits' },
    h('h2', {}, layer.name),
    h('div', { class: 'side-by-side' }, ...parts),
    place,
    ...buttons,
  );
}

/** The whole matrix as a box with the window's place in it; a click goes there. */
function windowOverview(
  { shape: [rows, columns] }: Layer,
  onGo: (row: number, column: number) => void,
): { element: HTMLElement; mark: (origin: { row: number; column: number }) => void } {
  const mark = h('i', {});
  const box = h('div', { class: 'overview', title: 'The whole matrix: a click goes there' }, mark);
  const scale = 132 / Math.max(rows, columns);
  box.style.width = `${Math.max(6, columns * scale)}px`;
  box.style.height = `${Math.max(6, rows * scale)}px`;
  box.addEventListener('click', (event) => {
    const { left, top, width, height } = box.getBoundingClientRect();
    onGo(
      clamp(Math.floor(((event.clientY - top) / height) * rows), rows),
      clamp(Math.floor(((event.clientX - left) / width) * columns), columns),
    );
  });
  return {
    element: h('figure', {}, box, h('figcaption', {}, `${rows} x ${columns}`)),
    mark: ({ row, column }) => {
      const percents = { top: row / rows, left: column / columns, height: WINDOW / rows, width: WINDOW / columns };
      for (const [name, share] of Object.entries(percents)) {
        const room = name === 'height' ? 1 - row / rows : name === 'width' ? 1 - column / columns : 1;
        mark.style.setProperty(name, `${100 * Math.min(share, room)}%`);
      }
    },
  };
}

function clamp(value: number, length: number): number {
  return Math.max(0, Math.min(length - 1, value));
}
