// Keys of `logitBias` as ids.

import { ArgumentError } from '../errors.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';

/** Ids by the text of their token in the middle of a text; several may have one, such as a character and its byte. */
const idsByText = new WeakMap<Tokenizer, ReadonlyMap<string, readonly number[]>>();

const DIGITS = /^\d+$/;

/**
 * The biases by id, each id once, in order of the ids. A key in digits is an id; any other is the text of a token with its
 * space (" the"), and stands for every token of that text. Throws ArgumentError for a key that is neither.
 */
export function biasById(
  bias: Readonly<Record<string, number>>,
  { tokenizer, vocabSize }: { readonly tokenizer: Tokenizer; readonly vocabSize: number },
): [number, number][] {
  const byId = new Map<number, number>();
  const add = (id: number, key: string, value: number) => {
    if (byId.has(id)) {
      throw new ArgumentError({
        what: `logit_bias has the token ${id} twice, once as ${JSON.stringify(key)}`,
        fix: 'give each token once',
      });
    }
    byId.set(id, value);
  };
  for (const [key, value] of Object.entries(bias)) {
    if (DIGITS.test(key)) {
      if (Number(key) >= vocabSize) {
        throw new ArgumentError({
          what: `logit_bias has the token ${key.slice(0, 20)}, the model has tokens from 0 to ${vocabSize - 1}`,
          fix: 'give ids of its vocabulary, or texts of tokens',
        });
      }
      add(Number(key), key, value);
    } else {
      for (const id of idsOf(key, tokenizer)) add(id, key, value);
    }
  }
  return [...byId].sort(([a], [b]) => a - b);
}

function idsOf(text: string, tokenizer: Tokenizer): readonly number[] {
  const found = textsOf(tokenizer).get(text);
  if (found !== undefined) return found;
  const parts = tokenizer.encode(text, { addSpecial: false }).map((id) => JSON.stringify(tokenizer.tokenText(id)));
  throw new ArgumentError({
    what: `logit_bias: no token of the model has the text ${JSON.stringify(text.slice(0, 60))}`,
    fix:
      parts.length > 1 && parts.length <= 8
        ? `give the text of a single token; it is made of ${parts.join(', ')}`
        : 'give the text of a single token with its space, or an id',
  });
}

function textsOf(tokenizer: Tokenizer): ReadonlyMap<string, readonly number[]> {
  const kept = idsByText.get(tokenizer);
  if (kept !== undefined) return kept;
  const texts = new Map<string, number[]>();
  for (let id = 0; id < tokenizer.vocabSize; id += 1) {
    if (tokenizer.token(id) === undefined) continue;
    const text = tokenizer.tokenText(id);
    const ids = texts.get(text);
    if (ids === undefined) texts.set(text, [id]);
    else ids.push(id);
  }
  idsByText.set(tokenizer, texts);
  return texts;
}
