// The vocabulary inside a GGUF file: byte-level BPE ("gpt2") or sentencepiece ("llama"), brought to the forms that the
// files of other models have, so that the same encoders serve both.

import { GPT2, LLAMA3, QWEN2, QWEN35 } from './pattern.ts';
import { PIECE, type PieceModel } from './sentencepiece-model.ts';
import { TokenizerFileError, TokenizerMissingError } from './tokenizer-error.ts';
import { type BpeTokenizer, parseMerges } from './tokenizer-json.ts';
import { type AddedToken, MAX_TOKEN_LENGTH, MAX_VOCABULARY, quote, TokenMap, Vocabulary } from './vocabulary.ts';

/** What is needed of a GGUF file; each getter returns undefined for a missing key and throws for another type. */
export type GgufMetadata = {
  readonly path: string;
  string(key: string): string | undefined;
  number(key: string): number | undefined;
  boolean(key: string): boolean | undefined;
  strings(key: string): string[] | undefined;
  numbers(key: string): number[] | undefined;
};

export type GgufVocabulary = {
  readonly vocabulary: Vocabulary;
  readonly bosId: number | undefined;
  readonly eosIds: readonly number[];
  readonly addBos: boolean;
  readonly addEos: boolean;
  /** By name; the one for plain chat is called "default". */
  readonly chatTemplates: ReadonlyMap<string, string>;
  /** What a person should know about this file. */
  readonly warnings: readonly string[];
} & (
  | { readonly kind: 'bpe'; readonly bpe: BpeTokenizer }
  | { readonly kind: 'pieces'; readonly pieces: PieceModel; readonly matched: readonly AddedToken[] }
);

/** What llama.cpp does for files that name no pre-tokenizer: each pattern cuts the pieces of the one before. */
const DEFAULT = ['[\\p{P}\\$\\+<=>\\^~\\|]+', GPT2, '\\p{N}+', '[0-9][0-9][0-9]'];

type PreTokenizerKind = {
  readonly patterns: readonly string[];
  readonly ignoreMerges?: true;
  readonly addBos?: true;
  /** The models were trained on normalized text. GGUF has no field for that, and llama.cpp leaves it out. */
  readonly nfc?: true;
};

/** Names in tokenizer.ggml.pre and what they stand for. */
const PRE_TOKENIZERS: Readonly<Record<string, PreTokenizerKind>> = {
  ...named(['llama3', 'llama-v3', 'llama-bpe', 'falcon3', 'falcon_e', 'falcon-e', 'falcon-h1'], {
    patterns: [LLAMA3],
    ignoreMerges: true,
    addBos: true,
  }),
  ...named(['dbrx', 'smaug-bpe'], { patterns: [LLAMA3] }),
  ...named(['gpt-2', 'olmo', 'mpt', 'phi-2', 'jais', 'gptneox'], { patterns: [GPT2] }),
  ...named(['qwen2'], { patterns: [QWEN2], nfc: true }),
  ...named(['stablelm2'], { patterns: [QWEN2] }),
  ...named(['qwen35'], { patterns: [QWEN35], nfc: true }),
  default: { patterns: DEFAULT },
};

function named(names: readonly string[], kind: PreTokenizerKind): Record<string, PreTokenizerKind> {
  return Object.fromEntries(names.map((name) => [name, kind]));
}

/** Reads and checks the vocabulary. Throws TokenizerMissingError when the file has none, TokenizerFileError when it is broken. */
export function readGgufVocabulary(file: GgufMetadata): GgufVocabulary {
  const model = file.string('tokenizer.ggml.model');
  const tokens = file.strings('tokenizer.ggml.tokens');
  if (model === undefined || model === 'none' || tokens === undefined) {
    throw new TokenizerMissingError({
      what: `the file has no vocabulary (tokenizer.ggml.model is ${model === undefined ? 'missing' : quote(model)})`,
      where: file.path,
      fix: 'convert the model again with its tokenizer, or use the model folder it came from',
    });
  }
  if (model !== 'gpt2' && model !== 'llama') {
    throw refuse(
      file,
      `tokenizer.ggml.model is ${quote(model)}`,
      'supported: gpt2 (byte-level BPE), llama (sentencepiece BPE)',
    );
  }
  const given = file.numbers('tokenizer.ggml.token_type') ?? tokens.map(() => PIECE.normal);
  checkTokens(file, tokens, given);
  const { types, relabelled } = controlTypes(tokens, given, file.strings('tokenizer.ggml.merges') ?? []);
  const labels = relabelled.length === 0 ? [] : [mislabelled(file, relabelled)];
  const id = (key: string): number | undefined => {
    const value = file.number(`tokenizer.ggml.${key}`);
    return value !== undefined && tokens[value] !== undefined ? value : undefined;
  };
  // A file names one end, or two; what else ends a text or a turn is known by its name, as llama.cpp knows it.
  const byName = [...tokens.keys()].filter((at) => types[at] === PIECE.control && ENDS.has(tokens[at]!));
  const eosIds = [id('eos_token_id'), id('eot_token_id'), id('eom_token_id'), ...byName].filter(
    (value) => value !== undefined,
  );
  const common = {
    bosId: id('bos_token_id'),
    eosIds: [...new Set(eosIds)],
    addEos: file.boolean('tokenizer.ggml.add_eos_token') ?? false,
    chatTemplates: chatTemplatesOf(file),
  };
  const addBos = file.boolean('tokenizer.ggml.add_bos_token');
  const matched = addedTokens(tokens, types);
  if (model === 'llama') {
    return {
      kind: 'pieces',
      ...common,
      ...readPieces(file, tokens, types, matched),
      addBos: addBos ?? true,
      matched,
      warnings: labels,
    };
  }
  const { pre, warnings } = preTokenizerOf(file, tokens);
  const bpe = readBpe(file, tokens, matched, pre);
  return {
    kind: 'bpe',
    ...common,
    vocabulary: bpe.vocabulary,
    bpe,
    addBos: addBos ?? pre.addBos === true,
    warnings: [...warnings, ...labels],
  };
}

