// The normalizers of tokenizer.json that BPE models use.

import { isObject, type JsonObject } from './json-file.ts';

export type Normalizer = (text: string) => string;

/** Builds a normalizer; undefined when one of its parts is of another kind or has unusual settings. */
export function buildNormalizer(config: JsonObject | null): Normalizer | undefined {
  if (config === null) return (text) => text;
  switch (config.type) {
    case 'NFC':
    case 'NFD':
    case 'NFKC':
    case 'NFKD': {
      const form = config.type;
      return (text) => text.normalize(form);
    }
    case 'Prepend': {
      const { prepend } = config;
      if (typeof prepend !== 'string') return undefined;
      return (text) => (text === '' ? '' : prepend + text);
    }
    case 'Replace': {
      const from = isObject(config.pattern) ? config.pattern.String : undefined;
      const to = config.content;
      if (typeof from !== 'string' || from === '' || typeof to !== 'string') return undefined;
      return (text) => text.replaceAll(from, () => to);
    }
    case 'Sequence': {
      if (!Array.isArray(config.normalizers)) return undefined;
      const steps = config.normalizers.map((step: unknown) => (isObject(step) ? buildNormalizer(step) : undefined));
      if (!steps.every((step) => step !== undefined)) return undefined;
      return (text) => steps.reduce((out, step) => step(out), text);
    }
    default:
      return undefined;
  }
}
