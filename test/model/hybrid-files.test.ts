// Files of the hybrid graph that differ from the golden ones in one thing: what is run all the same, and what is refused.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { jsBackend } from '../../src/engine/js/backend.ts';
import type { GgufTensorToWrite } from '../../src/formats/write-gguf.ts';
import { openModel } from '../../src/model/open-model.ts';
import { decodeBlocks, encodeBlocks } from '../../src/quant/grouped/codec.ts';
import { type GroupedRows, regroup } from '../../src/quant/grouped/grouped-matrix.ts';
import { refuseFile } from '../../src/train/trainable-model.ts';
import { type Entry, editGguf } from './edit-gguf.ts';

const golden = (name: string) => join(import.meta.dirname, '../golden/hybrid', name, 'model.gguf');
const Q2 = golden('qwen35_q2_a_s2601');
const DRAFTS = golden('qwen35_f32_tied_nextn_b_s2602');
const root = mkdtempSync(join(tmpdir(), 'hybrid-'));
afterAll(() => rmSync(root, { recursive: true }));

const open = (path: string) => openModel({ kind: 'gguf', path }, { name: 'test', head: 'full' });

async function edited(
  source: string,
  edit: (entries: Map<string, Entry>) => void,
  tensors?: (tensors: GgufTensorToWrite[]) => GgufTensorToWrite[],
): Promise<string> {
  const path = join(mkdtempSync(join(root, 'file-')), 'model.gguf');
  await editGguf(source, path, edit, tensors);
  return path;
}

const set =
  (key: string, value: unknown, type = 'u32') =>
  (entries: Map<string, Entry>) =>
    void entries.set(key, { type, value });

async function logitsOf(path: string): Promise<Float32Array> {
  const { program } = await open(path);
  using executable = await jsBackend.load(program, {});
  const rows = Int32Array.from({ length: 6 }, (_, i) => i);
  const { logits } = await executable.step({
    tokens: rows.map((i) => i * 41 + 3),
    sequences: new Int32Array(6).fill(executable.createSequence()),
    positions: rows,
    outputRows: rows,
  });
  return logits;
}

describe('run all the same', () => {
  test('blocks that draft tokens are left alone, with a word', async () => {
    const { warnings, config } = await open(DRAFTS);
    expect(warnings).toEqual([expect.stringMatching(/blocks that only draft tokens \(MTP\) are left alone/)]);
    expect(config).toMatchObject({ numHiddenLayers: 5, draftBlocks: 1 });
    expect((await open(Q2)).warnings).toEqual([]);
  });

  test('the list of layers wins over the interval', async () => {
    const path = await edited(DRAFTS, set('qwen35.full_attention_interval', 2));
    expect((await open(path)).config.layerKinds).toEqual((await open(DRAFTS)).config.layerKinds);
  });

  test('numbers of heads as arrays for each layer, 0 where there are none', async () => {
    const path = await edited(Q2, (entries) => {
      set('qwen35.attention.head_count', [4, 4, 4, 4])(entries);
      set('qwen35.attention.head_count_kv', [0, 0, 0, 2])(entries);
    });
    expect(await logitsOf(path)).toEqual(await logitsOf(Q2));
  });

  test('type 42 with blocks of 128, as before July', async () => {
    // The golden scales change every 64 columns: of each 128 the first counts, in both files.
    const halved = ({ scales, ...matrix }: GroupedRows): GroupedRows => ({
      ...matrix,
      scales: scales.map((_, i) => scales[i & ~1]!),
    });
    const wide = (tensor: GgufTensorToWrite) => tensor.type === 'Q2_0' && tensor.shape[1]! % 128 === 0;
    const as = (type: 'Q2_0' | 'Q2_0_G128') => (tensors: GgufTensorToWrite[]) =>
      tensors.map((tensor): GgufTensorToWrite => {
        if (!wide(tensor)) return tensor;
        const [rows, columns] = tensor.shape as [number, number];
        const matrix = halved(decodeBlocks('Q2_0', (tensor as { bytes: Uint8Array }).bytes, rows, columns));
        const group = type === 'Q2_0' ? 64 : 128;
        return { ...tensor, type, bytes: encodeBlocks(type, regroup(matrix, group)!) };
      });
    const [narrow, legacy] = [await edited(Q2, () => {}, as('Q2_0')), await edited(Q2, () => {}, as('Q2_0_G128'))];
    expect(await logitsOf(legacy)).toEqual(await logitsOf(narrow));
  });
});

describe('refused by name', () => {
  test.each<[string, string, (entries: Map<string, Entry>) => void, RegExp]>([
    ['Qwen3-Next', Q2, set('general.architecture', 'qwen3next', 'string'), /architecture "qwen3next"/],
    ['its mixture', Q2, set('general.architecture', 'qwen35moe', 'string'), /architecture "qwen35moe"/],
    ['a vision tower', Q2, set('general.architecture', 'clip', 'string'), /vision tower \(mmproj\)/],
    [
      'positions in a fourth section',
      Q2,
      set('qwen35.rope.dimension_sections', [2, 2, 2, 2], 'i32'),
      /leaves pair 6 of 8/,
    ],
    ['sections that are text', Q2, set('qwen35.rope.dimension_sections', 'all', 'string'), /no list of four/],
    ['values wider than keys', Q2, set('qwen35.ssm.inner_size', 768), /64 elements in keys and 128 in values/],
    [
      'heads that do not share',
      Q2,
      set('qwen35.ssm.group_count', 4),
      /time_step_rank is 6, qwen35\.ssm\.group_count 4/,
    ],
    ['no convolution', Q2, set('qwen35.ssm.conv_kernel', 1), /conv_kernel is 1/],
    ['no size of states', Q2, (entries) => void entries.delete('qwen35.ssm.state_size'), /ssm\.state_size is missing/],
    ['no attention at all', Q2, set('qwen35.full_attention_interval', 9), /no layer has full attention/],
    ['nothing but drafts', DRAFTS, set('qwen35.nextn_predict_layers', 6), /nextn_predict_layers is 6/],
    ['a short list of layers', DRAFTS, set('qwen35.attention.recurrent_layers', [true], 'bool'), /has 1 entries/],
    ['more turned than there is', Q2, set('qwen35.rope.dimension_count', 66), /dimension_count is 66/],
    ['heads that differ', Q2, set('qwen35.attention.head_count', [4, 2, 4, 4]), /array of several numbers/],
  ])('%s', async (_, source, change, wanted) => {
    await expect(open(await edited(source, change))).rejects.toThrow(wanted);
  });

  test('training knows none of these graphs', async () => {
    const file = (path: string, name: string) => refuseFile({ kind: 'gguf', path, name }, 'training starts');
    await expect(file(Q2, 'bonsai')).rejects.toThrow(/this is a Qwen3\.5 model .*bonsai/);
    await expect(file(golden('maple_tq2_a_s2621'), 'maple')).rejects.toThrow(/this is a Maple model/);
    await expect(file(golden('hadamard_pq2_explicit_a_s2611'), 'bonsai-2')).rejects.toThrow(/this is a Qwen3\.5 model/);
  });
});
