// The official MCP conformance suite against our HTTP stack, for both protocol eras: every scenario that a revision
// requires must pass.
//   npm run conformance              both revisions
//   npm run conformance 2025-11-25   one
// On first use it installs the pinned suite (and, below Node 22, which the suite needs, a Node 22) from npm into
// .bitnet-gf3/conformance. The fixtures that the suite asks for are test/mcp/conformance-fixtures.ts.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const SUITE = '@modelcontextprotocol/conformance@0.2.0-alpha.12';
const NODE_MAJOR = 22;
const REVISIONS = ['2025-11-25', '2026-07-28'];

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folder = join(root, '.bitnet-gf3', 'conformance');

const asked = process.argv.slice(2);
const revisions = asked.length > 0 ? asked : REVISIONS;
if (revisions.some((revision) => !REVISIONS.includes(revision))) {
  process.stderr.write(`revisions: ${REVISIONS.join(', ')}\n`);
  process.exit(2);
}

const isNewEnough = Number(process.versions.node.split('.')[0]) >= NODE_MAJOR;
const ownNode = `node-${process.platform === 'win32' ? 'win' : process.platform}-${process.arch}`;
const packages = [SUITE, ...(isNewEnough ? [] : [`${ownNode}@${NODE_MAJOR}`])];

const mark = join(folder, 'installed.json');
if (!existsSync(mark) || readFileSync(mark, 'utf8') !== JSON.stringify(packages)) {
  mkdirSync(folder, { recursive: true });
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
  const install = ['install', '--prefix', folder, '--no-audit', '--no-fund', '--ignore-scripts', ...packages];
  const { status } = spawnSync(npm, install, { stdio: ['ignore', 2, 2], shell: process.platform === 'win32' });
  if (status !== 0) process.exit(1);
  writeFileSync(mark, JSON.stringify(packages));
}
const suiteManifest = createRequire(join(folder, 'x.js')).resolve('@modelcontextprotocol/conformance/package.json');
const suite = join(dirname(suiteManifest), 'dist', 'index.js');
const node = isNewEnough ? process.execPath : join(folder, 'node_modules', ownNode, 'bin', 'node');

const fixtures = join(folder, 'fixtures.mjs');
await build({
  entryPoints: [join(root, 'test', 'mcp', 'conformance-fixtures.ts')],
  outfile: fixtures,
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  logLevel: 'warning',
  // CommonJS inside the bundle asks for node's own modules.
  banner: { js: "import { createRequire as __require } from 'node:module';const require=__require(import.meta.url);" },
});
const server = spawn(process.execPath, [fixtures], { stdio: ['ignore', 'pipe', 'inherit'] });
const [line] = await once(createInterface({ input: server.stdout }), 'line');
const { url } = JSON.parse(line);

let failed = false;
for (const revision of revisions) {
  const started = performance.now();
  const args = [suite, 'server', '--url', `${url}/mcp`, '--requirements', revision];
  const run = spawn(node, args, { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  run.stdout.setEncoding('utf8').on('data', (text) => (output += text));
  run.stderr.setEncoding('utf8').on('data', (text) => (output += text));
  const [code] = await once(run, 'close');
  writeFileSync(join(folder, `${revision}.log`), output);
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  process.stdout.write(`--- ${revision}, exit ${code}, ${seconds} s\n${summaryOf(output)}\n`);
  failed ||= code !== 0;
}
server.kill('SIGTERM');
await once(server, 'exit');
process.exit(failed ? 1 : 0);

/** From the suite's own summary on; everything when there is none. */
function summaryOf(output) {
  const at = output.lastIndexOf('=== SUMMARY');
  return at < 0 ? output : output.slice(at).trim();
}
