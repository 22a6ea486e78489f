// A model's tokenizer: text ↔ ids, the ids that begin and end things, and chat.

import { ArgumentError } from '../errors.ts';
import { AddedTokenMatcher } from './added-token-matcher.ts';
import {
  type ChatMessage,
  type ChatTemplate,
  chooseGuard,
  mapStrings,
  type TemplateVariables,
} from './chat-template.ts';
import { atOnce, inSlices, type TextEncoding } from './text-encoding.ts';
import { type TokenBytes, tokenBytes } from './token-bytes.ts';
import { type DecoderPlan, openStream, type StreamDecoder, type StreamOptions } from './token-decoder.ts';
import { ChatTemplateError, ChatTemplateMissingError } from './tokenizer-error.ts';
import type { Vocabulary } from './vocabulary.ts';

export type { ChatMessage, ContentPart, TemplateVariables, ToolCall } from './chat-template.ts';
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
  /** Function declarations (JSON schemas), for templates that use them. */
  readonly tools?: readonly object[] | null;
  /** Texts to answer from, for templates that use them. */
  readonly documents?: readonly object[] | null;
  /** Whether the model is to think before it answers; a template's own default when it is not given. */
  readonly enableThinking?: boolean;
  /** Whatever else a template reads, by its own names: `{ reasoning_effort: 'low' }`. They win over special tokens. */
  readonly variables?: TemplateVariables;
  /** One of several named templates; else "tool_use" when there are tools and it is there, else "default". */
  readonly template?: string;
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
  /** By name; a single one is called "default". */
  readonly chatTemplates: ReadonlyMap<string, ChatTemplate>;
  /** Special tokens by the names that templates call them: bos_token, eos_token, pad_token, … */
  readonly specialTokens: Readonly<Record<string, string>>;
  /** Ids below this may come from the model though they have no token (padded embedding tables); they decode to ''. */
  readonly idLimit: number;
  /** generation_config.json, or what a GGUF has in its place; empty for a model without. */
  readonly generationConfig?: Readonly<Record<string, unknown>>;
  /** What a person should know about these files. */
  readonly warnings: readonly string[];
};

/** With the u flag a surrogate that is half of a pair does not match. */
const LONE_SURROGATE = /\p{Surrogate}/gu;

function wellFormed(text: string): string {
  // Every Node that this runs on has it; TypeScript's library of the language version does not know it yet.
  if ((text as string & { isWellFormed(): boolean }).isWellFormed()) return text;
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

  /** generation_config.json as it was found beside the tokenizer, or the same keys from a GGUF; not checked. */
  get generationConfig(): Readonly<Record<string, unknown>> {
    return this.#parts.generationConfig ?? {};
  }

  /** The source of the template for plain chat. */
  get chatTemplate(): string | undefined {
    return this.#defaultTemplate?.source;
  }

  /** The sources of all templates, by name. */
  get chatTemplates(): ReadonlyMap<string, string> {
    return new Map([...this.#parts.chatTemplates].map(([name, { source }]) => [name, source]));
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

  /** What each token adds to a text; undefined for a decoder that looks at more than one token. */
  get bytes(): TokenBytes | undefined {
    return tokenBytes(this.#parts.decoder, this.#parts.vocabulary);
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
    const { addGenerationPrompt = true, tools, documents, enableThinking, variables } = options;
    return this.#templateFor(options).render(messages, {
      ...this.#parts.specialTokens,
      ...(enableThinking !== undefined && { enable_thinking: enableThinking }),
      ...variables,
      tools: tools ?? null,
      documents: documents ?? null,
      add_generation_prompt: addGenerationPrompt,
    });
  }

  get #defaultTemplate(): ChatTemplate | undefined {
    return this.#parts.chatTemplates.get('default');
  }

  /** Which of several templates renders a conversation, by the rule of transformers. */
  #templateFor({ template, tools }: ChatOptions): ChatTemplate {
    const { chatTemplates, source } = this.#parts;
    const name = template ?? ((tools ?? null) !== null && chatTemplates.has('tool_use') ? 'tool_use' : 'default');
    const found = chatTemplates.get(name);
    if (found !== undefined) return found;
    if (chatTemplates.size === 0) {
      throw new ChatTemplateMissingError({
        what: 'this model has no chat template',
        where: source,
        fix: 'give a plain prompt instead of messages, or use an instruction-tuned model',
      });
    }
    throw new ChatTemplateMissingError({
      what: `this model has no chat template called ${JSON.stringify(name)}`,
      where: source,
      fix: `choose one of ${[...chatTemplates.keys()].sort().join(', ')}`,
    });
  }

  /**
   * A conversation as ids, with one BOS if the model wants one. The template's special tokens count; the same literals
   * inside messages and tools are plain text and cannot end or begin a turn.
   */
  encodeChat(messages: readonly ChatMessage[], options: ChatOptions = {}): number[] {
    const texts: string[] = [];
    const { tools, documents, variables } = options;
    mapStrings([messages, tools, documents, variables], (text) => {
      texts.push(text);
      return text;
    });
    const forged = this.#specialLiterals().filter((literal) => texts.some((text) => text.includes(literal)));
    if (forged.length === 0) {
      return this.#withBos(this.encode(this.renderChat(messages, options), { addSpecial: false }));
    }

    const guard = chooseGuard([...texts, this.#templateFor(options).source]);
    const guarded = (text: string): string =>
      forged.reduce((out, literal) => out.replaceAll(literal, guardLiteral(literal, guard)), text);
    const inside = <T>(value: T): T => mapStrings(value, guarded) as T;
    const rendered = this.renderChat(inside(messages), {
      ...options,
      ...(tools !== undefined && { tools: inside(tools) }),
      ...(documents !== undefined && { documents: inside(documents) }),
      ...(variables !== undefined && { variables: inside(variables) }),
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
    if (this.#defaultTemplate === undefined) return [];
    return [...new Set([...this.#namedTurnEnds(), ...this.#probeTurnEnd()])].sort((a, b) => a - b);
  }

  /** Well-known names that occur in the template. */
  #namedTurnEnds(): number[] {
    const { vocabulary } = this.#parts;
    return TURN_ENDS.flatMap((name) => (this.chatTemplate?.includes(name) ? (vocabulary.id(name) ?? []) : []));
  }

  /** What the template itself writes after an assistant's text, if that is a special token. */
  #probeTurnEnd(): number[] {
    const { vocabulary } = this.#parts;
    const source = this.chatTemplate ?? '';
    const specials = this.#specialLiterals();
    const writesSpecial = specials.some((literal) => source.includes(literal));
    if (!writesSpecial && !source.includes('eos_token')) return [];
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
  return list.filter((id): id is number => typeof id === 'number' && Number.isSafeInteger(id) && id >= 0);
}
