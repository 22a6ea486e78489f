// One object of an OpenAI-compatible answer as pieces of text. Servers differ in what they tell of tokens:
// - legacy completions: `logprobs: { tokens, token_logprobs }`, where mlx_lm.server puts ids into `tokens`;
// - chat, and llama-server everywhere: `logprobs: { content: [{ token, bytes, logprob, id? }] }`;
// - vLLM: `token_ids` beside the text;
// - many: nothing but text.
// The text of the object always wins: whatever the lists say, the pieces join to it exactly. What the model thinks comes
// under several names, with its tokens in the same lists.

import type { Piece } from '../token-source.ts';
import type { Alternative } from '../types.ts';
import { asObject, type Loose, oneLine } from './words.ts';

export type AnswerPart = {
  readonly pieces: readonly Piece[];
  /** What the model thought, which is no part of its answer. */
  readonly reasoning?: string;
  /** Parts of calls of tools. */
  readonly toolCalls?: readonly CallPart[];
  /** Set in the last part that has a choice. */
  readonly finish?: 'stop' | 'length';
  /** Why it ended, where that is neither its end nor the limit: `tool_calls`, `content_filter`. */
  readonly unusual?: string;
  /** The model that answers. */
  readonly model?: string;
  readonly promptTokens?: number;
  /** All that the model wrote, as the server counts. */
  readonly completionTokens?: number;
  /** Of these, what it thought. */
  readonly reasoningTokens?: number;
};

export type CallPart = {
  readonly index: number;
  readonly id?: string;
  readonly name?: string;
  /** The next piece of the arguments, as JSON text. */
  readonly text?: string;
};

type Token = {
  readonly text?: string;
  readonly bytes?: readonly number[];
  readonly id?: number;
  readonly logprob?: number;
  readonly top?: readonly Alternative[];
};

/** Characters of a model's name that are kept. */
const MAX_NAME = 200;

/** The first choice of `object`: a chunk of a stream or a whole answer, of completions or chat. */
export function readAnswerPart(object: unknown): AnswerPart {
  const { choices, usage, model } = asObject(object) ?? {};
  const told = { ...countsOf(asObject(usage)), ...nameOf(model) };
  const choice = (Array.isArray(choices) ? choices : [])
    .map(asObject)
    .find((candidate) => candidate !== undefined && [undefined, null, 0, '0'].includes(candidate.index as null));
  if (choice === undefined) return { pieces: [], ...told };
  const sources = [choice, asObject(choice.delta), asObject(choice.message)].filter((one) => one !== undefined);
  const said = sources.map(({ text, content, refusal }) => firstText(text, content, refusal)).join('');
  const thought = sources.map(thoughtIn).join('');
  const finish = finishOf(choice.finish_reason);
  const calls = sources.flatMap(({ tool_calls }) => callsIn(tool_calls));
  return {
    pieces: piecesOf(said, tokensOf(choice), { finish, thought }),
    ...(thought === '' ? {} : { reasoning: thought }),
    ...(calls.length === 0 ? {} : { toolCalls: calls }),
    ...(finish === undefined ? {} : { finish }),
    ...(finish === undefined || ['stop', 'length'].includes(String(choice.finish_reason))
      ? {}
      : { unusual: oneLine(String(choice.finish_reason), 40) }),
    ...told,
  };
}

function countsOf(usage: Loose | undefined): Pick<AnswerPart, 'promptTokens' | 'completionTokens' | 'reasoningTokens'> {
  const promptTokens = tokenId(usage?.prompt_tokens);
  const completionTokens = tokenId(usage?.completion_tokens);
  const reasoningTokens = tokenId(asObject(usage?.completion_tokens_details)?.reasoning_tokens);
  return {
    ...(promptTokens === undefined ? {} : { promptTokens }),
    ...(completionTokens === undefined ? {} : { completionTokens }),
    ...(reasoningTokens === undefined ? {} : { reasoningTokens }),
  };
}

