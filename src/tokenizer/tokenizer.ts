// A model's tokenizer: text ↔ ids, the ids that begin and end things, and chat.

import { ArgumentError } from '../errors.ts';
import { AddedTokenMatcher } from './added-token-matcher.ts';
import { type ChatMessage, type ChatTemplate, chooseGuard, mapStrings } from './chat-template.ts';
import { atOnce, inSlices, type TextEncoding } from './text-encoding.ts';
import { type DecoderPlan, openStream, type StreamDecoder, type StreamOptions } from './token-decoder.ts';
import { ChatTemplateError, ChatTemplateMissingError } from './tokenizer-error.ts';
import type { Vocabulary } from './vocabulary.ts';

export type { ChatMessage } from './chat-template.ts';
export type { StreamDecoder, StreamOptions } from './token-decoder.ts';

export type EncodeOptions = {
  /** Put the ids around the text that the model expects, in most cases one BOS before it (default true). */
  readonly addSpecial?: boolean;
  /** Read literals such as "<|eot_id|>" in the text as the token they name (default true, as Hugging Face does). */
  readonly parseSpecial?: boolean;
};

export type ChatOptions = {
  /** End with the beginning of the assistant's turn (default true). */
  readonly addGenerationPrompt?: boolean;
  /** Function declarations, for templates that use them. */
  readonly tools?: readonly unknown[];
};

/** Everything a tokenizer is made of; `loadTokenizer` fills it from a model's files. */
export type TokenizerParts = {
  /** File or folder, for messages. */
  readonly source: string;
  readonly vocabulary: Vocabulary;
  readonly encoding: TextEncoding;
  readonly decoder: DecoderPlan;
  readonly bosId: number | undefined;
  readonly eosIds: readonly number[];
  /** Ids that `addSpecial` puts before and after a text. */
  readonly before: readonly number[];
  readonly after: readonly number[];
  readonly chatTemplate: ChatTemplate | undefined;
  /** Ids below this may come from the model though they have no token (padded embedding tables); they decode to ''. */
  readonly idLimit: number;
  /** What a person should know about these files. */
  readonly warnings: readonly string[];
};

/** With the u flag a surrogate that is half of a pair does not match. */
const LONE_SURROGATE = /\p{Surrogate}/gu;

function wellFormed(text: string): string {
  return text.replace(LONE_SURROGATE, '\u{fffd}');
}

/** Names of the tokens that end a turn in the chat formats in use. */
const TURN_ENDS = ['<|eot_id|>', '<|eom_id|>', '<|im_end|>', '<|end|>', '<|eot|>', '<end_of_turn>', '<|end_of_turn|>'];

export class Tokenizer {
  readonly #parts: TokenizerParts;
  #endOfTurnIds: readonly number[] | undefined;

  constructor(parts: TokenizerParts) {
    this.#parts = parts;
  }

  /** Highest token id plus one. The embedding table may have more rows. */
  get vocabSize(): number {
    return this.#parts.vocabulary.size;
  }

  get bosId(): number | undefined {
    return this.#parts.bosId;
  }

  /** Ids that end a text: of config.json, generation_config.json and the tokenizer's own files together. */
  get eosIds(): readonly number[] {
    return this.#parts.eosIds;
  }

  /** Ids that end a turn in this model's chat template, whether or not a config lists them. */
  get endOfTurnIds(): readonly number[] {
    this.#endOfTurnIds ??= this.#findTurnEnds();
    return this.#endOfTurnIds;
  }

  /** What a person should know about the tokenizer's files; most have nothing. */
  get warnings(): readonly string[] {
    return this.#parts.warnings;
  }

  get chatTemplate(): string | undefined {
    return this.#parts.chatTemplate?.source;
  }

