import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ConfigError, parseConfig } from '../../src/model/config.ts';

const golden = (name: string) =>
  JSON.parse(readFileSync(join(import.meta.dirname, '../golden/model', name, 'config.json'), 'utf8'));
const parse = (config: object) => parseConfig(JSON.stringify(config), 'config.json');
const bitnet = golden('bitnet_packed_a_s111');

describe('families', () => {
  test.each([
    ['bitnet_packed_a_s111', 'bitnet', 'packed-multiply', 'relu2'],
    ['bitnet_packed_div_b_s322', 'bitnet', 'packed-divide', 'relu2'],
    ['bitnet_online_a_s11', 'bitnet', 'masters', 'relu2'],
    ['llama_bitlinear_plain_config_c_s433', 'llama', 'packed-divide', 'silu'],
    ['onebitllm_a_s511', 'onebitllm', 'masters', 'silu'],
  ])('%s', (name, family, linearStorage, hiddenAct) => {
    expect(parse(golden(name))).toMatchObject({ family, linearStorage, hiddenAct, unknownKeys: [] });
  });

  test('1bitLLM and Hugging Face differ in one letter', () => {
    const { quantization_config: _, ...rest } = bitnet;
    expect(parse({ ...rest, architectures: ['BitnetForCausalLM'], hidden_act: 'silu' }).family).toBe('onebitllm');
  });

  test('head_dim is its own field', () => expect(parse({ ...bitnet, head_dim: 48 }).headDim).toBe(48));

  test("transformers 5's rope_parameters", () => {
    const { rope_theta: _, ...rest } = bitnet;
    const config = parse({ ...rest, rope_parameters: { rope_theta: 12345, rope_type: 'default' } });
    expect(config.ropeTheta).toBe(12345);
  });

  test('absent keys mean what they mean in transformers', () => {
    const { rope_theta: _, rms_norm_eps: __, ...rest } = bitnet;
    expect(parse(rest)).toMatchObject({ ropeTheta: 500_000, rmsNormEps: 1e-5 });
    const { rope_theta: _1, rms_norm_eps: _2, ...llama } = golden('llama_bitlinear_a_s411');
    expect(parse(llama)).toMatchObject({ ropeTheta: 10_000, rmsNormEps: 1e-6 });
  });

  test('unknown keys are reported, harmless ones are not', () => {
    expect(parse({ ...bitnet, secret_sauce: 1, use_cache: true }).unknownKeys).toEqual(['secret_sauce']);
  });
});

describe('refused, with the file and a reason', () => {
  test.each([
    [{ hidden_size: -4 }, /hidden_size is -4/],
    [{ hidden_size: 1e12 }, /hidden_size is 1000000000000.*1 to 65536/],
    [{ hidden_size: '64' }, /hidden_size is "64"/],
    [{ num_hidden_layers: 1.5 }, /num_hidden_layers is 1.5/],
    [{ vocab_size: undefined }, /vocab_size is missing/],
    [{ num_key_value_heads: 3 }, /4 attention heads cannot share 3/],
    [{ head_dim: 15 }, /head_dim 15 is odd/],
    [{ hidden_act: 'gelu' }, /hidden_act is "gelu".*relu2/],
    [{ rope_scaling: { type: 'yarn', factor: 4 } }, /rope_scaling has type "yarn"/],
    [{ attention_bias: true }, /attention_bias is true/],
    [{ sliding_window: 512 }, /sliding_window is 512/],
    [{ rms_norm_eps: 0 }, /rms_norm_eps is 0/],
    [{ eos_token_id: ['a'] }, /eos_token_id is \["a"\]/],
    // 2^53 is what JSON makes of 2^53 + 1 as well.
    [{ eos_token_id: 2 ** 53 }, /eos_token_id is 9007199254740992, expected a token id/],
    [{ bos_token_id: 2 ** 53 }, /bos_token_id is 9007199254740992/],
    [{ architectures: ['GPT2LMHeadModel'] }, /GPT2LMHeadModel.*supported/],
    [{ quantization_config: undefined }, /no quantization_config.*online/],
    [{ quantization_config: { quant_method: 'gptq' } }, /quant_method is "gptq"/],
    [{ quantization_config: { quant_method: 'bitnet', linear_class: 'x' } }, /linear_class is "x"/],
    [{ quantization_config: 7 }, /quantization_config is not an object/],
  ])('%j', (change, message) => {
    const broken = () => parse({ ...bitnet, ...change });
    expect(broken).toThrow(ConfigError);
    expect(broken).toThrow(message);
    expect(broken).toThrow(/\(config\.json\)/);
  });

  test.each(['', '[]', 'null', '{"hidden_size": 64', '"text"'])('%j is no config', (text) => {
    expect(() => parseConfig(text, 'config.json')).toThrow(ConfigError);
  });
});

