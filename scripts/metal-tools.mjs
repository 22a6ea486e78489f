// What the checks of the Metal kernels on Linux share: reading the kernels' signatures, translating the very .metal text
// for the grid emulator and for CUDA, and building them. Nothing here runs on a Mac; see docs/metal.md.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));
export const KERNELS = join(ROOT, 'kernels', 'metal');
const NATIVE = join(ROOT, 'test', 'metal', 'native');
const BUILD = join(ROOT, 'build', 'metal');

/** What the checks need beyond Node; the line that installs it on Debian and Ubuntu. */
export const APT_LINE = 'apt-get install -y --no-install-recommends g++ clang-19 gobjc libgnustep-base-dev';

/** The kernels as the host compiles them: one text, in the order of order.json. */
export function joinKernels(folder = KERNELS) {
  const files = JSON.parse(readFileSync(join(folder, 'order.json'), 'utf8'));
  let text = '';
  const starts = [];
  for (const file of files) {
    starts.push({ file, line: text.split('\n').length });
    text += readFileSync(join(folder, file), 'utf8');
  }
  return { text, starts };
}

/** Comments to spaces, line breaks kept. */
function withoutComments(text) {
  return text
    .replace(/\/\*[\s\S]*?\*\//g, (c) => c.replace(/[^\n]/g, ' '))
    .replace(/\/\/[^\n]*/g, (c) => ' '.repeat(c.length));
}

const BUILTINS = {
  threadgroup_position_in_grid: 'group',
  thread_index_in_threadgroup: 'thread_index',
  thread_index_in_simdgroup: 'lane',
  simdgroup_index_in_threadgroup: 'simdgroup_index',
  simdgroups_per_threadgroup: 'simdgroups',
};
const SIZES = { float: 4, uint: 4, int: 4, half: 2, float2: 8, float4: 16 };

/** Every kernel's parameters and threadgroup memory, from its text. */
export function readKernels(source) {
  const text = withoutComments(source);
  const kernels = [];
  for (const match of text.matchAll(/kernel\s+void\s+(\w+)\s*\(([^{]*)\)\s*\{/g)) {
    const [, name, list] = match;
    const parameters = list.split(/,(?![^[]*\]\])/).map((part) => {
      const found = /^\s*(.+?)\s*(\w+)\s*\[\[\s*(\w+)(?:\((\d+)\))?\s*\]\]\s*$/s.exec(part);
      if (found === null) throw new Error(`kernel ${name}: cannot read the parameter "${part.trim()}"`);
      const [, type, parameter, attribute, index] = found;
      if (attribute !== 'buffer' && !(attribute in BUILTINS))
        throw new Error(`kernel ${name}: unknown [[${attribute}]]`);
      return {
        type: type.replace(/\s+/g, ' '),
        name: parameter,
        attribute,
        index: index === undefined ? null : Number(index),
        constant: type.startsWith('constant'),
        writable: attribute === 'buffer' && type.startsWith('device') && !/\bconst\b/.test(type),
      };
    });
    const body = text.slice(match.index + match[0].length, text.indexOf('\n}', match.index));
    let threadgroupBytes = 0;
    for (const array of body.matchAll(/THREADGROUP_ARRAY\((\w+),\s*\w+,\s*([\d\s*]+)\)/g)) {
      const count = array[2].split('*').reduce((product, factor) => product * Number(factor), 1);
      threadgroupBytes += Math.ceil((SIZES[array[1]] * count) / 16) * 16;
    }
    kernels.push({ name, parameters, threadgroupBytes });
  }
  return kernels;
}

const buffersOf = (kernel) => kernel.parameters.filter((p) => p.attribute === 'buffer');
const pointee = (type) => type.replace(/^(device|constant)\s+/, '').replace(/[*&\s]+$/, '');

/** Address spaces to checking pointers, attributes away; every line stays where it was. */
export function translateForEmulator(source) {
  return withoutComments(source)
    .replace(/\[\[[^\]]*\]\]/g, '')
    .replace(/^#include <metal_stdlib>/m, '')
    .replace(/\bdevice\s+(const\s+)?(\w+)\s*\*/g, 'emu::DevicePointer<$1$2>')
    .replace(/\bthreadgroup\s+(\w+)\s*\*/g, 'emu::ThreadgroupPointer<$1>')
    .replace(/\bconstant\s+(\w+)\s*&/g, 'const $1&')
    .replace(/\bthread\s+(const\s+)?(\w+)\s*([*&])/g, '$1$2$3')
    .replace(/\bkernel\s+void/g, 'static void');
}

/** The fields of an argument struct are what the translation cannot check: the host packs them by this list. */
export function readStructs(source) {
  const structs = {};
  for (const match of withoutComments(source).matchAll(/struct\s+(\w+Args)\s*\{([^}]*)\}/g)) {
    structs[match[1]] = [...match[2].matchAll(/(uint|float)\s+(\w+)\s*;/g)].map(([, type, name]) => ({ type, name }));
  }
  return structs;
}

function emulatorFile(source, starts) {
  const kernels = readKernels(source);
  let out = '#include "emulator.h"\n';
  out += '#pragma GCC diagnostic ignored "-Wunused-function"\n';
  out += 'using namespace metal;\n#line 1\n';
  out += translateForEmulator(source).replace('using namespace metal;', '');
  for (const kernel of kernels) {
    const argument = (p) => {
      if (p.attribute !== 'buffer') return `t.${BUILTINS[p.attribute]}`;
      if (p.constant) return `*(const ${pointee(p.type)}*)b[${p.index}].memory->data`;
      return `emu::DevicePointer<${pointee(p.type)}>(b[${p.index}])`;
    };
    out += `static void call_${kernel.name}(const emu::Binding* b, const emu::Thread& t) {\n`;
    out += `  ${kernel.name}(${kernel.parameters.map(argument).join(', ')});\n}\n`;
    out += `static const emu::Parameter parameters_${kernel.name}[] = {\n`;
    for (const p of buffersOf(kernel)) {
      out += `  {${p.index}, "${p.name}", ${p.constant}, ${p.writable}, sizeof(${pointee(p.type)})},\n`;
    }
    out += '};\n';
  }
  out += 'extern const emu::Kernel emu_kernels[] = {\n';
  for (const k of kernels) {
    out += `  {"${k.name}", call_${k.name}, parameters_${k.name}, ${buffersOf(k).length}, ${k.threadgroupBytes}},\n`;
  }
  out += `};\nextern const int emu_kernel_count = ${kernels.length};\n`;
  out += `extern const unsigned long long emu_source_hash = ${fnv(source)}ull;\n`;
  out += 'static const struct { const char* file; int line; } emu_files[] = {\n';
  out += `${starts.map((s) => `  {"${s.file}", ${s.line}},`).join('\n')}\n};\n`;
  out += `
extern std::string emu_place(const std::string& message) {
  const size_t at = message.rfind("line ");
  if (at == std::string::npos) return message;
  const int line = atoi(message.c_str() + at + 5);
  std::string file;
  int first = 1;
  for (const auto& f : emu_files) if (line >= f.line) { file = f.file; first = f.line; }
  size_t end = at + 5;
  while (end < message.size() && isdigit(message[end])) ++end;
  return message.substr(0, at) + file + ":" + std::to_string(line - first + 1) + message.substr(end);
}
`;
  return out;
}

function fnv(text) {
  let h = 14695981039346656037n;
  for (const byte of Buffer.from(text)) h = ((h ^ BigInt(byte)) * 1099511628211n) & 0xffffffffffffffffn;
  return h;
}

function find(names) {
  for (const name of names) {
    for (const folder of (process.env.PATH ?? '').split(':')) {
      if (folder !== '' && existsSync(join(folder, name))) return join(folder, name);
    }
  }
  return undefined;
}

/** Compilers found here, and one sentence about what is missing for each check, if anything. */
export function findTools() {
  const gxx = find(['g++']);
  const clang = find(['clang++-19', 'clang++-20', 'clang++-18', 'clang++']);
  const nvcc = find(['nvcc']) ?? (existsSync('/usr/local/cuda/bin/nvcc') ? '/usr/local/cuda/bin/nvcc' : undefined);
  const foundation = existsSync('/usr/include/GNUstep/Foundation/Foundation.h');
  const objc = gccObjcInclude();
  const missing = [];
  if (process.platform !== 'linux') missing.push('Linux');
  if (gxx === undefined) missing.push('g++');
  if (clang === undefined) missing.push('clang++');
  if (!foundation) missing.push('the GNUstep headers');
  if (objc === undefined) missing.push("gobjc's objc/objc.h");
  return {
    gxx,
    clang,
    nvcc,
    objc,
    fakeMissing: missing.length === 0 ? undefined : `not here: ${missing.join(', ')}; ${APT_LINE}`,
    clangMissing: clang === undefined ? `not here: clang++; ${APT_LINE}` : undefined,
    nvccMissing: nvcc === undefined ? 'nvcc (CUDA toolkit) is not here' : undefined,
  };
}

/** gobjc keeps objc/ in gcc's own include folder, beside headers that clang must not see: take that one folder. */
function gccObjcInclude() {
  const root = '/usr/lib/gcc';
  if (!existsSync(root)) return undefined;
  for (const triple of readdirSync(root)) {
    for (const version of readdirSync(join(root, triple)).sort().reverse()) {
      const folder = join(root, triple, version, 'include', 'objc');
      if (existsSync(join(folder, 'objc.h'))) return folder;
    }
  }
  return undefined;
}

/** Runs a compiler; its messages become the error. */
export function compile(command, args, options = {}) {
  try {
    return execFileSync(command, args, { stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8', ...options });
  } catch (error) {
    throw new Error(`${command} failed:\n${error.stderr ?? ''}${error.stdout ?? ''}`.slice(0, 8000));
  }
}

/** How long another process may take to build before it is thought dead. */
const BUILD_LIMIT_MS = 240_000;

/**
 * Builds `file` unless it is there. `make(folder)` must leave a file of that name in `folder`. Test files run side by side: the
 * first builds, the others wait for it.
 */
export function buildOnce(file, make) {
  if (existsSync(file)) return file;
  mkdirSync(dirname(file), { recursive: true });
  const lock = `${file}.lock`;
  const deadline = Date.now() + BUILD_LIMIT_MS;
  for (;;) {
    try {
      mkdirSync(lock);
      break;
    } catch {
      if (existsSync(file)) return file;
      if (Date.now() > deadline) break;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    }
  }
  const working = `${file}.${process.pid}`;
  try {
    if (existsSync(file)) return file;
    mkdirSync(working, { recursive: true });
    make(working);
    renameSync(join(working, basename(file)), file);
    return file;
  } finally {
    rmSync(working, { recursive: true, force: true });
    rmSync(lock, { recursive: true, force: true });
  }
}

/** Builds `name` from what `parts` names, once. */
function cached(name, parts, make) {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part).update('\0');
  const folder = `${hash.digest('hex').slice(0, 16)}-${name.replace(/\W+/g, '-')}`;
  return buildOnce(join(BUILD, folder, name), make);
}

const read = (...path) => readFileSync(join(NATIVE, ...path), 'utf8');
const include = (name) => join(createRequire(import.meta.url).resolve(`${name}/package.json`), '..', 'include');

/** Halves are converted by an instruction where this processor has it; else by a function, to the same bits. */
function halfFlags() {
  const cpu = existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : '';
  return /^flags\s*:.* f16c( |$)/m.test(cpu) ? ['-mf16c'] : [];
}

/** addon.mm over the fake device over the emulator of the kernels in `kernels`: a .node file. Throws when it fails. */
export function buildFake({ kernels = KERNELS, addon = join(KERNELS, 'addon.mm') } = {}) {
  const tools = findTools();
  if (tools.fakeMissing !== undefined) throw new Error(tools.fakeMissing);
  const { text, starts } = joinKernels(kernels);
  const flags = ['-std=c++17', '-O1', '-fPIC', '-ffp-contract=off', '-Wno-attributes', ...halfFlags()];
  const emulator = [read('emulator', 'emulator.h'), read('emulator', 'emulator.cc'), read('msl_types.h')];
  const scheduler = cached('emulator.o', [...emulator, ...flags], (folder) => {
    compile(tools.gxx, [
      ...flags,
      '-O2',
      '-c',
      join(NATIVE, 'emulator', 'emulator.cc'),
      '-o',
      join(folder, 'emulator.o'),
    ]);
  });
  const grid = cached('kernels.o', [emulator[0], emulator[2], emulatorFile(text, starts), ...flags], (folder) => {
    const file = join(folder, 'kernels.cc');
    writeFileSync(file, emulatorFile(text, starts));
    compile(tools.gxx, [...flags, '-I', join(NATIVE, 'emulator'), '-c', file, '-o', join(folder, 'kernels.o')]);
  });
  const fake = [read('fake', 'fake_metal.mm'), read('fake', 'Metal', 'Metal.h')];
  const objcFlags = (folder) => {
    // The folder that GNUstep's headers include as <objc/...>, and no other header of gcc's.
    mkdirSync(join(folder, 'objc'), { recursive: true });
    for (const header of readdirSync(tools.objc)) {
      writeFileSync(join(folder, 'objc', header), readFileSync(join(tools.objc, header)));
    }
    writeFileSync(join(folder, 'objc', 'blocks_runtime.h'), '// blocks are declared here, never called\n');
    return [
      '-x',
      'objective-c++',
      '-std=c++17',
      '-O1',
      '-g',
      '-fPIC',
      '-fblocks',
      '-fobjc-runtime=gcc',
      '-fexceptions',
      '-fconstant-string-class=NSConstantString',
      '-Wall',
      '-Wno-unknown-pragmas',
      '-Werror',
      '-I',
      join(NATIVE, 'fake'),
      '-isystem',
      folder,
      '-isystem',
      '/usr/include/GNUstep',
      '-isystem',
      include('node-api-headers'),
      '-DNAPI_VERSION=8',
    ];
  };
  const device = cached('fake_metal.o', [...fake, ...emulator], (folder) => {
    const file = join(NATIVE, 'fake', 'fake_metal.mm');
    compile(tools.clang, [...objcFlags(folder), '-c', file, '-o', join(folder, 'fake_metal.o')]);
  });
  const binding = cached('addon.o', [readFileSync(addon, 'utf8'), fake[1]], (folder) => {
    compile(tools.clang, [...objcFlags(folder), '-c', addon, '-o', join(folder, 'addon.o')]);
  });
  const objects = [binding, device, grid, scheduler];
  return cached('metal_fake.node', objects, (folder) => {
    compile(tools.clang, ['-shared', ...objects, '-o', join(folder, 'metal_fake.node'), '-lgnustep-base', '-lobjc']);
  });
}

/** Type-checks the kernels' address spaces. Throws with the compiler's messages. */
export function checkAddressSpaces(kernels = KERNELS) {
  const tools = findTools();
  if (tools.clang === undefined) throw new Error(tools.clangMissing);
  const { text } = joinKernels(kernels);
  // Metal has no generic pointers, the compiler needs them to copy structs: so this is the one rule checked by text.
  for (const match of withoutComments(text).matchAll(
    /(\w+\s+)?(const\s+)?\b(?:(?:float|half|uint|int|ushort|uchar|char|bool)[234]?|[A-Z][a-z]\w*)\s*[*&]\s*\w/g,
  )) {
    if (/^(device|constant|threadgroup|thread)\s/.test(match[0])) continue;
    const line = text.slice(0, match.index).split('\n').length;
    throw new Error(`line ${line}: a pointer or reference without an address space: ${match[0]}`);
  }
  const source = text.replace(/\[\[[^\]]*\]\]/g, '');
  compile(
    tools.clang,
    [
      '-x',
      'clcpp',
      '-cl-std=clc++2021',
      '-cl-no-stdinc',
      '--target=spir64',
      '-Wall',
      '-Werror',
      '-Wno-unused-function',
      '-fsyntax-only',
      '-I',
      join(NATIVE, 'clcpp'),
      '-',
    ],
    { input: source, stdio: ['pipe', 'pipe', 'pipe'] },
  );
}

/** The kernels as CUDA, with one function that launches any of them by number. */
export function translateForCuda(source) {
  const kernels = readKernels(source);
  let out =
    '#pragma once\n#include "metal_cuda.cuh"\n// Inside the namespace, functions of Metal hide those of CUDA that have the same name.\nnamespace metal {\n#line 1\n';
  out += withoutComments(source)
    .replace(/\[\[[^\]]*\]\]/g, '')
    .replace(/^#include <metal_stdlib>/m, '')
    .replace('using namespace metal;', '')
    // These words cannot be macros: CUDA's own __device__ expands to an attribute of the name `device`.
    .replace(/\bdevice\s+/g, '')
    .replace(/\bthreadgroup\s+(\w+)\s*\*/g, '$1*')
    .replace(/\bthread\s+(const\s+)?(\w+)\s*([*&])/g, '$1$2$3')
    .replace(/\bconstant\s+(\w+)\s*&/g, 'const $1&')
    .replace(/\bkernel\s+void/g, 'static __device__ void');
  let launch = 'static void launch(uint32_t kernel, dim3 grid, uint32_t threads, void** p) {\n  switch (kernel) {\n';
  let index = 'static uint32_t kernel_index(const char* name) {\n';
  kernels.forEach((kernel, number) => {
    const buffers = buffersOf(kernel);
    const isConst = (p) => (p.writable ? '' : 'const ');
    const parameter = (p) =>
      p.constant
        ? `${pointee(p.type)} ${p.name}`
        : `${isConst(p)}${pointee(p.type).replace(/^const\s+/, '')}* ${p.name}`;
    const value = (p) =>
      p.constant
        ? `*(const ${pointee(p.type)}*)p[${p.index}]`
        : `(${isConst(p)}${pointee(p.type).replace(/^const\s+/, '')}*)p[${p.index}]`;
    const argument = (p) => (p.attribute === 'buffer' ? p.name : `t.${BUILTINS[p.attribute]}`);
    out += `static __global__ void __launch_bounds__(1024) global_${kernel.name}(${buffers.map(parameter).join(', ')}) {\n`;
    out += `  const metal::Thread t = metal::this_thread();\n  ${kernel.name}(${kernel.parameters.map(argument).join(', ')});\n}\n`;
    launch += `    case ${number}: global_${kernel.name}<<<grid, threads>>>(${buffers.map(value).join(', ')}); break;\n`;
    index += `  if (strcmp(name, "${kernel.name}") == 0) return ${number};\n`;
  });
  out += '}  // namespace metal\nusing namespace metal;\n';
  out += `${launch}    default: abort();\n  }\n}\n${index}  abort();\n}\n`;
  return out;
}

// No contraction: the emulator, whose results the recordings hold, has none either.
const NVCC_FLAGS = ['-std=c++17', '-O2', '--fmad=false', '-Xcudafe', '--diag_suppress=177', '-I', join(NATIVE, 'cuda')];

function nvcc(folder, source, ...flags) {
  const tools = findTools();
  if (tools.nvcc === undefined) throw new Error(tools.nvccMissing);
  writeFileSync(join(folder, 'kernels.cuh'), source);
  compile(tools.nvcc, [...NVCC_FLAGS, '-I', folder, join(NATIVE, 'cuda', 'check.cu'), ...flags]);
}

/** check.cu over the kernels: one program for an NVIDIA GPU. `architecture` as nvcc's -arch takes it; later ones run it, too. */
export function buildCuda({ kernels = KERNELS, architecture = 'sm_80' } = {}) {
  const source = translateForCuda(joinKernels(kernels).text);
  const parts = [source, read('cuda', 'metal_cuda.cuh'), read('cuda', 'check.cu'), read('msl_types.h'), architecture];
  return cached('metal_cuda_check', parts, (folder) => {
    nvcc(folder, source, `-arch=${architecture}`, '-o', join(folder, 'metal_cuda_check'));
  });
}

/** Whether CUDA's compiler takes the kernels, down to PTX: their machine code is for those who run it. Throws its messages. */
export function checkCuda(kernels = KERNELS) {
  const folder = mkdtempSync(join(tmpdir(), 'metal-cuda-'));
  try {
    nvcc(
      folder,
      translateForCuda(joinKernels(kernels).text),
      '-arch=compute_80',
      '-ptx',
      '-o',
      join(folder, 'out.ptx'),
    );
    return readFileSync(join(folder, 'out.ptx'), 'utf8');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
