// The WebAssembly backend against js, with and without relaxed SIMD; and the committed modules against their source.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type WasmIsa, wasmBackend } from '../../src/engine/wasm/backend.ts';
import { differentialSuite } from '../kernels/differential.ts';
import { randomProgram, SHAPES } from '../kernels/random-program.ts';

type WasmBuild = {
  MODULES: Record<string, string[]>;
  findWasmCompiler(): string | undefined;
  buildWasm(folder: string): void;
};
const buildScript = '../../scripts/build-wasm.mjs';
const { MODULES, findWasmCompiler, buildWasm }: WasmBuild = await import(buildScript);

for (const isa of ['relaxed-simd', 'simd128'] satisfies WasmIsa[]) {
  differentialSuite(isa, (program) => wasmBackend.load(program, { isa }));
}
for (const threads of [2, 3]) {
  differentialSuite(`${threads} threads`, async (program) => {
    const executable = await wasmBackend.load(program, { threads });
    expect(executable.info.threads).toBe(threads);
    return executable;
  });
}

test('the best module that this Node runs is taken, and says which it is', async () => {
  expect(await wasmBackend.unavailable()).toBeUndefined();
  using executable = await wasmBackend.load(randomProgram(SHAPES.tiny!, 1), {});
  expect(executable.info).toMatchObject({ backend: 'wasm', isa: 'relaxed-simd', threads: 1 });
});

describe.skipIf(findWasmCompiler() === undefined)('with clang 19', () => {
  test('the committed modules are what their source compiles to', () => {
    const folder = mkdtempSync(join(tmpdir(), 'bitnet-wasm-'));
    try {
      buildWasm(folder);
      for (const file of Object.keys(MODULES)) {
        const committed = readFileSync(join(import.meta.dirname, '../../kernels/wasm', file));
        expect(readFileSync(join(folder, file)).equals(committed), `${file}: run node scripts/build-wasm.mjs`).toBe(
          true,
        );
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
