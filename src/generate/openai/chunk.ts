// One object of an OpenAI-compatible answer as pieces of text. Servers differ in what they tell of tokens:
// - legacy completions: `logprobs: { tokens, token_logprobs }`, where mlx_lm.server puts ids into `tokens`;
// - chat, and llama-server everywhere: `logprobs: { content: [{ token, bytes, logprob, id? }] }`;
// - vLLM: `token_ids` beside the text;
// - many: nothing but text.
// The text of the object always wins: whatever the lists say, the pieces join to it exactly.

import type { Piece } from '../token-source.ts';

export type AnswerPart = {
  readonly pieces: readonly Piece[];
  /** Set in the last part that has a choice. */
  readonly finish?: 'stop' | 'length';
  readonly promptTokens?: number;
};

type Token = {
  readonly text?: string;
  readonly bytes?: readonly number[];
  readonly id?: number;
  readonly logprob?: number;
};

type Loose = { readonly [key: string]: unknown };

/** The first choice of `object`: a chunk of a stream or a whole answer, of completions or chat. */
export function readAnswerPart(object: unknown): AnswerPart {
  const { choices, usage } = object as Loose;
  const promptTokens = tokenId(asObject(usage)?.prompt_tokens);
  const told = promptTokens === undefined ? {} : { promptTokens };
  const choice = (Array.isArray(choices) ? choices : [])
    .map(asObject)
    .find((candidate) => candidate !== undefined && (candidate.index === undefined || candidate.index === 0));
  if (choice === undefined) return { pieces: [], ...told };
  const text = firstText(choice.text, asObject(choice.delta)?.content, asObject(choice.message)?.content);
  const finish = finishOf(choice.finish_reason);
  return {
    pieces: piecesOf(text, tokensOf(choice), finish),
    ...(finish === undefined ? {} : { finish }),
    ...told,
  };
}

function firstText(...candidates: readonly unknown[]): string {
  const text = candidates.find((candidate) => typeof candidate === 'string');
  // Half of a surrogate pair is kept: the other half may come with the next chunk.
  return typeof text === 'string' ? text : '';
}

function finishOf(reason: unknown): AnswerPart['finish'] {
  if (typeof reason !== 'string' || reason === '') return undefined;
  // Also what ends a text by a filter or a tool call: nothing follows.
  return reason === 'length' ? 'length' : 'stop';
}

function tokensOf(choice: Loose): readonly Token[] {
  const logprobs = asObject(choice.logprobs);
  const ids = Array.isArray(choice.token_ids) ? choice.token_ids.map(tokenId) : [];
  const listed = logprobs === undefined ? [] : listedTokens(logprobs);
  if (listed.length === 0) return ids.map((id) => (id === undefined ? {} : { id }));
  if (ids.length !== listed.length) return listed;
  return listed.map((token, i) => (ids[i] === undefined ? token : { ...token, id: ids[i] }));
}

function listedTokens({ content, tokens, token_logprobs: values }: Loose): Token[] {
  if (Array.isArray(content)) {
    return content.map((entry: unknown) => {
      const { token, bytes, id, logprob } = asObject(entry) ?? {};
      return {
        ...named(token),
        ...(isBytes(bytes) ? { bytes } : {}),
        ...(tokenId(id) === undefined ? {} : { id: tokenId(id)! }),
        ...probability(logprob),
      };
    });
  }
  if (!Array.isArray(tokens)) return [];
  return tokens.map((token: unknown, i) => ({
    ...named(token),
    ...probability(Array.isArray(values) ? values[i] : undefined),
  }));
}

/** A token by its text, or by its id where the server puts that in the text's place. */
function named(token: unknown): Token {
  if (typeof token !== 'string') return tokenId(token) === undefined ? {} : { id: tokenId(token)! };
  const id = /^token_id:(\d{1,9})$/.exec(token)?.[1];
  return id === undefined ? { text: token } : { id: Number(id) };
}

function probability(value: unknown): Token {
  return typeof value === 'number' && Number.isFinite(value) ? { logprob: value } : {};
}

function piecesOf(text: string, tokens: readonly Token[], finish: AnswerPart['finish']): Piece[] {
  // The token that ends a text is no part of it.
  if (text === '' && (finish === 'stop' || tokens.length === 0)) return [];
  if (tokens.length <= 1) return [pieceOf(text, tokens[0])];
  for (const candidate of finish === 'stop' ? [tokens, tokens.slice(0, -1)] : [tokens]) {
    for (const texts of [candidate.map((token) => token.text), textsFromBytes(candidate)]) {
      if (texts.join('') === text && texts.every((part) => part !== undefined)) {
        return candidate.map((token, i) => pieceOf(texts[i]!, token));
      }
    }
  }
  // Where the tokens' borders are is not known: one piece, as likely as its tokens together.
  const total = tokens.reduce((sum, { logprob = Number.NaN }) => sum + logprob, 0);
  return [{ text, ...probability(total) }];
}

function pieceOf(text: string, token: Token | undefined): Piece {
  return {
    text,
    ...(token?.id === undefined ? {} : { tokenId: token.id }),
    ...(token?.logprob === undefined ? {} : { logprob: token.logprob }),
  };
}

/** What each token's bytes complete, so that a character over several tokens belongs to the last of them. */
function textsFromBytes(tokens: readonly Token[]): (string | undefined)[] {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  return tokens.map(({ bytes }) => bytes && decoder.decode(Uint8Array.from(bytes), { stream: true }));
}

function asObject(value: unknown): Loose | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Loose) : undefined;
}

function tokenId(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : undefined;
}

function isBytes(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((byte) => Number.isInteger(byte) && byte >= 0 && byte <= 255);
}
