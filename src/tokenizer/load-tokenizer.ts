// From the files of a model to its tokenizer.

import { statSync } from 'node:fs';
import { join } from 'node:path';
import { bpeEncoder } from './bpe-encoder.ts';
import { ChatTemplate } from './chat-template.ts';
import {
  isObject,
  type JsonObject,
  MAX_CONFIG_JSON_BYTES,
  MAX_TOKENIZER_JSON_BYTES,
  readJsonObject,
  readLimited,
} from './json-file.ts';
import { eosTokenIds, Tokenizer } from './tokenizer.ts';
import { TokenizerFileError, TokenizerMissingError } from './tokenizer-error.ts';
import { addedTokenOf, type BpeTokenizer, parseTokenizerJson } from './tokenizer-json.ts';
import type { AddedToken, Vocabulary } from './vocabulary.ts';

/** The small JSON files around a tokenizer; any of them may be missing. */
type Surroundings = {
  readonly folder: string;
  readonly tokenizerConfig: JsonObject;
  readonly specialTokensMap: JsonObject;
  readonly addedTokens: JsonObject;
  readonly config: JsonObject;
  readonly generationConfig: JsonObject;
};

/**
 * Loads the tokenizer of a model folder. Throws TokenizerMissingError when there is none, TokenizerFileError when its
 * files cannot be used.
 */
export async function loadTokenizer(path: string): Promise<Tokenizer> {
  const info = statSync(path, { throwIfNoEntry: false });
  if (info === undefined) {
    throw new TokenizerMissingError({
      what: 'no such file or folder',
      where: path,
      fix: 'give a model folder or a .gguf file',
    });
  }
  if (!info.isDirectory()) {
    throw new TokenizerMissingError({
      what: 'expected a model folder',
      where: path,
      fix: 'give the folder that holds tokenizer.json',
    });
  }
  const surroundings = readSurroundings(path);
  const file = join(path, 'tokenizer.json');
  const json = readJsonObject(file, MAX_TOKENIZER_JSON_BYTES);
  if (json === undefined) {
    throw new TokenizerMissingError({
      what: 'the folder has no tokenizer.json',
      where: path,
      fix: 'copy the tokenizer files of the model into its folder',
    });
  }
  return fromTokenizerJson(json, file, surroundings);
}

function readSurroundings(folder: string): Surroundings {
  const read = (name: string): JsonObject => readJsonObject(join(folder, name), MAX_CONFIG_JSON_BYTES) ?? {};
  const tokenizerConfig = read('tokenizer_config.json');
  const inConfig = tokenizerConfig.chat_template !== undefined;
  const template = inConfig ? undefined : readLimited(join(folder, 'chat_template.jinja'), MAX_CONFIG_JSON_BYTES);
  return {
    folder,
    tokenizerConfig:
      template === undefined ? tokenizerConfig : { ...tokenizerConfig, chat_template: template.toString('utf8') },
    specialTokensMap: read('special_tokens_map.json'),
    addedTokens: read('added_tokens.json'),
    config: read('config.json'),
    generationConfig: read('generation_config.json'),
  };
}

async function fromTokenizerJson(json: JsonObject, file: string, around: Surroundings): Promise<Tokenizer> {
  const parsed = parseTokenizerJson(json, file, moreAddedTokens(around));
  const bosId = namedId('bos_token', parsed.vocabulary, around);
  const eosId = namedId('eos_token', parsed.vocabulary, around);
  const eosIds = new Set([...eosTokenIds(around.config), ...eosTokenIds(around.generationConfig)]);
  if (eosId !== undefined) eosIds.add(eosId);
  return new Tokenizer({
    source: around.folder,
    vocabulary: parsed.vocabulary,
    encoding: bpeEncoder(parsed) ?? (await import('./library-encoder.ts')).libraryEncoder(parsed),
    decoder: parsed.decoder,
    bosId,
    eosIds: [...eosIds],
    ...specialTemplate(parsed, bosId, eosId, around),
    chatTemplate: chatTemplateOf(around),
    idLimit: vocabularyLimit(around.config),
  });
}