describe('the graphs and forms of 2026', () => {
  const qwen3 = {
    architectures: ['Qwen3ForCausalLM'],
    model_type: 'qwen3',
    hidden_size: 256,
    intermediate_size: 512,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 128,
    vocab_size: 300,
    rms_norm_eps: 1e-6,
    rope_theta: 1e6,
    use_sliding_window: false,
    sliding_window: null,
    max_window_layers: 28,
    layer_types: ['full_attention', 'full_attention'],
  };

  test('a Llama folder that declares nothing may hold trits: the values tell', () => {
    expect(parse({ ...bitnet, architectures: ['LlamaForCausalLM'], quantization_config: undefined })).toMatchObject({
      family: 'llama',
      linearStorage: 'unpacked',
    });
  });

  test('Qwen3: head_dim is its own key', () => {
    expect(parse(qwen3)).toMatchObject({ family: 'qwen3', headDim: 128, linearStorage: 'unpacked', unknownKeys: [] });
  });

  test('an MLX pack, under either key', () => {
    const pack = { group_size: 128, bits: 2 };
    expect(parse({ ...qwen3, quantization: pack }).mlx).toEqual({ bits: 2, groupSize: 128 });
    expect(parse({ ...qwen3, quantization_config: { ...pack, mode: 'affine' } })).toMatchObject({
      linearStorage: 'mlx',
    });
    expect(() => parse({ ...qwen3, quantization: { group_size: 128, bits: 4 } })).toThrow(/bits is 4.*2 bits/);
    expect(() => parse({ ...qwen3, quantization: { group_size: 96, bits: 2 } })).toThrow(/group_size is 96/);
    expect(() => parse({ ...qwen3, quantization: { ...pack, mode: 'mxfp4' } })).toThrow(/mode is "mxfp4"/);
  });

  test('YaRN, with its defaults', () => {
    const rope_scaling = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 16384 };
    expect(parse({ ...qwen3, rope_scaling }).ropeScaling).toEqual({
      type: 'yarn',
      factor: 4,
      originalContext: 16384,
      betaFast: 32,
      betaSlow: 1,
      attentionFactor: undefined,
    });
    expect(() => parse({ ...bitnet, rope_scaling })).toThrow(/rope_scaling has type "yarn".*unscaled/);
  });

  test.each(['rope_parameters', 'rope_scaling'])('rope_theta inside %s wins over the one beside it', (key) => {
    expect(parse({ ...bitnet, rope_theta: 500_000, [key]: { rope_type: 'default', rope_theta: 100 } }).ropeTheta).toBe(
      100,
    );
  });

  test('rotated weights and sliding windows are refused by name', () => {
    expect(() => parse({ ...qwen3, prism_hadamard: {} })).toThrow(/rotated basis/);
    expect(() => parse({ ...qwen3, use_sliding_window: true })).toThrow(/use_sliding_window is true/);
  });

  test('modules_to_not_convert: expressions at the start of a name, or plain endings', () => {
    const patterns = (modules_to_not_convert: unknown) =>
      parse({ ...bitnet, quantization_config: { ...bitnet.quantization_config, modules_to_not_convert } }).floatModules;
    const some = patterns(['model.layers.1.mlp.down_proj', 'lm_head', 'model\\.layers\\.2.*q_proj'])!;
    expect(some.matches('model.layers.1.mlp.down_proj')).toBe(true);
    expect(some.matches('model.layers.11.mlp.down_proj')).toBe(false);
    expect(some.matches('model.layers.2.self_attn.q_proj')).toBe(true);
    expect(some.matches('model.layers.3.self_attn.q_proj')).toBe(false);
    // As in transformers, "model.layers.1" is also the start of layer 10.
    expect(patterns(['model.layers.1'])!.matches('model.layers.10.mlp.up_proj')).toBe(true);
    expect(patterns(['down_proj'])!.matches('model.layers.0.mlp.down_proj')).toBe(true);
    // These are no expressions in Python, and the first is none here.
    for (const bad of ['a[z-a]', 'a[]', '[]', '[^]b']) {
      expect(() => patterns(['lm_head', bad])).toThrow(`has the pattern ${JSON.stringify(bad)}`);
    }
    expect(patterns(['layers.[^0-2].mlp'])!.matches('layers.3.mlp')).toBe(true);
    expect(() => patterns(['(a+)+'])).toThrow(/modules_to_not_convert has the pattern/);
    expect(() => patterns('lm_head')).toThrow(/not a list of names/);
  });
});
