// tokenizer.json: checked once, completely, and turned into the form the encoder and decoder are built from. A file that
// passes here cannot make them fail later. The format is that of Hugging Face's tokenizers; only the parts that BPE
// models of the BitNet family use are accepted, everything else is refused by name.

import { isObject, type JsonObject, kindOf } from './json-file.ts';
import type { DecoderPlan } from './token-decoder.ts';
import { TokenizerFileError } from './tokenizer-error.ts';
import {
  type AddedToken,
  checkId,
  MAX_TOKEN_LENGTH,
  quote,
  readTokenTable,
  type TokenTable,
  Vocabulary,
} from './vocabulary.ts';

/** A checked tokenizer.json. */
export type BpeTokenizer = {
  readonly file: string;
  readonly vocabulary: Vocabulary;
  /** Tokens of the BPE model alone, without those that only `added_tokens` names. */
  readonly modelTokens: TokenTable;
  /** Pairs in the order of their rank. */
  readonly merges: Merges;
  /** A piece of text that is a token as a whole is taken at once. */
  readonly ignoreMerges: boolean;
  /** Characters without a token become <0xXX> tokens. */
  readonly byteFallback: boolean;
  readonly unknownToken: string | null;
  /** Neighbouring unknown characters make one unknown token. */
  readonly fuseUnknown: boolean;
  readonly normalizer: JsonObject | null;
  readonly preTokenizer: JsonObject | null;
  readonly decoder: DecoderPlan;
  /** Ids the post-processor puts around a single text; null when the file has no template for that. */
  readonly template: SpecialTemplate | null;
};

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
 * stand for the vocabulary and merges where they were checked before.
 */
export function parseTokenizerJson(
  json: JsonObject,
  file: string,
  more: readonly AddedToken[] = [],
  tables?: BpeTables,
): BpeTokenizer {
  const at = new Place(file);
  const model = at.object(json, 'model');
  const type = model.type ?? 'BPE';
  if (type !== 'BPE') {
    throw at.error(`model.type is ${JSON.stringify(type)}; only BPE is supported`, 'use a model with a BPE tokenizer');
  }
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix'] as const) {
    if ((model[key] ?? '') !== '') {
      throw at.error(`model.${key} is ${JSON.stringify(model[key])}; only empty is supported`, 'use another tokenizer');
    }
  }
  if ((model.dropout ?? 0) !== 0) {
    throw at.error(`model.dropout is ${String(model.dropout)}`, 'set it to null: encoding must be deterministic');
  }
  const modelTokens = tables?.tokens ?? readTokenTable(at.object(model, 'vocab'), file);
  if (modelTokens.size === 0) throw at.error('model.vocab is empty', 'fetch the tokenizer files again');
  const unknownToken = at.textOrNull(model, 'unk_token');
  if (unknownToken !== null && modelTokens.id(unknownToken) === undefined) {
    throw at.error(`model.unk_token ${quote(unknownToken)} is not in model.vocab`, 'fetch the tokenizer files again');
  }
  const added = [...parseAddedTokens(json.added_tokens, at)];
  const known = new Set(added.map((token) => token.content));
  for (const token of more) if (!known.has(token.content)) added.push(token);
  const vocabulary = new Vocabulary(modelTokens, added, file);
  return {
    file,
    vocabulary,
    modelTokens,
    merges: tables?.merges ?? parseMerges(model.merges, modelTokens, file),
    ignoreMerges: model.ignore_merges === true,
    byteFallback: model.byte_fallback === true,
    unknownToken,
    fuseUnknown: model.fuse_unk === true,
    normalizer: at.objectOrNull(json, 'normalizer'),
    preTokenizer: at.objectOrNull(json, 'pre_tokenizer'),
    decoder: parseDecoder(at.objectOrNull(json, 'decoder'), at),
    template: parsePostProcessor(at.objectOrNull(json, 'post_processor'), vocabulary, at),
  };
}

/** Reads fields of an object; every refusal names the file. */
class Place {
  readonly file: string;

  constructor(file: string) {
    this.file = file;
  }

  error(what: string, fix: string): TokenizerFileError {
    return new TokenizerFileError({ what, where: this.file, fix });
  }

  wrongType(key: string, expected: string, value: unknown): TokenizerFileError {
    return this.error(`"${key}" must be ${expected}, found ${kindOf(value)}`, 'fetch the tokenizer files again');
  }

  object(from: JsonObject, key: string): JsonObject {
    const value = from[key];
    if (isObject(value)) return value;
    throw this.wrongType(key, 'an object', value);
  }

  objectOrNull(from: JsonObject, key: string): JsonObject | null {
    return from[key] === undefined || from[key] === null ? null : this.object(from, key);
  }

  textOrNull(from: JsonObject, key: string): string | null {
    const value = from[key] ?? null;
    if (value === null || typeof value === 'string') return value;
    throw this.wrongType(key, 'a string or null', value);
  }

  list(from: JsonObject, key: string): readonly unknown[] {
    const value = from[key];
    if (Array.isArray(value)) return value;
    throw this.wrongType(key, 'an array', value);
  }
}