/** Tokens that end a text or a turn wherever they occur. */
const ENDS: ReadonlySet<string> = new Set([
  '<|endoftext|>',
  '<|end_of_text|>',
  '<|eot_id|>',
  '<|eom_id|>',
  '<|im_end|>',
  '<|end|>',
  '<|return|>',
  '<|call|>',
  '<|end_of_turn|>',
  '<end_of_turn>',
  '<end_of_utterance>',
  '<EOT>',
]);

/** How control tokens are written that no end is: headers, beginnings. */
const CONTROL_LOOK = /^<\|[A-Za-z0-9_.-]+\|>$/;

/**
 * Files of older converters call control tokens normal ones, and such a token would be written in the letters of its
 * name. A name that ends things is always control, another one of such a look where no merge makes it a word.
 */
function controlTypes(
  tokens: readonly string[],
  types: readonly number[],
  merges: readonly string[],
): { readonly types: readonly number[]; readonly relabelled: readonly string[] } {
  const suspects = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    if (types[id] === PIECE.normal && (ENDS.has(token) || (merges.length > 0 && CONTROL_LOOK.test(token)))) {
      suspects.set(token, id);
    }
  }
  if (suspects.size === 0) return { types, relabelled: [] };
  for (const merge of merges) {
    if (!merge.endsWith('>')) continue;
    const joined = merge.replace(' ', '');
    if (!ENDS.has(joined)) suspects.delete(joined);
  }
  const changed = [...types];
  for (const id of suspects.values()) changed[id] = PIECE.control;
  return { types: changed, relabelled: [...suspects.keys()] };
}

function mislabelled(file: GgufMetadata, names: readonly string[]): string {
  const some = names.slice(0, 4).map(quote).join(', ');
  const more = names.length > 4 ? ` and ${names.length - 4} more` : '';
  return `${file.path} calls ${some}${more} normal text (tokenizer.ggml.token_type); taken as control tokens`;
}

/** tokenizer.chat_template, and tokenizer.chat_template.NAME for each name of the list tokenizer.chat_templates. */
function chatTemplatesOf(file: GgufMetadata): Map<string, string> {
  const found = new Map<string, string>();
  const add = (name: string, key: string): void => {
    const source = file.string(key);
    if (source !== undefined) found.set(name, source);
  };
  for (const name of file.strings('tokenizer.chat_templates') ?? []) add(name, `tokenizer.chat_template.${name}`);
  add('default', 'tokenizer.chat_template');
  return found;
}

function checkTokens(file: GgufMetadata, tokens: readonly string[], types: readonly number[]): void {
  const again = 'convert the model again with a current converter';
  if (tokens.length === 0) throw refuse(file, 'tokenizer.ggml.tokens is empty', again);
  if (tokens.length > MAX_VOCABULARY) {
    throw refuse(file, `tokenizer.ggml.tokens has ${tokens.length} entries, more than ${MAX_VOCABULARY}`, again);
  }
  if (types.length !== tokens.length) {
    throw refuse(file, `${tokens.length} tokens but ${types.length} token types`, again);
  }
  const seen = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    if (token.length > MAX_TOKEN_LENGTH) throw refuse(file, `token ${id} has ${token.length} characters`, again);
    const other = seen.get(token);
    if (other !== undefined) throw refuse(file, `tokens ${other} and ${id} are both ${quote(token)}`, again);
    seen.set(token, id);
  }
}

