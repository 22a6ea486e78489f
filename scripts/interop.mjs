// The inspector's command line against our server over stdio and, in both protocol eras, over HTTP: lists the tools
// strictly and calls every tool's example. Not a part of `npm test`: the inspector is 110 MB. It is installed into .bitnet-gf3/interop, pinned, on first use.
//   npm run interop
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const INSPECTOR = '@modelcontextprotocol/inspector@2.12.0';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folder = join(root, '.bitnet-gf3', 'interop');
const bin = join(folder, 'node_modules', '@modelcontextprotocol', 'inspector');

if (!existsSync(bin)) {
  mkdirSync(folder, { recursive: true });
  const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
  const install = ['install', '--prefix', folder, '--no-audit', '--no-fund', '--ignore-scripts', INSPECTOR];
  const { status } = spawnSync(npm, install, { stdio: ['ignore', 2, 2], shell: process.platform === 'win32' });
  if (status !== 0) process.exit(1);
}

const { ALL_TOOLS } = await import(pathToFileURL(join(root, 'dist/tools/all-tools.js')).href);

const main = join(root, 'dist/cli/main.js');
const worlds = mkdtempSync(join(tmpdir(), 'interop-worlds-'));
const env = { ...process.env, BITNET_WORLDS: worlds };

const server = spawn(process.execPath, [main, 'serve', '--http', '--port', '0', '--json'], {
  env,
  stdio: ['ignore', 'pipe', 'ignore'],
});
let announced = '';
for await (const chunk of server.stdout.setEncoding('utf8')) {
  announced += chunk;
  if (announced.includes('}')) break;
}
const { url } = JSON.parse(announced);

const TARGETS = {
  stdio: { target: [process.execPath, main], era: [] },
  'HTTP, 2025': { target: [url, '--transport', 'http'], era: ['--protocol-era', 'legacy'] },
  'HTTP, 2026-07-28': { target: [url, '--transport', 'http'], era: ['--protocol-era', 'modern'] },
};

/** Standard output of the inspector, which exits 5 for `isError` and 6 for a schema that it does not accept. */
async function inspect({ target, era }, ...args) {
  const command = join(folder, 'node_modules', '.bin', 'mcp-inspector');
  const child = spawn(command, ['--cli', ...target, ...era, ...args], { cwd: root, env });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  const [status] = await once(child, 'close');
  return { status, stdout, stderr };
}

let passed = 0;
let failures = 0;
function check(label, { status, stderr }, good) {
  if (status === 0 && good) passed += 1;
  else failures += 1;
  process.stdout.write(
    `${status === 0 && good ? 'ok  ' : 'FAIL'} ${label}${status === 0 ? '' : ` (exit ${status})\n${stderr}`}\n`,
  );
}

for (const [label, target] of Object.entries(TARGETS)) {
  const list = await inspect(target, '--method', 'tools/list', '--strict');
  const listed = list.status === 0 ? JSON.parse(list.stdout).tools.map(({ name }) => name) : [];
  check(`${label}: tools/list`, list, listed.join() === ALL_TOOLS.map(({ name }) => name).join());
  for (const { name, example } of ALL_TOOLS) {
    const args = ['--method', 'tools/call', '--tool-name', name, '--tool-args-json', JSON.stringify(example)];
    const call = await inspect(target, ...args);
    const result = call.status === 0 ? JSON.parse(call.stdout) : {};
    check(`${label}: tools/call ${name}`, call, result.structuredContent !== undefined);
  }
}
server.kill('SIGTERM');
await once(server, 'exit');
rmSync(worlds, { recursive: true, force: true });
process.stdout.write(`${passed} passed, ${failures} failed\n`);
process.exit(failures === 0 ? 0 : 1);
