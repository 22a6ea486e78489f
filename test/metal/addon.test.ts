// addon.mm itself, and the limits that the fake device enforces for it: what a wrong tape or a wrong argument does must
// be an error with a reason, never a fault on the GPU.

import { beforeAll, describe, expect, test } from 'vitest';
import type { MetalAddon } from '../../src/engine/metal/addon.ts';
import { readKernelText } from '../../src/engine/metal/shaders.ts';
import { FAKE_MISSING, fakeAddon, withSettings } from './fake-device.ts';

describe.skipIf(FAKE_MISSING !== undefined)('the addon', () => {
  let addon: MetalAddon;
  /** select_rows(x, rows, out, {stride4}). */
  let kernel = 0;
  let x = 0;
  let rows = 0;
  let out = 0;
  let memories: ArrayBuffer[] = [];

  beforeAll(() => {
    addon = fakeAddon();
    addon.open(readKernelText());
    kernel = addon.pipeline('select_rows').id;
    const buffers = [64, 16, 64].map((bytes) => addon.allocate(bytes));
    [x, rows, out] = buffers.map(({ id }) => id) as [number, number, number];
    memories = buffers.map(({ memory }) => memory);
    new Float32Array(memories[0]!).set(Array.from({ length: 16 }, (_, i) => i));
    new Uint32Array(memories[1]!).set([1, 0, 1, 7]);
  });

  const head = (over: { groups?: number[]; threads?: number; bindings?: number } = {}) => [
    kernel,
    ...(over.groups ?? [2, 1, 1]),
    over.threads ?? 32,
    over.bindings ?? 4,
  ];
  const buffers = () => [0, 0, x, 0, 1, 0, rows, 0, 2, 0, out, 0];
  const struct = (...words: number[]) => [3, 1, words.length, ...words];
  const run = (words: readonly number[]) => addon.run(Uint32Array.from(words));

  test('runs a tape, offsets and all', async () => {
    await run([...head(), ...buffers(), ...struct(2)]);
    expect([...new Float32Array(memories[2]!, 0, 16)]).toEqual([8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7]);
    const shifted = [0, 0, x, 32, 1, 0, rows, 4, 2, 0, out, 16];
    await run([...head({ groups: [1, 1, 1] }), ...shifted, ...struct(1)]);
    expect([...new Float32Array(memories[2]!, 16, 4)]).toEqual([8, 9, 10, 11]);
  });

  test.each<[string, () => number[], string]>([
    ['a pipeline that is not there', () => [99, ...head().slice(1), ...buffers(), ...struct(2)], 'pipeline 99'],
    ['an empty grid', () => [...head({ groups: [2, 0, 1] }), ...buffers(), ...struct(2)], 'empty grid'],
    ['half a simdgroup', () => [...head({ threads: 48 }), ...buffers(), ...struct(2)], '48 threads'],
    ['too many threads', () => [...head({ threads: 1056 }), ...buffers(), ...struct(2)], '1056 threads'],
    [
      'a buffer that is not there',
      () => [...head(), 0, 0, 12345, 0, ...buffers().slice(4), ...struct(2)],
      'buffer 12345',
    ],
    ['an offset past the end', () => [...head(), 0, 0, x, 64, ...buffers().slice(4), ...struct(2)], 'past the end'],
    ['a binding index of 31', () => [...head(), 31, 0, x, 0, ...buffers().slice(4), ...struct(2)], 'index 31'],
    ['a struct of more than 4 KiB', () => [...head(), ...buffers(), ...struct(...new Array(1025).fill(0))], 'bad size'],
    ['an empty struct', () => [...head(), ...buffers(), ...struct()], 'bad size'],
    ['a tape cut in the head', () => head().slice(0, 5), 'inside a dispatch'],
    ['a tape cut in a binding', () => [...head(), 0, 0, x], 'inside a binding'],
    ['a tape cut in a struct', () => [...head(), ...buffers(), 3, 1, 2, 7], 'bad size'],
  ])('refuses %s before anything is encoded', (_, words, message) => {
    expect(() => run(words())).toThrow(message);
  });

  test.each<[string, () => number[], RegExp]>([
    ['a missing argument', () => [...head({ bindings: 3 }), ...buffers()], /argument a \(3\) is not bound/],
    ['a struct of the wrong size', () => [...head(), ...buffers(), ...struct(2, 0)], /has 4 bytes, 8 are bound/],
    ['a buffer for a struct', () => [...head(), ...buffers(), 3, 0, x, 0], /argument a \(3\) takes a struct/],
    ['a misaligned vector', () => [...head(), 0, 0, x, 8, ...buffers().slice(4), ...struct(1)], /misaligned access/],
    ['an odd offset', () => [...head(), 0, 0, x, 2, ...buffers().slice(4), ...struct(1)], /no multiple of 4/],
    [
      'a read past a buffer',
      () => [...head({ groups: [4, 1, 1] }), ...buffers(), ...struct(1)],
      /of x \(0\), which has 64/,
    ],
    [
      'a write past a buffer',
      () => [...head({ groups: [3, 1, 1] }), ...buffers(), ...struct(2)],
      /of out \(2\), which has 64/,
    ],
    [
      'two threadgroups on one row',
      () => [...head(), ...buffers().slice(0, 8), 2, 0, x, 0, ...struct(2)],
      /two threads use byte/,
    ],
  ])('the fake device stops %s', async (_, words, message) => {
    await expect(run(words())).rejects.toThrow(message);
    await expect(run(words())).rejects.toMatchObject({ code: 'ERR_METAL' });
  });

  test('arguments of a wrong kind are errors', () => {
    const wrong = addon as unknown as Record<string, (...args: unknown[]) => unknown>;
    for (const [name, argument] of [
      ['open', 7],
      ['pipeline', 7],
      ['allocate', -1],
      ['allocate', 'x'],
      ['wrap', new Float32Array(4)],
      ['wrap', 'x'],
      ['release', {}],
      ['run', new Int32Array(4)],
    ] as const) {
      expect(() => wrong[name]!(argument)).toThrow();
      expect(() => wrong[name]!()).toThrow();
    }
    expect(() => addon.pipeline('no_such_kernel')).toThrow('there is no kernel no_such_kernel');
    expect(() => addon.release(54321)).toThrow('there is no buffer 54321');
    expect(() => addon.run(Uint32Array.of())).not.toThrow();
  });

  test('a buffer larger than the device allows is refused before it is made', async () => {
    await withSettings({ FAKE_METAL_BUFFER_LIMIT: '4096' }, () => {
      expect(() => addon.allocate(4097)).toThrow('4097 bytes are more than one Metal buffer may have (4096)');
      addon.release(addon.allocate(4096).id);
    });
  });

  test('memory outlives release(id) while JavaScript looks at it', () => {
    const { id, memory } = addon.allocate(1 << 20);
    addon.release(id);
    new Uint8Array(memory).fill(7);
    expect(new Uint8Array(memory)[(1 << 20) - 1]).toBe(7);
  });

  test('whole pages are taken as they lie, anything else is left to be copied', async () => {
    const page = 4096;
    const big = new Uint8Array(64 * page);
    const place = (from: number, length: number) => addon.wrap(big.subarray(from, from + length));
    // Somewhere in the middle, at a multiple of 16 from a page's start: no copy.
    let aligned: { id: number; offset: number } | undefined;
    let at = 8 * page;
    for (; aligned === undefined && at < 9 * page; at += 1) aligned = place(at, 4 * page);
    expect(aligned).toBeDefined();
    at -= 1;
    expect(aligned!.offset % 16).toBe(0);
    expect(place(at + 8, page)).toBeUndefined();
    expect(addon.wrap(new Uint8Array(0))).toBeUndefined();
    expect(addon.wrap(new Uint8Array(100))).toBeUndefined();
    // The GPU sees JavaScript's own bytes, later changes too.
    new Float32Array(big.buffer, at, 4).set([5, 6, 7, 8]);
    await run([
      ...head({ groups: [1, 1, 1] }),
      0,
      0,
      aligned!.id,
      aligned!.offset,
      1,
      0,
      rows,
      4,
      2,
      0,
      out,
      0,
      ...struct(1),
    ]);
    expect([...new Float32Array(memories[2]!, 0, 4)]).toEqual([5, 6, 7, 8]);
    addon.release(aligned!.id);
  });
});