function nameOf(model: unknown): { readonly model?: string } {
  const name = typeof model === 'string' ? oneLine(model, MAX_NAME) : '';
  return name === '' ? {} : { model: name };
}

/** The first of these that has text: a text, or a list of parts of which those of type text count. */
function firstText(...candidates: readonly unknown[]): string {
  // Half of a surrogate pair is kept: the other half may come with the next chunk.
  return candidates.map((candidate) => textOf(candidate, /^(output_)?text$/)).find((text) => text !== '') ?? '';
}

/** Text of a value as servers nest it: a text, a part `{type, text}`, or a list of both. Parts of other types are left out. */
function textOf(value: unknown, types: RegExp, depth = 0): string {
  if (typeof value === 'string') return value;
  if (depth > 3) return '';
  if (Array.isArray(value)) return value.map((part) => textOf(part, types, depth + 1)).join('');
  const part = asObject(value);
  if (part === undefined || !types.test(typeof part.type === 'string' ? part.type : 'text')) return '';
  return textOf(part.text ?? part.thinking ?? part.value, /^(output_)?text$|^thinking$/, depth + 1);
}

const THOUGHT = /^(thinking|reasoning|reasoning_text)$/;

/** What stands apart as thought, under the names that servers give it, or as parts of the content. */
function thoughtIn({ reasoning_content, reasoning, reasoning_text, thinking, content }: Loose): string {
  const apart = [reasoning_content, reasoning, reasoning_text, thinking].map((one) => textOf(one, /./));
  const found = apart.find((text) => text !== '');
  if (found !== undefined) return found;
  return Array.isArray(content)
    ? content
        .filter((part) => asObject(part))
        .map((part) => textOf(part, THOUGHT))
        .join('')
    : '';
}

/** Calls at once that are kept of one answer. */
const MAX_CALLS = 128;

function callsIn(value: unknown): CallPart[] {
  if (!Array.isArray(value)) return [];
  return value.slice(0, MAX_CALLS).flatMap((entry: unknown, place): CallPart[] => {
    const { index, id, function: called } = asObject(entry) ?? {};
    const { name, arguments: given } = asObject(called) ?? {};
    const at = tokenId(index) ?? place;
    if (at >= MAX_CALLS) return [];
    const text = typeof given === 'string' ? given : asObject(given) === undefined ? undefined : JSON.stringify(given);
    return [
      {
        index: at,
        ...(typeof id === 'string' && { id: id.slice(0, MAX_NAME) }),
        ...(typeof name === 'string' && { name: name.slice(0, MAX_NAME) }),
        ...(text !== undefined && { text }),
      },
    ];
  });
}

function finishOf(reason: unknown): AnswerPart['finish'] {
  if (typeof reason !== 'string' || reason === '' || reason === 'null') return undefined;
  // Also what ends a text by a filter or a tool call: nothing follows.
  return reason === 'length' || reason === 'max_tokens' ? 'length' : 'stop';
}

function tokensOf(choice: Loose): readonly Token[] {
  const logprobs = asObject(choice.logprobs);
  const ids = Array.isArray(choice.token_ids) ? choice.token_ids.map(tokenId) : [];
  const listed = logprobs === undefined ? [] : listedTokens(logprobs);
  if (listed.length === 0) return ids.map((id) => (id === undefined ? {} : { id }));
  if (ids.length !== listed.length) return listed;
  return listed.map((token, i) => (ids[i] === undefined ? token : { ...token, id: ids[i] }));
}

function listedTokens({ content, tokens, token_logprobs: values, top_logprobs: tops }: Loose): Token[] {
  if (Array.isArray(content)) {
    return content.map((entry: unknown) => {
      const { token, bytes, id, logprob, top_logprobs } = asObject(entry) ?? {};
      return {
        ...named(token),
        ...(isBytes(bytes) ? { bytes } : {}),
        ...(tokenId(id) === undefined ? {} : { id: tokenId(id)! }),
        ...probability(logprob),
        ...topOf(top_logprobs),
      };
    });
  }
  if (!Array.isArray(tokens)) return [];
  return tokens.map((token: unknown, i) => ({
    ...named(token),
    ...probability(Array.isArray(values) ? values[i] : undefined),
    ...topOf(Array.isArray(tops) ? tops[i] : undefined),
  }));
}