/** Checks a list of merges ("left right" or pairs) against the tokens. */
export function parseMerges(value: unknown, tokens: TokenTable, file: string): Merges {
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
    const ab = tokens.id(first + second);
    if (a === undefined || b === undefined || ab === undefined) {
      throw strangeMerge(rank, a === undefined ? first : b === undefined ? second : first + second, at);
    }
    left[rank] = a;
    right[rank] = b;
    merged[rank] = ab;
  }
  return { left, right, merged };
}

function badMerge(rank: number, entry: unknown, at: Place): TokenizerFileError {
  return at.error(
    `merges[${rank}] is ${JSON.stringify(entry)?.slice(0, 80)}; expected "left right" or ["left", "right"]`,
    'fetch the tokenizer files again',
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

function parseDecoder(decoder: JsonObject | null, at: Place): DecoderPlan {
  // Without a decoder the reference joins tokens with spaces.
  if (decoder === null) return { kind: 'pieces', replace: [], bytes: 'none', stripStart: 0, separator: ' ' };
  const steps = decoder.type === 'Sequence' ? at.list(decoder, 'decoders') : [decoder];
  const replace: [string, string][] = [];
  let bytes: 'run' | 'none' = 'none';
  let fused = false;
  let stripStart = 0;
  for (const [i, step] of steps.entries()) {
    if (!isObject(step)) throw at.wrongType(`decoder.decoders[${i}]`, 'an object', step);
    const type = step.type;
    if (type === 'ByteLevel' && steps.length === 1) return { kind: 'byte-level' };
    if (type === 'Replace' && bytes === 'none' && !fused) {
      const pattern = step.pattern;
      const from = isObject(pattern) ? pattern.String : undefined;
      const to = step.content;
      if (typeof from !== 'string' || from === '' || typeof to !== 'string') {
        throw at.error(`decoder step ${i}: Replace needs {"String": …} and a "content"`, 'use a supported tokenizer');
      }
      replace.push([from, to]);
    } else if (type === 'ByteFallback' && !fused) bytes = 'run';
    else if (type === 'Fuse') fused = true;
    else if (type === 'Strip' && fused && step.content === ' ' && (step.stop ?? 0) === 0) {
      const start = step.start;
      if (typeof start !== 'number' || !Number.isInteger(start) || start < 0) {
        throw at.error(`decoder step ${i}: Strip.start must be a whole number`, 'fetch the tokenizer files again');
      }
      stripStart += start;
    } else {
      throw at.error(
        `decoder step ${i} (${JSON.stringify(type)}) is not supported here`,
        'supported: ByteLevel, or the sequence Replace, ByteFallback, Fuse, Strip (spaces at the start)',
      );
    }
  }
  return { kind: 'pieces', replace, bytes, stripStart, separator: '' };
}

function parsePostProcessor(post: JsonObject | null, vocabulary: Vocabulary, at: Place): SpecialTemplate | null {
  if (post === null) return null;
  switch (post.type) {
    case 'ByteLevel':
      return null;
    case 'Sequence': {
      let template: SpecialTemplate | null = null;
      for (const [i, step] of at.list(post, 'processors').entries()) {
        if (!isObject(step)) throw at.wrongType(`post_processor.processors[${i}]`, 'an object', step);
        const inner = parsePostProcessor(step, vocabulary, at);
        if (inner !== null && template !== null) {
          template = { before: [...inner.before, ...template.before], after: [...template.after, ...inner.after] };
        } else template = inner ?? template;
      }
      return template;
    }
    case 'TemplateProcessing':
      return parseTemplate(post, vocabulary, at);
    case 'BertProcessing':
    case 'RobertaProcessing':
      return { before: [pairId(post, 'cls', at)], after: [pairId(post, 'sep', at)] };
    default:
      throw at.error(
        `post_processor type ${JSON.stringify(post.type)} is not supported`,
        'supported: TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing, Sequence',
      );
  }
}

function pairId(post: JsonObject, key: string, at: Place): number {
  const pair = at.list(post, key);
  checkId(String(pair[0]), pair[1], at.file);
  return pair[1];
}

function parseTemplate(post: JsonObject, vocabulary: Vocabulary, at: Place): SpecialTemplate {
  const specials = post.special_tokens;
  const before: number[] = [];
  const after: number[] = [];
  let seenText = false;
  for (const [i, item] of at.list(post, 'single').entries()) {
    if (isObject(item) && isObject(item.Sequence)) {
      seenText = true;
      continue;
    }
    const special = isObject(item) ? item.SpecialToken : undefined;
    const name = isObject(special) ? special.id : undefined;
    if (typeof name !== 'string') throw at.wrongType(`post_processor.single[${i}]`, 'a Sequence or SpecialToken', item);
    const entry = isObject(specials) ? specials[name] : undefined;
    const ids: readonly unknown[] = isObject(entry) && Array.isArray(entry.ids) ? entry.ids : [vocabulary.id(name)];
    for (const id of ids) {
      if (typeof id !== 'number' || vocabulary.token(id) === undefined) {
        throw at.error(
          `post_processor.single[${i}] names ${quote(name)} with the id ${String(id)}, which is not in the vocabulary`,
          'fetch the tokenizer files again',
        );
      }
      (seenText ? after : before).push(id);
    }
  }
  return { before, after };
}
