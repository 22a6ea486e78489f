// What decides at load whether Metal is used: the self-test, the device's refusals, and the tuning kept between loads.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, describe, expect, test } from 'vitest';
import type { Executable, Step, TopLogits } from '../../src/engine/backend.ts';
import {
  groupedSelfTestProgram,
  hybridSelfTestProgram,
  selfTestProgram,
} from '../../src/engine/gpu/self-test-programs.ts';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { type MetalAddon, MetalUnsupportedError } from '../../src/engine/metal/addon.ts';
import { createMetalBackend, MetalUnavailableError, metalBackend } from '../../src/engine/metal/backend.ts';
import { groupedSelfTest, hybridSelfTest, SELF_TEST_TOLERANCE, selfTest } from '../../src/engine/metal/self-test.ts';
import { CANDIDATES, readTuning, tuningFile } from '../../src/engine/metal/tuning.ts';
import type { Op, Program } from '../../src/engine/program.ts';
import { FAKE_MISSING, fakeAddon, figures, loadOnFake, SCHEDULES, withSchedule, withSettings } from './fake-device.ts';
import { feed, relativeError, someTokens } from './tiny-programs.ts';

const folder = mkdtempSync(join(tmpdir(), 'metal-'));
afterAll(() => rmSync(folder, { recursive: true }));

const onFake = (addon: MetalAddon = fakeAddon(), file = join(folder, 'tuning.json')) =>
  createMetalBackend({ loadAddon: async () => ({ addon }), tuningFile: file });

test.skipIf(process.platform === 'darwin')('elsewhere than on a Mac it says what it needs', async () => {
  expect(await metalBackend.unavailable()).toMatch(/^Metal needs macOS on Apple silicon, this is \w+ on \w+$/);
  await expect(metalBackend.load(selfTestProgram(), {})).rejects.toThrow(MetalUnavailableError);
});

describe('the self-test', () => {
  test.each([0, 1, 2])(
    'its activations keep clear of rounding boundaries: noise of 2^-19 flips none (%i)',
    async (at) => {
      const program = selfTestProgram();
      const noisy: Program = {
        ...program,
        weights: program.weights.map((weight, i) =>
          weight.kind === 'vector'
            ? { ...weight, values: weight.values.map((v, j) => v * (1 + (((i + j + at) % 3) - 1) * 2 ** -19)) }
            : weight,
        ),
      };
      expect(await selfTest(async () => jsBackend.load(noisy, {}), program)).toBeUndefined();
    },
  );

  test('a wrong epsilon, RoPE, scale or trit fails it', async () => {
    const spoil = async (change: (program: Program) => Program) => {
      const program = selfTestProgram();
      return selfTest(async () => jsBackend.load(change(program), {}), program);
    };
    const differs = /^its self-test differs from the reference by /;
    expect(
      await spoil((p) => ({ ...p, ops: p.ops.map((op) => (op.op === 'rmsNorm' ? { ...op, eps: 2e-3 } : op)) })),
    ).toMatch(differs);
    expect(await spoil((p) => ({ ...p, rope: { ...p.rope, sin: p.rope.sin.map((v) => -v) } }))).toMatch(differs);
    const first = selfTestProgram().weights.findIndex(({ kind }) => kind === 'ternary');
    const changed = (p: Program, values: object) => ({
      ...p,
      weights: p.weights.map((w, i) => (i === first ? { ...w, ...values } : w)) as Program['weights'],
    });
    expect(await spoil((p) => changed(p, { scale: 0.021 }))).toMatch(differs);
    expect(
      await spoil((p) => {
        const weight = p.weights[first]!;
        if (weight.kind !== 'ternary') throw new Error('unreachable');
        const bytes = weight.bytes.slice();
        bytes[5] = bytes[5]! ^ (((bytes[5]! & 3) === 1 ? 3 : 1) & 3);
        return changed(p, { bytes });
      }),
    ).toMatch(differs);
  });
});

