// Text to ids through @huggingface/tokenizers, for the stages of tokenizer.json that
// bpe-encoder.ts does not have. Loaded only when needed.

import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import type { TextEncoding } from './text-encoding.ts';
import { TokenizerFileError } from './tokenizer-error.ts';
import type { BpeTokenizer } from './tokenizer-json.ts';

export function libraryEncoder(from: BpeTokenizer): TextEncoding {
  const full = build(from, true);
  let plain: LibraryTokenizer | undefined;
  return {
    encode(text, { parseSpecial }) {
      if (!parseSpecial) plain ??= build(from, false);
      const library = parseSpecial ? full : plain!;
      return library.encode(text, { add_special_tokens: false }).ids;
    },
  };
}

function build(from: BpeTokenizer, withSpecial: boolean): LibraryTokenizer {
  const added = from.vocabulary.added.filter((token) => withSpecial || !token.special);
  try {
    return new LibraryTokenizer(
      {
        added_tokens: added.map((token) => ({
          id: token.id,
          content: token.content,
          special: token.special,
          normalized: token.normalized,
          single_word: token.singleWord,
          lstrip: token.lstrip,
          rstrip: token.rstrip,
        })),
        normalizer: from.normalizer,
        pre_tokenizer: from.preTokenizer,
        post_processor: null,
        decoder: null,
        model: {
          type: 'BPE',
          vocab: Object.fromEntries(from.modelTokens.entries()),
          merges: Array.from(from.merges.left, (left, rank) => [
            from.vocabulary.token(left),
            from.vocabulary.token(from.merges.right[rank]!),
          ]),
          unk_token: from.unknownToken,
          byte_fallback: from.byteFallback,
          fuse_unk: from.fuseUnknown,
          ignore_merges: from.ignoreMerges,
        },
      },
      { clean_up_tokenization_spaces: false },
    );
  } catch (cause) {
    throw new TokenizerFileError(
      {
        what: `the tokenizer cannot be built: ${(cause as Error).message}`,
        where: from.file,
        fix: 'fetch the tokenizer files again, or use a model with a supported tokenizer',
      },
      { cause },
    );
  }
}
