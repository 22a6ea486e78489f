// From the files of a model to its tokenizer.

import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { ChatTemplate, correctedTemplate } from './chat-template.ts';
import { NAMED_TEMPLATES } from './companion-files.ts';
import {
  isObject,
  type JsonObject,
  MAX_CONFIG_JSON_BYTES,
  MAX_TOKENIZER_JSON_BYTES,
  readJsonObject,
  readLimited,
} from './json-file.ts';
import { keepTokenizer, readKeptTokenizer, settledState } from './kept-tokenizer.ts';
import { textEncoder } from './text-encoder.ts';
import type { TextEncoding } from './text-encoding.ts';
import type { DecoderPlan } from './token-decoder.ts';
import { eosTokenIds, Tokenizer } from './tokenizer.ts';
import { TokenizerFileError, TokenizerMissingError } from './tokenizer-error.ts';
import { addedTokenOf, type BpeTables, parseTokenizerJson, type SpecialTemplate } from './tokenizer-json.ts';
import type { AddedToken, Vocabulary } from './vocabulary.ts';

/** The small JSON files around a tokenizer; any of them may be missing. */
type Surroundings = {
  readonly folder: string;
  readonly tokenizerConfig: JsonObject;
  readonly specialTokensMap: JsonObject;
  readonly addedTokens: JsonObject;
  readonly config: JsonObject;
  readonly generationConfig: JsonObject;
  /** Chat templates in files of their own, by name; they put that of tokenizer_config.json aside. */
  readonly templateFiles: ReadonlyMap<string, NamedSource>;
};

type NamedSource = { readonly source: string; readonly where: string };

/**
 * Loads the tokenizer of a model: a folder with tokenizer.json or tokenizer.model, or a .gguf file (one with nothing but
 * a vocabulary will do). Throws TokenizerMissingError when there is none, TokenizerFileError when its files cannot be used.
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
  if (!info.isDirectory()) return loadGgufTokenizer(path);
  const jsonFile = join(path, 'tokenizer.json');
  const kept = readKeptTokenizer(jsonFile);
  if (kept !== undefined) return fromTokenizerJson(kept.json, jsonFile, readSurroundings(path), kept.tables);
  // Before it is read: what is written meanwhile then has another state.
  const state = settledState(jsonFile);
  const json = readJsonObject(jsonFile, MAX_TOKENIZER_JSON_BYTES);
  if (json !== undefined) return fromTokenizerJson(json, jsonFile, readSurroundings(path), undefined, state);
  return loadSentencepieceTokenizer(path);
}

/** `known`: tables that were kept; else those of the file are kept as of its `state`. */
async function fromTokenizerJson(
  json: JsonObject,
  file: string,
  around: Surroundings,
  known: BpeTables | undefined,
  state?: string,
): Promise<Tokenizer> {
  const parsed = parseTokenizerJson(json, file, moreAddedTokens(around), known);
  if (known === undefined && state !== undefined && parsed.type === 'BPE') {
    await keepTokenizer(file, state, { json, tables: { tokens: parsed.modelTokens, merges: parsed.merges } });
  }
  return assemble(around, {
    vocabulary: parsed.vocabulary,
    encoding: await textEncoder(parsed),
    decoder: parsed.decoder,
    template: parsed.template,
    ids: {},
    alwaysBos: false,
  });
}

async function loadSentencepieceTokenizer(folder: string): Promise<Tokenizer> {
  const { loadPieces, MAX_SENTENCEPIECE_BYTES } = await import('./load-pieces.ts');
  const file = join(folder, 'tokenizer.model');
  const bytes = readLimited(file, MAX_SENTENCEPIECE_BYTES);
  if (bytes === undefined) {
    throw new TokenizerMissingError({
      what: 'the folder has neither tokenizer.json nor tokenizer.model',
      where: folder,
      fix: 'copy the tokenizer files of the model into its folder',
    });
  }
  const around = readSurroundings(folder);
  const pieces = loadPieces(bytes, file, moreAddedTokens(around), declaredSpecials(around));
  return assemble(around, { ...pieces, template: null, alwaysBos: true });
}

