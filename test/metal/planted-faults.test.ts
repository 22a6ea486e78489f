// Faults planted in the kernels' text, and what the backend says when it is built over them: the checks bite. All are compiled
// into one fake device, each behind a number that FAKE_METAL_FAULT turns on. scripts/metal-mutate.mjs plants many more.

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { buildFake, findTools, KERNELS } from '../../scripts/metal-tools.mjs';
import { groupedSelfTestProgram, hybridSelfTestProgram } from '../../src/engine/gpu/self-test-programs.ts';
import { type MetalAddon, MetalUnsupportedError } from '../../src/engine/metal/addon.ts';
import { createMetalBackend } from '../../src/engine/metal/backend.ts';
import { readKernelText } from '../../src/engine/metal/shaders.ts';
import { plantFault } from '../kernels/plant-fault.ts';
import { withSettings } from '../kernels/with-settings.ts';

// Not from fake-device.ts, which loads the sound device: two in one process would share their Objective-C classes.
const { fakeMissing } = findTools();

const HYBRID = /^Metal on .* does not run hybrid models: in its self-test \d+ of 6624 logits of a hybrid model are not/;
const BARRIER = 'threadgroup_barrier(mem_flags::mem_threadgroup);';

/** What is wrong, where («marked» in a file of kernels/metal), what stands there instead, what the backend then says. */
const FAULTS: readonly (readonly [what: string, file: string, where: string, instead: string, refusal: RegExp])[] = [
  [
    'a missing barrier: the race is named',
    'common.metal',
    `= total; }\n    «${BARRIER}»`,
    '',
    /element \d+ of threadgroup array \w+ is (written by thread \d+ and used without|read before anything was written)/,
  ],
  ['attention in blocks of 32 positions: other bits', 'exact.metal', '#define ATTENTION_BLOCK «64u»', '32u', HYBRID],
  [
    'a read past the end: named with buffer, kernel and thread',
    'dense.metal',
    'w[«min(row + i, a.rows - 1u) * a.groups + g»];\n            if (TYPE',
    'min(row + i, a.rows) * a.groups + g + 1u',
    /^Metal: access at byte \d+ of w \(0\), which has \d+ \(dense_bf16\w*, threadgroup \(\d+, \d+, \d+\), thread \d+\)/,
  ],
  [
    'a fused multiply-add in the delta rule: other bits, and only hybrid models are refused',
    'hybrid.metal',
    'const float updated = «g * s[u] + key[u] * delta»;',
    '__builtin_fmaf(key[u], delta, g * s[u])',
    HYBRID,
  ],
  [
    'a wrong constant: other logits',
    'ternary.metal',
    'd.f2 = floor(d.f0 * «0.0625f»);',
    '0.07f',
    /its self-test differs from the reference/,
  ],
  [
    'products with the first expert whatever was chosen: other bits',
    'grouped.metal',
    '«expert * panels + m.panel»',
    'm.panel',
    HYBRID,
  ],
  [
    'a fused multiply-add in a grouped product: other bits, and only group-scaled models are refused',
    'grouped.metal',
    '«total += float(sum) * scale;»',
    'total = __builtin_fmaf(float(sum), scale, total);',
    /^Metal on .* does not run group-scaled models: in its self-test \d+ of 1344 logits .* are not the reference's/,
  ],
  [
    'a guard off by one: what it wrote into the padding shows',
    'ternary.metal',
    'if (lane < 4u && «row < m.rows») {',
    'row <= m.rows',
    /its self-test differs from the reference/,
  ],
  [
    'a missing barrier between strides of a rotation: the race is named',
    'exact.metal',
    `low_difference - high_difference;\n        }\n        «${BARRIER}»`,
    '',
    /of threadgroup array tile is (written by thread \d+ and used without|read by thread \d+ and|read before)/,
  ],
  [
    'a missing barrier between the simdgroups that sum and the threads that add: the race is named',
    'grouped.metal',
    `p.lane);\n        }\n        «${BARRIER}»`,
    '',
    /of threadgroup array sums is (written by thread \d+ and used without|read before)/,
  ],
  [
    'a convolution that leaves its state one row behind: other bits',
    'hybrid.metal',
    'const uint n = «rows + i»;',
    'rows + i - 1u',
    HYBRID,
  ],
  ['a window one position too wide: other bits', 'attention.metal', '«count - window»;', 'count - window - 1u', HYBRID],
];

describe.skipIf(fakeMissing !== undefined)('planted faults', () => {
  const kernels = mkdtempSync(join(tmpdir(), 'metal-'));
  afterAll(() => rmSync(kernels, { recursive: true }));

  let addon: MetalAddon;
  beforeAll(() => {
    cpSync(KERNELS, kernels, { recursive: true });
    FAULTS.forEach(([, file, where, instead], i) => {
      const path = join(kernels, file);
      writeFileSync(path, plantFault(readFileSync(path, 'utf8'), i + 1, [file, where, instead]));
    });
    addon = createRequire(import.meta.url)(buildFake({ kernels })) as MetalAddon;
  }, 300_000);

  /** The reason for which the backend refuses itself or a program; undefined when it notices nothing. */
  async function refusal(): Promise<string | undefined> {
    const backend = createMetalBackend({
      loadAddon: async () => ({ addon }),
      kernelText: () => readKernelText(kernels),
    });
    try {
      const reason = await backend.unavailable();
      if (reason !== undefined) return reason;
      // What concerns group-scaled or hybrid programs alone shows when one is loaded.
      (await backend.load(groupedSelfTestProgram(), {}))[Symbol.dispose]();
      (await backend.load(hybridSelfTestProgram(), {}))[Symbol.dispose]();
      return undefined;
    } catch (error) {
      if (error instanceof MetalUnsupportedError) return error.message;
      throw error;
    }
  }

  test('while none is turned on, nothing is refused', { timeout: 300_000 }, async () => {
    expect(await refusal()).toBeUndefined();
  });

  test.each(FAULTS.map(([what, , , , wanted], i) => [what, i + 1, wanted] as const))(
    '%s',
    { timeout: 300_000 },
    async (_, number, wanted) => {
      expect(await withSettings({ FAKE_METAL_FAULT: String(number) }, refusal)).toMatch(wanted);
    },
  );
});
