// GGUF files of published shapes with random trits, for programs of other people as well as ours: how fast a step is
// depends on the shape, not on the values.
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const dist = (path) => import(join(dirname(dirname(fileURLToPath(import.meta.url))), 'dist', path));

/** Columns of a block of each type. */
const BLOCK_COLUMNS = { tq2_0: 256, tq1_0: 256, q2_0: 64, pq2_0: 128, ptq1_0: 128, f32: 128 };
const PATTERN = 256 * 4096;
/** How the graphs are called in files. */
const ARCHITECTURES = { bitnet: 'bitnet', onebitllm: 'bitnet', qwen3: 'qwen3', qwen35: 'qwen35', maple: 'maple' };

/**
 * Random trits in ggml's blocks, all of one scale (or, as `f32`, of one for every 128 columns); norms of ones; a made-up
 * vocabulary. The graph is 1bitLLM's, or the shape's family's. `layers`: fewer than the shape has.
 */
export async function writeRandomGguf(file, shape, format, { layers = shape.layers } = {}) {
  const { writeGguf } = await dist('formats/write-gguf.js');
  const make = await tensorMakers(format);
  const isBitnet = ARCHITECTURES[shape.family] === 'bitnet';
  // A file of exactly 2B-4T's shape gets that model's relu2 here, while llama.cpp computes SiLU for all of this
  // architecture. With a few words less both take it for another model, and what they compute can be compared.
  const vocab = isBitnet ? shape.vocab - 256 : shape.vocab;
  const ternaryTables = shape.family === 'qwen3' || shape.family === 'qwen35';
  const { hidden } = shape;
  const table = ternaryTables ? make.matrix : make.half;
  const tensors = [table('token_embd.weight', vocab, hidden), make.norm('output_norm.weight', hidden)];
  if (shape.tied === false) tensors.push(table('output.weight', vocab, hidden));
  for (let i = 0; i < layers; i += 1) tensors.push(...layerTensors(shape, i, make));
  await writeGguf(file, { metadata: metadataOf(shape, vocab, layers), tensors });
}

async function tensorMakers(format) {
  const { packTq2 } = await dist('quant/tq2.js');
  const { packTq1 } = await dist('quant/tq1.js');
  const { encodeBlocks } = await dist('quant/grouped/codec.js');
  const { packQuads } = await dist('quant/grouped/quads.js');
  let state = 0x9e3779b9;
  const bits = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  const blockColumns = BLOCK_COLUMNS[format];
  const pattern = (columns) => {
    const trits = Int8Array.from({ length: PATTERN }, () => (bits() % 3) - 1);
    // As f16 holds it: the files of one shape are one model.
    const scale = 2 ** Math.round(Math.log2(1 / Math.sqrt(columns)));
    if (format === 'tq2_0') return packTq2(trits, scale);
    if (format === 'tq1_0') return packTq1(trits, scale);
    if (format === 'f32') {
      const scales = Array.from({ length: PATTERN / 128 }, () => scale * (0.75 + (bits() % 64) / 128));
      return new Uint8Array(Float32Array.from(trits, (trit, i) => trit * scales[i >> 7]).buffer);
    }
    const codes = Uint8Array.from(trits, (trit) => trit + 1);
    const [rows, width] = [4096, 256];
    const scales = new Float32Array(PATTERN / blockColumns).fill(scale);
    const matrix = { rows, columns: width, group: blockColumns, quads: packQuads(codes, rows, width), scales };
    return encodeBlocks(format.toUpperCase(), matrix);
  };
  const patterns = new Map();
  const repeated = (name, type, shape, bytes, length) => ({
    name,
    type,
    shape,
    chunks: function* () {
      for (let at = 0; at < length; at += bytes.length) yield bytes.subarray(0, Math.min(bytes.length, length - at));
    },
  });
  /** The last dimension are the columns. */
  const matrix = (name, ...shape) => {
    const columns = shape.at(-1);
    if (columns % blockColumns !== 0)
      throw new Error(`${name}: ${columns} columns are no multiple of ${blockColumns}, which ${format} needs`);
    const bytes = patterns.get(columns) ?? pattern(columns);
    patterns.set(columns, bytes);
    const length = (shape.reduce((a, b) => a * b) * bytes.length) / PATTERN;
    return repeated(name, format.toUpperCase(), shape, bytes, length);
  };
  const floats = (name, shape, value) => ({
    name,
    type: 'F32',
    shape,
    bytes: new Uint8Array(Float32Array.from({ length: shape.reduce((a, b) => a * b) }, value).buffer),
  });
  const norm = (name, n) => floats(name, [n], () => 1);
  // f16 of magnitude 2^-7 to 2^-5; as bf16 the same bits are of 2^-64, so those get a pattern of their own.
  const halves = (type, first) => {
    const values = Uint16Array.from({ length: 1 << 20 }, () => first + (bits() % 0x100) + ((bits() & 1) << 15));
    const bytes = new Uint8Array(values.buffer);
    return (name, rows, columns) => repeated(name, type, [rows, columns], bytes, 2 * rows * columns);
  };
  const uniform =
    (spread, center = 0) =>
    () =>
      center + spread * (bits() / 2 ** 32 - 0.5);
  return { matrix, norm, floats, uniform, half: halves('F16', 0x2000), brain: halves('BF16', 0x3c00) };
}

