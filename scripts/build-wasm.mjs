// Compiles kernels/ to the committed WebAssembly modules: `node scripts/build-wasm.mjs [folder]` (default
// kernels/wasm). Needs clang 19 and lld 19, so that everybody gets the same bytes; test/engine-wasm compares them.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const kernels = join(root, 'kernels');

export const MODULES = {
  'bitnet-simd.wasm': [],
  'bitnet-relaxed.wasm': ['-mrelaxed-simd'],
  'bitnet-relaxed-threads.wasm': [
    '-mrelaxed-simd',
    '-matomics',
    '-Wl,--shared-memory',
    '-Wl,--import-memory',
    // What a shared memory may grow to must be told; it takes no memory before it does.
    `-Wl,--max-memory=${2 ** 32}`,
    // Each thread is given a stack of its own.
    '-Wl,--export=__stack_pointer',
  ],
};

const FLAGS = [
  '--target=wasm32',
  '-std=c++17',
  '-O3',
  '-nostdlib',
  '-ffreestanding',
  '-fno-exceptions',
  '-fno-rtti',
  '-ffp-contract=off',
  '-fno-math-errno',
  '-mbulk-memory',
  '-msimd128',
  '-mnontrapping-fptoint',
  '-msign-ext',
  // No names of the machine that compiled it.
  `-ffile-prefix-map=${kernels}=kernels`,
  '-Wl,--no-entry',
  '-Wl,-z,stack-size=131072',
  '-Wl,--strip-all',
];

/** The compiler's name, or undefined when this machine has no clang 19 with its linker. */
export function findWasmCompiler() {
  const name = process.env.WASM_CXX || 'clang++-19';
  const found = (command) => spawnSync(command, ['--version'], { encoding: 'utf8' });
  const compiler = found(name);
  if (compiler.status !== 0 || !/version 19\./.test(compiler.stdout)) return undefined;
  return found('wasm-ld-19').status === 0 ? name : undefined;
}

/** Builds every module into `folder`. */
export function buildWasm(folder) {
  const compiler = findWasmCompiler();
  if (compiler === undefined) throw new Error('clang++-19 and wasm-ld-19 are needed (Debian: clang-19, lld-19)');
  const linker = spawnSync('sh', ['-c', 'command -v wasm-ld-19'], { encoding: 'utf8' }).stdout.trim();
  mkdirSync(folder, { recursive: true });
  for (const [file, flags] of Object.entries(MODULES)) {
    const sources = ['wasm/wasm.cc', 'cpu/engine.cc'];
    const args = [...FLAGS, `-fuse-ld=${linker}`, ...flags, ...sources, '-o', join(folder, file)];
    const done = spawnSync(compiler, args, { cwd: kernels, encoding: 'utf8' });
    if (done.status !== 0) throw new Error(`${compiler} failed on ${file}:\n${done.stderr}`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) buildWasm(process.argv[2] ?? join(kernels, 'wasm'));