test('the group-scaled self-test: a wrong epsilon, RoPE, scale or code fails it', async () => {
  const spoil = async (change: (program: Program) => Program) => {
    const program = groupedSelfTestProgram();
    return groupedSelfTest(async () => jsBackend.load(change(program), {}), program);
  };
  expect(await spoil((p) => p)).toBeUndefined();
  const differs = /^in its self-test \d+ of 1344 logits of a group-scaled model are not the reference's, bit for bit$/;
  const eps = Math.fround(1.1e-6);
  for (const kind of ['rmsNorm', 'rmsNormHeads']) {
    expect(
      await spoil((p) => ({ ...p, ops: p.ops.map((op) => (op.op === kind ? { ...op, eps } : op)) as Program['ops'] })),
    ).toMatch(differs);
  }
  expect(await spoil((p) => ({ ...p, rope: { ...p.rope, sin: p.rope.sin.map((value) => -value) } }))).toMatch(differs);
  const count = groupedSelfTestProgram().weights.filter(({ kind }) => kind === 'grouped').length;
  for (let which = 0; which < count; which += 1) {
    const changed = (p: Program, change: 'bytes' | 'scales') => {
      const target = p.weights.filter(({ kind }) => kind === 'grouped')[which]!;
      if (target.kind !== 'grouped') throw new Error('unreachable');
      const bytes = target[change].slice();
      // Row 0, in its first group: the lowest bit of a code, the upper byte of a scale.
      const at = change === 'bytes' ? 0 : target.scaleType === 'f16' ? 1 : 3;
      bytes[at] = bytes[at]! ^ 1;
      return { ...p, weights: p.weights.map((w) => (w === target ? { ...w, [change]: bytes } : w)) };
    };
    for (const change of ['bytes', 'scales'] as const) {
      expect([which, change, await spoil((p) => changed(p, change))]).toEqual([
        which,
        change,
        expect.stringMatching(differs),
      ]);
    }
  }
});

test('the hybrid self-test: any number of any operation that is off fails it', async () => {
  const program = hybridSelfTestProgram();
  const spoil = (change: (program: Program) => Program) =>
    hybridSelfTest(async () => jsBackend.load(change(program), {}), program);
  expect(await spoil((p) => p)).toBeUndefined();
  const differs = /^in its self-test \d+ of 6624 logits of a hybrid model are not the reference's, bit for bit$/;
  const ops = (change: (op: Op, index: number) => Op) => (p: Program) => ({ ...p, ops: p.ops.map(change) });
  const of = <K extends Op['op']>(kind: K, change: (op: Op & { op: K }) => object) =>
    ops((op) => (op.op === kind ? ({ ...op, ...change(op as Op & { op: K }) } as Op) : op));
  const changes: Record<string, (p: Program) => Program> = {
    'blocks of a rotation': of('hadamard', ({ block }) => ({ block: block === 8 ? 4 : block })),
    'heads that move': of('hadamard', () => ({ keyHeads: 0 })),
    'a length': of('l2NormHeads', ({ scale }) => ({ scale: Math.fround(scale * 1.0001) })),
    'the order of heads': of('gatedDelta', () => ({ order: 'tiled' })),
    'a limit': of('gatedActivation', ({ limit }) => ({ limit: limit === undefined ? undefined : 1.4 })),
    'a gate': of('gatedActivation', ({ fn }) => ({ fn: fn === 'sigmoid' ? 'silu' : fn })),
    'heads split the other way': of('splitHeads', ({ first, second }) => ({ first: second, second: first })),
    'elements that turn': (p) => ({ ...p, rope: { ...p.rope, sin: p.rope.sin.map((v) => -v) } }),
    'a window': (p) => ({ ...p, kv: { ...p.kv, windows: [23, 0] } }),
    'no window': (p) => ({ ...p, kv: { ...p.kv, windows: undefined } }),
    'a second state': of('causalConv', () => ({ state: 0 })),
  };
  for (const [name, change] of Object.entries(changes)) {
    expect([name, await spoil(change)]).toEqual([name, expect.stringMatching(differs)]);
  }
  const vectors = program.weights.flatMap((w, i) => (w.kind === 'vector' ? [[w.name, i] as const] : []));
  for (const name of ['signs', 'convolution', 'decay', 'bias', 'head norm']) {
    for (const [, at] of vectors.filter(([found]) => found === name)) {
      const changed = (p: Program) => ({
        ...p,
        weights: p.weights.map((w, i) =>
          i === at && w.kind === 'vector' ? { ...w, values: w.values.map((v, j) => (j === 1 ? -v : v)) } : w,
        ),
      });
      expect([name, at, await spoil(changed)]).toEqual([name, at, expect.stringMatching(differs)]);
    }
  }
});