/** The tensors of one layer, as the family's converter names them. */
function layerTensors(shape, i, make) {
  const { hidden, ffn, heads, kvHeads, headDim, family } = shape;
  const { matrix, norm } = make;
  const name = (part) => `blk.${i}.${part}.weight`;
  const attention = (queryRows = heads * headDim) => [
    matrix(name('attn_q'), queryRows, hidden),
    matrix(name('attn_k'), kvHeads * headDim, hidden),
    matrix(name('attn_v'), kvHeads * headDim, hidden),
    matrix(name('attn_output'), hidden, heads * headDim),
  ];
  const headNorms = [norm(name('attn_q_norm'), headDim), norm(name('attn_k_norm'), headDim)];
  const gatedFfn = () => [
    matrix(name('ffn_gate'), ffn, hidden),
    matrix(name('ffn_up'), ffn, hidden),
    matrix(name('ffn_down'), hidden, ffn),
  ];
  const first = norm(name('attn_norm'), hidden);
  if (family === 'maple') {
    const { count: experts } = shape.own(shape.layers).experts;
    return [
      first,
      ...headNorms,
      norm(name('ffn_norm'), hidden),
      ...attention(),
      make.floats(name('ffn_gate_inp'), [experts, hidden], make.uniform(0.1)),
      matrix(name('ffn_gate_exps'), experts, ffn, hidden),
      matrix(name('ffn_up_exps'), experts, ffn, hidden),
      matrix(name('ffn_down_exps'), experts, hidden, ffn),
    ];
  }
  if (family === 'qwen35') {
    const second = norm(name('post_attention_norm'), hidden);
    if ((i + 1) % 4 === 0) return [first, second, ...headNorms, ...attention(2 * heads * headDim), ...gatedFfn()];
    const { keyHeads, valueHeads, headDim: stateDim } = shape.own(shape.layers).deltaNet;
    const [inner, channels] = [valueHeads * stateDim, (2 * keyHeads + valueHeads) * stateDim];
    return [
      first,
      second,
      matrix(name('attn_qkv'), channels, hidden),
      matrix(name('attn_gate'), inner, hidden),
      make.floats(name('ssm_conv1d'), [channels, 4], make.uniform(1)),
      make.brain(name('ssm_beta'), valueHeads, hidden),
      make.brain(name('ssm_alpha'), valueHeads, hidden),
      make.floats(`blk.${i}.ssm_dt.bias`, [valueHeads], make.uniform(1)),
      make.floats(`blk.${i}.ssm_a`, [valueHeads], make.uniform(0.5, -0.5)),
      norm(name('ssm_norm'), stateDim),
      matrix(name('ssm_out'), hidden, inner),
      ...gatedFfn(),
    ];
  }
  const norms =
    family === 'qwen3' ? headNorms : [norm(name('attn_sub_norm'), heads * headDim), norm(name('ffn_sub_norm'), ffn)];
  return [first, ...norms, norm(name('ffn_norm'), hidden), ...attention(), ...gatedFfn()];
}

