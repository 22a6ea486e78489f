// A new graph is one page: this one is made up, Qwen3 without head norms and with names of its own. It is what
// CONTRIBUTING.md shows.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { jsBackend } from '../../src/engine/js/backend.ts';
import { writeSafetensors } from '../../src/formats/write-safetensors.ts';
import { type Graph, layerName, MODEL_TENSORS, TENSORS } from '../../src/model/graph.ts';
import { addGraph } from '../../src/model/graphs/all.ts';
import { qwen3 } from '../../src/model/graphs/qwen3.ts';
import { openModel } from '../../src/model/open-model.ts';

const root = mkdtempSync(join(tmpdir(), 'graph-'));
afterAll(() => rmSync(root, { recursive: true }));

const { inputNorm, q, k, v, o, postAttentionNorm, gate, up, down } = TENSORS;

const river: Graph = {
  ...qwen3,
  family: 'river',
  title: 'River',
  hf: { architectures: ['RiverForCausalLM'], modelTypes: ['river'] },
  gguf: { architectures: ['river'], interleavedHeads: false },
  layer: [
    { ...inputNorm, hf: 'mix.norm' },
    { ...q, hf: 'mix.query' },
    { ...k, hf: 'mix.key' },
    { ...v, hf: 'mix.value' },
    { ...o, hf: 'mix.out' },
    { ...postAttentionNorm, hf: 'feed.norm' },
    { ...gate, hf: 'feed.gate' },
    { ...up, hf: 'feed.up' },
    { ...down, hf: 'feed.down' },
  ],
  recordLayer: (recorder, layer, index) => {
    recorder.attention(layer, index);
    recorder.gatedFfn(layer, index);
  },
};

const config = {
  architectures: ['RiverForCausalLM'],
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 32,
  vocab_size: 40,
  tie_word_embeddings: true,
};

/** Trits times one scale, or ones for a norm. */
function tensor(name: string, shape: readonly number[], isNorm: boolean) {
  const count = shape.reduce((product, size) => product * size, 1);
  const values = Float32Array.from({ length: count }, (_, i) => (isNorm ? 1 : 0.125 * (((i * 7919) % 3) - 1)));
  return { name, dtype: 'F32' as const, shape, bytes: new Uint8Array(values.buffer) };
}

async function writeRiver(names: (hf: string) => string = (hf) => hf): Promise<string> {
  const folder = mkdtempSync(join(root, 'model-'));
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  const shapes: Record<string, number[]> = { query: [64, 64], key: [32, 64], value: [32, 64], out: [64, 64] };
  Object.assign(shapes, { gate: [128, 64], up: [128, 64], down: [64, 128], norm: [64] });
  const tensors = [
    tensor(MODEL_TENSORS.embedding.hf, [40, 64], false),
    tensor(MODEL_TENSORS.finalNorm.hf, [64], true),
    ...river.layer.map(({ hf }) => {
      const last = hf.split('.')[1]!;
      return tensor(layerName.hf(0, names(hf)), shapes[last]!, last === 'norm');
    }),
  ];
  await writeSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' });
  return folder;
}

const open = (path: string) => openModel({ kind: 'folder', path }, { name: 'river', head: 'full' });

test('one page is enough to load, check and run it', async () => {
  using _ = addGraph(river);
  const { program } = await open(await writeRiver());
  using executable = await jsBackend.load(program, {});
  const { logits } = await executable.step({
    tokens: Int32Array.of(3, 5),
    sequences: new Int32Array(2).fill(executable.createSequence()),
    positions: Int32Array.of(0, 1),
    outputRows: Int32Array.of(1),
  });
  expect(logits.length).toBe(40);
  expect(logits.every(Number.isFinite)).toBe(true);
  expect(new Set(logits).size).toBeGreaterThan(1);
});

test('a tensor that its table does not know is refused, one that it wants is missed', async () => {
  using _ = addGraph(river);
  const folder = await writeRiver((hf) => hf.replace('feed.down', 'feed.drown'));
  await expect(open(folder)).rejects.toThrow(/a tensor is missing.*feed\.down/);
});

test('without its page nobody knows it', async () => {
  await expect(open(await writeRiver())).rejects.toThrow(/architecture "RiverForCausalLM".*Qwen3ForCausalLM/);
});
