import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { decode } from 'fast-png';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { writeSafetensors } from '../../src/formats/write-safetensors.ts';
import { packRowquad } from '../../src/quant/rowquad.ts';
import { analyzeLayerTool } from '../../src/tools/analyze-layer.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import type { Services } from '../../src/tools/services.ts';

const services: Services = { generate: () => Promise.reject(new Error('not called')) };

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'analyze-'));
});
afterAll(() => rm(folder, { recursive: true }));

type Matrix = { readonly name: string; readonly rows: number; readonly columns: number; readonly trits: Int8Array };

async function writeModel(matrices: readonly Matrix[], scale = 0.5): Promise<string> {
  const path = join(folder, `${Math.random()}.safetensors`);
  await writeSafetensors(
    path,
    matrices.flatMap(({ name, rows, columns, trits }) => [
      { name, dtype: 'U8', shape: [Math.ceil(rows / 4), columns], bytes: packRowquad(trits, rows, columns) } as const,
      {
        name: `${name}_scale`,
        dtype: 'F32',
        shape: [1],
        bytes: new Uint8Array(Float32Array.of(scale).buffer),
      } as const,
    ]),
  );
  return path;
}

const analyze = async (args: Record<string, unknown>, given = services) =>
  callTool(analyzeLayerTool, args, { services: given });

// By hand: 8 rows of 2; three -1, nine 0, four +1.
const SMALL: Matrix = {
  name: 'model.layers.0.mlp.up_proj.weight',
  rows: 8,
  columns: 2,
  trits: Int8Array.of(-1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1),
};
const OTHER: Matrix = {
  name: 'model.layers.1.mlp.up_proj.weight',
  rows: 4,
  columns: 1,
  trits: Int8Array.of(1, 1, 0, 0),
};

test('counts, shares, sum, entropy and scale of a layer worked by hand', async () => {
  const { structured } = await analyze({ model: await writeModel([SMALL]) });
  expect(structured).toMatchObject({
    colors: { minus: '#6404C3', ergodic: '#EB6AF7', plus: '#7F1747' },
    layers: [
      {
        name: SMALL.name,
        shape: [8, 2],
        counts: { minus: 3, ergodic: 9, plus: 4 },
        minus_pct: 18.75,
        ergodic_pct: 56.25,
        plus_pct: 25,
        trit_sum: 1,
        gf3_residue: 1,
        conserved: false,
        scale: 0.5,
      },
    ],
  });
  const [layer] = structured.layers as { entropy_bits: number }[];
  // 3/16 log2(16/3) + 9/16 log2(16/9) + 4/16 log2(4)
  expect(layer!.entropy_bits).toBeCloseTo(1.4197, 4);
});

test('the total is of all layers that were chosen', async () => {
  const model = await writeModel([SMALL, OTHER]);
  const all = (await analyze({ model })).structured;
  expect(all.total).toMatchObject({
    counts: { minus: 3, ergodic: 11, plus: 6 },
    trit_sum: 3,
    gf3_residue: 0,
    conserved: true,
  });
  const one = (await analyze({ model, layer: '*.1.*' })).structured;
  expect((one.layers as { name: string }[]).map(({ name }) => name)).toEqual([OTHER.name]);
  expect(one.total).toMatchObject({ counts: { minus: 0, ergodic: 2, plus: 2 }, trit_sum: 2, gf3_residue: 2 });
});

test.each([
  ['model.layers.0.mlp.up_proj.weight', 1],
  ['model.layers.0.mlp.up_proj', 1],
  ['model.layers.?.mlp.up_proj', 2],
  ['*up*', 2],
  ['**********up**********', 2],
])('layer %s selects %i', async (layer, count) => {
  const { structured } = await analyze({ model: await writeModel([SMALL, OTHER]), layer });
  expect(structured.layers).toHaveLength(count);
});

test('a layer that is not there: what there is', async () => {
  const model = await writeModel([SMALL, OTHER]);
  await expect(analyze({ model, layer: 'model.layers.0.mlp.pu_proj.weight' })).rejects.toThrow(
    'did you mean model.layers.0.mlp.up_proj.weight?',
  );
  await expect(analyze({ model, layer: '(a+)+$' })).rejects.toThrow('no ternary layer matches');
  await expect(analyze({ model, layer: 'model.layers.9.*' })).rejects.toThrow('the 2 layers, of blocks 0 to 1, are');
  await expect(analyze({ model, offset: 2 })).rejects.toThrow('offset 2 is past the last of 2 layers');
  await expect(analyze({ model, layer: '*layers.0.*', offset: 7 })).rejects.toThrow('past the last of 1 layer;');
  expect((await analyze({ model, offset: 1 })).structured.layers).toHaveLength(1);
});