  /**
   * Text to ids. Lone surrogates count as U+FFFD. With `addSpecial` a BOS is added once if the model wants one, whatever
   * the text begins with; a rendered chat prompt goes through `encodeChat`, which never doubles it.
   */
  encode(text: string, { addSpecial = true, parseSpecial = true }: EncodeOptions = {}): number[] {
    const ids = atOnce(this.#parts.encoding.encode(wellFormed(text), { parseSpecial }));
    return addSpecial ? this.#surrounded(ids) : ids;
  }

  /**
   * `encode` in slices of some milliseconds, between which the process does what else it has to: for texts of more than
   * a few thousand characters. Rejects with the signal's reason once it fires.
   */
  async encodeInSlices(
    text: string,
    { addSpecial = true, parseSpecial = true, signal }: EncodeOptions & { readonly signal?: AbortSignal } = {},
  ): Promise<number[]> {
    const ids = await inSlices(this.#parts.encoding.encode(wellFormed(text), { parseSpecial }), signal);
    return addSpecial ? this.#surrounded(ids) : ids;
  }

  /**
   * At least so many ids `encode` makes of a text, found without encoding it: its bytes by those of the longest token.
   * Stops to count once there are more than `enough`. 0 where the vocabulary lets any number of characters become one id
   * or none.
   */
  leastTokens(text: string, enough = Number.POSITIVE_INFINITY): number {
    const least = this.#parts.encoding.least?.();
    if (least === undefined) return 0;
    const { bytesPerId, spaceVanishes } = least;
    // A character has a byte at least, and no more than three a unit.
    const counted = enough === Number.POSITIVE_INFINITY ? text : text.slice(0, bytesPerId * (enough + 1));
    const bytes = Buffer.byteLength(spaceVanishes ? counted.replace(/\p{White_Space}/gu, '') : counted);
    const sure = Math.ceil(bytes / bytesPerId);
    if (counted.length === text.length || sure > enough) return sure;
    return this.leastTokens(text);
  }

  #surrounded(ids: readonly number[]): number[] {
    const { before, after } = this.#parts;
    // Not spread into a call: a long text has more ids than a call may have arguments.
    return before.length + after.length === 0 ? (ids as number[]) : [...before, ...ids, ...after];
  }

  /** Ids to text; special tokens are written out unless `skipSpecial`. Throws ArgumentError for what is not an id. */
  decode(ids: readonly number[], { skipSpecial = false }: { readonly skipSpecial?: boolean } = {}): string {
    const stream = this.streamDecoder({ skipSpecial });
    let text = '';
    for (const id of ids) text += stream.push(id);
    return text + stream.end();
  }

  /**
   * Text as ids arrive: each `push` returns what became certain, `end` the rest, and together they are `decode` of all.
   * Give the prompt's ids as `after` when the stream continues a prompt: its first word then keeps its space.
   */
  streamDecoder(options: StreamOptions = {}): StreamDecoder {
    const stream = openStream(this.#parts.decoder, this.#parts.vocabulary, options);
    return {
      push: (id) => {
        this.#checkId(id);
        return stream.push(id);
      },
      end: () => stream.end(),
    };
  }

  /** One token as a person would read it: its own text with its space; bytes of a cut character as U+FFFD. */
  tokenText(id: number): string {
    this.#checkId(id);
    const { decoder, vocabulary } = this.#parts;
    const alone: DecoderPlan = decoder.kind === 'pieces' ? { ...decoder, stripStart: 0, separator: '' } : decoder;
    const stream = openStream(alone, vocabulary);
    return stream.push(id) + stream.end();
  }

  /** The vocabulary's own spelling ("Ġworld", "▁world", "<0x0A>"); undefined for an id without a token. */
  token(id: number): string | undefined {
    return this.#parts.vocabulary.token(id);
  }

  /** The id of a token in the vocabulary's own spelling. */
  tokenId(token: string): number | undefined {
    return this.#parts.vocabulary.id(token);
  }

  isSpecial(id: number): boolean {
    return this.#parts.vocabulary.isSpecial(id);
  }

  /**
   * All ids at which generation ends: the tokenizer's eosIds and, unless `chat` is false, the ends of turns, with the
   * eos_token_id of the given configurations (objects as in config.json and generation_config.json; other shapes add nothing).
   */
  stopIds(config?: unknown, generationConfig?: unknown): number[] {
    const ids = new Set([...this.eosIds, ...this.endOfTurnIds]);
    for (const source of [config, generationConfig]) for (const id of eosTokenIds(source)) ids.add(id);
    return [...ids].sort((a, b) => a - b);
  }

  /**
   * Whether generation ends at an id: `stopIds` as a question. Which special token ends a turn is not asked before one is
   * written, because what runs a chat template takes longer to load than a small model.
   */
  stopTest(config?: unknown, generationConfig?: unknown): (id: number) => boolean {
    const listed = new Set([...this.eosIds, ...this.#namedTurnEnds()]);
    for (const source of [config, generationConfig]) for (const id of eosTokenIds(source)) listed.add(id);
    return (id) => listed.has(id) || (this.isSpecial(id) && this.endOfTurnIds.includes(id));
  }

  /**
   * A conversation as the text the model was trained on. Throws ChatTemplateMissingError when the model has no chat
   * template, ChatTemplateError when the template refuses the messages.
   */
  renderChat(messages: readonly ChatMessage[], options: ChatOptions = {}): string {
    const { chatTemplate, vocabulary, bosId, eosIds, source } = this.#parts;
    if (chatTemplate === undefined) {
      throw new ChatTemplateMissingError({
        what: 'this model has no chat template',
        where: source,
        fix: 'give a plain prompt instead of messages, or use an instruction-tuned model',
      });
    }
    const literal = (id: number | undefined): string => (id === undefined ? '' : (vocabulary.token(id) ?? ''));
    return chatTemplate.render(messages, {
      addGenerationPrompt: options.addGenerationPrompt ?? true,
      bosToken: literal(bosId),
      eosToken: literal(eosIds[0]),
      ...(options.tools === undefined ? {} : { tools: options.tools }),
    });
  }

  /**
   * A conversation as ids, with one BOS if the model wants one. The template's special tokens count; the same literals
   * inside messages and tools are plain text and cannot end or begin a turn.
   */
  encodeChat(messages: readonly ChatMessage[], options: ChatOptions = {}): number[] {
    const texts: string[] = [];
    mapStrings([messages, options.tools ?? []], (text) => {
      texts.push(text);
      return text;
    });
    const forged = this.#specialLiterals().filter((literal) => texts.some((text) => text.includes(literal)));
    if (forged.length === 0) {
      return this.#withBos(this.encode(this.renderChat(messages, options), { addSpecial: false }));
    }

    const guard = chooseGuard([...texts, this.chatTemplate ?? '']);
    const guarded = (text: string): string =>
      forged.reduce((out, literal) => out.replaceAll(literal, guardLiteral(literal, guard)), text);
    const rendered = this.renderChat(mapStrings(messages, guarded) as ChatMessage[], {
      ...options,
      ...(options.tools === undefined ? {} : { tools: mapStrings(options.tools, guarded) as unknown[] }),
    });
    return this.#encodeGuarded(rendered, guard);
  }

  /** Between the template's special tokens, a stretch in which a guard stands is plain text. */
  #encodeGuarded(rendered: string, guard: string): number[] {
    const matcher = new AddedTokenMatcher(this.#parts.vocabulary.added.filter((token) => token.special));
    const ids: number[] = [];
    for (const { text, id } of matcher.split(rendered)) {
      if (id !== undefined) ids.push(id);
      else {
        const options = { addSpecial: false, parseSpecial: !text.includes(guard) };
        for (const plain of this.encode(text.replaceAll(guard, ''), options)) ids.push(plain);
      }
    }
    return this.#withBos(ids);
  }

  /** The ids that belong before a text, unless they are there already because the template wrote them. */
  #withBos(ids: number[]): number[] {
    const { before } = this.#parts;
    return before.every((id, i) => ids[i] === id) ? ids : [...before, ...ids];
  }

  /** Longest first, so that the first match at a place is the longest one. */
  #specialLiterals(): string[] {
    return this.#parts.vocabulary.added
      .filter((token) => token.special)
      .map((token) => token.content)
      .sort((a, b) => b.length - a.length);
  }

  #findTurnEnds(): number[] {
    if (this.#parts.chatTemplate === undefined) return [];
    return [...new Set([...this.#namedTurnEnds(), ...this.#probeTurnEnd()])].sort((a, b) => a - b);
  }

  /** Well-known names that occur in the template. */
  #namedTurnEnds(): number[] {
    const { chatTemplate, vocabulary } = this.#parts;
    return TURN_ENDS.flatMap((name) => (chatTemplate?.source.includes(name) ? (vocabulary.id(name) ?? []) : []));
  }

  /** What the template itself writes after an assistant's text, if that is a special token. */
  #probeTurnEnd(): number[] {
    const { chatTemplate, vocabulary } = this.#parts;
    const specials = this.#specialLiterals();
    const writesSpecial = specials.some((literal) => chatTemplate!.source.includes(literal));
    if (!writesSpecial && !chatTemplate!.source.includes('eos_token')) return [];
    const reply = 'a reply to probe with';
    try {
      const text = this.renderChat(
        [
          { role: 'user', content: 'a question' },
          { role: 'assistant', content: reply },
        ],
        { addGenerationPrompt: false },
      );
      const rest = text.slice(text.lastIndexOf(reply) + reply.length).trimStart();
      const literal = text.includes(reply) ? specials.find((candidate) => rest.startsWith(candidate)) : undefined;
      return literal === undefined ? [] : [vocabulary.id(literal)!];
    } catch (error) {
      // The template does not take this conversation; the known names remain. A broken template is reported by renderChat.
      if (error instanceof ChatTemplateError) return [];
      throw error;
    }
  }

  #checkId(id: number): void {
    const limit = Math.max(this.#parts.idLimit, this.vocabSize);
    if (Number.isInteger(id) && id >= 0 && id < limit) return;
    throw new ArgumentError({
      what: `${String(id)} is not a token id of this model`,
      where: this.#parts.source,
      fix: `ids are integers from 0 to ${limit - 1}`,
    });
  }
}

function guardLiteral(literal: string, guard: string): string {
  const first = String.fromCodePoint(literal.codePointAt(0)!);
  return first + guard + literal.slice(first.length);
}

/** eos_token_id of a configuration object: one id or a list. */
export function eosTokenIds(config: unknown): number[] {
  if (typeof config !== 'object' || config === null) return [];
  const value = (config as { readonly eos_token_id?: unknown }).eos_token_id;
  const list: readonly unknown[] = Array.isArray(value) ? value : [value];
  return list.filter((id): id is number => typeof id === 'number' && Number.isInteger(id) && id >= 0);
}
