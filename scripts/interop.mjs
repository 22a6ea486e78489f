// The inspector's command line against our server over stdio: lists the tools strictly and calls every tool's example.
// Not a part of `npm test`: the inspector is 110 MB. It is installed into .bitnet-gf3/interop, pinned, on first use.
//   npm run interop
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
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

/** Standard output of the inspector, which exits 5 for `isError` and 6 for a schema that it does not accept. */
function inspect(...args) {
  const command = join(folder, 'node_modules', '.bin', 'mcp-inspector');
  const server = [process.execPath, join(root, 'dist/cli/main.js')];
  const done = spawnSync(command, ['--cli', ...server, ...args], { encoding: 'utf8', cwd: root });
  return { status: done.status, stdout: done.stdout, stderr: done.stderr };
}

let failures = 0;
function check(label, { status, stderr }, good) {
  if (status !== 0 || !good) failures += 1;
  process.stdout.write(
    `${status === 0 && good ? 'ok  ' : 'FAIL'} ${label}${status === 0 ? '' : ` (exit ${status})\n${stderr}`}\n`,
  );
}

const list = inspect('--method', 'tools/list', '--strict');
const listed = list.status === 0 ? JSON.parse(list.stdout).tools.map(({ name }) => name) : [];
check('tools/list', list, listed.join() === ALL_TOOLS.map(({ name }) => name).join());
for (const { name, example } of ALL_TOOLS) {
  const call = inspect(...['--method', 'tools/call', '--tool-name', name, '--tool-args-json', JSON.stringify(example)]);
  const result = call.status === 0 ? JSON.parse(call.stdout) : {};
  check(`tools/call ${name}`, call, result.structuredContent !== undefined);
}
const passed = 1 + ALL_TOOLS.length - failures;
process.stdout.write(`${passed} passed, ${failures} failed\n`);
process.exit(failures === 0 ? 0 : 1);
