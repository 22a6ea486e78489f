// morphism_step and morphism_invert on the embedded model, through the tools and the child process that serves them.

import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { callTool } from '../../src/tools/call-tool.ts';
import { EngineServices } from '../../src/tools/engine-services.ts';
import { morphismInvertTool } from '../../src/tools/morphism-invert.ts';
import { morphismStepTool } from '../../src/tools/morphism-step.ts';

const built = existsSync(join(import.meta.dirname, '../../dist/world/world-process.js'));

const TEXT = [
  'The ternary fox had three thoughts: one for going forward, one for going back, and one for staying where it was. ' +
    'Every morning it counted them, and every morning they came to nothing, which pleased the fox very much.',
];

describe.runIf(built)('on the embedded model', () => {
  const folder = mkdtempSync(join(tmpdir(), 'bitnet-morphism-'));
  let services: EngineServices;
  beforeAll(() => {
    process.env.BITNET_WORLDS = folder;
    services = new EngineServices();
  });
  afterAll(async () => {
    await services.close();
    delete process.env.BITNET_WORLDS;
    rmSync(folder, { recursive: true, force: true });
  });
  const run = async (tool: typeof morphismStepTool | typeof morphismInvertTool, args: Record<string, unknown>) => {
    const result = await callTool(tool, args, { services });
    // What MCP clients check: the result against the declared schema.
    expect(tool.output.safeParse(result.structured).error).toBeUndefined();
    return result;
  };
  // Fields are checked against the schema above.
  const step = async (args: Record<string, unknown>) => (await run(morphismStepTool, args)).structured as never as Step;
  type Step = {
    world_before: string;
    world_after: string;
    loss_before: number;
    loss_after: number;
    wev: number;
    wev_ratio: number;
    layers: { name: string; flips: number; trit_delta_sum: number }[];
    unchanged_layers: number;
    trit_delta_sum: number;
    gf3_residue: number;
    conserved: boolean;
    morphism_color: { index: number; hex: string };
  };

  test('a step that flips nothing says why', async () => {
    const { text } = await run(morphismStepTool, { model: 'default', text: ['The fox.'], optimizer: 'sgd', lr: 1e-30 });
    expect(text).toMatch(/^0 trits flipped.*\nNo latent crossed a rounding boundary.*larger lr/m);
  });

  test('a step lowers the loss on its batch, is conserved, inverts, and lands on the same world again', async () => {
    const first = await step({ model: 'default', text: TEXT, conserve: true });
    expect(first.loss_after).toBeLessThan(first.loss_before);
    expect(first.wev).toBeCloseTo(first.loss_before - first.loss_after, 12);
    expect(first.wev_ratio).toBeCloseTo(first.loss_before / first.loss_after - 1, 12);
    expect(first).toMatchObject({ gf3_residue: 0, conserved: true });
    expect(Math.abs(first.trit_delta_sum % 3)).toBe(0);
    expect(first.layers.reduce((sum, layer) => sum + layer.flips, 0)).toBeGreaterThan(0);
    expect(first.layers.filter(({ flips }) => flips === 0)).toEqual([]);
    expect(first.layers.length + first.unchanged_layers).toBe(42);
    expect(first.layers.reduce((sum, layer) => sum + layer.trit_delta_sum, 0)).toBe(first.trit_delta_sum);
    const digest = createHash('sha256').update(JSON.stringify(TEXT), 'utf8').digest();
    expect(first.morphism_color.index).toBe(Number(digest.readBigUInt64BE() % 1000n));

    const { structured: back, text } = await run(morphismInvertTool, { world: first.world_after });
    expect(back).toMatchObject({ world: first.world_before, inverted: first.world_after, wev: -first.wev });
    expect(text).toContain('back where the step began');
    const again = await step({ ...(back.morphism as object), world: back.world });
    expect(again.world_after).toBe(first.world_after);

    const other = await step({ world: first.world_after.slice(0, 12), text: TEXT, optimizer: 'sgd' });
    expect(other.world_before).toBe(first.world_after);
    expect(other.loss_before).toBe(first.loss_after);
    expect(other.loss_after).toBeLessThan(other.loss_before);
  });

  test('a cancelled step says so and leaves nothing', async () => {
    const controller = new AbortController();
    const messages: string[] = [];
    const call = callTool(
      morphismStepTool,
      { model: 'default', text: TEXT, steps: 50 },
      {
        services,
        signal: controller.signal,
        progress: (_done, _total, message) => {
          messages.push(message);
          // A busy machine tells first that it is getting ready.
          if (message.startsWith('gradient')) controller.abort();
        },
      },
    );
    await expect(call).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(messages.at(-1)).toMatch(/^gradient 1 of 50/);
  });

  test.each([
    [{ model: 'default' }, /neither text nor tokens/],
    [{ model: 'default', text: ['a'], tokens: [[1, 2]] }, /text and tokens together/],
    [{ model: 'default', world: 'abcdef', text: ['a b'] }, /world and model together/],
    [{ world: 'ffffffffff', text: ['a b'] }, /there is no world ffffffffff/],
    [{ model: 'default', tokens: [[1, 99_999_999]] }, /token id 99999999 is not in the vocabulary/],
    [{ model: 'default', text: ['a b'], lr: 0 }, /lr must be a number > 0/],
    [{ model: 'no/such-model', text: ['a b'] }, /no\/such-model/],
  ])('%j is refused with what to do', async (args, message) => {
    await expect(callTool(morphismStepTool, args, { services })).rejects.toThrow(message);
  });
});

test('where nothing trains, the tools say so', async () => {
  const services = { generate: () => Promise.reject(new Error('not called')) };
  await expect(callTool(morphismInvertTool, { world: 'abcdef' }, { services })).rejects.toThrow(/keeps no worlds/);
});
