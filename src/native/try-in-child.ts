// Runs a binary for the first time, in a child process: one that crashes (a wrong CPU, a broken compiler), hangs or
// computes something else costs a message and not the server.

import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join, toNamespacedPath } from 'node:path';
import { type AddonKind, messageOf } from './kind.ts';
import { noteTried, readTried, type Tried } from './notes.ts';

/** A self-test takes a tenth of a second of a processor; on a machine that is ten times overloaded, many seconds. */
const TRY_MS = 30_000;

/** A machine that stands still, or one without memory, is no fault of the binary's: such failures count this long. */
const PASSING_MS = 24 * 60 * 60 * 1000;

/** What the child runs, after the binary's exports are in `addon`. Gives 'ok' or what is wrong. */
const TESTS: Readonly<Record<AddonKind, string>> = {
  bitnet: 'return addon.selfTest();',
  // Every instruction set gives the bits of plain C++.
  train: `
    const isas = addon.isas();
    const x = Float32Array.from({ length: 3 * 70 }, (_, i) => Math.sin(i) / (i % 7 + 1));
    const w = Float32Array.from({ length: 9 * 70 }, (_, i) => Math.cos(i * 3) / (i % 5 + 1));
    const outs = isas.map((isa) => {
      const out = new Float32Array(27);
      addon.configure(2, isa);
      addon.denseForward(x, w, 3, 9, 70, out);
      return Buffer.from(out.buffer).toString('hex');
    });
    const odd = isas.find((_, i) => outs[i] !== outs.at(-1));
    return odd === undefined ? 'ok' : odd + ' computes something else than ' + isas.at(-1);`,
  // The device is opened, and what it computes compared, where the backend is chosen.
  metal: "return typeof addon === 'object' ? 'ok' : 'it exports nothing';",
  cuda: "return typeof addon.probe === 'function' ? 'ok' : 'it exports nothing';",
};

const script = (kind: AddonKind): string => `
  const tell = (result) => require('node:fs').writeSync(1, '\\n' + JSON.stringify(result) + '\\n');
  const module_ = { exports: {} };
  let loaded = false;
  try {
    process.dlopen(module_, process.argv[1]);
    loaded = true;
  } catch (error) {
    tell({ load: error.message });
  }
  if (loaded) {
    try {
      tell({ test: ((addon) => {${TESTS[kind]}})(module_.exports) });
    } catch (error) {
      tell({ test: String(error && error.message) });
    }
  }
  process.exit(0);`;

/** One sentence why the binary is not to be used; undefined when it works. What was found out before is not asked again. */
export async function whyUnusable(
  kind: AddonKind,
  { path, sha256 }: { readonly path: string; readonly sha256: string },
  { tryMs = TRY_MS } = {},
): Promise<string | undefined> {
  const before = readTried(sha256);
  if (before !== undefined) {
    return before.failure === undefined
      ? undefined
      : `${path} ${before.failure} (found at an earlier start; to try again, remove ${before.note})`;
  }
  const node = nodeProgram();
  if (node === undefined) {
    return `${path} was not tried: this runs inside Electron, and no node is on the PATH to try it in`;
  }
  const { failure, remember, forMs } = await tryAddon(kind, path, [node], tryMs);
  if (remember) await noteTried(sha256, { failure }, forMs);
  return failure === undefined ? undefined : `${path} ${failure}`;
}

export type Outcome = Tried & { readonly remember: boolean; readonly forMs?: number };

/** Loads and tests a binary in a child of its own. `node`: the command with its first arguments. */
export function tryAddon(kind: AddonKind, path: string, node: readonly string[], tryMs: number): Promise<Outcome> {
  const [command, ...first] = node;
  // Whatever a user wants of Node (a debugger, a module to load first) is not wanted of this child.
  const { NODE_OPTIONS: _, NODE_V8_COVERAGE: __, ...env } = process.env;
  const options = { env, timeout: tryMs, killSignal: 'SIGKILL', windowsHide: true } as const;
  return new Promise((resolve) => {
    const done = (
      error: (Error & { code?: unknown; killed?: boolean; signal?: unknown }) | null,
      stdout: string,
      stderr: string,
    ) => {
      const said = lastResult(stdout);
      if (said?.test === 'ok' && error === null) return resolve({ remember: true });
      if (said?.load !== undefined) {
        return resolve({ remember: true, failure: `cannot be loaded: ${messageOf(said.load)}` });
      }
      if (said?.test !== undefined && said.test !== 'ok') {
        return resolve({ remember: true, failure: `failed its self-test: ${messageOf(said.test)}` });
      }
      if (error?.killed) {
        const failure = `did not answer within ${tryMs / 1000} s when it was tried in a child process`;
        return resolve({ remember: true, failure, forMs: PASSING_MS });
      }
      // The child could not be started at all.
      if (typeof error?.code === 'string') {
        return resolve({ remember: false, failure: `could not be tried in a child process: ${messageOf(error)}` });
      }
      // The loader or the C++ library may have said more.
      const words = messageOf(stderr);
      const how = `${error?.signal ?? exitText(error?.code)}${words === '' ? '' : `: ${words}`}`;
      const forMs = error?.signal === 'SIGKILL' ? PASSING_MS : undefined;
      const failure = `crashed when it was tried in a child process: ${how}`;
      resolve({ remember: true, failure, ...(forMs !== undefined && { forMs }) });
    };
    try {
      execFile(command!, [...first, '-e', script(kind), toNamespacedPath(path)], options, done);
    } catch (error) {
      // Node's permission model allows no children.
      resolve({ remember: false, failure: `could not be tried in a child process: ${messageOf(error)}` });
    }
  });
}

/** What the child said last; the addon may have printed something of its own before. */
function lastResult(stdout: string): { readonly load?: unknown; readonly test?: unknown } | undefined {
  for (const line of stdout.trimEnd().split('\n').reverse()) {
    if (!line.startsWith('{')) continue;
    try {
      return JSON.parse(line) as { load?: unknown; test?: unknown };
    } catch {
      // Not a line of ours.
    }
  }
  return undefined;
}

/** Windows tells a crash by a number of 32 bits: 0xc0000005 is a wrong access to memory. */
function exitText(code: unknown): string {
  if (typeof code !== 'number') return 'it ended without an answer';
  return code > 255 ? `exit code 0x${code.toString(16)}` : `exit code ${code}`;
}

/** A plain Node. Inside Electron (Claude Desktop) `process.execPath` is the application, which would open another window. */
export function nodeProgram(
  { electron }: Readonly<Record<string, string | undefined>> = process.versions,
  env: NodeJS.ProcessEnv = process.env,
): string | undefined {
  if (electron === undefined) return process.execPath;
  const name = process.platform === 'win32' ? 'node.exe' : 'node';
  return (env.PATH ?? env.Path ?? '')
    .split(delimiter)
    .filter((folder) => folder !== '')
    .map((folder) => join(folder, name))
    .find((path) => existsSync(path));
}
