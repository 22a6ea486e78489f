// The engine's child process: it works, it can die, and it never outlives its parent. Needs the compiled files, which
// `npm test` makes first.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, describe, expect, test } from 'vitest';
import { EngineDiedError, EngineHost } from '../../src/generate/engine-host.ts';
import { isAlive } from '../mcp/server-process.ts';

const hosts: EngineHost[] = [];
const open = () => {
  const host = new EngineHost();
  hosts.push(host);
  return host;
};
afterEach(() => Promise.all(hosts.splice(0).map((host) => host.close())));

const story = { model: 'default', prompt: 'Once upon a time' } as const;
/** Takes seconds on any machine: what happens in its middle does happen there. */
const longStory = { ...story, backend: 'js', maxTokens: 400 } as const;
const gone = async (pid: number) => {
  for (let i = 0; i < 1000 && isAlive(pid); i += 1) await new Promise((resolve) => setTimeout(resolve, 20));
  return !isAlive(pid);
};

describe('EngineHost', () => {
  test('generates, with steps and 64-bit seeds over the border', async () => {
    const steps: number[] = [];
    const result = await open().generate(
      { ...story, maxTokens: 5, seed: 2n ** 64n - 1n },
      { onStep: ({ step }) => steps.push(step) },
    );
    expect(result.seed).toBe(2n ** 64n - 1n);
    expect(steps).toEqual([0, 1, 2, 3, 4]);
  });

  test('tells what it keeps for later prompts, and a dead engine keeps nothing', async () => {
    const host = open();
    expect(host.kept).toEqual({ entries: 0, tokens: 0, stateBytes: 0, hits: 0, prompts: 0 });
    const prompt = 'Once upon a time there was a king who had three sons';
    for (let i = 0; i < 2; i += 1) await host.generate({ ...story, prompt, backend: 'js', maxTokens: 2 });
    // The events of a call come before its result.
    expect(host.kept).toMatchObject({ entries: 2, stateBytes: 0, hits: 1, prompts: 2 });
    expect(host.kept.tokens).toBeGreaterThan(10);
    process.kill(host.pid!, 'SIGKILL');
    await expect.poll(() => host.pid).toBeUndefined();
    expect(host.kept.entries).toBe(0);
  });

  test('errors arrive with code, fault and text', async () => {
    const failed = open().generate({ ...story, model: './nowhere' });
    await expect(failed).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND', fault: 'call' });
    await expect(open().generate({ ...story, maxTokens: 0 })).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
  });

  test('a cancellation crosses over', async () => {
    const controller = new AbortController();
    const result = await open().generate(longStory, {
      signal: controller.signal,
      onStep: ({ step }) => step === 2 && controller.abort(),
    });
    expect(result.finishReason).toBe('cancelled');
    expect(result.trace.length).toBeLessThan(100);
  });

  test('a killed engine fails its request at once, and the next one works', async () => {
    const host = open();
    const failed = host.generate(longStory, {
      onStep: ({ step }) => step === 2 && process.kill(host.pid!, 'SIGKILL'),
    });
    await expect(failed).rejects.toBeInstanceOf(EngineDiedError);
    await expect(failed).rejects.toThrow(/SIGKILL.*ask again/);
    expect((await host.generate({ ...story, maxTokens: 2 })).trace.length).toBe(2);
  });

  test('close ends the process, also in the middle of a generation', async () => {
    const host = open();
    let pid = 0;
    const running = host.generate(longStory, {
      onStep: () => {
        pid = host.pid!;
        void host.close();
      },
    });
    await expect(running).rejects.toThrow();
    expect(await gone(pid)).toBe(true);
    await expect(host.generate(story)).rejects.toThrow(/closing/);
  });

  test('a killed parent leaves no engine behind', async () => {
    const script = `
      import { EngineHost } from './dist/generate/engine-host.js';
      const host = new EngineHost();
      await host.generate(${JSON.stringify(longStory)}, { onStep: () => console.log(host.pid) });
    `;
    const parent = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [line] = (await once(parent.stdout, 'data')) as [Buffer];
    const pid = Number(line.toString().split('\n')[0]);
    expect(isAlive(pid)).toBe(true);
    parent.kill('SIGKILL');
    expect(await gone(pid)).toBe(true);
  });
});
