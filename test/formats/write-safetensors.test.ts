import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CancelledError } from '../../src/errors.ts';
import { writeFileAtomically } from '../../src/formats/atomic-file.ts';
import { WriteError } from '../../src/formats/errors.ts';
import { SafetensorsFile } from '../../src/formats/safetensors-file.ts';
import { type TensorToWrite, writeSafetensors } from '../../src/formats/write-safetensors.ts';
import { DTYPES, type Dtype } from '../../src/tensor/tensor-view.ts';

let folder: string;
let path: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'write-'));
  path = join(folder, 'out.safetensors');
});
afterEach(() => rm(folder, { recursive: true }));

test('the worked file of 160 bytes is written byte for byte', async () => {
  await writeSafetensors(
    path,
    [
      { name: 'w', dtype: 'U8', shape: [2, 2], bytes: Uint8Array.of(1, 2, 3, 4) },
      { name: 's', dtype: 'F32', shape: [1], bytes: new Uint8Array(Float32Array.of(1.5).buffer) },
    ],
    { format: 'pt' },
  );
  const header =
    '{"__metadata__":{"format":"pt"},"s":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' +
    '"w":{"dtype":"U8","shape":[2,2],"data_offsets":[4,8]}}     ';
  const want = Buffer.concat([
    Buffer.of(0x90, 0, 0, 0, 0, 0, 0, 0),
    Buffer.from(header),
    Buffer.of(0, 0, 0xc0, 0x3f, 1, 2, 3, 4),
  ]);
  expect(await readFile(path)).toEqual(want);
});

test('what is written is read back, and every tensor is aligned for its dtype', async () => {
  const tensors = fc.uniqueArray(
    fc.record({
      name: fc.string({ minLength: 1, maxLength: 12, unit: 'binary' }).filter((name) => name !== '__metadata__'),
      dtype: fc.constantFrom(...(Object.keys(DTYPES) as Dtype[])),
      shape: fc.array(fc.nat(4), { maxLength: 3 }),
    }),
    { selector: ({ name }) => name, maxLength: 6 },
  );
  const metadata = fc.dictionary(fc.string({ maxLength: 8 }), fc.string({ maxLength: 8 }));
  await fc.assert(
    fc.asyncProperty(tensors, metadata, async (list, pairs) => {
      const views = list.map((tensor, i) => {
        const size = tensor.shape.reduce((a, b) => a * b, 1) * DTYPES[tensor.dtype];
        return { ...tensor, bytes: new Uint8Array(size).fill(i + 1) };
      });
      await writeSafetensors(path, views, pairs);
      using file = await SafetensorsFile.open(path);
      expect(file.names().sort()).toEqual(views.map(({ name }) => name).sort());
      expect(Object.fromEntries(file.metadata)).toEqual({ ...pairs });
      for (const view of views) {
        expect(await file.read(view.name)).toEqual(view);
        expect(file.info(view.name).offset % DTYPES[view.dtype]).toBe(0);
      }
    }),
    { numRuns: 60 },
  );
});

test('bytes may come in pieces', async () => {
  async function* pieces() {
    yield Uint8Array.of(1, 2, 3);
    yield Uint8Array.of(4);
  }
  await writeSafetensors(path, [{ name: 'w', dtype: 'U8', shape: [4], chunks: pieces }]);
  using file = await SafetensorsFile.open(path);
  expect([...(await file.readBytes('w'))]).toEqual([1, 2, 3, 4]);
});

test('a failure leaves the old file and no other', async () => {
  await writeFile(path, 'old');
  const failing: TensorToWrite[][] = [
    [{ name: 'w', dtype: 'U8', shape: [4], bytes: new Uint8Array(3) }],
    [
      { name: 'w', dtype: 'U8', shape: [1], bytes: new Uint8Array(1) },
      { name: 'w', dtype: 'U8', shape: [1], bytes: new Uint8Array(1) },
    ],
    [{ name: '__metadata__', dtype: 'U8', shape: [1], bytes: new Uint8Array(1) }],
  ];
  for (const tensors of failing) await expect(writeSafetensors(path, tensors)).rejects.toThrow(WriteError);
  const thrown = new Error('from the caller');
  const chunks = () => {
    throw thrown;
  };
  await expect(writeSafetensors(path, [{ name: 'w', dtype: 'U8', shape: [4], chunks }])).rejects.toBe(thrown);
  expect(await readdir(folder)).toEqual(['out.safetensors']);
  expect(await readFile(path, 'utf8')).toBe('old');
});

test('an aborted write leaves the old file', async () => {
  await writeFile(path, 'old');
  const controller = new AbortController();
  const write = writeFileAtomically(
    path,
    async (sink) => {
      await sink.write(Uint8Array.of(1));
      controller.abort();
      await sink.write(Uint8Array.of(2));
    },
    controller.signal,
  );
  await expect(write).rejects.toThrow(CancelledError);
  expect(await readdir(folder)).toEqual(['out.safetensors']);
  expect(await readFile(path, 'utf8')).toBe('old');
});

test('a folder that is not there, and a folder in the way', async () => {
  await expect(writeSafetensors(join(folder, 'absent/x'), [])).rejects.toThrow('check that the folder exists');
  await expect(writeSafetensors(folder, [])).rejects.toThrow(WriteError);
});
