import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { CancelledError } from '../../src/errors.ts';
import { FewAtOnce } from '../../src/model/few-at-once.ts';

/** Works that end when told to, and a record of what was begun and what is under way. */
function works(ahead: FewAtOnce, count: number) {
  const begun: number[] = [];
  const under = new Set<number>();
  const ends: { resolve: (value: number) => void; reject: (error: unknown) => void }[] = [];
  const promises = Array.from({ length: count }, (_, i) =>
    ahead.run(async () => {
      begun.push(i);
      under.add(i);
      try {
        return await new Promise<number>((resolve, reject) => {
          ends[i] = { resolve, reject };
        });
      } finally {
        under.delete(i);
      }
    }),
  );
  return { begun, under, ends, promises };
}

test('three works are under way at most, begun in order', async () => {
  const { begun, ends, promises } = works(new FewAtOnce(undefined), 6);
  expect(begun).toEqual([0, 1, 2]);
  ends[1]!.resolve(10);
  expect(await promises[1]).toBe(10);
  await turn();
  expect(begun).toEqual([0, 1, 2, 3]);
  ends[0]!.resolve(0);
  ends[3]!.resolve(30);
  await turn();
  expect(begun).toEqual([0, 1, 2, 3, 4, 5]);
  for (const end of ends) end.resolve(99);
  expect(await Promise.all(promises)).toEqual([0, 10, 99, 30, 99, 99]);
});

test('after a failure none is begun, and the earliest error is that of all, once nothing is under way', async () => {
  const { begun, under, ends, promises } = works(new FewAtOnce(undefined), 6);
  ends[0]!.resolve(0);
  expect(await promises[0]).toBe(0);
  await turn();
  const settled: string[] = [];
  for (const [i, promise] of promises.entries()) {
    promise.then(
      () => settled.push(`${i} done`),
      (error) => settled.push(`${i} ${(error as Error).message} with ${under.size} under way`),
    );
  }
  ends[3]!.reject(new Error('third'));
  await turn();
  expect(settled).toEqual(['0 done']);
  ends[1]!.reject(new Error('first'));
  await turn();
  ends[2]!.resolve(2);
  await turn();
  expect(begun).toEqual([0, 1, 2, 3]);
  expect([...settled].sort()).toEqual([
    '0 done',
    '1 first with 0 under way',
    '2 done',
    '3 first with 0 under way',
    '4 first with 0 under way',
    '5 first with 0 under way',
  ]);
});

test('a work that is given after the failure is not begun either', async () => {
  const ahead = new FewAtOnce(undefined);
  await expect(ahead.run(() => Promise.reject(new Error('broken')))).rejects.toThrow('broken');
  let begun = false;
  const late = ahead.run(async () => {
    begun = true;
  });
  await expect(late).rejects.toThrow('broken');
  expect(begun).toBe(false);
});

test('an aborted signal lets what is under way end and begins nothing', async () => {
  const controller = new AbortController();
  const { begun, ends, promises } = works(new FewAtOnce(controller.signal), 4);
  controller.abort();
  for (const end of ends) end.resolve(1);
  expect(await Promise.all(promises.slice(0, 3))).toEqual([1, 1, 1]);
  await expect(promises[3]).rejects.toBeInstanceOf(CancelledError);
  expect(begun).toEqual([0, 1, 2]);
});