function metadataOf(shape, vocab, layers) {
  const { hidden, ffn, heads, kvHeads, headDim, ropeTheta, family } = shape;
  const architecture = ARCHITECTURES[family];
  const u32 = (key, value) => ({ key: `${architecture}.${key}`, type: 'u32', value });
  const f32 = (key, value) => ({ key: `${architecture}.${key}`, type: 'f32', value });
  const list = (key, elementType, value) => ({ key, type: 'array', elementType, value });
  const hex = (n) => n.toString(16).toUpperCase().padStart(2, '0');
  const special = ['<unk>', '<s>', '</s>', ...Array.from({ length: 256 }, (_, n) => `<0x${hex(n)}>`)];
  const words = Array.from({ length: vocab }, (_, id) => special[id] ?? `t${id}`);
  // ggml's token types: 1 normal, 2 unknown, 3 control, 6 byte.
  const types = words.map((_, id) => (id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1));
  const tokenizer = (key, value) => ({ key: `tokenizer.ggml.${key}_token_id`, type: 'u32', value });
  const { rotaryDim = headDim, deltaNet, experts, windows } = shape.own?.(layers) ?? {};
  const own = {
    qwen35: () => [
      list(`${architecture}.rope.dimension_sections`, 'i32', [11, 11, 10, 0]),
      u32('full_attention_interval', 4),
      u32('ssm.conv_kernel', 4),
      u32('ssm.state_size', deltaNet.headDim),
      u32('ssm.group_count', deltaNet.keyHeads),
      u32('ssm.time_step_rank', deltaNet.valueHeads),
      u32('ssm.inner_size', deltaNet.valueHeads * deltaNet.headDim),
    ],
    maple: () => [
      u32('attention.sliding_window', Math.max(...windows)),
      list(
        `${architecture}.attention.sliding_window_pattern`,
        'bool',
        windows.map((window) => window > 0),
      ),
      u32('expert_count', experts.count),
      u32('expert_used_count', experts.used),
      u32('expert_feed_forward_length', ffn),
      list(`${architecture}.swiglu_clamp_exp`, 'f32', experts.clamps),
    ],
  };
  const isHybrid = family in own;
  return [
    { key: 'general.architecture', type: 'string', value: architecture },
    { key: 'general.quantization_version', type: 'u32', value: 2 },
    u32('vocab_size', vocab),
    u32('context_length', 2048),
    u32('embedding_length', hidden),
    u32('block_count', layers),
    u32('feed_forward_length', ffn),
    u32('attention.head_count', heads),
    u32('attention.head_count_kv', kvHeads),
    u32('attention.key_length', headDim),
    u32('attention.value_length', headDim),
    u32('rope.dimension_count', rotaryDim),
    f32('attention.layer_norm_rms_epsilon', isHybrid ? 1e-6 : 1e-5),
    f32('rope.freq_base', ropeTheta),
    ...(own[family]?.() ?? []),
    { key: 'tokenizer.ggml.model', type: 'string', value: 'llama' },
    list('tokenizer.ggml.tokens', 'string', words),
    list(
      'tokenizer.ggml.scores',
      'f32',
      words.map((_, id) => -id),
    ),
    list('tokenizer.ggml.token_type', 'i32', types),
    tokenizer('bos', 1),
    tokenizer('eos', 2),
    tokenizer('unknown', 0),
  ];
}
