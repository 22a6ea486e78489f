import fc from 'fast-check';
import { expect, test } from 'vitest';
import { callTool } from '../../src/tools/call-tool.ts';
import { BusyError, FairQueue } from '../../src/tools/fair-queue.ts';
import { generateWithTraceTool } from '../../src/tools/generate-with-trace.ts';
import { QueuedServices } from '../../src/tools/queued-services.ts';

const settle = () => new Promise((resolve) => setImmediate(resolve));

test('clients take turns, each in its own order', async () => {
  const queue = new FairQueue({ slots: 1, maxWaiting: 10 });
  const order: string[] = [];
  const leave = await queue.enter('first');
  const enter = async (client: string, name: string) => {
    const done = await queue.enter(client);
    order.push(name);
    done();
  };
  const all = [
    enter('a', 'a1'),
    enter('a', 'a2'),
    enter('a', 'a3'),
    enter('b', 'b1'),
    enter('c', 'c1'),
    enter('b', 'b2'),
  ];
  leave();
  await Promise.all(all);
  expect(order).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3']);
});

test('positions say how many go before, and fall to 0', async () => {
  const queue = new FairQueue({ slots: 1, maxWaiting: 10 });
  const leaveFirst = await queue.enter('x');
  const heard: number[][] = [[], [], []];
  const waiting = ['a', 'a', 'b'].map((client, i) =>
    queue.enter(client, { onPosition: (position) => heard[i]!.push(position) }),
  );
  expect(heard).toEqual([[0], [1, 2], [1]]);
  leaveFirst();
  (await waiting[0]!)();
  (await waiting[2]!)();
  (await waiting[1]!)();
  expect(heard).toEqual([[0], [1, 2, 1, 0], [1, 0]]);
});

test('never more at once than there are slots; everybody gets through or is told', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 0, max: 6 }),
      fc.array(fc.record({ client: fc.constantFrom('a', 'b', 'c'), abort: fc.boolean(), twice: fc.boolean() }), {
        maxLength: 20,
      }),
      async (slots, maxWaiting, jobs) => {
        const queue = new FairQueue({ slots, maxWaiting });
        let running = 0;
        const outcomes = await Promise.all(
          jobs.map(async ({ client, abort, twice }) => {
            const controller = new AbortController();
            if (abort) setImmediate(() => controller.abort());
            try {
              const leave = await queue.enter(client, { signal: controller.signal });
              running += 1;
              expect(running).toBeLessThanOrEqual(slots);
              await settle();
              running -= 1;
              leave();
              // A slot cannot be given back more often than it was taken.
              if (twice) leave();
              return 'ran';
            } catch (error) {
              return error instanceof BusyError ? 'busy' : (error as { code: string }).code;
            }
          }),
        );
        expect(outcomes.every((outcome) => ['ran', 'busy', 'CANCELLED'].includes(outcome))).toBe(true);
        if (jobs.length > slots + maxWaiting) expect(outcomes).toContain('busy');
        if (jobs.length <= slots + maxWaiting) expect(outcomes).not.toContain('busy');
        expect([queue.running, queue.waiting]).toEqual([0, 0]);
      },
    ),
    { numRuns: 200 },
  );
});

test('a client that may not have every slot leaves one for who comes next', async () => {
  const queue = new FairQueue({ slots: 3, slotsPerClient: 2, maxWaiting: 10 });
  const leavers = new Map<string, () => void>();
  const enter = (client: string, name: string) => void queue.enter(client).then((leave) => leavers.set(name, leave));
  const running = async () => {
    await settle();
    return [...leavers.keys()];
  };
  const end = (name: string) => {
    leavers.get(name)!();
    leavers.delete(name);
  };
  for (const name of ['a1', 'a2', 'a3', 'a4']) enter('a', name);
  expect(await running()).toEqual(['a1', 'a2']);
  enter('b', 'b1');
  enter('b', 'b2');
  enter('c', 'c1');
  expect(await running()).toEqual(['a1', 'a2', 'b1']);
  end('b1');
  expect(await running()).toEqual(['a1', 'a2', 'b2']);
  end('a1');
  expect(await running()).toEqual(['a2', 'b2', 'a3']);
  end('b2');
  expect(await running()).toEqual(['a2', 'a3', 'c1']);
  end('c1');
  // Its own waits, though there is a slot.
  expect([await running(), queue.waiting]).toEqual([['a2', 'a3'], 1]);
  end('a3');
  expect([await running(), queue.waiting]).toEqual([['a2', 'a4'], 0]);
  end('a2');
  end('a4');
  expect([queue.running, queue.waiting]).toEqual([0, 0]);
});