async function loadGgufTokenizer(path: string): Promise<Tokenizer> {
  if (!path.toLowerCase().endsWith('.gguf')) {
    throw new TokenizerMissingError({
      what: 'this file holds no tokenizer',
      where: path,
      fix: 'give the model folder that has tokenizer.json, or a .gguf file',
    });
  }
  const [{ GgufFile }, { readGgufVocabulary }] = await Promise.all([
    import('../formats/gguf-file.ts'),
    import('./gguf-vocabulary.ts'),
  ]);
  using file = await GgufFile.open(path);
  const found = readGgufVocabulary(file);
  const chat = templatesFrom(
    new Map([...found.chatTemplates].map(([name, source]) => [name, { source, where: path }] as const)),
  );
  const literal = (id: number | undefined): string => (id === undefined ? '' : (found.vocabulary.token(id) ?? ''));
  let encoding: TextEncoding;
  let decoder: DecoderPlan;
  if (found.kind === 'bpe') {
    encoding = await textEncoder(found.bpe);
    decoder = found.bpe.decoder;
  } else {
    const { pieceDecoder } = await import('./load-pieces.ts');
    const { pieceEncoder } = await import('./piece-encoder.ts');
    encoding = pieceEncoder(found.pieces, found.matched);
    decoder = pieceDecoder(found.pieces);
  }
  return new Tokenizer({
    source: path,
    vocabulary: found.vocabulary,
    encoding,
    decoder,
    bosId: found.bosId,
    eosIds: found.eosIds,
    before: found.addBos && found.bosId !== undefined ? [found.bosId] : [],
    after: found.addEos ? found.eosIds.slice(0, 1) : [],
    chatTemplates: chat.templates,
    // llama.cpp gives templates these two, empty when the file has no such token.
    specialTokens: { bos_token: literal(found.bosId), eos_token: literal(found.eosIds[0]) },
    idLimit: 0,
    generationConfig: generationConfigIn(file.metadata),
    warnings: [...found.warnings, ...chat.warnings],
  });
}

/** llama.cpp's names for what generation_config.json says. */
const SAMPLING_KEYS = {
  temperature: 'temp',
  top_k: 'top_k',
  top_p: 'top_p',
  min_p: 'min_p',
  repetition_penalty: 'penalty_repeat',
} as const;

/** A GGUF has no `do_sample`: one that has a temperature is meant to be sampled. */
function generationConfigIn(metadata: ReadonlyMap<string, unknown>): JsonObject {
  const found: Record<string, unknown> = {};
  for (const [key, name] of Object.entries(SAMPLING_KEYS)) {
    const value = metadata.get(`general.sampling.${name}`);
    // 0.95 as a float32 is 0.949999988.
    if (value !== undefined) found[key] = typeof value === 'number' ? Number(value.toPrecision(7)) : String(value);
  }
  if (typeof found.temperature === 'number') found.do_sample = found.temperature > 0;
  return found;
}

function readSurroundings(folder: string): Surroundings {
  const read = (name: string): JsonObject => readJsonObject(join(folder, name), MAX_CONFIG_JSON_BYTES) ?? {};
  return {
    folder,
    tokenizerConfig: read('tokenizer_config.json'),
    specialTokensMap: read('special_tokens_map.json'),
    addedTokens: read('added_tokens.json'),
    config: read('config.json'),
    generationConfig: read('generation_config.json'),
    templateFiles: readTemplateFiles(folder),
  };
}

/** Of named templates in their own folder, no more are read: the most seen is four. */
const MAX_TEMPLATE_FILES = 64;

