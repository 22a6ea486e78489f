// README.md of a trained model: what it came from, what it was trained on and how it did, in the words that hold for what
// `exportModel` writes.

import { join } from 'node:path';
import { readTextFile } from '../formats/read-small-file.ts';
import { writeText } from './export-model.ts';
import { MASTER_FOLDER } from './trainable-model.ts';
import type { TrainResult, TrainSettings } from './trainer.ts';

export type CardFacts = {
  /** Name of the folder. */
  readonly name: string;
  /** Name of the model that training went on from; undefined for a new one. */
  readonly base: string | undefined;
  /** What the latents of the base were made from. */
  readonly from: 'masters' | 'trits';
  readonly configJson: Readonly<Record<string, unknown>>;
  readonly parameters: number;
  readonly ternary: number;
  /** File name of the data. */
  readonly dataset: string;
  readonly trainTokens: number;
  readonly heldOutTokens: number;
  readonly settings: TrainSettings;
  readonly result: TrainResult;
};

/** Model types whose folders Hugging Face transformers loads without code of the model's own. */
const IN_TRANSFORMERS: readonly unknown[] = ['BitNetForCausalLM', 'LlamaForCausalLM'];

const MARK = '<!-- written by bitnet-gf3 train; a card without this line is left alone -->';
const MAX_CARD_BYTES = 1024 * 1024;

/** Writes the card, unless somebody wrote one of their own. */
export async function writeModelCard(folder: string, facts: CardFacts): Promise<void> {
  const path = join(folder, 'README.md');
  const present = await readTextFile(path, MAX_CARD_BYTES);
  if (present === undefined || present.includes(MARK)) await writeText(path, modelCard(facts));
}

export function modelCard(facts: CardFacts): string {
  const { name, base, from, configJson, parameters, ternary, dataset, settings, result } = facts;
  const { schedule, optimizer, batchTokens, context, seed } = settings;
  const { evalBefore, evalAfter, bestStep, step, ended, epochs } = result;
  const architecture = (configJson.architectures as readonly unknown[] | undefined)?.[0];
  const shape = ['hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads', 'vocab_size']
    .map((key) => `${key} ${configJson[key]}`)
    .join(', ');
  const began =
    base === undefined
      ? 'random weights and a tokenizer learned from the data'
      : `${code(base)}, ${from === 'masters' ? 'its float masters' : 'its packed trits: it came without float masters'}`;
  const end = {
    steps: 'all its steps',
    plateau: 'the held-out loss no longer fell',
    stopped: `stopped; ${schedule.steps} steps were planned`,
  }[ended];
  const held =
    evalBefore === undefined || evalAfter === undefined
      ? 'nothing was held out'
      : `${evalBefore.toFixed(4)} nats per token before, ${evalAfter.toFixed(4)} in this model (step ${bestStep}), on ${facts.heldOutTokens} tokens`;
  const rows: readonly (readonly [string, string])[] = [
    ['began from', began],
    ['graph', `${String(architecture ?? configJson.model_type)}: ${shape}`],
    ['parameters', `${parameters}, ${ternary} of them ternary`],
    ['data', `${code(dataset)}: ${facts.trainTokens} tokens, sequences of at most ${context}`],
    ['training', `${step} steps of about ${batchTokens} tokens, ${epochs.toFixed(2)} epochs; ${end}`],
    [
      'recipe',
      `${optimizer.kind}, learning rate ${schedule.lr} at most (${schedule.kind}, ${schedule.warmup} steps of warmup), weight decay ${schedule.weightDecay}, seed ${seed}`,
    ],
    ['held-out loss', held],
  ];
  const readers = IN_TRANSFORMERS.includes(architecture)
    ? 'bitnet-gf3 and Hugging Face transformers load both.'
    : 'bitnet-gf3 loads both; transformers has no such graph.';
  return [
    '---',
    'pipeline_tag: text-generation',
    'tags: [bitnet, ternary]',
    '---',
    '',
    MARK,
    '',
    `# ${name}`,
    '',
    'A ternary (BitNet b1.58) language model, trained with quantization-aware training (straight-through estimators) by',
    'bitnet-gf3.',
    '',
    '| | |',
    '| --- | --- |',
    ...rows.map(([key, value]) => `| ${key} | ${value.replaceAll('|', '\\|').replaceAll(/\s+/g, ' ')} |`),
    '',
    'Files: `model.safetensors` holds the ternary matrices as packed uint8 trits with a `weight_scale` each, multiplied',
    `(\`autobitlinear\`, \`offline\`); embedding and norms are float32. \`${MASTER_FOLDER}/\` holds the float32 weights before`,
    `quantization; absmean on them gives exactly the packed trits, and fine-tuning goes on from them. ${readers}`,
    'The loss over the steps: `loss.png`, `train.jsonl`.',
    '',
    base === undefined
      ? 'It knows what its data says, at best. The terms of the data hold for what is made from it.'
      : `The licence and notices of ${code(base)} hold for this model, too, and so do the terms of the data. What ${code(base)} cannot do, this model cannot do either, unless the data taught it.`,
    '',
  ].join('\n');
}

/** As code, whatever the name holds. */
function code(text: string): string {
  return `\`${text.replaceAll(/[`\s]+/g, ' ').trim()}\``;
}
