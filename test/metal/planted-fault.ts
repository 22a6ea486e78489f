// A fault planted in the kernels' text, and what the backend says when it is built over them. One fault per process:
// two fake devices in one would share their Objective-C classes. So each has a test file of its own (fault-*.test.ts).
// They show that the checks bite; scripts/metal-mutate.mjs plants many more.

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildFake, findTools, KERNELS } from '../../scripts/metal-tools.mjs';
import { groupedSelfTestProgram, hybridSelfTestProgram } from '../../src/engine/gpu/self-test-programs.ts';
import { type MetalAddon, MetalUnsupportedError } from '../../src/engine/metal/addon.ts';
import { createMetalBackend } from '../../src/engine/metal/backend.ts';
import { readKernelText } from '../../src/engine/metal/shaders.ts';

/** Where the fake device cannot be built; fake-device.ts says loudly why. */
export const FAULTS_SKIPPED = findTools().fakeMissing !== undefined;

/** The reason for which a backend with `to` in place of `from` refuses itself; undefined when it does not notice. */
export async function refusalWith(fault: { file: string; from: string; to: string }): Promise<string | undefined> {
  const kernels = mkdtempSync(join(tmpdir(), 'metal-'));
  try {
    cpSync(KERNELS, kernels, { recursive: true });
    const source = readFileSync(join(kernels, fault.file), 'utf8');
    if (!source.includes(fault.from)) throw new Error(`${fault.file} has no "${fault.from}" any more`);
    writeFileSync(join(kernels, fault.file), source.replace(fault.from, fault.to));
    const addon = createRequire(import.meta.url)(buildFake({ kernels })) as MetalAddon;
    const backend = createMetalBackend({
      loadAddon: async () => ({ addon }),
      kernelText: () => readKernelText(kernels),
    });
    const reason = await backend.unavailable();
    if (reason !== undefined) return reason;
    // What concerns group-scaled or hybrid programs alone shows when one is loaded.
    (await backend.load(groupedSelfTestProgram(), {}))[Symbol.dispose]();
    (await backend.load(hybridSelfTestProgram(), {}))[Symbol.dispose]();
    return undefined;
  } catch (error) {
    if (error instanceof MetalUnsupportedError) return error.message;
    throw error;
  } finally {
    rmSync(kernels, { recursive: true });
  }
}
