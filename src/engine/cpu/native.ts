// Finds, builds and tries the native addon. A binary that was never run here is first run in a child process, so that
// one that crashes (a wrong CPU, a broken compiler) costs a message and not the server.

import { execFile, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { dirname, join, toNamespacedPath } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import type { StepStatus } from '../recorded/step-status.ts';
import { stampedAddon } from './native-stamp.ts';

export type NativeHandle = { readonly __native: unique symbol };

export type NativeInfo = {
  readonly isa: string;
  /** Most that run. */
  readonly threads: number;
  /** How many run steps of one row, of a few and of many. */
  readonly used: { readonly one: number; readonly few: number; readonly many: number };
  /** Bytes that each thread asks for ahead of its stream of weights. */
  readonly prefetch: {
    readonly ternary: number;
    readonly int8: number;
    readonly dense: number;
    readonly grouped: number;
  };
  /** Calls of each kind of kernel so far: tests assert by them that the fast path ran. */
  readonly counters: {
    readonly ternaryVector: number;
    readonly ternaryMatrix: number;
    readonly int8: number;
    readonly dense: number;
    readonly attention: number;
    readonly groupedVector: number;
    readonly groupedMatrix: number;
    readonly delta: number;
  };
  /** Bytes beside the weights. */
  readonly memory: {
    readonly activations: number;
    readonly kv: number;
    readonly scratch: number;
    /** Recurrent states of all sequences. */
    readonly recurrent: number;
  };
};

export type NativeAddon = {
  isas(): { usable: string[]; built: string[] };
  selfTest(): string;
  load(request: {
    words: Int32Array;
    blobs: readonly (Uint8Array | Int8Array | Float32Array)[];
    isa: string;
    /** At most. */
    threads: number;
    /** Always so many; else as many of them as turn out to help. */
    fixed: boolean;
    /** Bytes, or 0: the usual distance, until `settle` finds a better one. */
    prefetch: number;
  }): NativeHandle;
  /**
   * Moves the weights to huge pages where they lie and measures the best prefetch distances; resolves to the bytes that
   * now are on huge pages.
   */
  settle(handle: NativeHandle): Promise<number>;
  createSequence(handle: NativeHandle): number;
  freeSequence(handle: NativeHandle, sequence: number): void;
  sequenceLength(handle: NativeHandle, sequence: number): number;
  /** Beside 0, the least length to which a sequence can be cut or at which it can be forked. */
  rewindLimit(handle: NativeHandle, sequence: number): number;
  truncate(handle: NativeHandle, sequence: number, length: number): void;
  fork(handle: NativeHandle, sequence: number, length: number): number;
  step(
    handle: NativeHandle,
    tokens: Int32Array,
    sequences: Int32Array,
    positions: Int32Array,
    outputRows: Int32Array,
    trace: boolean,
    logits: Float32Array,
    tritCounts: Int32Array,
  ): Promise<StepStatus>;
  /** Steps run on so many threads from now on; 0: on as many as help. */
  useThreads(handle: NativeHandle, threads: number): void;
  info(handle: NativeHandle): NativeInfo;
  dispose(handle: NativeHandle): void;
  /** Asks for huge pages under memory that is not touched yet; returns the index at which the first one begins. */
  expectHugePages(memory: Uint8Array): number;
  /** Rows of a dense matrix (dtype 0 f32, 1 f16, 2 bf16) to int8; resolves to the first row with a NaN, or -1. */
  quantizeRows(
    bytes: Uint8Array,
    dtype: number,
    rows: number,
    columns: number,
    codes: Int8Array,
    rowScale: Float32Array,
    threads: number,
  ): Promise<number>;
  /**
   * Rows of a GGUF file's blocks (source 0 Q2_0, 1 the same in blocks of 128, 2 PTQ1_0, 3 Q1_0) or of an MLX pack (6,
   * without scales) to panels; resolves to the columns of a canonical group, -1 for a scale that is not finite, -2 where
   * only the slow way knows.
   */
  repackGrouped(
    bytes: Uint8Array,
    source: number,
    rows: number,
    columns: number,
    panels: Uint8Array,
    scales: Uint16Array,
  ): Promise<number>;
  /** Masters (dtype as above) to rowquad bytes; resolves to the scale, or NaN when something is not finite. */
  mastersToRowquad(bytes: Uint8Array, dtype: number, rows: number, columns: number, out: Uint8Array): Promise<number>;
  measure(kind: 'read' | 'macs', isa: string, threads: number, bytes: number): Promise<number>;
};

export type NativeState = { readonly addon: NativeAddon; readonly path: string } | { readonly reason: string };

type BuildModule = {
  /** The addon of these very sources, if it is built. */
  findNative(): string | undefined;
  /** One sentence why it cannot be built here, if so. */
  whyNotBuilt(): string | undefined;
  buildNative(): Promise<{ path: string; seconds: number; without: string[] } | { path?: undefined; reason: string }>;
};

// src/engine/cpu and dist/engine/cpu lie equally deep in the package.
const packageRoot = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');

let state: Promise<NativeState> | undefined;

/**
 * The addon, built on first use when it is not there; or one sentence why there is none. Decided once a process. With
 * `now` a build is begun in a process of its own and not waited for: an answer is due, and WebAssembly can give it.
 */
export async function loadNative({ now = false } = {}): Promise<NativeState> {
  if (now && state === undefined) {
    const found = await findOrBegin();
    if (found === undefined) {
      return { reason: 'the native kernels are being compiled, once; a start in a minute or so will use them' };
    }
    state ??= prepare(found.path);
  }
  state ??= prepare(undefined);
  return state;
}

let building = false;

/** The addon that is there, or none where it cannot be built (`prepare` says why); undefined when a build was begun. */
async function findOrBegin(): Promise<{ readonly path: string | undefined } | undefined> {
  const known = stampedAddon(packageRoot);
  if (known !== undefined) return { path: known };
  try {
    const { findNative, whyNotBuilt } = await importBuilder();
    const path = findNative();
    if (path !== undefined || whyNotBuilt() !== undefined) return { path };
  } catch {
    return { path: undefined };
  }
  if (!building) {
    building = true;
    spawn(process.execPath, [builderPath], { detached: true, stdio: 'ignore' }).unref();
  }
  return undefined;
}

const builderPath = join(packageRoot, 'scripts', 'build-native.mjs');

function importBuilder(): Promise<BuildModule> {
  return import(pathToFileURL(builderPath).href);
}

/** `found`: the addon, where the caller has looked already. */
async function prepare(found: string | undefined): Promise<NativeState> {
  let path = found ?? stampedAddon(packageRoot);
  if (path === undefined) {
    try {
      const built = await (await importBuilder()).buildNative();
      if (built.path === undefined) return { reason: built.reason };
      path = built.path;
    } catch (error) {
      return { reason: `the build script failed: ${messageOf(error)}` };
    }
  }
  const failure = await tryInChild(path);
  if (failure !== undefined) return { reason: failure };
  try {
    // What `require` does in the end.
    const module: { exports: unknown } = { exports: {} };
    process.dlopen(module, toNamespacedPath(path));
    return { addon: module.exports as NativeAddon, path };
  } catch (error) {
    return { reason: `${path} could not be loaded: ${messageOf(error)}` };
  }
}

/** A binary tried once on one kind of CPU is not tried again. */
async function tryInChild(path: string): Promise<string | undefined> {
  const cpu = `${cpuModel()} ${process.version}`.replace(/[^\w.]+/g, '-');
  const mark = path.replace(/\.node$/, `.${cpu}.ok`);
  try {
    if (readFileSync(mark, 'utf8') === 'ok') return undefined;
  } catch {
    // Not tried yet.
  }
  try {
    const script = 'process.stdout.write(require(process.argv[1]).selfTest())';
    const { stdout } = await promisify(execFile)(process.execPath, ['-e', script, path], { timeout: 60_000 });
    if (stdout !== 'ok') return `the native kernels failed their self-test: ${stdout}`;
  } catch (error) {
    return `the native kernels crashed when tried in a child process: ${messageOf(error).split('\n')[0]}`;
  }
  try {
    writeFileSync(mark, 'ok');
  } catch {
    // A read-only folder: the next process tries again.
  }
  return undefined;
}

/** As `os.cpus()` has it, which on Linux asks every core for its clock first. */
function cpuModel(): string {
  if (process.platform === 'linux') {
    try {
      const file = openSync('/proc/cpuinfo', 'r');
      const start = Buffer.alloc(2048);
      const length = readSync(file, start);
      closeSync(file);
      const model = /^model name\s*: (.*)$/m.exec(start.toString('latin1', 0, length))?.[1];
      if (model !== undefined) return model;
    } catch {
      // A sandbox without /proc.
    }
  }
  return cpus()[0]?.model ?? 'unknown';
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
