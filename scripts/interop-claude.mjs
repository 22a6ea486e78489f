// Claude Code's own command line against the plugin and the server, without an account and without a model: it validates
// the plugin as its catalog would, installs it from the marketplace that comes with it, and checks that every server connects
// over each transport. Claude Code is some 300 MB: it is installed into .bitnet-gf3/claude on first use, and its settings
// live in a folder that ends with the run.
//   npm run interop:claude
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stagePlugin } from './package-plugin.mjs';

const CLAUDE = '@anthropic-ai/claude-code@2.1.332';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folder = join(root, '.bitnet-gf3', 'claude');
const bin = join(folder, 'node_modules', '.bin', 'claude');

if (!existsSync(bin)) {
  mkdirSync(folder, { recursive: true });
  const install = ['install', '--prefix', folder, '--no-audit', '--no-fund', '--ignore-scripts', CLAUDE];
  const { status } = spawnSync('npm', install, { stdio: ['ignore', 2, 2], shell: process.platform === 'win32' });
  if (status !== 0) process.exit(1);
  // The one script that is needed: it puts this platform's binary, which npm has brought, in its place.
  const place = join(folder, 'node_modules', '@anthropic-ai', 'claude-code', 'install.cjs');
  if (spawnSync(process.execPath, [place], { stdio: ['ignore', 2, 2] }).status !== 0) {
    rmSync(folder, { recursive: true, force: true });
    process.exit(1);
  }
}

const scratch = mkdtempSync(join(tmpdir(), 'bitnet-claude-'));
const plugin = join(scratch, 'plugin');
const project = join(scratch, 'project');
mkdirSync(project);
const env = {
  ...process.env,
  HOME: join(scratch, 'home'),
  CLAUDE_CONFIG_DIR: join(scratch, 'config'),
  DISABLE_TELEMETRY: '1',
  DISABLE_ERROR_REPORTING: '1',
  DISABLE_AUTOUPDATER: '1',
};

function claude(...args) {
  const { status, stdout, stderr } = spawnSync(bin, args, { cwd: project, env, encoding: 'utf8', timeout: 120_000 });
  return { status, text: `${stdout}${stderr}` };
}

let failures = 0;
function check(label, { status, text }, ...wanted) {
  const missing = wanted.filter((pattern) => !pattern.test(text));
  const good = status === 0 && missing.length === 0;
  if (!good) failures += 1;
  process.stdout.write(
    `${good ? 'ok  ' : 'FAIL'} ${label}\n${good ? '' : `${text}\nexit ${status}, missing ${missing}\n`}`,
  );
}

async function withHttpServer(work) {
  const port = 20_000 + (process.pid % 20_000);
  const args = [join(root, 'dist', 'cli', 'main.js'), 'serve', '--http', '--port', String(port)];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'ignore'] });
  try {
    for (let tries = 0; tries < 100; tries++) {
      if (child.exitCode !== null) break;
      const alive = await fetch(`http://127.0.0.1:${port}/healthz`).then(
        ({ ok }) => ok,
        () => false,
      );
      if (alive) return await work(port);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    check('serve --http', { status: child.exitCode, text: 'it does not answer on /healthz' });
  } finally {
    child.kill();
  }
}

try {
  await stagePlugin(plugin);
  check(
    'plugin validate',
    claude('plugin', 'validate', '--strict', '--profile', 'directory', plugin),
    /Validation passed/,
  );
  check('marketplace add', claude('plugin', 'marketplace', 'add', plugin), /Successfully added marketplace/);
  check('plugin install', claude('plugin', 'install', 'bitnet-gf3@bitnet-gf3'), /Successfully installed/);
  check('plugin list', claude('plugin', 'list'), /bitnet-gf3@bitnet-gf3/, /enabled/);
  check('plugin details', claude('plugin', 'details', 'bitnet-gf3'), /MCP servers \(1\)/, /mlx-bitnet-gf3/);
  check('mcp list: plugin', claude('mcp', 'list'), /plugin:bitnet-gf3:bitnet-gf3: .*✔ Connected/);
  const main = join(root, 'dist', 'cli', 'main.js');
  check('mcp add: stdio', claude('mcp', 'add', 'by-stdio', '--', process.execPath, main), /Added stdio MCP server/);
  await withHttpServer(async (port) => {
    const url = `http://127.0.0.1:${port}`;
    check('mcp add: http', claude('mcp', 'add', '--transport', 'http', 'by-http', `${url}/mcp`), /by-http/);
    check('mcp add: sse', claude('mcp', 'add', '--transport', 'sse', 'by-sse', `${url}/sse`), /by-sse/);
    const connected = ['by-stdio', 'by-http', 'by-sse'].map((name) => new RegExp(`${name}: .*✔ Connected`));
    check('mcp list: stdio, http, sse', claude('mcp', 'list'), ...connected);
  });
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
process.stdout.write(failures === 0 ? 'all passed\n' : `${failures} failed\n`);
process.exit(failures === 0 ? 0 : 1);
