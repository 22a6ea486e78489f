import { existsSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { loadNative } from '../../src/engine/cpu/native.ts';
import { hugePageMemory, sharedMemory } from '../../src/engine/cpu/weight-memory.ts';
import { weightMemory } from '../../src/engine/select.ts';
import { plainMemory } from '../../src/tensor/allocate.ts';

const MIB = 1 << 20;

test('matrices share pieces of memory, a very large one has its own', async () => {
  const pieces: number[] = [];
  const allocate = sharedMemory((bytes) => {
    pieces.push(bytes / MIB);
    return new Uint8Array(bytes);
  });
  const parts: Uint8Array[] = [];
  for (const bytes of [1, 100, 40 * MIB, 64, 0, 30 * MIB, 20 * MIB, 30 * MIB]) {
    const part = await allocate(bytes);
    expect(part.byteLength).toBe(bytes);
    expect(part.byteOffset % 64).toBe(0);
    parts.push(part.fill(parts.length + 1));
  }
  // No part lies over another.
  parts.forEach((part, i) => {
    expect(Buffer.compare(part, Buffer.alloc(part.byteLength, i + 1))).toBe(0);
  });
  expect(pieces).toEqual([64, 40, 64]);
});

test('memory for a small model asks for no backend', async () => {
  // A name that no backend has: whoever asks for it fails.
  const allocate = weightMemory('none' as 'cpu');
  const part = await allocate(40 * MIB);
  expect([part.byteLength, part.buffer.byteLength]).toEqual([40 * MIB, 40 * MIB]);
  await expect(allocate(24 * MIB)).rejects.toThrow('unknown backend "none"');
});

test('a backend without wishes gets plain memory', async () => {
  const part = await weightMemory('js')(65 * MIB);
  expect([part.byteOffset, part.buffer.byteLength]).toEqual([0, 65 * MIB]);
  expect((await plainMemory(5)).byteLength).toBe(5);
});

const native = await loadNative();
const canAsk = process.platform === 'linux' && existsSync('/sys/kernel/mm/transparent_hugepage/enabled');

/** KiB of this process's memory for which huge pages were asked. */
function advisedKib(): number {
  let kib = 0;
  for (const mapping of readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
    if (/^VmFlags:.*\bhg\b/m.test(mapping)) kib += Number(/^Size:\s+(\d+)/m.exec(mapping)?.[1] ?? 0);
  }
  return kib;
}

test.skipIf('reason' in native || !canAsk)('the system is asked for huge pages', async () => {
  const before = advisedKib();
  const part = await (await hugePageMemory())(48 * MIB);
  expect(part.byteLength).toBe(48 * MIB);
  expect(advisedKib() - before).toBeGreaterThanOrEqual(48 * 1024);
});

test.skipIf('reason' in native)('expectHugePages takes bytes, however few, and nothing else', () => {
  if ('reason' in native) return;
  expect(native.addon.expectHugePages(new Uint8Array(0))).toBe(0);
  expect(native.addon.expectHugePages(new Uint8Array(8))).toBeLessThan(2 * MIB);
  expect(() => native.addon.expectHugePages(new Int8Array(8) as never)).toThrow('takes a Uint8Array');
});
