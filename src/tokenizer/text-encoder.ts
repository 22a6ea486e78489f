// Text to ids for tokenizer.json: the stages of the reference (Hugging Face's tokenizers, in Rust) in its order. Added
// tokens are found in the raw text, what lies between is normalized, further added tokens are found in that, what lies
// between is cut into pieces, and the model takes the pieces one by one.

import { AddedTokenMatcher } from './added-token-matcher.ts';
import { BpeModel } from './bpe-model.ts';
import { byteCharacter } from './byte-alphabet.ts';
import { buildNormalizer, type Normalizer } from './normalizer.ts';
import { Place } from './place.ts';
import { buildPreTokenizer } from './pre-tokenizer.ts';
import { type InSteps, type Least, longestBytes, type TextEncoding } from './text-encoding.ts';
import type { TokenModel } from './token-model.ts';
import type { ParsedTokenizer } from './tokenizer-json.ts';
import type { AddedToken } from './vocabulary.ts';
import { WorkBudget } from './work-budget.ts';

/** Pieces between two rests. */
const PIECES = 64;
/** UTF-16 units; a piece that is longer is encoded with rests of its own. */
const LONG_PIECE = 1 << 12;

/** Builds the encoder. Throws TokenizerFileError for a stage that is not known. */
export async function textEncoder(from: ParsedTokenizer): Promise<TextEncoding> {
  const at = new Place(from.file);
  const normalizer = buildNormalizer(from.normalizer, at);
  const preTokenizer = buildPreTokenizer(from.preTokenizer, at);
  const model = await modelOf(from);
  const { added } = from.vocabulary;
  const raw = new AddedTokenMatcher(added.filter((token) => !token.normalized));
  const later = added.filter((token) => token.normalized);
  const spellings = normalizedContents(later, normalizer, from.file);
  from.vocabulary.spell(new Map([...spellings].map(([{ id }, text]) => [id, text])));
  const normalized = new AddedTokenMatcher(later, (token) => spellings.get(token)!);
  const special = new Set(added.filter((token) => token.special).map((token) => token.id));

  function* encode(text: string, { parseSpecial }: { readonly parseSpecial: boolean }): InSteps<number[]> {
    const skip = (token: AddedToken): boolean => !parseSpecial && token.special;
    const avoid = parseSpecial ? undefined : special;
    const budget = new WorkBudget(from.file, text.length);
    const ids: number[] = [];
    let pieces = 0;
    for (const outer of raw.split(text, skip, budget)) {
      if (outer.id !== undefined) {
        ids.push(outer.id);
        if (++pieces % PIECES === 0) yield;
        continue;
      }
      const changed = normalizer.normalize(outer.text, budget);
      for (const inner of normalized.split(changed.text, skip, budget)) {
        if (inner.id !== undefined) {
          ids.push(inner.id);
          if (++pieces % PIECES === 0) yield;
          continue;
        }
        const opening = outer.start === 0 ? Math.max(0, changed.opening - inner.start) : 0;
        for (const piece of preTokenizer.pieces(inner.text, opening, budget)) {
          const long = piece.length > LONG_PIECE;
          for (const id of long ? yield* model.encodeLong(piece, avoid) : model.encode(piece, avoid)) ids.push(id);
          if (++pieces % PIECES === 0) yield;
        }
      }
    }
    return ids;
  }

  /** Bytes that become characters of the alphabet all have a token. */
  const bytes = preTokenizer.writesBytes && alphabetIsThere(from);
  const { shrinks } = normalizer;
  const keepsAll = preTokenizer.keepsAll && (bytes || model.keepsAll);
  let least: Least | undefined;
  return {
    encode,
    least:
      !keepsAll || shrinks === undefined
        ? undefined
        : () => {
            least ??= {
              bytesPerId:
                shrinks * Math.max(longestToken(from, bytes), longestBytes(added.map(({ content }) => content))),
              spaceVanishes: added.some(({ lstrip, rstrip }) => lstrip || rstrip),
            };
            return least;
          },
  };
}

async function modelOf(from: ParsedTokenizer): Promise<TokenModel> {
  switch (from.type) {
    case 'BPE':
      return new BpeModel(from);
    // Loaded only when needed: a first token of the usual models is due within 100 ms.
    case 'Unigram':
      return new (await import('./unigram-model.ts')).UnigramModel(from);
    case 'WordPiece':
      return new (await import('./word-models.ts')).WordPieceModel(from);
    case 'WordLevel':
      return new (await import('./word-models.ts')).WordLevelModel(from);
  }
}

/** How tokens that are looked for in normalized text are written there. All together have one budget. */
function normalizedContents(
  tokens: readonly AddedToken[],
  normalizer: Normalizer,
  file: string,
): ReadonlyMap<AddedToken, string> {
  const budget = new WorkBudget(
    file,
    tokens.reduce((sum, { content }) => sum + content.length, 0),
  );
  let length = 0;
  return new Map(
    tokens.map((token) => {
      const { text } = normalizer.normalize(token.content, budget);
      length += text.length;
      budget.checkLength(length, 'the normalizer');
      return [token, text];
    }),
  );
}

function alphabetIsThere({ modelTokens }: ParsedTokenizer): boolean {
  for (let byte = 0; byte < 256; byte++) if (modelTokens.id(byteCharacter(byte)) === undefined) return false;
  return true;
}

/** In bytes; of a model that is written in the alphabet, every character is one. */
function longestToken({ modelTokens }: ParsedTokenizer, bytes: boolean): number {
  let longest = 1;
  // A character that is unknown has up to four.
  if (!bytes) return Math.max(4, longestBytes(Array.from(modelTokens.entries(), ([token]) => token)));
  for (const [token] of modelTokens.entries()) longest = Math.max(longest, token.length);
  return longest;
}
