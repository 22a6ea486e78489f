import fc from 'fast-check';
import { expect, test } from 'vitest';
import { EventLog } from '../../src/mcp/http/event-log.ts';
import { allowedHostNames, isLoopback, urlHost } from '../../src/mcp/http/guards.ts';
import { RateLimit } from '../../src/mcp/http/rate-limit.ts';

const message = (id: number, size = 0) => ({ jsonrpc: '2.0' as const, id, result: { text: 'x'.repeat(size) } });

test('the event log gives a stream back from where it broke, and no other', async () => {
  const log = new EventLog();
  const [mine, theirs] = [log.store(), log.store()];
  const first = await mine.storeEvent('a', message(1));
  await mine.storeEvent('b', message(2));
  await theirs.storeEvent('a', message(3));
  await mine.storeEvent('a', message(4));
  const replayed: unknown[] = [];
  const send = async (_id: string, event: unknown) => void replayed.push(event);
  expect(await mine.replayEventsAfter(first, { send })).toBe('a');
  expect(replayed).toEqual([message(4)]);
  expect(await theirs.getStreamIdForEventId!(first)).toBeUndefined();
  await expect(theirs.replayEventsAfter(first, { send })).rejects.toThrow(RangeError);
  await expect(mine.replayEventsAfter('__proto__', { send })).rejects.toThrow(RangeError);
});

test('what is said before the client listens is heard once', async () => {
  const session = new EventLog().store();
  await session.storeEvent('_GET_stream', message(1));
  await session.storeEvent('another', message(2));
  session.isListening = true;
  await session.storeEvent('_GET_stream', message(3));
  const replayed: unknown[] = [];
  const send = async (_id: string, event: unknown) => void replayed.push(event);
  expect(session.hasUnheard).toBe(true);
  expect(await session.replayEventsAfter('0', { send })).toBe('_GET_stream');
  expect(replayed).toEqual([message(1)]);
  expect(session.hasUnheard).toBe(false);
});

test('the event log stays within its bounds, whatever comes, and forgets ended sessions', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ session: fc.integer({ min: 0, max: 3 }), size: fc.integer({ min: 0, max: 400 }) })),
      async (events) => {
        const log = new EventLog({ maxEvents: 10, maxCharacters: 1000 });
        const stores = [0, 1, 2, 3].map(() => log.store());
        for (const [id, { session, size }] of events.entries()) {
          await stores[session]!.storeEvent('s', message(id, size));
          expect(log.characters).toBeLessThanOrEqual(1000);
        }
        for (const store of stores) store.clear();
        expect(log.characters).toBe(0);
      },
    ),
  );
});

test('a bucket fills again with time, and never above twice the rate', () => {
  const limit = new RateLimit(10);
  for (let i = 0; i < 20; i++) expect(limit.take('a', 0)).toBe(0);
  expect(limit.take('a', 0)).toBeCloseTo(0.1);
  expect(limit.take('b', 0)).toBe(0);
  expect(limit.take('a', 100)).toBe(0);
  expect(limit.take('a', 100)).toBeGreaterThan(0);
  for (let i = 0; i < 20; i++) expect(limit.take('a', 3_600_000)).toBe(0);
  expect(limit.take('a', 3_600_000)).toBeGreaterThan(0);
});

test.each([
  ['127.0.0.1', true],
  ['127.9.9.9', true],
  ['localhost', true],
  ['::1', true],
  ['0.0.0.0', false],
  ['::', false],
  ['192.168.0.1', false],
  ['127.0.0.1.evil.example', false],
  ['localhost.evil.example', false],
])('%s is loopback: %s', (host, expected) => {
  expect(isLoopback(host)).toBe(expected);
});

test('names that Host may have', () => {
  expect(allowedHostNames('192.0.2.7', ['mcp.example.com'])).toEqual(
    expect.arrayContaining(['localhost', '192.0.2.7', 'mcp.example.com']),
  );
  expect(allowedHostNames('::1', [])).toContain('[::1]');
  expect(allowedHostNames('0.0.0.0', [])).not.toContain('0.0.0.0');
  expect(urlHost('fe80::1')).toBe('[fe80::1]');
});