/** Control and unknown tokens mark structure; user-defined ones are words that must not be cut. */
function addedTokens(tokens: readonly string[], types: readonly number[]): AddedToken[] {
  const out: AddedToken[] = [];
  for (const [id, content] of tokens.entries()) {
    const type = types[id];
    if (content === '' || (type !== PIECE.control && type !== PIECE.unknown && type !== PIECE.userDefined)) continue;
    const special = type !== PIECE.userDefined;
    out.push({ id, content, special, normalized: false, singleWord: false, lstrip: false, rstrip: false });
  }
  return out;
}

/** The pre-tokenizer the file names; the official 2B-4T file names none and is known by its vocabulary. */
function preTokenizerOf(
  file: GgufMetadata,
  tokens: readonly string[],
): { readonly pre: PreTokenizerKind; readonly warnings: readonly string[] } {
  const name = file.string('tokenizer.ggml.pre');
  if (name === undefined && tokens.length === 128_256 && tokens[128_000] === '<|begin_of_text|>') {
    return { pre: PRE_TOKENIZERS['llama-bpe']!, warnings: [] };
  }
  if (name === undefined || name === 'default') {
    const warning = `${file.path} does not say how it splits words (tokenizer.ggml.pre); llama.cpp's default is used and may differ from the model's training`;
    return { pre: PRE_TOKENIZERS.default!, warnings: [warning] };
  }
  const pre = Object.hasOwn(PRE_TOKENIZERS, name) ? PRE_TOKENIZERS[name] : undefined;
  if (pre !== undefined) return { pre, warnings: [] };
  const known = Object.keys(PRE_TOKENIZERS).join(', ');
  throw refuse(
    file,
    `tokenizer.ggml.pre is ${quote(name)}`,
    `supported: ${known}; or use the model folder with its tokenizer.json`,
  );
}

function readBpe(
  file: GgufMetadata,
  tokens: readonly string[],
  added: readonly AddedToken[],
  pre: PreTokenizerKind,
): BpeTokenizer {
  const merges = file.strings('tokenizer.ggml.merges');
  if (merges === undefined) throw refuse(file, 'tokenizer.ggml.merges is missing', 'convert the model again');
  // All of them: a word that somebody declared to be one may be what a merge makes.
  const modelTokens = new TokenMap(new Map(tokens.map((token, id) => [token, id])), tokens);
  // The left side may itself begin with a space-like character, so the first character never separates.
  const pairs = merges.map((merge) => {
    const space = merge.indexOf(' ', 1);
    return space < 0 ? [merge] : [merge.slice(0, space), merge.slice(space + 1)];
  });
  return {
    type: 'BPE',
    file: file.path,
    vocabulary: new Vocabulary(modelTokens, added, file.path),
    modelTokens,
    merges: parseMerges(pairs, modelTokens, file.path),
    ignoreMerges: pre.ignoreMerges === true,
    byteFallback: false,
    unknownToken: null,
    fuseUnknown: false,
    continuingPrefix: '',
    endSuffix: '',
    normalizer: pre.nfc === true ? { type: 'NFC' } : null,
    preTokenizer: {
      type: 'Sequence',
      pretokenizers: [
        ...pre.patterns.map((Regex) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false })),
        { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
      ],
    },
    decoder: { kind: 'byte-level' },
    template: null,
  };
}

function readPieces(
  file: GgufMetadata,
  tokens: readonly string[],
  types: readonly number[],
  added: readonly AddedToken[],
): { readonly vocabulary: Vocabulary; readonly pieces: PieceModel } {
  const scores = file.numbers('tokenizer.ggml.scores');
  if (scores?.length !== tokens.length || scores.some(Number.isNaN)) {
    throw refuse(
      file,
      `${tokens.length} tokens need as many scores, found ${scores?.length ?? 'none'}`,
      'convert the model again',
    );
  }
  const unknownId = file.number('tokenizer.ggml.unknown_token_id') ?? types.indexOf(PIECE.unknown);
  if (tokens[unknownId] === undefined) throw refuse(file, 'no unknown token is declared', 'convert the model again');
  const ids = new Map(tokens.map((token, id) => [token, id]));
  return {
    vocabulary: new Vocabulary(new TokenMap(ids, tokens), added, file.path),
    pieces: {
      file: file.path,
      pieces: tokens.map((text, id) => ({ text, score: scores[id]!, type: types[id]! })),
      byteFallback: types.includes(PIECE.byte),
      unknownId,
      bosId: undefined,
      eosId: undefined,
      addDummyPrefix: file.boolean('tokenizer.ggml.add_space_prefix') ?? true,
      removeExtraWhitespaces: file.boolean('tokenizer.ggml.remove_extra_whitespaces') ?? false,
    },
  };
}

function refuse(file: GgufMetadata, what: string, fix: string): TokenizerFileError {
  return new TokenizerFileError({ what, where: file.path, fix });
}