test('who has nothing running need not wait for a slot, as long as there is room for guests', async () => {
  const queue = new FairQueue({ slots: 2, slotsPerClient: 2, guestSlots: 2, maxWaiting: 10 });
  const leavers = new Map<string, () => void>();
  const enter = (client: string, name: string) => void queue.enter(client).then((leave) => leavers.set(name, leave));
  const running = async () => {
    await settle();
    return [...leavers.keys()];
  };
  const end = (name: string) => {
    leavers.get(name)!();
    leavers.delete(name);
  };
  for (const name of ['a1', 'a2', 'a3']) enter('a', name);
  for (const client of ['b', 'c', 'd']) for (const n of [1, 2]) enter(client, `${client}${n}`);
  expect(await running()).toEqual(['a1', 'a2', 'b1', 'c1']);
  end('b1');
  // Of those that wait, the first that has nothing running.
  expect(await running()).toEqual(['a1', 'a2', 'c1', 'b2']);
  end('a1');
  expect(await running()).toEqual(['a2', 'c1', 'b2', 'd1']);
  end('c1');
  end('b2');
  expect(await running()).toEqual(['a2', 'd1', 'c2']);
  // A second of one client runs in a slot only: there were none until now.
  end('c2');
  expect(await running()).toEqual(['a2', 'd1']);
  end('d1');
  expect(await running()).toEqual(['a2', 'a3', 'd2']);
  end('d2');
  end('a2');
  end('a3');
  expect([queue.running, queue.waiting]).toEqual([0, 0]);
});

test('a client cannot have all generations', async () => {
  const none = { generate: () => Promise.reject(new Error('not called')) };
  const { engine } = new QueuedServices(none, { slots: 3, guests: true, maxWaiting: 10 }).queues;
  const order: string[] = [];
  for (const name of ['a1', 'a2', 'a3', 'a4']) void engine.enter('a').then(() => order.push(name));
  for (const client of ['b', 'c', 'd', 'e', 'f']) void engine.enter(client).then(() => order.push(client));
  await settle();
  expect(order).toEqual(['a1', 'a2', 'b', 'c', 'd', 'e']);
});

test('a client cannot have all of what analyses take', async () => {
  const { server } = new QueuedServices(
    { generate: () => Promise.reject(new Error('not called')) },
    { slots: 1, maxWaiting: 10 },
  ).queues;
  const order: string[] = [];
  for (const name of ['a1', 'a2', 'a3']) void server.enter('a').then(() => order.push(name));
  void server.enter('b').then(() => order.push('b1'));
  await settle();
  expect(order).toEqual(['a1', 'a2', 'b1']);
});

test('when no more may wait, the last of whom most wait gives way, until all have the same', async () => {
  const queue = new FairQueue({ slots: 1, maxWaiting: 6 });
  const order: string[] = [];
  const enter = async (client: string, name: string, signal?: AbortSignal) => {
    const done = await queue.enter(client, { signal });
    order.push(name);
    done();
  };
  const outcome = (work: Promise<void>, name: string) =>
    work.then(
      () => [],
      (error) => [name, error.code],
    );
  const leave = await queue.enter('first');
  const controller = new AbortController();
  const all = [
    ...['a1', 'a2', 'a3', 'a4', 'a5', 'a6'].map((name) => outcome(enter('a', name, controller.signal), name)),
    outcome(enter('a', 'a7'), 'a7'),
    ...['b1', 'b2', 'b3', 'b4'].map((name) => outcome(enter('b', name), name)),
    outcome(enter('c', 'c1'), 'c1'),
  ];
  expect(queue.waiting).toBe(6);
  leave();
  const refused = (await Promise.all(all)).flat();
  expect(refused).toEqual(['a3', 'a4', 'a5', 'a6', 'a7', 'b4'].flatMap((name) => [name, 'BUSY']));
  expect(order).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'b3']);
  // Whoever gave way is gone for good.
  controller.abort();
  expect([queue.running, queue.waiting]).toEqual([0, 0]);
});

test('a wait counts towards the time that the call may take', async () => {
  const limits: (number | undefined)[] = [];
  const queued = new QueuedServices(
    {
      generate: async ({ maxSeconds }) => {
        limits.push(maxSeconds);
        throw new Error('enough');
      },
    },
    { slots: 1, maxWaiting: 5 },
  );
  const leave = await queued.queues.engine.enter('other');
  const services = queued.forClient('me');
  const calls = [45, 0.5].map((max_seconds) =>
    callTool(generateWithTraceTool, { prompt: 'a', max_seconds }, { services }).catch(() => {}),
  );
  await new Promise((resolve) => setTimeout(resolve, 300));
  leave();
  await Promise.all(calls);
  expect(limits[0]).toBeLessThan(44.8);
  expect(limits[0]).toBeGreaterThan(30);
  expect(limits[1]).toBe(0.5);
});
