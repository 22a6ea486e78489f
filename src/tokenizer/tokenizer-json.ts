// tokenizer.json: checked once, completely, and turned into the form the encoder and decoder are built from. The format is
// that of Hugging Face's tokenizers; what is not known of it is refused by name.

import { decoderOf } from './decoder-chain.ts';
import { isObject, type JsonObject, kindOf } from './json-file.ts';
import { flatStages, Place, shown } from './place.ts';
import type { DecoderPlan } from './token-decoder.ts';
import { TokenizerFileError } from './tokenizer-error.ts';
import {
  type AddedToken,
  checkId,
  MAX_TOKEN_LENGTH,
  MAX_VOCABULARY,
  quote,
  readTokenTable,
  TokenMap,
  type TokenTable,
  Vocabulary,
} from './vocabulary.ts';

type Common = {
  readonly file: string;
  readonly vocabulary: Vocabulary;
  /** Tokens of the model alone, without those that only `added_tokens` names. */
  readonly modelTokens: TokenTable;
  readonly normalizer: JsonObject | null;
  readonly preTokenizer: JsonObject | null;
  readonly decoder: DecoderPlan;
  /** Ids the post-processor puts around a single text; null when the file has no template for that. */
  readonly template: SpecialTemplate | null;
};

/** Byte pair encoding. */
export type BpeTokenizer = Common & {
  readonly type: 'BPE';
  /** Pairs in the order of their rank. */
  readonly merges: Merges;
  /** A piece of text that is a token as a whole is taken at once. */
  readonly ignoreMerges: boolean;
  /** Characters without a token become <0xXX> tokens. */
  readonly byteFallback: boolean;
  readonly unknownToken: string | null;
  /** Neighbouring unknown characters make one unknown token. */
  readonly fuseUnknown: boolean;
  /** Before every character of a piece but the first; after the last. Mostly empty. */
  readonly continuingPrefix: string;
  readonly endSuffix: string;
};

export type UnigramTokenizer = Common & {
  readonly type: 'Unigram';
  /** By id: the logarithm of a probability. */
  readonly scores: Float64Array;
  readonly unknownId: number | undefined;
  readonly byteFallback: boolean;
};

export type WordPieceTokenizer = Common & {
  readonly type: 'WordPiece';
  readonly unknownToken: string;
  readonly continuingPrefix: string;
  /** Words of more characters are unknown. */
  readonly longestWord: number;
};

export type WordLevelTokenizer = Common & { readonly type: 'WordLevel'; readonly unknownToken: string };

/** A checked tokenizer.json. */
export type ParsedTokenizer = BpeTokenizer | UnigramTokenizer | WordPieceTokenizer | WordLevelTokenizer;

/** Three ids for each rank; `merged` is the token of both texts joined. */
export type Merges = {
  readonly left: Int32Array;
  readonly right: Int32Array;
  readonly merged: Int32Array;
  /** The rank of a pair, where that table is there already. */
  readonly ranks?: { get(left: number, right: number): number | undefined };
};

/** The large parts of a tokenizer.json. */
export type BpeTables = { readonly tokens: TokenTable; readonly merges: Merges };

export type SpecialTemplate = { readonly before: readonly number[]; readonly after: readonly number[] };

/** More merges than this are refused. Llama 3 has 280,147, Gemma 3 514,906. */
const MAX_MERGES = 1 << 22;
/** Added tokens. Gemma 3 has 6,415. */
const MAX_ADDED_TOKENS = 1 << 17;

/**
 * Checks a parsed tokenizer.json. `more` are added tokens from tokenizer_config.json that the file itself lacks; `tables`
 * stand for the vocabulary and merges of a BPE model where they were checked before.
 */
