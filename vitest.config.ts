import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

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
    expect: { poll: { timeout: 30_000 } },
  },
});
