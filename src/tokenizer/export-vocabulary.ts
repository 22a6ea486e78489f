// Tokenizers from one kind of file to the other: a folder's tokenizer.json as GGUF metadata, and the vocabulary in a GGUF
// as tokenizer.json. Only what both sides can say exactly is converted; anything else is refused by name.

import { join } from 'node:path';
import type { GgufFile } from '../formats/gguf-file.ts';
import type { GgufPair } from '../formats/write-gguf.ts';
import { readGgufVocabulary } from './gguf-vocabulary.ts';
import { isObject, type JsonObject, MAX_TOKENIZER_JSON_BYTES, readJsonObject } from './json-file.ts';
import { GPT2, LLAMA3, QWEN2, QWEN35 } from './pattern.ts';
import { PIECE } from './sentencepiece-model.ts';
import type { Tokenizer } from './tokenizer.ts';
import { TokenizerFileError } from './tokenizer-error.ts';
import { type BpeTokenizer, parseTokenizerJson } from './tokenizer-json.ts';

/**
 * The `tokenizer.*` metadata of a folder's tokenizer.json, for `vocabSize` rows of the embedding. Throws
 * TokenizerFileError when GGUF has no name for the tokenizer's way of splitting words.
 */
export function ggufVocabularyPairs(folder: string, tokenizer: Tokenizer, vocabSize: number): GgufPair[] {
  const file = join(folder, 'tokenizer.json');
  const json = readJsonObject(file, MAX_TOKENIZER_JSON_BYTES);
  if (json === undefined) {
    throw new TokenizerFileError({
      what: 'there is no tokenizer.json to take the vocabulary from',
      where: folder,
      fix: 'convert from a folder that has one (a bare tokenizer.model is not converted)',
    });
  }
  const bpe = parseTokenizerJson(json, file);
  if (bpe.type !== 'BPE' || bpe.continuingPrefix !== '' || bpe.endSuffix !== '') {
    throw new TokenizerFileError({
      what: `GGUF has no form for this ${bpe.type} vocabulary`,
      where: file,
      fix: 'only byte-level BPE and BPE with byte fallback are converted',
    });
  }
  const special = new Map(bpe.vocabulary.added.map((token) => [token.id, token.special]));
  const tokens: string[] = [];
  const types: number[] = [];
  for (let id = 0; id < vocabSize; id += 1) {
    const token = bpe.vocabulary.token(id);
    tokens.push(token ?? `[PAD${id}]`);
    const added = special.get(id);
    const isByte = bpe.byteFallback && token !== undefined && /^<0x[0-9A-F]{2}>$/.test(token);
    if (token === undefined) types.push(PIECE.unused);
    else if (token === bpe.unknownToken && bpe.byteFallback) types.push(PIECE.unknown);
    else if (added !== undefined) types.push(added ? PIECE.control : PIECE.userDefined);
    else types.push(isByte ? PIECE.byte : PIECE.normal);
  }
  const begins = tokenizer.encode('', { addSpecial: true });
  const pairs: GgufPair[] = [
    ...(bpe.byteFallback ? pieceModel(bpe, tokens) : byteLevelModel(bpe, file)),
    { key: 'tokenizer.ggml.tokens', type: 'array', elementType: 'string', value: tokens },
    { key: 'tokenizer.ggml.token_type', type: 'array', elementType: 'i32', value: types },
    {
      key: 'tokenizer.ggml.add_bos_token',
      type: 'bool',
      value: tokenizer.bosId !== undefined && begins[0] === tokenizer.bosId,
    },
  ];
  const { bosId, eosIds, chatTemplates } = tokenizer;
  if (bosId !== undefined) pairs.push({ key: 'tokenizer.ggml.bos_token_id', type: 'u32', value: bosId });
  if (eosIds[0] !== undefined) pairs.push({ key: 'tokenizer.ggml.eos_token_id', type: 'u32', value: eosIds[0] });
  const turnEnd = tokenizer.endOfTurnIds[0];
  if (turnEnd !== undefined) pairs.push({ key: 'tokenizer.ggml.eot_token_id', type: 'u32', value: turnEnd });
  const named = [...chatTemplates.keys()].filter((name) => name !== 'default');
  for (const [name, value] of chatTemplates) {
    const key = `tokenizer.chat_template${name === 'default' ? '' : `.${name}`}`;
    pairs.push({ key, type: 'string', value });
  }
  if (named.length > 0) {
    pairs.push({ key: 'tokenizer.chat_templates', type: 'array', elementType: 'string', value: named });
  }
  return pairs;
}

function mergeTexts(bpe: BpeTokenizer): string[] {
  const { left, right } = bpe.merges;
  return Array.from(left, (id, rank) => `${bpe.vocabulary.token(id)} ${bpe.vocabulary.token(right[rank]!)}`);
}