/** More than any server tells. */
const MAX_TOP = 64;

/** What else was likely: a list of tokens (chat), or log-probabilities by text (completions). */
function topOf(value: unknown): Token {
  const listed = Array.isArray(value)
    ? value.slice(0, MAX_TOP).map((entry: unknown) => asObject(entry) ?? {})
    : Object.entries(asObject(value) ?? {}).map(([token, logprob]) => ({ token, logprob }));
  const top = listed.slice(0, MAX_TOP).flatMap(({ token, logprob, id }: Loose): Alternative[] => {
    if (typeof token !== 'string' || typeof logprob !== 'number' || !Number.isFinite(logprob)) return [];
    return [
      { token: token.slice(0, MAX_NAME), ...(tokenId(id) === undefined ? {} : { tokenId: tokenId(id)! }), logprob },
    ];
  });
  return top.length === 0 ? {} : { top: top.sort((a, b) => b.logprob - a.logprob) };
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

function piecesOf(
  text: string,
  listed: readonly Token[],
  { finish, thought }: { readonly finish: AnswerPart['finish']; readonly thought: string },
): Piece[] {
  // The token that ends a text is no part of it, and those of a thought are none of the answer.
  if (text === '' && (finish === 'stop' || thought !== '' || listed.length === 0)) return [];
  const tokens = thought === '' ? listed : tokensAtTheEnd(listed, text);
  if (tokens.length <= 1) return [onePiece(text, tokens[0])];
  for (const candidate of finish === 'stop' ? [tokens, tokens.slice(0, -1)] : [tokens]) {
    for (const texts of [candidate.map((token) => token.text), textsFromBytes(candidate)]) {
      if (texts.join('') === text && texts.every((part) => part !== undefined)) {
        return candidate.map((token, i) => pieceOf(texts[i]!, token));
      }
    }
  }
  // Where the tokens' borders are is not known: one piece of so many, without the number of any of them.
  return [{ text, tokens: tokens.length, merged: true }];
}

/** Where a thought and an answer come together: the tokens at the end of the list that make the answer. */
function tokensAtTheEnd(tokens: readonly Token[], text: string): readonly Token[] {
  let length = 0;
  for (let i = tokens.length - 1; i >= 0 && length < text.length; i--) {
    length += tokens[i]!.text?.length ?? 0;
    if (length >= text.length) return tokens.slice(i);
  }
  return [];
}

/** The text of an event with at most one token told. */
function onePiece(text: string, token: Token | undefined): Piece {
  const own = token?.text ?? '';
  // More than white space before the token's own text: others came with it, and its number is not theirs.
  const more = own !== '' && text.endsWith(own) && text.slice(0, -own.length).trim() !== '';
  return more ? { text, merged: true } : pieceOf(text, token);
}

function pieceOf(text: string, token: Token | undefined): Piece {
  return {
    text,
    ...(token?.id === undefined ? {} : { tokenId: token.id }),
    ...(token?.logprob === undefined ? {} : { logprob: token.logprob }),
    ...(token?.top === undefined ? {} : { topLogprobs: token.top }),
  };
}

/** What each token's bytes complete, so that a character over several tokens belongs to the last of them. */
function textsFromBytes(tokens: readonly Token[]): (string | undefined)[] {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  return tokens.map(({ bytes }) => bytes && decoder.decode(Uint8Array.from(bytes), { stream: true }));
}

function tokenId(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : undefined;
}

function isBytes(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((byte) => Number.isInteger(byte) && byte >= 0 && byte <= 255);
}
