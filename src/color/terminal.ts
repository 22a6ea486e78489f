// Colors on a terminal: how many it can show, and swatches in that depth.

import { relativeLuminance } from './contrast.ts';
import { hexOf, packedOf } from './hex.ts';

/** What a terminal can show. */
export type ColorDepth = 'none' | 'ansi256' | 'truecolor';

type Environment = Readonly<Record<string, string | undefined>>;

const TRUECOLOR_PROGRAMS = ['iTerm.app', 'vscode', 'WezTerm', 'ghostty', 'Hyper', 'mintty', 'rio', 'Tabby'];
const TRUECOLOR_TERMS = /^(xterm-kitty|xterm-ghostty|alacritty|wezterm|foot|contour|rio)|-direct|truecolor/;

function depthOfTerminal(env: Environment): ColorDepth {
  const term = env.TERM ?? '';
  if (term === 'dumb') return 'none';
  if (/^(truecolor|24bit)$/i.test(env.COLORTERM ?? '')) return 'truecolor';
  if (TRUECOLOR_PROGRAMS.includes(env.TERM_PROGRAM ?? '') || TRUECOLOR_TERMS.test(term)) return 'truecolor';
  // Windows Terminal sets WT_SESSION; it sets no TERM.
  if (env.WT_SESSION !== undefined) return 'truecolor';
  return term === '' ? 'none' : 'ansi256';
}

/**
 * The depth to write colors in. In this order: FORCE_COLOR (0 or false: none; 2: 256 colors; 3: truecolor; any other
 * value: what the terminal shows, at least 256 colors), NO_COLOR (any value: none), no terminal (none), then the
 * terminal's own variables.
 */
export function colorDepth(env: Environment, { isTTY }: { readonly isTTY?: boolean | undefined }): ColorDepth {
  const forced = env.FORCE_COLOR;
  if (forced !== undefined) {
    if (forced === '0' || forced === 'false') return 'none';
    if (forced === '2') return 'ansi256';
    if (forced === '3') return 'truecolor';
    const depth = depthOfTerminal(env);
    return depth === 'none' ? 'ansi256' : depth;
  }
  if (env.NO_COLOR !== undefined && env.NO_COLOR !== '') return 'none';
  return isTTY ? depthOfTerminal(env) : 'none';
}

/** Channel values of the 6 x 6 x 6 cube, colors 16 to 231; 232 to 255 are the greys 8, 18, ... 238. */
const CUBE = [0, 95, 135, 175, 215, 255];

/** The nearest of the 256 xterm colors 16 to 255 (0 to 15 are the user's own); r, g, b are 8-bit. */
export function ansi256Of(r: number, g: number, b: number): number {
  const nearest = (value: number) => (value < 48 ? 0 : value < 115 ? 1 : Math.floor((value - 35) / 40));
  const [i, j, k] = [nearest(r), nearest(g), nearest(b)];
  const grey = Math.min(23, Math.max(0, Math.round(((r + g + b) / 3 - 8) / 10)));
  const distance = (x: number, y: number, z: number) => (r - x) ** 2 + (g - y) ** 2 + (b - z) ** 2;
  const level = 8 + 10 * grey;
  const toCube = distance(CUBE[i]!, CUBE[j]!, CUBE[k]!);
  return distance(level, level, level) < toCube ? 232 + grey : 16 + 36 * i + 6 * j + k;
}

function code(hex: string, depth: Exclude<ColorDepth, 'none'>, layer: 38 | 48): string {
  const packed = packedOf(hex);
  const [r, g, b] = [packed >>> 16, (packed >>> 8) & 255, packed & 255] as const;
  return depth === 'truecolor' ? `${layer};2;${r};${g};${b}` : `${layer};5;${ansi256Of(r, g, b)}`;
}

/** "#000000" or "#FFFFFF", whichever reads better on the color (WCAG contrast). */
export function inkOn(hex: string): string {
  // Contrast with black is (Y + 0.05) / 0.05, with white 1.05 / (Y + 0.05); they are equal at Y = 0.179.
  return hexOf(relativeLuminance(hex) > 0.179 ? 0x000000 : 0xffffff);
}

/**
 * `text` on a ground of the color, in readable ink; by default a swatch two cells wide. Depth `none` gives the text
 * without escapes, and so nothing for a bare swatch.
 */
export function ansiSwatch(hex: string, depth: ColorDepth, text = '  '): string {
  if (depth === 'none') return text.trim() === '' ? '' : text;
  const ink = text.trim() === '' ? '' : `${code(inkOn(hex), depth, 38)};`;
  return `\u001b[${ink}${code(hex, depth, 48)}m${text}\u001b[0m`;
}

/** `text` written in the color. */
export function ansiText(hex: string, depth: ColorDepth, text: string): string {
  return depth === 'none' ? text : `\u001b[${code(hex, depth, 38)}m${text}\u001b[0m`;
}