export function parseTokenizerJson(
  json: JsonObject,
  file: string,
  more: readonly AddedToken[] = [],
  tables?: BpeTables,
): ParsedTokenizer {
  const at = new Place(file);
  const config = at.object(json, 'model');
  const model = parseModel(config, at, tables);
  const { modelTokens } = model;
  if (modelTokens.size === 0) throw at.error('model.vocab is empty');
  const added = [...parseAddedTokens(json.added_tokens, at)];
  const known = new Set(added.map((token) => token.content));
  for (const token of more) if (!known.has(token.content)) added.push(token);
  const vocabulary = new Vocabulary(modelTokens, added, file);
  return {
    ...model,
    file,
    vocabulary,
    normalizer: at.objectOrNull(json, 'normalizer'),
    preTokenizer: at.objectOrNull(json, 'pre_tokenizer'),
    decoder: decoderOf(at.objectOrNull(json, 'decoder'), at),
    template: parsePostProcessor(at.objectOrNull(json, 'post_processor'), vocabulary, at),
  };
}

/** What a model has of its own. */
type Model<T extends ParsedTokenizer = ParsedTokenizer> = T extends unknown
  ? Omit<T, Exclude<keyof Common, 'modelTokens'>>
  : never;

function parseModel(model: JsonObject, at: Place, tables: BpeTables | undefined): Model {
  const type = kindOfModel(model);
  if (type === 'BPE') return parseBpe(model, at, tables);
  if (type === 'Unigram') return parseUnigram(model, at);
  if (type !== 'WordPiece' && type !== 'WordLevel') {
    throw at.error(`model.type is ${shown(type)}`, 'supported: BPE, Unigram, WordPiece, WordLevel');
  }
  const modelTokens = readTokenTable(at.object(model, 'vocab'), at.file);
  if (type === 'WordLevel') return { type, modelTokens, unknownToken: at.text(model, 'unk_token') };
  return {
    type,
    modelTokens,
    unknownToken: at.text(model, 'unk_token', '[UNK]'),
    continuingPrefix: prefixOf(model, 'continuing_subword_prefix', at) ?? '##',
    longestWord: at.count(model, 'max_input_chars_per_word', 0, 100),
  };
}

/** Old files name no type; the reference knows the model by what it has. */
function kindOfModel(model: JsonObject): unknown {
  if (model.type !== undefined) return model.type;
  if (Array.isArray(model.vocab)) return 'Unigram';
  if (model.merges !== undefined) return 'BPE';
  if (model.max_input_chars_per_word !== undefined) return 'WordPiece';
  return model.unk_token === undefined ? 'BPE' : 'WordLevel';
}

function parseBpe(model: JsonObject, at: Place, tables: BpeTables | undefined): Model<BpeTokenizer> {
  if ((model.dropout ?? 0) !== 0) {
    throw at.error(`model.dropout is ${shown(model.dropout)}`, 'set it to null: encoding must be deterministic');
  }
  const modelTokens = tables?.tokens ?? readTokenTable(at.object(model, 'vocab'), at.file);
  const continuingPrefix = prefixOf(model, 'continuing_subword_prefix', at) ?? '';
  return {
    type: 'BPE',
    modelTokens,
    merges: tables?.merges ?? parseMerges(model.merges, modelTokens, at.file, continuingPrefix.length),
    ignoreMerges: at.flag(model, 'ignore_merges', false),
    byteFallback: at.flag(model, 'byte_fallback', false),
    unknownToken: at.textOrNull(model, 'unk_token'),
    fuseUnknown: at.flag(model, 'fuse_unk', false),
    continuingPrefix,
    endSuffix: prefixOf(model, 'end_of_word_suffix', at) ?? '',
  };
}

/** Characters of a prefix or suffix. The longest seen is "</w>". */
const MAX_AFFIX = 64;

function prefixOf(model: JsonObject, key: string, at: Place): string | null {
  const affix = at.textOrNull(model, key);
  if (affix === null || affix.length <= MAX_AFFIX) return affix;
  throw at.error(`model.${key} has ${affix.length} characters, more than ${MAX_AFFIX}`, 'use another tokenizer');
}

