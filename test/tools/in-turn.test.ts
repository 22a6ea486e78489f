// Which calls take a turn, which do not, and what they hear while they wait.

import { afterEach, expect, test } from 'vitest';
import { ALL_TOOLS } from '../../src/tools/all-tools.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import { QueuedServices } from '../../src/tools/queued-services.ts';
import type { Services, TurnOf } from '../../src/tools/services.ts';
import { traceColors } from '../../src/tools/trace-colors.ts';
import { tritWindowText } from '../../src/tools/trit-window.ts';

/** An engine that fails at once: here it only matters when it is asked. */
const engineFails: Services = {
  generate: () => Promise.reject(new Error('the engine was asked')),
  worlds: {
    step: () => Promise.reject(new Error('the engine was asked')),
    invert: () => Promise.reject(new Error('the engine was asked')),
  },
};

const leaves: (() => void)[] = [];
afterEach(() => {
  for (const leave of leaves.splice(0)) leave();
});

/** Services whose queues are full of other clients' work, but for places to wait. */
async function busy(maxWaiting = 8): Promise<QueuedServices> {
  const queued = new QueuedServices(engineFails, { slots: 1, maxWaiting });
  for (const queue of Object.values(queued.queues)) {
    // Enters until the next would have to wait.
    for (let before = -1; before < queue.running; ) {
      before = queue.running;
      const controller = new AbortController();
      const entered = queue.enter(`client ${before}`, { signal: controller.signal }).then(
        (leave) => void leaves.push(leave),
        () => {},
      );
      controller.abort();
      await entered;
    }
  }
  return queued;
}

const toolNamed = (name: string) => ALL_TOOLS.find((tool) => tool.name === name)!;

type Call = (services: Services, hooks: { signal: AbortSignal; progress: Progress }) => Promise<unknown>;
type Progress = (done: number, total: number | undefined, message: string) => void;

const call =
  (name: string, args: object): Call =>
  (services, hooks) =>
    callTool(toolNamed(name), args, { services, ...hooks });

const HEAVY: readonly [string, TurnOf, Call][] = [
  ['generate_with_trace', 'engine', call('generate_with_trace', { prompt: 'a' })],
  ['morphism_step', 'worlds', call('morphism_step', { model: 'default', text: ['a b'] })],
  ['analyze_layer', 'server', call('analyze_layer', {})],
  ['palette with a picture', 'server', call('palette', { n: 1, image: true })],
  ['palette that begins far along a walk', 'server', call('palette', { n: 1, start: 500_000, scheme: 'gay-mcp' })],
  ['color_at far along a walk', 'server', call('color_at', { index: 500_000, scheme: 'gay-mcp' })],
  [
    'the weights of a layer',
    'server',
    (services, hooks) => tritWindowText({ model: 'default', layer: '*', row: 0, column: 0 }, { services, ...hooks }),
  ],
  [
    'the picture of a trace',
    'server',
    (services, hooks) => traceColors({ scheme: 'trace', seed: '1', tokens: 1 }, { services, ...hooks }),
  ],
];

test.each(HEAVY)('%s waits for its turn of the %s, and hears how many are before it', async (_name, of, run) => {
  const queued = await busy();
  const heard: [number, number | undefined, string][] = [];
  const { signal } = new AbortController();
  let ended = false;
  const work = run(queued.forClient('me'), { signal, progress: (...progress) => void heard.push(progress) })
    .catch((error: Error) => expect(error.message).toBe('the engine was asked'))
    .finally(() => {
      ended = true;
    });
  await expect.poll(() => queued.queues[of].waiting).toBe(1);
  expect(ended).toBe(false);
  expect(heard).toEqual([[0.5, undefined, 'waiting: 0 before this call']]);
  for (const leave of leaves.splice(0)) leave();
  await work;
  expect([queued.queues[of].running, queued.queues[of].waiting]).toEqual([0, 0]);
});

test.each(HEAVY)('%s that is cancelled while it waits leaves the queue', async (_name, of, run) => {
  const queued = await busy();
  const controller = new AbortController();
  const work = run(queued.forClient('me'), { signal: controller.signal, progress: () => {} });
  await expect.poll(() => queued.queues[of].waiting).toBe(1);
  controller.abort();
  await expect(work).rejects.toMatchObject({ code: 'CANCELLED' });
  expect(queued.queues[of].waiting).toBe(0);
});

test.each(HEAVY)('%s is refused when too many wait', async (_name, _of, run) => {
  const queued = await busy(0);
  const { signal } = new AbortController();
  await expect(run(queued.forClient('me'), { signal, progress: () => {} })).rejects.toMatchObject({ code: 'BUSY' });
});

test.each([
  ['color_at', { index: 1 }],
  ['color_at', { index: Number.MAX_SAFE_INTEGER }],
  ['color_at', { index: 1000, scheme: 'gay-mcp' }],
  ['palette', { n: 4096 }],
  ['balance_triad', { trits: [1] }],
])('%s %j is answered at once, however busy the server is', async (name, args) => {
  const services = (await busy(0)).forClient('me');
  await expect(callTool(toolNamed(name), args, { services })).resolves.toBeDefined();
});

test('between two turns of the server, other events have theirs', async () => {
  const services = new QueuedServices(engineFails, { slots: 1, maxWaiting: 100 }).forClient('me');
  let between = 0;
  let done = 0;
  const count = () => {
    if (done < 20) setImmediate(count);
    between += 1;
  };
  setImmediate(count);
  const work = async () => {
    done += 1;
  };
  await Promise.all(Array.from({ length: 20 }, () => services.takeTurn!('server', work, {})));
  expect(between).toBeGreaterThanOrEqual(10);
});
