// What of an error comes over from a child process. Needs the compiled files, which `npm test` makes first.

import { afterAll, describe, expect, test } from 'vitest';
import { ChildHost } from '../../src/child/child-host.ts';
import { BitnetError } from '../../src/errors.ts';

const host = new ChildHost({
  beside: new URL('../../src/world/world-host.ts', import.meta.url).href,
  file: 'world-process',
  options: {},
  died: (how) => new Error(`died: ${how}`),
});
afterAll(() => host.close());

test("a defect of the child is one here: no error of ours, with the child's stack for the log", async () => {
  const error = await host.call('nowhere', {}).catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(Error);
  expect(error).not.toBeInstanceOf(BitnetError);
  const { name, message, stack } = error as Error;
  expect({ name, message }).toEqual({ name: 'TypeError', message: 'the child has no method nowhere' });
  expect(stack).toMatch(/^TypeError: the child has no method nowhere\n.*at answer/s);
});

test('an error that was meant is the same here', async () => {
  await expect(host.call('invert', 'nowhere')).rejects.toMatchObject({ code: 'WORLD_NOT_FOUND', fault: 'call' });
});

describe.skipIf(process.platform === 'win32')('a child that does not answer', () => {
  const silent = (silence: { lateMs: number; stuckMs: number }) =>
    new ChildHost({
      beside: new URL('../../src/world/world-host.ts', import.meta.url).href,
      file: 'world-process',
      options: {},
      died: (how) => new Error(`died: ${how}`),
      silence,
    });
  /** A call that no word of the child ends: it is stopped before it reads it. */
  const stop = async (child: ChildHost) => {
    await expect(child.call('nowhere', {})).rejects.toThrow('no method');
    process.kill(child.pid!, 'SIGSTOP');
  };

  test('fails the calls that are past their limit, and goes on with the others', async () => {
    const child = silent({ lateMs: 100, stuckMs: 600_000 });
    await stop(child);
    const late = (silentMs: number) => new Error(`silent for ${silentMs >= 100 ? 'long' : 'a moment'}`);
    const patient = child.call('invert', 'nowhere');
    patient.catch(() => {});
    await expect(child.call('invert', 'nowhere', { limitMs: 10, late })).rejects.toThrow('silent for long');
    process.kill(child.pid!, 'SIGCONT');
    await expect(patient).rejects.toMatchObject({ code: 'WORLD_NOT_FOUND' });
    await child.close();
  });

  test('is ended when it says nothing for long, and the next call gets another', async () => {
    const child = silent({ lateMs: 20, stuckMs: 200 });
    await stop(child);
    const { pid } = child;
    const limits = { limitMs: 10, late: () => new Error('late') };
    const [first, unlimited] = await Promise.allSettled([child.call('invert', 'x', limits), child.call('invert', 'x')]);
    expect(first).toMatchObject({ reason: { message: 'late' } });
    expect(unlimited).toMatchObject({ reason: { message: 'died: SIGKILL' } });
    await expect(child.call('invert', 'nowhere')).rejects.toMatchObject({ code: 'WORLD_NOT_FOUND' });
    expect(child.pid).not.toBe(pid);
    await child.close();
  });

  test('a call past its limit goes on while the child answers', async () => {
    const child = silent({ lateMs: 50, stuckMs: 100 });
    await child.call('nowhere', {}).catch(() => {});
    const late = () => new Error('late');
    await expect(child.call('invert', 'nowhere', { limitMs: 0, late })).rejects.toMatchObject({
      code: 'WORLD_NOT_FOUND',
    });
    await child.close();
  });
});