/** chat_template.jinja is "default"; additional_chat_templates/NAME.jinja is NAME, and wins, as in transformers. */
function readTemplateFiles(folder: string): Map<string, NamedSource> {
  const found = new Map<string, NamedSource>();
  const read = (name: string, where: string): void => {
    const bytes = readLimited(where, MAX_CONFIG_JSON_BYTES);
    if (bytes !== undefined) found.set(name, { source: bytes.toString('utf8'), where });
  };
  read('default', join(folder, 'chat_template.jinja'));
  const more = join(folder, NAMED_TEMPLATES);
  const isFolder = statSync(more, { throwIfNoEntry: false })?.isDirectory() === true;
  const names = isFolder ? readdirSync(more).filter((name) => name.endsWith('.jinja')) : [];
  if (names.length > MAX_TEMPLATE_FILES) {
    throw new TokenizerFileError({
      what: `the folder holds ${names.length} chat templates, more than ${MAX_TEMPLATE_FILES}`,
      where: more,
      fix: 'keep those that are used',
    });
  }
  for (const name of names.sort()) read(name.slice(0, -'.jinja'.length), join(more, name));
  return found;
}

/** What the vocabulary files themselves say; the files around them complete it. */
type Core = {
  readonly vocabulary: Vocabulary;
  readonly encoding: TextEncoding;
  readonly decoder: DecoderPlan;
  readonly template: SpecialTemplate | null;
  readonly ids: { readonly bosId?: number | undefined; readonly eosId?: number | undefined };
  /** A BOS is the custom of this kind of tokenizer. */
  readonly alwaysBos: boolean;
};

