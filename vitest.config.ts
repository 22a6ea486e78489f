import { existsSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** What takes longest, first of all: else one of them is begun at the end, and all workers but one have nothing to do. */
const LONG = [
  'kernels/sanitizers',
  'docs/examples',
  'packages/on-request',
  'fuzz/fuzz-command',
  'engine-wasm/differential',
  'kernels/neon',
  'kernels/x86-64',
  'packages/npm-package',
  'mcp/clients',
  'app/view',
  'mcp/stdio',
  'mcp/http',
  'engine-cpu/differential',
  'mcp/hostile-arguments',
  'cuda/hybrid',
  'cuda/one-row',
  'metal/grouped-golden',
  'engine/random-edits',
  'metal/hybrid-golden',
  'cuda/many-rows',
  'cuda/backend',
  'cli/terminal',
  'packages/kept-code',
  'packages/bundles',
  'cli/commands-of-tools',
  'cuda/ptx',
  'generate/verify',
  'generate/generate',
  'default-model/recipe',
  'cli/cli',
  'train/trainer',
  'openai/clients',
  'metal/cuda',
].map((name) => join(import.meta.dirname, 'test', `${name}.test.ts`));

const gone = LONG.filter((path) => !existsSync(path));
if (gone.length > 0) throw new Error(`listed in vitest.config.ts and not there: ${gone.join(', ')}`);

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const at = LONG.indexOf(moduleId);
      return at < 0 ? LONG.length : at;
    };
    return (await super.sort(files)).sort((a, b) => place(a) - place(b));
  }
}

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    setupFiles: ['test/setup/property-seed.ts'],
    // Bounds for what hangs, not for what is slow: engine tests are CPU bound, and a busy machine with few cores may be
    // ten times slower than the one where they were written.
    testTimeout: 240_000,
    hookTimeout: 240_000,
    // Most tests wait for processes of their own: as many workers as cores would leave them idle a third of the time.
    maxWorkers: Math.max(3, availableParallelism() - 1),
    sequence: { sequencer: LongestFirst },
    expect: { poll: { timeout: 30_000 } },
  },
});
