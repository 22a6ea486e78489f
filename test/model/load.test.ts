// Checkpoints that lie: each defect ends in one error that names the tensor, the file and what to do.

import { execFileSync } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BitnetError } from '../../src/errors.ts';
import { openCheckpoint } from '../../src/formats/open-checkpoint.ts';
import { writeSafetensors } from '../../src/formats/write-safetensors.ts';
import { openModel } from '../../src/model/open-model.ts';
import type { TensorView } from '../../src/tensor/tensor-view.ts';

const golden = join(import.meta.dirname, '../golden/model');
let root = '';
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'load-'));
});
afterAll(() => rm(root, { recursive: true }));

/** A copy of a golden case with some tensors changed, added (new name) or removed (undefined). */
async function altered(
  name: string,
  change: (tensors: Map<string, TensorView>) => void,
  config: Record<string, unknown> = {},
): Promise<string> {
  const dir = join(root, `${Math.random()}`);
  await cp(join(golden, name), dir, { recursive: true });
  const file = join(dir, 'model.safetensors');
  const tensors = new Map<string, TensorView>();
  {
    using checkpoint = await openCheckpoint(file);
    for (const tensor of checkpoint.names()) tensors.set(tensor, await checkpoint.read(tensor));
  }
  change(tensors);
  await writeSafetensors(file, [...tensors.values()]);
  const old = JSON.parse(await readFile(join(dir, 'config.json'), 'utf8'));
  await writeFile(join(dir, 'config.json'), JSON.stringify({ ...old, ...config }));
  return dir;
}

const open = (dir: string) => openModel({ kind: 'folder', path: dir }, { name: 'test', head: 'full' });
const Q0 = 'model.layers.0.self_attn.q_proj.weight';
const f32 = (name: string, shape: number[], values: number[]): TensorView => ({
  name,
  dtype: 'F32',
  shape,
  bytes: new Uint8Array(Float32Array.from(values).buffer),
});

describe('a config.json that', () => {
  const withConfig = async (make: (file: string) => Promise<unknown>) => {
    const dir = join(root, `${Math.random()}`);
    await cp(join(golden, 'bitnet_packed_a_s111'), dir, { recursive: true });
    await rm(join(dir, 'config.json'));
    await make(join(dir, 'config.json'));
    return dir;
  };
  test.each<[string, (file: string) => Promise<unknown>, RegExp]>([
    ['is absent', async () => {}, /there is no config\.json/],
    ['is a folder', (file) => mkdir(file), /not a regular file \(.*config\.json\)/],
    ['links to itself', (file) => symlink('config.json', file), /cannot be opened: ELOOP/],
    ['is huge', (file) => writeFile(file, '').then(() => truncate(file, 3 * 2 ** 30)), /3221225472 bytes, at most/],
    ['is cut off', (file) => writeFile(file, '\ufeff{\n "hidden_size": 64 '), /not JSON: expected "}", found the end/],
    ['is a Git LFS pointer', (file) => writeFile(file, 'version https://git-lfs.github.com/spec/v1\n'), /git lfs pull/],
    ['is nested thousands deep', (file) => writeFile(file, '['.repeat(1e5)), /nested deeper than 128/],
    [
      'has an infinite number in use',
      async (file) => {
        const text = await readFile(join(golden, 'bitnet_packed_a_s111', 'config.json'), 'utf8');
        await writeFile(file, text.replace(/"rms_norm_eps":[^,}]+/, '"rms_norm_eps": Infinity'));
      },
      /rms_norm_eps/,
    ],
  ])('%s', async (_, make, message) => {
    const dir = await withConfig(make);
    await expect(open(dir)).rejects.toThrow(message);
  });
  test('may begin with a byte order mark and hold what Python writes', async () => {
    const dir = await withConfig(async (file) => {
      const text = await readFile(join(golden, 'bitnet_packed_a_s111', 'config.json'), 'utf8');
      const more = '"initializer_range": NaN, "time_step_limit": [0.0, Infinity]';
      await writeFile(file, `\ufeff${text.trimEnd().replace(/}$/, `, ${more}}`)}`);
    });
    await expect(open(dir)).resolves.toBeDefined();
  });
  test.skipIf(process.platform === 'win32')('is a pipe that nobody writes is not waited for', async () => {
    const dir = await withConfig(async (file) => execFileSync('mkfifo', [file]));
    await expect(open(dir)).rejects.toThrow(/not a regular file/);
  });
});