function assemble(around: Surroundings, core: Core): Tokenizer {
  const { vocabulary } = core;
  const bosId = namedId('bos_token', vocabulary, around) ?? core.ids.bosId;
  const eosId = namedId('eos_token', vocabulary, around) ?? core.ids.eosId;
  const eosIds = new Set<number>(eosId === undefined ? [] : [eosId]);
  for (const id of [...eosTokenIds(around.config), ...eosTokenIds(around.generationConfig)]) eosIds.add(id);
  const chat = templatesFrom(around.templateFiles.size > 0 ? around.templateFiles : configuredTemplates(around));
  return new Tokenizer({
    source: around.folder,
    vocabulary,
    encoding: core.encoding,
    decoder: core.decoder,
    bosId,
    eosIds: [...eosIds],
    ...specialTemplate(core, bosId, eosId, around),
    chatTemplates: chat.templates,
    specialTokens: templateTokens(around, vocabulary, bosId, eosId),
    idLimit: vocabularyLimit(around.config),
    generationConfig: around.generationConfig,
    warnings: chat.warnings,
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
  const specials = new Set(declaredSpecials(around));
  for (const [content, id] of Object.entries(around.addedTokens)) {
    const entry = { content, special: specials.has(content), normalized: false };
    if (!tokens.has(content)) tokens.set(content, addedTokenOf(entry, id, file, `"${content}"`));
  }
  return [...tokens.values()];
}

/** Literals that tokenizer_config.json or special_tokens_map.json give a role. */
function declaredSpecials(around: Surroundings): string[] {
  const names: string[] = [];
  for (const source of [around.tokenizerConfig, around.specialTokensMap]) {
    for (const key of ['bos_token', 'eos_token', 'unk_token', 'pad_token']) {
      const name = contentOf(source[key]);
      if (name !== undefined) names.push(name);
    }
    const more = source.additional_special_tokens;
    if (Array.isArray(more)) names.push(...more.map(contentOf).filter((name) => name !== undefined));
  }
  return [...new Set(names)];
}

/** A token is written as its text or as an object with it. */
function contentOf(value: unknown): string | undefined {
  const content = isObject(value) ? value.content : value;
  return typeof content === 'string' ? content : undefined;
}

/** The id of bos_token or eos_token: as the tokenizer's files name it, else as config.json numbers it. */
function namedId(key: 'bos_token' | 'eos_token', vocabulary: Vocabulary, around: Surroundings): number | undefined {
  for (const source of [around.tokenizerConfig, around.specialTokensMap]) {
    const name = contentOf(source[key]);
    const id = name === undefined ? undefined : vocabulary.id(name);
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
 * post-processor; else the custom of the kind: sentencepiece models begin with BOS, and so do Llama 3's early files that
 * lost their template.
 */
function specialTemplate(
  core: Core,
  bosId: number | undefined,
  eosId: number | undefined,
  around: Surroundings,
): SpecialTemplate {
  const { add_bos_token: addBos, add_eos_token: addEos } = around.tokenizerConfig;
  let before = core.template?.before ?? [];
  let after = core.template?.after ?? [];
  if (core.template === null && bosId !== undefined) {
    if (core.alwaysBos || core.vocabulary.token(bosId) === '<|begin_of_text|>') before = [bosId];
  }
  if (addBos === false) before = [];
  if (addBos === true && bosId !== undefined && !before.includes(bosId)) before = [bosId, ...before];
  if (addEos === false) after = [];
  if (addEos === true && eosId !== undefined && !after.includes(eosId)) after = [...after, eosId];
  return { before, after };
}

/** chat_template in tokenizer_config.json: a text, an object or list of named ones, or null for none. */
function configuredTemplates(around: Surroundings): Map<string, NamedSource> {
  const value = around.tokenizerConfig.chat_template ?? null;
  const where = join(around.folder, 'tokenizer_config.json');
  const found = new Map<string, NamedSource>();
  const add = (name: unknown, source: unknown): void => {
    if (typeof name !== 'string' || typeof source !== 'string') throw badTemplate(where);
    found.set(name, { source, where });
  };
  if (value === null) return found;
  if (typeof value === 'string') add('default', value);
  else if (Array.isArray(value)) for (const entry of value) add(entry?.name, entry?.template);
  else if (isObject(value)) for (const [name, source] of Object.entries(value)) add(name, source);
  else throw badTemplate(where);
  return found;
}

function badTemplate(where: string): TokenizerFileError {
  return new TokenizerFileError({
    what: 'chat_template must be a text, an object of named texts, a list of {"name", "template"}, or null',
    where,
    fix: 'fetch the file again, or put the template into chat_template.jinja',
  });
}

type FoundTemplates = {
  readonly templates: ReadonlyMap<string, ChatTemplate>;
  readonly warnings: readonly string[];
};

function templatesFrom(sources: ReadonlyMap<string, NamedSource>): FoundTemplates {
  const templates = new Map<string, ChatTemplate>();
  const warnings: string[] = [];
  for (const [name, { source, where }] of sources) {
    const corrected = correctedTemplate(source);
    templates.set(name, new ChatTemplate(corrected ?? source, where));
    if (corrected !== undefined) {
      warnings.push(`${where} has a chat template known to be wrong; the published format is used`);
    }
  }
  return { templates, warnings };
}

const NAMED_TOKENS = ['bos_token', 'eos_token', 'unk_token', 'sep_token', 'pad_token', 'cls_token', 'mask_token'];

/**
 * Special tokens by the names that templates call them. As in transformers, every `…_token` of tokenizer_config.json is
 * one, and so is every entry of an object of extra ones; what is null there is undefined for the template.
 */
function templateTokens(
  around: Surroundings,
  vocabulary: Vocabulary,
  bosId: number | undefined,
  eosId: number | undefined,
): Record<string, string> {
  const { tokenizerConfig, specialTokensMap } = around;
  const tokens: Record<string, string> = {};
  const add = (key: string, value: unknown): void => {
    const content = contentOf(value);
    if (content !== undefined) tokens[key] = content;
  };
  // A model whose files only number its tokens still has them.
  for (const [key, id] of [
    ['bos_token', bosId],
    ['eos_token', eosId],
  ] as const) {
    if (tokenizerConfig[key] !== null && id !== undefined) add(key, vocabulary.token(id));
  }
  for (const key of NAMED_TOKENS) if (tokenizerConfig[key] === undefined) add(key, specialTokensMap[key]);
  for (const [key, value] of Object.entries(tokenizerConfig)) if (key.endsWith('_token')) add(key, value);
  for (const more of [tokenizerConfig.extra_special_tokens, tokenizerConfig.model_specific_special_tokens]) {
    if (isObject(more)) for (const [key, value] of Object.entries(more)) add(key, value);
  }
  return tokens;
}

function vocabularyLimit(config: JsonObject): number {
  const size = config.vocab_size;
  return typeof size === 'number' && Number.isInteger(size) && size > 0 ? size : 0;
}
