// The page's entry: takes what the host hands over and shows the view that fits it.

import { h } from './dom.ts';
import { Host, type HostContext, type ToolResult } from './host.ts';
import { type Layers, layerView } from './layer-view.ts';
import { type Morphism, morphismView } from './morphism-view.ts';
import { type Palette, paletteView } from './palette-view.ts';
import { oneText, type Texts, textsView } from './texts-view.ts';

const main = document.querySelector('main')!;
const expand = h('button', { type: 'button', class: 'expand', hidden: true }, '⤢ expand');

const host = new Host(window.parent, {
  onContext: applyContext,
  onToolInput: (args) => {
    const texts = Array.isArray(args.prompts) ? `${args.prompts.length} prompts ...` : 'working ...';
    const what = typeof args.prompt === 'string' ? `“${args.prompt}” ...` : texts;
    show(h('p', { class: 'waiting' }, what));
  },
  onToolResult: (result) => {
    try {
      show(viewOf(result));
    } catch (error) {
      // A result of another version of the server: say so instead of half a view.
      show(h('p', { class: 'error', role: 'alert' }, `This result cannot be shown: ${(error as Error).message}`));
    }
  },
  onToolCancelled: (reason) => show(h('p', { class: 'waiting' }, `cancelled${reason ? `: ${reason}` : ''}`)),
});

function show(view: HTMLElement): void {
  main.replaceChildren(view, expand);
}

function viewOf({ structuredContent, content, isError }: ToolResult): HTMLElement {
  if (isError) {
    const text = content?.find(({ type }) => type === 'text')?.text ?? 'The call failed.';
    return h('p', { class: 'error', role: 'alert' }, text);
  }
  const result = structuredContent ?? jsonIn(content);
  if (Array.isArray(result?.results)) return textsView(result as unknown as Texts, host);
  if (typeof result?.completion === 'string') return oneText(result as Parameters<typeof oneText>[0], host);
  if (Array.isArray(result?.layers) && typeof result.world_after === 'string') {
    return morphismView(result as unknown as Morphism, host);
  }
  if (Array.isArray(result?.layers)) return layerView(result as unknown as Layers, host, content);
  if (Array.isArray(result?.colors)) return paletteView(result as unknown as Palette, host);
  throw new Error('it holds no text, palette, layers or step');
}

/** Hosts that pass no structured content pass the same as JSON text. */
function jsonIn(content: ToolResult['content']): Record<string, unknown> | undefined {
  for (const { text } of content ?? []) {
    if (text?.startsWith('{')) return JSON.parse(text) as Record<string, unknown>;
  }
  return undefined;
}

function applyContext({ theme, styles, displayMode, availableDisplayModes }: HostContext): void {
  const root = document.documentElement;
  // Without a word from the host the system's choice holds.
  if (theme !== undefined) root.style.colorScheme = theme;
  for (const [name, value] of Object.entries(styles?.variables ?? {})) {
    if (name.startsWith('--') && value !== undefined) root.style.setProperty(name, value);
  }
  expand.hidden = displayMode === 'fullscreen' || !availableDisplayModes?.includes('fullscreen');
}

expand.addEventListener('click', () => {
  // A refusal leaves the view as it is.
  host.request('ui/request-display-mode', { mode: 'fullscreen' }).catch(() => {});
});

new ResizeObserver(() => {
  const { width, height } = document.documentElement.getBoundingClientRect();
  host.notify('ui/notifications/size-changed', { width: Math.ceil(width), height: Math.ceil(height) });
}).observe(document.documentElement);

host.connect({ name: 'bitnet-gf3 view', version: '1' }).catch((error: Error) => {
  show(h('p', { class: 'error', role: 'alert' }, error.message));
});
