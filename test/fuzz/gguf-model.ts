// GGUF files that say they are a model: what their metadata makes of config, vocabulary, encoder and chat template.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GgufFile } from '../../src/formats/gguf-file.ts';
import { type GgufPair, writeGguf } from '../../src/formats/write-gguf.ts';
import { ggufConfig } from '../../src/model/gguf-config.ts';
import { loadTokenizer } from '../../src/tokenizer/load-tokenizer.ts';
import { check } from './config.ts';
import { orRefused, use } from './model-folder.ts';

const folder = mkdtempSync(join(tmpdir(), 'fuzz-gguf-'));
process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
const path = join(folder, 'model.gguf');

/** Throws for what is no refusal of ours. */
export async function fuzz(bytes: Uint8Array): Promise<void> {
  writeFileSync(path, bytes);
  await orRefused(async () => {
    using file = await GgufFile.open(path);
    check(ggufConfig(file));
  });
  await orRefused(async () => use(await loadTokenizer(path)));
}

const TEMPLATE =
  "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{{ eos_token }}";

const BYTES = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`);
const PIECES = ['<unk>', '<s>', '</s>', ...BYTES, '▁', 'O', 'n', 'ce', '▁O', 'nce', '▁Once', '<|im_end|>'];
const KINDS = [2, 3, 3, ...BYTES.map(() => 6), 1, 1, 1, 1, 1, 1, 1, 3];
const SHAPES: GgufPair[] = [
  ['embedding_length', 64],
  ['attention.head_count', 4],
  ['attention.head_count_kv', 2],
  ['block_count', 2],
  ['feed_forward_length', 128],
  ['context_length', 256],
].map(([key, value]) => ({ key: `qwen3.${key}`, type: 'u32', value }) as GgufPair);

const pieces: readonly GgufPair[] = [
  { key: 'general.architecture', type: 'string', value: 'qwen3' },
  ...SHAPES,
  { key: 'qwen3.attention.layer_norm_rms_epsilon', type: 'f32', value: 1e-5 },
  { key: 'qwen3.rope.freq_base', type: 'f32', value: 10_000 },
  { key: 'qwen3.rope.scaling.type', type: 'string', value: 'yarn' },
  { key: 'qwen3.rope.scaling.factor', type: 'f32', value: 4 },
  { key: 'qwen3.rope.scaling.original_context_length', type: 'u32', value: 64 },
  { key: 'tokenizer.ggml.model', type: 'string', value: 'llama' },
  { key: 'tokenizer.ggml.tokens', type: 'array', elementType: 'string', value: PIECES },
  { key: 'tokenizer.ggml.scores', type: 'array', elementType: 'f32', value: PIECES.map((_, id) => -id) },
  { key: 'tokenizer.ggml.token_type', type: 'array', elementType: 'i32', value: KINDS },
  { key: 'tokenizer.ggml.bos_token_id', type: 'u32', value: 1 },
  { key: 'tokenizer.ggml.eos_token_id', type: 'u32', value: 2 },
  { key: 'tokenizer.ggml.add_bos_token', type: 'bool', value: true },
  { key: 'tokenizer.chat_template', type: 'string', value: TEMPLATE },
];

/** The names of the bytes in GPT-2's alphabet: those that print as they are, the others from U+0100. */
const ALPHABET = (() => {
  let more = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const prints = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCharCode(prints ? byte : more++);
  });
})();
const MERGES = ['O n', 'c e', 'On ce', 'Ġ u', 'Ġu p'];
const TOKENS = [...ALPHABET, ...MERGES.map((pair) => pair.replace(' ', '')), '<|im_start|>', '<|im_end|>'];

const bytePairs: readonly GgufPair[] = [
  { key: 'general.architecture', type: 'string', value: 'bitnet' },
  { key: 'tokenizer.ggml.model', type: 'string', value: 'gpt2' },
  { key: 'tokenizer.ggml.pre', type: 'string', value: 'qwen2' },
  { key: 'tokenizer.ggml.tokens', type: 'array', elementType: 'string', value: TOKENS },
  { key: 'tokenizer.ggml.merges', type: 'array', elementType: 'string', value: MERGES },
  {
    key: 'tokenizer.ggml.token_type',
    type: 'array',
    elementType: 'i32',
    value: TOKENS.map((token) => (token.startsWith('<|') ? 3 : 1)),
  },
  { key: 'tokenizer.ggml.eos_token_id', type: 'u32', value: TOKENS.length - 1 },
  { key: 'tokenizer.chat_template.tool_use', type: 'string', value: TEMPLATE },
];

const u32 = (key: string, value: number): GgufPair => ({ key, type: 'u32', value });

/** The hybrid graph, its weights in a rotated basis. */
const rotated: readonly GgufPair[] = [
  { key: 'general.architecture', type: 'string', value: 'qwen35' },
  ...SHAPES.map((pair) => ({ ...pair, key: pair.key.replace('qwen3.', 'qwen35.') })),
  { key: 'qwen35.attention.layer_norm_rms_epsilon', type: 'f32', value: 1e-6 },
  u32('qwen35.ssm.conv_kernel', 4),
  u32('qwen35.ssm.state_size', 16),
  u32('qwen35.ssm.group_count', 2),
  u32('qwen35.ssm.time_step_rank', 4),
  u32('qwen35.ssm.inner_size', 64),
  { key: 'qwen35.attention.recurrent_layers', type: 'array', elementType: 'bool', value: [true, false] },
  { key: 'qwen35.rope.dimension_sections', type: 'array', elementType: 'i32', value: [3, 3, 2, 0] },
  u32('prism.hadamard.version', 1),
  u32('prism.hadamard.block_size', 8),
  { key: 'prism.hadamard.transform', type: 'string', value: 'normalized-sylvester-walsh-hadamard' },
  { key: 'prism.hadamard.axis', type: 'string', value: 'input-last-dimension' },
  { key: 'prism.hadamard.sign_mode', type: 'string', value: 'explicit' },
  { key: 'prism.hadamard.sign_widths', type: 'array', elementType: 'i32', value: [8] },
  { key: 'prism.hadamard.sign_values', type: 'array', elementType: 'i32', value: [1, -1, 1, 1, -1, -1, 1, -1] },
  { key: 'prism.hadamard.weight_names', type: 'array', elementType: 'string', value: ['output.weight'] },
];

/** The mixture. */
const mixture: readonly GgufPair[] = [
  { key: 'general.architecture', type: 'string', value: 'maple' },
  ...SHAPES.map((pair) => ({ ...pair, key: pair.key.replace('qwen3.', 'maple.') })),
  { key: 'maple.attention.layer_norm_rms_epsilon', type: 'f32', value: 1e-6 },
  u32('maple.expert_count', 4),
  u32('maple.expert_used_count', 2),
  u32('maple.expert_feed_forward_length', 32),
  u32('maple.attention.sliding_window', 8),
  { key: 'maple.attention.sliding_window_pattern', type: 'array', elementType: 'bool', value: [true, false] },
  { key: 'maple.swiglu_clamp_exp', type: 'array', elementType: 'f32', value: [7, 7] },
];

/** A file of pieces, one of byte pairs, for a fuzzer to begin from. */
export const SEEDS: readonly Uint8Array[] = await Promise.all(
  [pieces, bytePairs, rotated, mixture].map(async (metadata, i) => {
    const file = join(folder, `seed-${i}.gguf`);
    const table = (name: string) => ({ name, type: 'F32', shape: [4, 8], bytes: new Uint8Array(128) });
    const tensors = [table('token_embd.weight'), table('output.weight')];
    await writeGguf(file, { metadata, tensors });
    return readFileSync(file);
  }),
);