describe.skipIf(FAKE_MISSING !== undefined)('the backend over the fake device', () => {
  test.each(SCHEDULES)('passes its self-test, schedule %i', async (schedule) => {
    expect(await withSchedule(schedule, () => onFake().unavailable())).toBeUndefined();
  });

  test.each(SCHEDULES)('loads group-scaled programs, schedule %i', async (schedule) => {
    await withSchedule(schedule, async () => {
      (await onFake().load(groupedSelfTestProgram(), {}))[Symbol.dispose]();
    });
  });

  test.each(SCHEDULES)('loads hybrid programs, schedule %i', async (schedule) => {
    await withSchedule(schedule, async () => {
      const backend = onFake();
      // Opens the device, which no test before this one need have done.
      expect(await backend.unavailable()).toBeUndefined();
      const before = figures().commandBuffers;
      (await backend.load(hybridSelfTestProgram(), {}))[Symbol.dispose]();
      // The three steps of the hybrid self-test, which only now had a reason to run.
      expect(figures().commandBuffers - before).toBe(3);
      (await backend.load(hybridSelfTestProgram(), {}))[Symbol.dispose]();
      expect(figures().commandBuffers - before).toBe(3);
    });
  });

  test('a GPU whose group-scaled logits differ in a bit runs other models only', async () => {
    // The largest value of a row's logits is scaled a little: other bits, well within the tolerance of a plain model.
    const addon = fakeAddon();
    const memories = new Map<number, ArrayBuffer>();
    const off: MetalAddon = {
      ...addon,
      allocate: (bytes) => {
        const made = addon.allocate(bytes);
        memories.set(made.id, made.memory);
        return made;
      },
      run: async (tape) => {
        const seconds = await addon.run(tape);
        // 96 logits a row, 11, 2 and 1 rows.
        for (const memory of memories.values()) {
          if (![96 * 4, 2 * 96 * 4, 11 * 96 * 4].includes(memory.byteLength)) continue;
          const words = new Uint32Array(memory);
          words[0] = words[0]! ^ 1;
        }
        return seconds;
      },
    };
    const backend = onFake(off);
    expect(await backend.unavailable()).toBeUndefined();
    (await backend.load(selfTestProgram(), {}))[Symbol.dispose]();
    const loading = backend.load(groupedSelfTestProgram(), {});
    await expect(loading).rejects.toThrow(MetalUnsupportedError);
    await expect(loading).rejects.toThrow(
      /\d+ of 1344 logits of a group-scaled model are not the reference's, bit for bit/,
    );
  });

  test('a GPU that computes something else is not used', async () => {
    const addon = fakeAddon();
    // It reports success and does nothing.
    const idle: MetalAddon = { ...addon, run: async () => 0 };
    expect(await onFake(idle).unavailable()).toMatch(/^Metal on Fake Metal .* is not used: its self-test differs/);
    expect(await onFake(addon).unavailable()).toBeUndefined();
  });

  test('an old GPU, kernels that do not compile, pipelines too small: one sentence each', async () => {
    const addon = { ...fakeAddon(), open: (source: string) => fakeAddon().open(`${source}\n`) };
    expect(await onFake(addon).unavailable()).toContain('the kernels do not compile');
    // The device is opened anew for other text only.
    await withSettings({ FAKE_METAL_FAMILY: 'old' }, async () => {
      expect(await onFake(addon).unavailable()).toContain("older than Apple's M1");
    });
    await withSettings({ FAKE_METAL_MAX_THREADS: '64' }, async () => {
      expect(await onFake().unavailable()).toContain('threads per threadgroup');
    });
  });

  test('pipelines of 256 threads (register-hungry kernels on a real GPU): the same results', async () => {
    const program = selfTestProgram();
    using reference = await jsBackend.load(program, {});
    const tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    const expected = await feed(reference, reference.createSequence(), tokens);
    await withSettings({ FAKE_METAL_MAX_THREADS: '256' }, async () => {
      using executable = loadOnFake(program);
      const actual = await feed(executable, executable.createSequence(), tokens);
      expect(relativeError(expected.logits, actual.logits)).toBeLessThan(SELF_TEST_TOLERANCE);
    });
  });

  test('the first load measures every shape and keeps it; the second reads it', async () => {
    const file = join(folder, 'deep', 'er', 'tuning.json');
    const program = selfTestProgram();
    (await onFake(fakeAddon(), file).load(program, {}))[Symbol.dispose]();
    const shapes = Object.keys(JSON.parse(readFileSync(file, 'utf8')) as object).sort();
    // q + k + v: 18 + 6 + 6 quads of 72 columns; gate + up: 76 quads; o: 18; down: 18 of 150 columns.
    expect(shapes).toEqual(['18x10', '18x5', '30x5', '76x5']);
    const before = figures().commandBuffers;
    const again = onFake(fakeAddon(), file);
    await again.unavailable();
    const tested = figures().commandBuffers;
    (await again.load(program, {}))[Symbol.dispose]();
    expect(figures().commandBuffers).toBe(tested);
    // Three steps of each self-test.
    expect(tested - before).toBe(6);
  });

  test('it keeps the fastest', async () => {
    const addon = fakeAddon();
    // Opens the device, which no test before this one need have done.
    expect(await onFake(addon).unavailable()).toBeUndefined();
    for (const choice of [CANDIDATES[4]!, CANDIDATES[12]!]) {
      const file = join(folder, `${choice.kernel}.json`);
      const { id } = addon.pipeline(choice.kernel);
      const timed: MetalAddon = {
        ...addon,
        run: async (tape) => {
          await addon.run(tape);
          return tape[0] === id && tape[4] === choice.simdgroups * 32 ? 0.5 : 1;
        },
      };
      (await onFake(timed, file).load(selfTestProgram(), {}))[Symbol.dispose]();
      expect([...readTuning(file).values()]).toEqual([choice, choice, choice, choice]);
    }
  });

  test('a wrong top is found', async () => {
    const off = (change: (top: TopLogits) => void) =>
      selfTest(async (program) => {
        const reference = await jsBackend.load(program, {});
        return Object.assign(Object.create(reference) as Executable, {
          createSequence: () => reference.createSequence(),
          step: async (step: Step) => {
            const result = await reference.step(step);
            change(result.top);
            return result;
          },
          [Symbol.dispose]: () => reference[Symbol.dispose](),
        });
      });
    expect(await off(() => {})).toBeUndefined();
    const wrong = /largest logits that it told, or the sums of their weights/;
    expect(await off(({ mass }) => mass.set([mass[0]! + 2 ** -32]))).toMatch(wrong);
    expect(await off(({ ids }) => ids.set([ids[1]!, ids[0]!]))).toMatch(wrong);
    expect(await off(({ logits }) => logits.set([Number.NaN], logits.length - 1))).toMatch(wrong);
  });

  test('nothing is left behind: every buffer is released', async () => {
    setFlagsFromString('--expose-gc');
    const collectGarbage = runInNewContext('gc') as () => void;
    /** The array buffers over GPU memory hold it until they are collected. */
    const live = async () => {
      for (let i = 0; i < 10; i += 1) {
        collectGarbage();
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      return figures().buffers;
    };
    const program = selfTestProgram();
    const backend = onFake();
    const work = async () => {
      const executable = await backend.load(program, {});
      const sequence = executable.createSequence();
      await feed(executable, sequence, someTokens(40, 96, 1));
      executable.fork(sequence, 40);
      await executable.step({
        tokens: Int32Array.of(1),
        sequences: Int32Array.of(sequence),
        positions: Int32Array.of(40),
        outputRows: Int32Array.of(0),
        top: 3,
        withoutLogits: true,
      });
      executable[Symbol.dispose]();
      executable[Symbol.dispose]();
    };
    await work();
    const before = await live();
    for (let i = 0; i < 3; i += 1) await work();
    expect(await live()).toBe(before);
  });
});

describe('tuning files', () => {
  test('a file of another make counts as nothing', () => {
    const file = join(folder, 'foreign.json');
    for (const text of ['', '[1', '7', '{"18x5": {"kernel": "rm", "simdgroups": 4}, "x": 1}', '{"18x5": null}']) {
      writeFileSync(file, text);
      expect(readTuning(file).size).toBe(0);
    }
    writeFileSync(file, JSON.stringify({ '18x5': CANDIDATES[3], bad: CANDIDATES[0] }));
    expect([...readTuning(file)]).toEqual([['18x5', CANDIDATES[3]]]);
    expect(readTuning(join(folder, 'missing.json')).size).toBe(0);
  });

  test('the name holds device and kernels', () => {
    const env = { XDG_CACHE_HOME: '/cache' };
    const a = tuningFile('Apple M3 Max', 'one', env);
    expect(a).toMatch(/^\/cache\/bitnet-gf3-mcp\/metal\/Apple-M3-Max-[0-9a-f]{12}\.json$/);
    expect(tuningFile('Apple M3 Max', 'two', env)).not.toBe(a);
    expect(tuningFile('../../etc/passwd', 'one', env)).toMatch(/^\/cache\/bitnet-gf3-mcp\/metal\/-etc-passwd-/);
  });
});
