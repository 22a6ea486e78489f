// How a model's makers want it sampled: generation_config.json, or `general.sampling.*` of a GGUF (from which the
// tokenizer's loader makes the same object). A file that does not say `do_sample` is greedy, as transformers has it; what
// else it says holds as soon as somebody asks for a temperature.

import type { SamplingDefaults } from './types.ts';

type Rule = { readonly key: string; readonly field: keyof SamplingDefaults; readonly ok: (value: number) => boolean };

const RULES: readonly Rule[] = [
  { key: 'temperature', field: 'temperature', ok: (value) => value >= 0 },
  { key: 'top_k', field: 'topK', ok: (value) => Number.isInteger(value) && value >= 0 },
  { key: 'top_p', field: 'topP', ok: (value) => value > 0 && value <= 1 },
  { key: 'min_p', field: 'minP', ok: (value) => value >= 0 && value <= 1 },
  { key: 'repetition_penalty', field: 'repetitionPenalty', ok: (value) => value > 0 },
];

/** Values that change nothing are none. */
const NEUTRAL: Readonly<Partial<Record<keyof SamplingDefaults, number>>> = {
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
};

export type ReadDefaults = { readonly defaults: SamplingDefaults; readonly warnings: readonly string[] };

/** What the file says, and a sentence for each value that cannot be. */
export function samplingDefaults(config: Readonly<Record<string, unknown>>): ReadDefaults {
  const defaults: { -readonly [Field in keyof SamplingDefaults]: number } = {};
  const warnings: string[] = [];
  for (const { key, field, ok } of RULES) {
    const value = config[key];
    if (value === undefined || value === null || value === NEUTRAL[field]) continue;
    if (typeof value === 'number' && Number.isFinite(value) && ok(value)) defaults[field] = value;
    else warnings.push(`the model's files give ${key} as ${shown(value)}, which is not used`);
  }
  // To draw at all is what do_sample says; 1 is the temperature of transformers.
  if (config.do_sample === true) defaults.temperature ??= 1;
  else delete defaults.temperature;
  return { defaults, warnings };
}

function shown(value: unknown): string {
  return (JSON.stringify(value) ?? String(value)).slice(0, 40);
}
