// The files beside a model's weights that it needs to read and write text: what a copy of the model takes along.

import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';

const NAMES = [
  'tokenizer.json',
  'tokenizer.model',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'generation_config.json',
];

/** Where transformers keeps named templates; one called default.jinja wins over chat_template.jinja. */
export const NAMED_TEMPLATES = 'additional_chat_templates';

/** Those that are there: parts of paths below `folder`, a file's own name last. */
export async function companionFiles(folder: string): Promise<string[][]> {
  const found: string[][] = [];
  for (const name of NAMES) {
    if ((await stat(join(folder, name)).catch(() => undefined))?.isFile()) found.push([name]);
  }
  const templates = await readdir(join(folder, NAMED_TEMPLATES)).catch((): string[] => []);
  for (const name of templates.filter((file) => file.endsWith('.jinja')).sort()) found.push([NAMED_TEMPLATES, name]);
  return found;
}
