// A square of one layer's trits as text, for whoever wants to look at single weights: the MCP App's map reads it.

import { ArgumentError } from '../errors.ts';
import { type Trit, tritSymbol } from '../gf3/trit.ts';
import type { TritWindowRequest } from './desk-requests.ts';
import { inTurn, type TurnContext } from './in-turn.ts';

/** Rows and columns of a whole window: a map of this side fills a chat's width at 4 pixels a weight; 16 KB as text. */
export const TRIT_WINDOW_SIDE = 128;

export type { TritWindowRequest } from './desk-requests.ts';

/**
 * One line a row, one of `-`, `o`, `+` a weight, or `2` for one of +2 times its scale, which is no trit; cut at the layer's edges. Throws ArgumentError for a place outside the
 * layer, and what opening the model throws.
 */
export function tritWindowText(request: TritWindowRequest, context: TurnContext): Promise<string> {
  const { services, signal } = context;
  return inTurn('server', context, () => services.desk?.tritWindow(request, signal) ?? readWindow(request, context));
}

async function readWindow(request: TritWindowRequest, { services, signal }: TurnContext): Promise<string> {
  // Loaded when asked for: a server that answers its first call soon has read no code for checkpoints.
  const { openTernaryLayer } = await import('../formats/ternary-layers.ts');
  const { openTernaryModel, selectLayers } = await import('./ternary-model.ts');
  using model = await openTernaryModel(request.model, { allowedRoots: services.allowedRoots });
  const [layer] = selectLayers(model.layers, request.layer);
  const { rows, columns, name } = layer!;
  for (const [axis, value, end] of [
    ['row', request.row, rows],
    ['column', request.column, columns],
  ] as const) {
    if (Number.isInteger(value) && value >= 0 && value < end) continue;
    throw new ArgumentError({
      what: `${axis} must be an integer from 0 to ${end - 1}, got ${value}`,
      where: `${name} is ${rows} x ${columns}`,
      fix: `steps of ${TRIT_WINDOW_SIDE} from 0 cover the layer`,
    });
  }
  const height = Math.min(TRIT_WINDOW_SIDE, rows - request.row);
  const width = Math.min(TRIT_WINDOW_SIDE, columns - request.column);
  const lines = new Array<string>(height);
  let missing = height;
  const options = { ...(model.config && { config: model.config }), ...(signal && { signal }) };
  const opened = await openTernaryLayer(model.checkpoint, layer!, options);
  for await (const window of opened.windows(options)) {
    const first = Math.max(request.row, window.rowStart);
    const end = Math.min(request.row + height, window.rowStart + window.rows);
    if (first >= end) continue;
    const { values } = window;
    for (let row = first; row < end; row++) {
      const start = (row - window.rowStart) * columns + request.column;
      lines[row - request.row] = Array.from(values.subarray(start, start + width), (value) =>
        value === 2 ? '2' : tritSymbol(value as Trit),
      ).join('');
      missing--;
    }
    // Counted, since the windows of a packed layer do not come in the order of its rows.
    if (missing === 0) break;
  }
  return lines.join('\n');
}
