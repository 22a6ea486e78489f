// A model that begins from nothing: a shape, random latents and a vocabulary learned from the data.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder } from '../formats/make-folder.ts';
import { readTextFile } from '../formats/read-small-file.ts';
import { SplitMix64 } from '../random/splitmix64.ts';
import { MAX_TOKENIZER_JSON_BYTES } from '../tokenizer/json-file.ts';
import { type TrainedBpe, trainBpe } from './bpe-trainer.ts';
import { jsonText, writeJson } from './export-model.ts';
import { planParameters, view } from './parameters.ts';
import { DONE_FILE, otherRun, STATE_FILE } from './run-state.ts';
import { configOf, type TrainableModel } from './trainable-model.ts';

export const PRESETS = {
  /** About 0.5 M parameters besides the embedding: minutes on a laptop. */
  tiny: { hidden: 128, ffn: 384, layers: 3, heads: 4, kvHeads: 2 },
  /** About 5 M. */
  small: { hidden: 256, ffn: 768, layers: 6, heads: 4, kvHeads: 2 },
  /** About 21 M. */
  medium: { hidden: 512, ffn: 1536, layers: 6, heads: 8, kvHeads: 4 },
} as const;
export type Preset = keyof typeof PRESETS;

/** config.json of a BitNet model (arXiv:2504.12285) with a preset's shape. */
export function presetConfig(preset: Preset, vocabSize: number, contextLength: number): Record<string, unknown> {
  const { hidden, ffn, layers, heads, kvHeads } = PRESETS[preset];
  return {
    architectures: ['BitNetForCausalLM'],
    model_type: 'bitnet',
    hidden_size: hidden,
    intermediate_size: ffn,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    vocab_size: vocabSize,
    max_position_embeddings: contextLength,
    rope_theta: 10000,
    rms_norm_eps: 1e-5,
    hidden_act: 'relu2',
    tie_word_embeddings: true,
    attention_bias: false,
    attention_dropout: 0,
    initializer_range: INITIAL_STD,
    bos_token_id: 0,
    eos_token_id: [1, 2],
    quantization_config: { quant_method: 'bitnet', linear_class: 'autobitlinear', quantization_mode: 'online' },
  };
}

const INITIAL_STD = 0.02;

export type FreshOptions = {
  /** A preset's name, or a config.json of the user's own whose vocab_size is a wish. */
  readonly shape: Preset | Readonly<Record<string, unknown>>;
  readonly vocabSize: number;
  readonly contextLength: number;
  readonly seed: bigint;
  /** Overwrite the vocabulary of a run that `folder` holds. */
  readonly restart?: boolean;
};

/** Learns a tokenizer into `folder` and returns a model with random latents that uses it. */
export async function makeFreshModel(
  folder: string,
  texts: Iterable<string>,
  options: FreshOptions,
): Promise<TrainableModel> {
  const { shape, vocabSize, contextLength, seed } = options;
  const bpe: TrainedBpe = trainBpe(texts, vocabSize, contextLength);
  const vocabulary = { 'tokenizer.json': bpe.tokenizer, 'tokenizer_config.json': bpe.tokenizerConfig };
  if (options.restart !== true && [STATE_FILE, DONE_FILE].some((file) => existsSync(join(folder, file)))) {
    for (const [name, value] of Object.entries(vocabulary)) {
      const present = await readTextFile(join(folder, name), MAX_TOKENIZER_JSON_BYTES);
      // The model that is there would read nonsense from now on.
      if (present !== undefined && present !== jsonText(value)) throw otherRun(join(folder, name));
    }
  }
  await makeFolder(folder);
  for (const [name, value] of Object.entries(vocabulary)) await writeJson(join(folder, name), value);
  await writeJson(join(folder, 'generation_config.json'), { bos_token_id: 0, eos_token_id: [1, 2], do_sample: false });
  const configJson =
    typeof shape === 'string'
      ? presetConfig(shape, bpe.vocabSize, contextLength)
      : { ...shape, vocab_size: bpe.vocabSize, bos_token_id: 0, eos_token_id: [1, 2] };
  const config = configOf(configJson, 'the config of the new model');
  const plan = planParameters(config);
  const latents = new Float32Array(plan.length);
  const random = new SplitMix64(seed);
  for (const parameter of plan.all) {
    const values = view(latents, parameter);
    if (parameter.kind === 'norm') values.fill(1);
    else for (let i = 0; i < values.length; i += 1) values[i] = INITIAL_STD * nearlyNormal(random);
  }
  return { folder, config, configJson, plan, latents, from: 'masters' };
}

/** Sum of twelve uniforms less six: variance 1, additions only, so the same on every machine. */
function nearlyNormal(random: SplitMix64): number {
  let sum = -6;
  for (let i = 0; i < 12; i += 1) sum += random.nextFloat();
  return sum;
}