function byteLevelModel(bpe: BpeTokenizer, file: string): GgufPair[] {
  const pre = preTokenizerName(bpe);
  if (pre === undefined || !(bpe.normalizer === null || isNfc(bpe))) {
    throw new TokenizerFileError({
      what: 'GGUF has no name for this pre-tokenizer or normalizer',
      where: file,
      fix: 'only the splitting rules of Llama 3, Qwen and GPT-2 are converted',
    });
  }
  return [
    { key: 'tokenizer.ggml.model', type: 'string', value: 'gpt2' },
    { key: 'tokenizer.ggml.pre', type: 'string', value: pre },
    { key: 'tokenizer.ggml.merges', type: 'array', elementType: 'string', value: mergeTexts(bpe) },
  ];
}

/** Scores of sentencepiece are minus the rank of the merge that makes a piece. */
function pieceModel(bpe: BpeTokenizer, tokens: readonly string[]): GgufPair[] {
  const ranks = new Map<number, number>();
  bpe.merges.merged.forEach((id, rank) => {
    if (!ranks.has(id)) ranks.set(id, rank);
  });
  const scores = Float32Array.from(tokens, (_, id) => -(ranks.get(id) ?? bpe.merges.left.length + id));
  const unknown = bpe.unknownToken === null ? undefined : bpe.vocabulary.id(bpe.unknownToken);
  return [
    { key: 'tokenizer.ggml.model', type: 'string', value: 'llama' },
    { key: 'tokenizer.ggml.pre', type: 'string', value: 'default' },
    { key: 'tokenizer.ggml.scores', type: 'array', elementType: 'f32', value: scores },
    ...(unknown === undefined
      ? []
      : [{ key: 'tokenizer.ggml.unknown_token_id', type: 'u32', value: unknown } satisfies GgufPair]),
  ];
}

function preTokenizerName(bpe: BpeTokenizer): string | undefined {
  const steps = bpe.preTokenizer?.type === 'Sequence' ? bpe.preTokenizer.pretokenizers : [bpe.preTokenizer];
  if (!Array.isArray(steps)) return undefined;
  const [first, second] = steps as readonly JsonObject[];
  if (first?.type === 'ByteLevel' && first.use_regex !== false && second === undefined) return 'gpt-2';
  const pattern = isObject(first?.pattern) ? first.pattern.Regex : undefined;
  if (first?.type !== 'Split' || second?.type !== 'ByteLevel') return undefined;
  if (pattern === LLAMA3) return bpe.ignoreMerges ? 'llama-bpe' : 'smaug-bpe';
  if (bpe.ignoreMerges) return undefined;
  if (pattern === QWEN2) return isNfc(bpe) ? 'qwen2' : 'stablelm2';
  if (pattern === QWEN35 && isNfc(bpe)) return 'qwen35';
  return pattern === GPT2 ? 'gpt-2' : undefined;
}

function isNfc({ normalizer }: BpeTokenizer): boolean {
  return normalizer?.type === 'NFC';
}

/** tokenizer.json and tokenizer_config.json of a GGUF's byte-level vocabulary. */
export function tokenizerFilesOf(file: GgufFile): {
  readonly tokenizer: JsonObject;
  readonly config: JsonObject;
  readonly warnings: readonly string[];
} {
  const found = readGgufVocabulary(file);
  if (found.kind !== 'bpe') {
    throw new TokenizerFileError({
      what: 'the vocabulary is a sentencepiece one, which is not converted to tokenizer.json',
      where: file.path,
      fix: 'copy tokenizer.model or tokenizer.json of the original model into the new folder',
    });
  }
  const { bpe, bosId, eosIds, addBos, chatTemplates } = found;
  const isOnlyDefault = chatTemplates.size === 1 && chatTemplates.has('default');
  const named = [...chatTemplates].map(([name, template]) => ({ name, template }));
  const literal = (id: number | undefined) => (id === undefined ? undefined : bpe.vocabulary.token(id));
  const bos = literal(bosId);
  const eos = literal(eosIds[0]);
  const added = bpe.vocabulary.added.map(({ id, content, special, normalized, singleWord, lstrip, rstrip }) => ({
    id,
    content,
    single_word: singleWord,
    lstrip,
    rstrip,
    normalized,
    special,
  }));
  const begin = addBos && bos !== undefined ? [{ SpecialToken: { id: bos, type_id: 0 } }] : [];
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
  return {
    warnings: found.warnings,
    tokenizer: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: added,
      normalizer: bpe.normalizer,
      pre_tokenizer: bpe.preTokenizer,
      post_processor: {
        type: 'TemplateProcessing',
        single: [...begin, { Sequence: { id: 'A', type_id: 0 } }],
        pair: [...begin, { Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
        special_tokens: begin.length === 0 ? {} : { [bos!]: { id: bos, ids: [bosId], tokens: [bos] } },
      },
      decoder: byteLevel,
      model: {
        type: 'BPE',
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: bpe.ignoreMerges,
        vocab: Object.fromEntries(bpe.modelTokens.entries()),
        merges: mergeTexts(bpe).map((text) => text.split(' ')),
      },
    },
    config: {
      tokenizer_class: 'PreTrainedTokenizerFast',
      clean_up_tokenization_spaces: false,
      ...(bos !== undefined && { bos_token: bos }),
      ...(eos !== undefined && { eos_token: eos }),
      ...(named.length > 0 && { chat_template: isOnlyDefault ? named[0]!.template : named }),
    },
  };
}
