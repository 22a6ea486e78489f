// A process that is killed while it writes loses the step in flight and nothing else.

import { type ChildProcess, fork } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { WorldHost } from '../../src/world/world-host.ts';
import { worldId } from '../../src/world/world-state.ts';
import { Worlds } from '../../src/world/worlds.ts';
import { Numbers } from '../train/tiny.ts';
import { writeTinyModel } from '../train/tiny-model.ts';

const child = join(import.meta.dirname, '../../dist/world/world-process.js');
const folder = mkdtempSync(join(tmpdir(), 'bitnet-kill-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const step = {
  tokens: [[3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9]],
  lr: 0.003,
  optimizer: 'adamw',
  steps: 1,
  conserve: true,
} as const;

describe.runIf(existsSync(child))('the compiled child process', () => {
  test('killed again and again, it never loses a finished step, and the end is that of an undisturbed store', async () => {
    const model = await writeTinyModel(join(folder, 'model'));
    const store = join(folder, 'store');
    // snapshotEvery 1: each step writes its large file too, so that kills fall into it.
    const options = { folder: store, kernels: 'js', snapshotEvery: 1 } as const;
    const n = new Numbers(4);
    const STEPS = 12;
    const KILLS = 6;
    let kills = 0;
    const finished: string[] = [];
    const live = async (host: ChildProcess): Promise<void> => {
      host.send({ kind: 'options', options });
      const ask = (request: unknown, id: number) => {
        asked = performance.now();
        if (host.connected) host.send({ kind: 'call', id, method: 'step', args: request }, () => {});
      };
      let asked = 0;
      /** That this process is to be killed: nothing goes on without that once the step under way is finished. */
      let doomed = false;
      await new Promise<void>((resolve) => {
        host.on(
          'message',
          (message: { kind: string; id: number; result: { after: { id: string } }; error: unknown }) => {
            if (message.kind === 'event') return;
            expect(message.kind, JSON.stringify(message.error)).toBe('result');
            const milliseconds = performance.now() - asked;
            finished.push(message.result.after.id);
            if (doomed) return;
            if (finished.length === STEPS) host.disconnect();
            else ask({ ...step, world: finished.at(-1) }, message.id + 1);
            if (finished.length % 2 === 1 && finished.length < STEPS && kills < KILLS) {
              doomed = true;
              // Anywhere in the next step, which takes about as long as this one, or just after it.
              setTimeout(() => host.kill('SIGKILL'), 1.2 * milliseconds * n.next());
            }
          },
        );
        // What it had sent is heard first.
        host.on('exit', () => (host.connected ? host.once('disconnect', resolve) : resolve()));
        ask({ ...step, ...(finished.length === 0 ? { model } : { world: finished.at(-1) }) }, 0);
      });
      if (host.signalCode === 'SIGKILL') kills += 1;
    };
    while (finished.length < STEPS) await live(fork(child, [], { serialization: 'advanced', execArgv: [] }));
    expect(kills).toBe(KILLS);

    const quiet = await Worlds.open({ folder: join(folder, 'quiet'), kernels: 'js' });
    const expected: string[] = [];
    for (let i = 0; i < STEPS; i += 1) {
      const from = expected.length === 0 ? { model } : { world: expected.at(-1)! };
      expected.push((await quiet.step({ ...step, ...from })).after.id);
    }
    expect(finished).toEqual(expected);
    const again = await Worlds.open({ folder: store, kernels: 'js' });
    expect(
      (await again.log(finished.at(-1)!))
        .map(({ id }) => id)
        .reverse()
        .slice(1),
    ).toEqual(finished);
    for (const id of finished) expect(worldId(await again.state(id))).toBe(id);
    // What is not temporary is whole: every record can be read.
    expect((await again.store.list()).length).toBe(STEPS + 1);
    for (const name of await readdir(join(store, 'worlds'))) expect(name).toMatch(/^([0-9a-f]{64}\.json|\..*\.tmp)$/);
  }, 120_000);

  test('through the host: progress, errors as they were, cancel, and a crash that ends one request only', async () => {
    const model = await writeTinyModel(join(folder, 'model'));
    const host = new WorldHost({ folder: join(folder, 'host-store'), kernels: 'js' });
    try {
      let progress = 0;
      const first = await host.step({ ...step, model }, { onProgress: () => progress++ });
      expect(progress).toBeGreaterThan(0);
      expect(first.report.conserved).toBe(true);
      expect((await host.invert(first.after.id)).to.id).toBe(first.before.id);
      await expect(host.step({ ...step, world: 'nonsense' })).rejects.toMatchObject({
        code: 'WORLD_NOT_FOUND',
        fault: 'call',
      });

      const controller = new AbortController();
      const long = host.step(
        { ...step, world: first.after.id, steps: 100 },
        {
          signal: controller.signal,
          onProgress: () => controller.abort(),
        },
      );
      await expect(long).rejects.toMatchObject({ code: 'CANCELLED' });

      const doomed = host.step(
        { ...step, world: first.after.id, steps: 100 },
        { onProgress: () => process.kill(host.pid!, 'SIGKILL') },
      );
      await expect(doomed).rejects.toMatchObject({ code: 'WORLD_PROCESS_DIED' });
      expect((await host.step({ ...step, world: first.after.id })).before.id).toBe(first.after.id);
    } finally {
      await host.close();
    }
  });
});