function parseUnigram(model: JsonObject, at: Place): Model<UnigramTokenizer> {
  const list = at.list(model, 'vocab');
  if (list.length > MAX_VOCABULARY) {
    throw at.error(`model.vocab has ${list.length} entries, more than ${MAX_VOCABULARY}`, 'use another tokenizer');
  }
  const ids = new Map<string, number>();
  const tokens: string[] = [];
  const scores = new Float64Array(list.length);
  for (const [id, entry] of list.entries()) {
    const [token, score]: readonly unknown[] = Array.isArray(entry) ? entry : [];
    if (typeof token !== 'string' || token.length > MAX_TOKEN_LENGTH || typeof score !== 'number') {
      throw at.error(`model.vocab[${id}] must be ["token", score]`);
    }
    // A token that is listed twice keeps its last id, as in the reference.
    ids.set(token, id);
    tokens.push(token);
    scores[id] = score;
  }
  const unknownId = model.unk_id ?? undefined;
  if (unknownId !== undefined && (typeof unknownId !== 'number' || tokens[unknownId] === undefined)) {
    throw at.error(`model.unk_id is ${shown(unknownId)}, which is not an id of model.vocab`);
  }
  const modelTokens = new TokenMap(ids, tokens);
  return { type: 'Unigram', modelTokens, scores, unknownId, byteFallback: at.flag(model, 'byte_fallback', false) };
}

/**
 * Checks a list of merges ("left right" or pairs) against the tokens. Of the right one, `prefixLength` units are the
 * mark of what continues a word, which the joined token does not have.
 */
export function parseMerges(value: unknown, tokens: TokenTable, file: string, prefixLength = 0): Merges {
  const at = new Place(file);
  if (!Array.isArray(value)) throw at.wrongType('merges', 'an array', value);
  const count = value.length;
  if (count > MAX_MERGES) {
    throw at.error(`merges has ${count} entries, more than ${MAX_MERGES}`, 'use another tokenizer');
  }
  const left = new Int32Array(count);
  const right = new Int32Array(count);
  const merged = new Int32Array(count);
  // As plain as readTokenTable's loop, and for the same reason.
  for (let rank = 0; rank < count; rank++) {
    const entry: unknown = value[rank];
    const pair: unknown = typeof entry === 'string' ? entry.split(' ') : entry;
    if (!Array.isArray(pair) || pair.length !== 2) throw badMerge(rank, entry, at);
    const first: unknown = pair[0];
    const second: unknown = pair[1];
    if (typeof first !== 'string' || typeof second !== 'string') throw badMerge(rank, entry, at);
    const a = tokens.id(first);
    const b = tokens.id(second);
    const joined = prefixLength === 0 ? first + second : first + second.slice(prefixLength);
    const ab = tokens.id(joined);
    if (a === undefined || b === undefined || ab === undefined) {
      throw strangeMerge(rank, a === undefined ? first : b === undefined ? second : joined, at);
    }
    left[rank] = a;
    right[rank] = b;
    merged[rank] = ab;
  }
  return { left, right, merged };
}

function badMerge(rank: number, entry: unknown, at: Place): TokenizerFileError {
  return at.error(
    `merges[${rank}] is ${Array.isArray(entry) ? `a list of ${entry.length}` : shown(entry)}; expected "left right" or ["left", "right"]`,
  );
}

function strangeMerge(rank: number, token: string, at: Place): TokenizerFileError {
  return at.error(
    `merges[${rank}] needs the token ${quote(token)}, which is not in the vocabulary`,
    'vocabulary and merges must come from one and the same tokenizer',
  );
}

function parseAddedTokens(value: unknown, at: Place): AddedToken[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw at.wrongType('added_tokens', 'an array', value);
  if (value.length > MAX_ADDED_TOKENS) {
    throw at.error(`added_tokens has ${value.length} entries, more than ${MAX_ADDED_TOKENS}`, 'use another tokenizer');
  }
  return value.map((entry: unknown, i) => {
    if (!isObject(entry)) throw at.wrongType(`added_tokens[${i}]`, 'an object', entry);
    return addedTokenOf(entry, entry.id, at.file, `added_tokens[${i}]`);
  });
}

/** One added token from its JSON form (tokenizer.json or added_tokens_decoder). */
export function addedTokenOf(entry: JsonObject, id: unknown, file: string, where: string): AddedToken {
  const content = entry.content;
  if (typeof content !== 'string' || content === '' || content.length > MAX_TOKEN_LENGTH) {
    throw new TokenizerFileError({
      what: `${where}.content must be a string of 1 to ${MAX_TOKEN_LENGTH} characters, found ${kindOf(content)}`,
      where: file,
      fix: 'fetch the tokenizer files again',
    });
  }
  checkId(content, id, file);
  const special = entry.special === true;
  return {
    id,
    content,
    special,
    normalized: typeof entry.normalized === 'boolean' ? entry.normalized : !special,
    singleWord: entry.single_word === true,
    lstrip: entry.lstrip === true,
    rstrip: entry.rstrip === true,
  };
}