describe('a packed checkpoint', () => {
  const packed = 'bitnet_packed_a_s111';
  const cases: [string, (tensors: Map<string, TensorView>) => void, RegExp][] = [
    ['a missing tensor', (t) => t.delete(Q0), /is missing.*q_proj/],
    ['a missing scale', (t) => t.delete(`${Q0}_scale`), /is missing.*q_proj\.weight_scale/],
    ['a tensor too many', (t) => t.set('extra.weight', f32('extra.weight', [1], [1])), /does not have.*extra\.weight/],
    ['code 3', (t) => t.get(Q0)!.bytes.fill(0xff, 3, 4), /code|11/],
    ['the wrong shape', (t) => t.set(Q0, { ...t.get(Q0)!, shape: [64, 16] }), /four neighbouring inputs/],
    ['another wrong shape', (t) => t.set(Q0, { ...t.get(Q0)!, shape: [8, 128] }), /shape \[8, 128\].*\[16, 64\]/],
    ['the wrong dtype', (t) => t.set(Q0, { ...t.get(Q0)!, dtype: 'I8' }), /dtype I8/],
    ['a zero scale', (t) => t.set(`${Q0}_scale`, f32(`${Q0}_scale`, [1], [0])), /scale 0, expected a positive/],
    ['a NaN scale', (t) => t.set(`${Q0}_scale`, f32(`${Q0}_scale`, [1], [Number.NaN])), /scale NaN/],
    ['two scales', (t) => t.set(`${Q0}_scale`, f32(`${Q0}_scale`, [2], [1, 1])), /expected one element/],
    [
      'a NaN norm',
      (t) => t.set('model.norm.weight', f32('model.norm.weight', [64], new Array(64).fill(Number.NaN))),
      /element 0 is NaN/,
    ],
    [
      'float weights under a packed config',
      (t) =>
        t.set(
          Q0,
          f32(
            Q0,
            [64, 64],
            Array.from({ length: 4096 }, (_, i) => Math.sin(i)),
          ),
        ),
      /online/,
    ],
  ];
  test.each(cases)('%s', async (_, change, message) => {
    const opened = open(await altered(packed, change));
    await expect(opened).rejects.toBeInstanceOf(BitnetError);
    await expect(opened).rejects.toThrow(message);
    await expect(opened).rejects.toThrow(/model\.safetensors|tensor/);
  });

  test('a config of more layers than the file has', async () => {
    await expect(open(await altered(packed, () => {}, { num_hidden_layers: 3 }))).rejects.toThrow(
      /layers\.2.*missing|missing.*layers\.2/,
    );
  });

  test('a config of fewer layers than the file has', async () => {
    await expect(open(await altered(packed, () => {}, { num_hidden_layers: 1 }))).rejects.toThrow(
      /does not have.*layers\.1/,
    );
  });

  test('a config of a much larger model allocates nothing', async () => {
    const before = process.memoryUsage().arrayBuffers;
    const dir = await altered(packed, () => {}, { hidden_size: 65536, num_attention_heads: 1024 });
    await expect(open(dir)).rejects.toThrow(/shape/);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(50e6);
  });
});

test('a folder without a config', async () => {
  await expect(open(root)).rejects.toThrow(/there is no config\.json.*Hugging Face layout/);
});

test('masters with a NaN', async () => {
  const dir = await altered('bitnet_online_a_s11', (t) => {
    const old = t.get(Q0)!;
    t.set(Q0, f32(Q0, [...old.shape], new Array(old.shape[0]! * old.shape[1]!).fill(Number.NaN)));
  });
  await expect(open(dir)).rejects.toThrow(/NaN/);
});

test('a tied lm_head that differs from the embedding, however far in', async () => {
  // 5 MB: more than is compared at once.
  const vocab = 20_000;
  const add = (place: number) => (t: Map<string, TensorView>) => {
    const name = 'model.embed_tokens.weight';
    const embedding = f32(name, [vocab, 64], new Array(vocab * 64).fill(1));
    const bytes = embedding.bytes.slice();
    if (place >= 0) bytes[place]! ^= 1;
    t.set(name, embedding);
    t.set('lm_head.weight', { ...embedding, name: 'lm_head.weight', bytes });
  };
  const opened = async (place: number) =>
    open(await altered('bitnet_packed_a_s111', add(place), { vocab_size: vocab }));
  await expect(opened(-1)).resolves.toBeDefined();
  for (const place of [0, 4 * 2 ** 20, vocab * 64 * 4 - 1]) {
    await expect(opened(place)).rejects.toThrow(/differs from the embedding/);
  }
});

test('of several defects the first in the order of the model is reported, whichever is met first', async () => {
  const dir = await altered('bitnet_packed_a_s111', (t) => {
    for (const name of ['q_proj', 'k_proj', 'o_proj']) {
      t.get(`model.layers.0.self_attn.${name}.weight`)!.bytes.fill(0xff, 3, 4);
      t.delete(`model.layers.1.self_attn.${name}.weight`);
    }
  });
  for (let i = 0; i < 5; i += 1) await expect(open(dir)).rejects.toThrow(/layers\.0\.self_attn\.q_proj/);
});

test('all matrices of a large file lie in the memory that was asked for', async () => {
  // Above 64 MB: a smaller file is held as a whole.
  const vocab = 300_000;
  const dir = await altered(
    'bitnet_packed_a_s111',
    (t) => {
      const name = 'model.embed_tokens.weight';
      t.set(name, { name, dtype: 'F32', shape: [vocab, 64], bytes: new Uint8Array(vocab * 64 * 4) });
    },
    { vocab_size: vocab },
  );
  const given: Uint8Array[] = [];
  const { program } = await openModel(
    { kind: 'folder', path: dir },
    {
      name: 'test',
      head: 'int8',
      allocate: async (bytes) => {
        given.push(new Uint8Array(bytes));
        return given.at(-1) as Uint8Array<ArrayBuffer>;
      },
    },
  );
  const lies = program.weights.flatMap((weight) =>
    weight.kind === 'int8' ? [weight.codes.buffer] : weight.kind === 'vector' ? [] : [weight.bytes.buffer],
  );
  // An embedding, its int8 head, and seven matrices in each of two layers.
  expect(lies).toHaveLength(2 + 2 * 7);
  const buffers = new Set<ArrayBufferLike>(given.map((bytes) => bytes.buffer));
  expect(lies.filter((buffer) => !buffers.has(buffer))).toEqual([]);
  expect(new Set(lies).size).toBe(buffers.size);
});
