import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    setupFiles: ['test/setup/property-seed.ts'],
    // Engine tests are CPU bound; the machines this runs on have few cores.
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