/** Tokens that only tokenizer_config.json or added_tokens.json name. */
function moreAddedTokens(around: Surroundings): AddedToken[] {
  const tokens = new Map<string, AddedToken>();
  const listed = around.tokenizerConfig.added_tokens_decoder;
  if (isObject(listed)) {
    const file = join(around.folder, 'tokenizer_config.json');
    for (const [id, entry] of Object.entries(listed)) {
      const where = `added_tokens_decoder["${id}"]`;
      if (!isObject(entry)) {
        throw new TokenizerFileError({ what: `${where} must be an object`, where: file, fix: 'fetch the file again' });
      }
      const token = addedTokenOf(entry, Number(id), file, where);
      tokens.set(token.content, token);
    }
  }
  const file = join(around.folder, 'added_tokens.json');
  for (const [content, id] of Object.entries(around.addedTokens)) {
    if (!tokens.has(content)) tokens.set(content, addedTokenOf({ content, special: false }, id, file, `"${content}"`));
  }
  return [...tokens.values()];
}

/** The id of bos_token or eos_token: as the tokenizer's files name it, else as config.json numbers it. */
function namedId(key: 'bos_token' | 'eos_token', vocabulary: Vocabulary, around: Surroundings): number | undefined {
  for (const source of [around.tokenizerConfig, around.specialTokensMap]) {
    const value = source[key];
    const name = isObject(value) ? value.content : value;
    const id = typeof name === 'string' ? vocabulary.id(name) : undefined;
    if (id !== undefined) return id;
  }
  for (const source of [around.config, around.generationConfig]) {
    const value = source[`${key}_id`];
    const id: unknown = Array.isArray(value) ? value[0] : value;
    if (typeof id === 'number' && vocabulary.token(id) !== undefined) return id;
  }
  return undefined;
}

/**
 * The ids around a text. tokenizer_config's add_bos_token and add_eos_token decide where they stand; else the
 * post-processor; else, for Llama 3's early files that lost theirs, one <|begin_of_text|>, which those models need.
 */
function specialTemplate(
  parsed: BpeTokenizer,
  bosId: number | undefined,
  eosId: number | undefined,
  around: Surroundings,
): { readonly before: readonly number[]; readonly after: readonly number[] } {
  const { add_bos_token: addBos, add_eos_token: addEos } = around.tokenizerConfig as {
    readonly add_bos_token?: unknown;
    readonly add_eos_token?: unknown;
  };
  let before = parsed.template?.before ?? [];
  let after = parsed.template?.after ?? [];
  if (parsed.template === null && bosId !== undefined && parsed.vocabulary.token(bosId) === '<|begin_of_text|>') {
    before = [bosId];
  }
  if (addBos === false) before = [];
  if (addBos === true && bosId !== undefined && !before.includes(bosId)) before = [bosId, ...before];
  if (addEos === false) after = [];
  if (addEos === true && eosId !== undefined && !after.includes(eosId)) after = [...after, eosId];
  return { before, after };
}

function chatTemplateOf(around: Surroundings): ChatTemplate | undefined {
  const value = around.tokenizerConfig.chat_template;
  const where = join(around.folder, 'tokenizer_config.json');
  if (typeof value === 'string') return new ChatTemplate(value, where);
  if (!Array.isArray(value)) return undefined;
  // Several named templates: the one called "default" is for plain chat.
  const named = value.filter(isObject).find((entry) => entry.name === 'default');
  return typeof named?.template === 'string' ? new ChatTemplate(named.template, where) : undefined;
}

function vocabularyLimit(config: JsonObject): number {
  const size = config.vocab_size;
  return typeof size === 'number' && Number.isInteger(size) && size > 0 ? size : 0;
}
