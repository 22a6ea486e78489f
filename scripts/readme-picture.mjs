// The picture of the README: what `infer --trace-gf3` prints on a terminal, drawn in a window frame.
//   npm run build && node scripts/readme-picture.mjs    writes docs/trace.png; needs `chromium` on the PATH
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const command = ['infer', 'Once upon a time', '--trace-gf3', '--max-tokens', '12'];
const printed = execFileSync(process.execPath, [join(root, 'dist/cli/main.js'), ...command], {
  env: { ...process.env, FORCE_COLOR: '3' },
  encoding: 'utf8',
  stdio: ['ignore', 'pipe', 'ignore'],
});

const CELL = { width: 8.43, height: 20 };
const PADDING = 20;
const TITLE_BAR = 38;
const SCREEN = '#16161d';
const INK = '#d9d8e3';
const MUTED = '#8b8a99';

const ESCAPE = String.fromCharCode(27);
const STYLE = new RegExp(`${ESCAPE}\\[([0-9;]*)m`);
const STYLES = new RegExp(`(${ESCAPE}\\[[0-9;]*m)`);

/** Runs of equal style: text, foreground, background. */
function parseAnsi(line) {
  const runs = [];
  let [ink, ground] = [undefined, undefined];
  for (const part of line.split(STYLES)) {
    const codes = STYLE.exec(part)?.[1]?.split(';').map(Number);
    if (codes === undefined) {
      if (part !== '') runs.push({ text: part, ink, ground });
      continue;
    }
    for (let i = 0; i < codes.length; i++) {
      const layer = codes[i];
      if (layer === 0) [ink, ground] = [undefined, undefined];
      if ((layer === 38 || layer === 48) && codes[i + 1] === 2) {
        const hex = `#${codes
          .slice(i + 2, i + 5)
          .map((value) => value.toString(16).padStart(2, '0'))
          .join('')}`;
        if (layer === 38) ink = hex;
        else ground = hex;
        i += 4;
      }
    }
  }
  return runs;
}

const escapeXml = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');

const quoted = command.map((word) => (/\s/.test(word) ? `"${word}"` : word)).join(' ');
const lines = [
  [{ text: '$ ', ink: MUTED }, { text: `bitnet-gf3 ${quoted}` }],
  ...printed.trimEnd().split('\n').map(parseAnsi),
];
const columns = Math.max(...lines.map((runs) => runs.reduce((sum, { text }) => sum + [...text].length, 0)));
const width = Math.ceil(columns * CELL.width + 2 * PADDING);
const height = TITLE_BAR + lines.length * CELL.height + PADDING;

const shapes = lines.flatMap((runs, row) => {
  const top = TITLE_BAR + row * CELL.height;
  let column = 0;
  return runs.map(({ text, ink = INK, ground }) => {
    const x = (PADDING + column * CELL.width).toFixed(2);
    const length = [...text].length;
    column += length;
    const span = (length * CELL.width).toFixed(2);
    const box =
      ground === undefined
        ? ''
        : `<rect x="${x}" y="${top + 1}" width="${span}" height="${CELL.height - 2}" rx="2" fill="${ground}"/>`;
    if (text.trim() === '') return box;
    return `${box}<text x="${x}" y="${top + 14.5}" textLength="${span}" fill="${ink}" xml:space="preserve">${escapeXml(text)}</text>`;
  });
});

const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="'JetBrains Mono','DejaVu Sans Mono',Menlo,Consolas,monospace" font-size="14">
<title>Each token of a story in the color of a seeded stream, and the GF(3) sum of the trits</title>
<rect width="${width}" height="${height}" rx="10" fill="${SCREEN}"/>
<circle cx="22" cy="19" r="5.5" fill="#4a4958"/><circle cx="40" cy="19" r="5.5" fill="#4a4958"/><circle cx="58" cy="19" r="5.5" fill="#4a4958"/>
${shapes.filter((shape) => shape !== '').join('\n')}
</svg>
`;
const folder = mkdtempSync(join(tmpdir(), 'readme-picture-'));
const page = join(folder, 'page.html');
writeFileSync(page, `<meta charset="utf-8"><style>body{margin:0}svg{display:block}</style>${svg}`);
execFileSync(
  'chromium',
  [
    ...['--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--force-device-scale-factor=2'],
    ...['--default-background-color=00000000', `--window-size=${width},${height}`],
    ...[`--user-data-dir=${folder}`, `--screenshot=${join(root, 'docs/trace.png')}`, `file://${page}`],
  ],
  { stdio: 'ignore' },
);
rmSync(folder, { recursive: true, maxRetries: 5 });
