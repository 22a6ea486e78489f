// Makes the MCP App's one HTML file from src/app/browser and writes it as a module, so that the server needs no file
// beside it. `npm run app` writes; a test builds again and compares.
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = join(root, 'src', 'app', 'browser');

const OPTIONS = {
  bundle: true,
  minify: true,
  write: false,
  legalComments: 'none',
  target: ['chrome123', 'safari17.5', 'firefox120'],
};

async function bundle(file) {
  const { outputFiles } = await build({ ...OPTIONS, entryPoints: [join(folder, file)], format: 'esm' });
  return outputFiles[0].text.trim();
}

/** One HTML document that loads nothing; its own policy allows exactly the style and script that stand in it. */
export async function buildViewHtml() {
  const [script, style] = await Promise.all([bundle('view.ts'), bundle('style.css')]);
  // A script element ends at the first "</script", wherever that stands.
  if (/<\/script/i.test(script) || /<\/style/i.test(style)) throw new Error('the bundle holds an end tag');
  const sha256 = (text) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;
  const policy = [
    "default-src 'none'",
    `script-src ${sha256(script)}`,
    `style-src ${sha256(style)}`,
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
  ].join('; ');
  const parts = { __POLICY__: policy, '/* __STYLE__ */': style, '/* __SCRIPT__ */': script };
  const page = readFileSync(join(folder, 'view.html'), 'utf8');
  return Object.entries(parts).reduce((html, [mark, text]) => html.replace(mark, () => text), page);
}

export function moduleOf(html) {
  return `// Written by \`npm run app\` from src/app/browser.\n\nexport const VIEW_HTML = ${JSON.stringify(html)};\n`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const html = await buildViewHtml();
  writeFileSync(join(root, 'src', 'app', 'view-html.ts'), moduleOf(html));
  process.stderr.write(`src/app/view-html.ts: ${Buffer.byteLength(html)} bytes of HTML\n`);
}
