import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { createMetalBackend } from '../../src/engine/metal/backend.ts';
import { FAKE_MISSING, fakeAddon, SCHEDULES, withSchedule } from './fake-device.ts';

describe.skipIf(FAKE_MISSING !== undefined)('the self-test at load', () => {
  test.each(SCHEDULES)('passes on the fake device, schedule %i', async (schedule) => {
    const backend = createMetalBackend({ loadAddon: async () => ({ addon: fakeAddon() }) });
    expect(await withSchedule(schedule, () => backend.unavailable())).toBeUndefined();
  });
});