function parsePostProcessor(post: JsonObject | null, vocabulary: Vocabulary, at: Place): SpecialTemplate | null {
  let template: SpecialTemplate | null = null;
  for (const step of flatStages(post, 'processors', at)) {
    const inner = processorOf(step, vocabulary, at);
    if (inner !== null && template !== null) {
      template = { before: [...inner.before, ...template.before], after: [...template.after, ...inner.after] };
    } else template = inner ?? template;
  }
  return template;
}

function processorOf(post: JsonObject, vocabulary: Vocabulary, at: Place): SpecialTemplate | null {
  switch (post.type) {
    case 'ByteLevel':
      return null;
    case 'TemplateProcessing':
      return parseTemplate(post, vocabulary, at);
    case 'BertProcessing':
    case 'RobertaProcessing':
      return { before: [pairId(post, 'cls', vocabulary, at)], after: [pairId(post, 'sep', vocabulary, at)] };
    default:
      throw at.error(
        `the post-processor ${shown(post.type)} is not supported`,
        'supported: TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing, Sequence',
      );
  }
}

/** The id of a pair `["token", id]`. */
function pairId(post: JsonObject, key: string, vocabulary: Vocabulary, at: Place): number {
  const [name, id] = at.list(post, key);
  if (typeof name !== 'string') throw at.wrongType(`${key}[0]`, 'a string', name);
  if (typeof id === 'number' && vocabulary.token(id) !== undefined) return id;
  throw notThere(`post_processor.${key}`, name, id, at);
}

function notThere(where: string, name: string, id: unknown, at: Place): TokenizerFileError {
  return at.error(`${where} names ${quote(name)} with the id ${shown(id)}, which is not in the vocabulary`);
}

/** Ids around a text. The longest template in public use has four. */
const MAX_TEMPLATE_IDS = 256;

function parseTemplate(post: JsonObject, vocabulary: Vocabulary, at: Place): SpecialTemplate {
  const specials = post.special_tokens;
  const before: number[] = [];
  const after: number[] = [];
  let seenText = false;
  const items = at.list(post, 'single');
  if (items.length > MAX_TEMPLATE_IDS) {
    throw at.error(
      `post_processor.single has ${items.length} items, more than ${MAX_TEMPLATE_IDS}`,
      'use another tokenizer',
    );
  }
  for (const [i, item] of items.entries()) {
    const where = `post_processor.single[${i}]`;
    if (isObject(item) && isObject(item.Sequence)) {
      if (seenText) throw at.error(`${where} repeats the text`, 'use a tokenizer whose template has it once');
      if (item.Sequence.id !== undefined && item.Sequence.id !== 'A') {
        throw at.error(`${where} is the text ${shown(item.Sequence.id)}; a single text is "A"`);
      }
      seenText = true;
      continue;
    }
    const special = isObject(item) ? item.SpecialToken : undefined;
    const name = isObject(special) ? special.id : undefined;
    if (typeof name !== 'string') throw at.wrongType(where, 'a Sequence or SpecialToken', item);
    const entry = isObject(specials) && Object.hasOwn(specials, name) ? specials[name] : undefined;
    const ids: readonly unknown[] = isObject(entry) && Array.isArray(entry.ids) ? entry.ids : [vocabulary.id(name)];
    for (const id of ids) {
      if (typeof id !== 'number' || vocabulary.token(id) === undefined) throw notThere(where, name, id, at);
      if (before.length + after.length === MAX_TEMPLATE_IDS) {
        throw at.error(`post_processor.single has more than ${MAX_TEMPLATE_IDS} ids`, 'use another tokenizer');
      }
      (seenText ? after : before).push(id);
    }
  }
  if (!seenText) throw at.error('post_processor.single leaves the text out');
  return { before, after };
}
