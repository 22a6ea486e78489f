// What of an error comes over from a child process. Needs the compiled files, which `npm test` makes first.

import { afterAll, expect, test } from 'vitest';
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