test('counts agree with counting one by one, for any matrix', async () => {
  const matrix = fc
    .record({ quarter: fc.integer({ min: 1, max: 6 }), columns: fc.integer({ min: 1, max: 33 }) })
    .chain(({ quarter, columns }) =>
      fc
        .int8Array({ min: -1, max: 1, minLength: 4 * quarter * columns, maxLength: 4 * quarter * columns })
        .map((trits) => ({
          name: 'a.weight',
          rows: 4 * quarter,
          columns,
          trits,
        })),
    );
  await fc.assert(
    fc.asyncProperty(matrix, async (layer) => {
      const { structured } = await analyze({ model: await writeModel([layer]) });
      const count = (trit: number) => layer.trits.filter((value) => value === trit).length;
      expect(structured.total).toMatchObject({ counts: { minus: count(-1), ergodic: count(0), plus: count(1) } });
    }),
    { numRuns: 25 },
  );
});

test('the picture shows the trits in the seed’s colors', async () => {
  const model = await writeModel([SMALL]);
  const { images } = await analyze({ model, image: true, seed: 42 });
  expect(images).toHaveLength(1);
  const { width, height, data, palette } = decode(images[0]!.png);
  const hexes = new Set([...data].map((index) => palette![index]!.slice(0, 3).join()));
  const { colors } = (await analyze({ model, seed: 42 })).structured as { colors: Record<string, string> };
  for (const hex of Object.values(colors)) {
    const rgb = [1, 3, 5].map((at) => Number.parseInt(hex.slice(at, at + 2), 16));
    expect(hexes, hex).toContain(rgb.join());
  }
  expect(width * height).toBeGreaterThan(SMALL.rows * SMALL.columns);
});

test('the pictures of several layers are one image', async () => {
  const { images } = await analyze({ model: await writeModel([SMALL, OTHER]), image: true });
  const [one] = (await analyze({ model: await writeModel([SMALL]), image: true })).images;
  expect(images).toHaveLength(1);
  const area = (png: Uint8Array) => decode(png).width * decode(png).height;
  expect(area(images[0]!.png)).toBeGreaterThan(1.5 * area(one!.png));
});

test('paths outside the allowed folders are refused', async () => {
  const model = await writeModel([SMALL]);
  const elsewhere = { ...services, allowedRoots: [join(folder, 'inside')] };
  await expect(analyze({ model }, elsewhere)).rejects.toThrow('outside the folders that may be read');
  await expect(analyze({ model }, { ...services, allowedRoots: [folder] })).resolves.toBeDefined();
});

test('a file without ternary layers says what it saw', async () => {
  const path = join(folder, 'plain.safetensors');
  const bytes = new Uint8Array(Float32Array.of(0.1, 0.2, 0.3, 0.4).buffer);
  await writeSafetensors(path, [{ name: 'a.weight', dtype: 'F32', shape: [2, 2], bytes }]);
  await expect(analyze({ model: path })).rejects.toThrow(/no ternary layers \(a\.weight: ordinary floats/);
});

test('a damaged file names tensor and place', async () => {
  const path = join(folder, 'broken.safetensors');
  await writeSafetensors(path, [
    { name: 'a.weight', dtype: 'U8', shape: [1, 4], bytes: Uint8Array.of(0, 0, 0b11, 0) },
    { name: 'a.weight_scale', dtype: 'F32', shape: [1], bytes: new Uint8Array(Float32Array.of(1).buffer) },
  ]);
  await expect(analyze({ model: path })).rejects.toThrow(/a\.weight/);
  await writeFile(path, 'nonsense');
  await expect(analyze({ model: path })).rejects.toThrow(path);
});

test('a call that is cancelled ends', async () => {
  const controller = new AbortController();
  controller.abort();
  const call = callTool(analyzeLayerTool, {}, { services, signal: controller.signal });
  await expect(call).rejects.toMatchObject({ code: 'CANCELLED' });
});
