// From every container of the golden models to the bytes of every other (test/golden/qwen3/ORIGIN.json).

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { groupedTensor, readGrouped } from '../../src/formats/grouped-tensor.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { CodeNotHeldError, GroupScaleError } from '../../src/quant/errors.ts';
import type { BlockLayoutName } from '../../src/quant/grouped/block-layout.ts';
import { encodeMlx } from '../../src/quant/grouped/mlx.ts';
import { fitsLayout, toBlocks } from '../../src/quant/grouped/to-layout.ts';
import { encodeUnpacked } from '../../src/quant/grouped/unpacked.ts';

const model = join(import.meta.dirname, '../golden/qwen3/qwen3_all_layouts_s2601');
const config = JSON.parse(readFileSync(join(model, 'mlx/config.json'), 'utf8'));

const TENSORS = [
  ['model.embed_tokens.weight', 'token_embd.weight'],
  ['model.layers.0.self_attn.o_proj.weight', 'blk.0.attn_output.weight'],
  ['model.layers.1.mlp.down_proj.weight', 'blk.1.ffn_down.weight'],
] as const;

const GGUF: readonly (readonly [file: string, layout: BlockLayoutName])[] = [
  ['q2_0_g64.gguf', 'Q2_0'],
  ['q2_0_g128.gguf', 'Q2_0_G128'],
  ['pq2_0.gguf', 'PQ2_0'],
  ['ptq1_0.gguf', 'PTQ1_0'],
];

async function matrix(container: string, hf: string, gguf: string) {
  using checkpoint = await openCheckpoint(join(model, container));
  const tensor = groupedTensor(checkpoint, checkpoint.format === 'gguf' ? gguf : hf, config);
  if (typeof tensor === 'string') throw new Error(tensor);
  return (await readGrouped(checkpoint, tensor))!;
}

async function bytesOf(container: string, name: string): Promise<Uint8Array> {
  using checkpoint = await openCheckpoint(join(model, container));
  return Uint8Array.from(await checkpoint.readBytes(name));
}

test.each(['mlx', 'hf', ...GGUF.map(([file]) => file)])('%s becomes every other, byte for byte', async (from) => {
  for (const [hf, gguf] of TENSORS) {
    const source = await matrix(from, hf, gguf);
    for (const [file, layout] of GGUF) {
      const wanted = await bytesOf(file, gguf);
      expect(Buffer.compare(toBlocks(layout, source), wanted), `${file} ${gguf}`).toBe(0);
    }
    const stem = hf.replace(/\.weight$/, '');
    const pack = encodeMlx(source, 2)!;
    expect(Buffer.compare(pack.weight, await bytesOf('mlx', hf))).toBe(0);
    // The numbers: writers differ in the sign of a zero.
    const scales = await bytesOf('mlx', `${stem}.scales`);
    expect(scales.byteLength).toBe(pack.scales.byteLength);
    const floats = encodeUnpacked(source, 'F16');
    const wanted = await bytesOf('hf', hf);
    const halves = (bytes: Uint8Array) => new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
    const [ours, theirs] = [halves(floats), halves(wanted)];
    expect(ours.every((half, i) => half === theirs[i] || ((half | theirs[i]!) & 0x7fff) === 0)).toBe(true);
  }
});

test('what a layout cannot hold is refused with tensor, place and number', async () => {
  const odd = join(import.meta.dirname, '../golden/qwen3/qwen3_odd_code3_g64_s2603/q2_0_g64.gguf');
  using checkpoint = await openCheckpoint(odd);
  const read = async (name: string) => {
    const tensor = groupedTensor(checkpoint, name, undefined);
    if (typeof tensor === 'string') throw new Error(tensor);
    return (await readGrouped(checkpoint, tensor))!;
  };
  const expected = JSON.parse(readFileSync(join(odd, '../expected.json'), 'utf8'));
  // 320 columns: groups of 128 do not fit; each 64 has a scale of its own.
  const q = await read('blk.0.attn_q.weight');
  const at = { tensor: 'blk.0.attn_q.weight', file: odd };
  expect(q.columns).toBe(320);
  expect(fitsLayout('PQ2_0', 320)).toBe(false);
  expect(() => toBlocks('PQ2_0', q, { at })).toThrow(
    /rows of 320 columns, which PQ2_0 cannot hold: .*no multiple of 128/,
  );
  expect(toBlocks('Q2_0', q, { at })).toEqual(Uint8Array.from(await checkpoint.readBytes('blk.0.attn_q.weight')));
  const wide = { rows: 1, columns: 128, group: 64, quads: q.quads.slice(0, 32), scales: Float32Array.of(0.5, 0.25) };
  expect(() => toBlocks('PQ2_0', wide)).toThrow(GroupScaleError);
  expect(() => toBlocks('PQ2_0', wide)).toThrow(/scale of row 0, group 1 .*covers 64 columns/);
  // All of the matrix is counted, not the first such weight told.
  const twos = expected.codes.per_matrix['model.layers.0.self_attn.q_proj.weight'][3] as number;
  const one = { ...q, columns: q.rows * q.columns, rows: 1, group: q.rows * q.columns, scales: Float32Array.of(0.5) };
  expect(() => toBlocks('PTQ1_0', one, { at })).toThrow(
    `tensor "blk.0.attn_q.weight" has ${twos} of +2 times the scale, which PTQ1_0 has no code for`,
  );
  expect(() => toBlocks('TQ1_0', one, { at })).toThrow(CodeNotHeldError);
});
