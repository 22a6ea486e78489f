// Training data: a .jsonl of texts, prompt and completion, or chat messages, or a plain .txt; to token sequences with
// their targets, split into what is learned and what is held out, and dealt into batches in a seeded order.

import { constants, isUtf8 } from 'node:buffer';
import { BitnetError } from '../errors.ts';
import { FileAccessError } from '../formats/errors.ts';
import { readSmallFile } from '../formats/read-small-file.ts';
import { JsonError, parseJson } from '../formats/strict-json.ts';
import { SplitMix64 } from '../random/splitmix64.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { Sequence } from './batch.ts';
import { NO_TARGET } from './ops/cross-entropy.ts';

/** A dataset that cannot be used, with the line that is at fault; or one of which nothing is left to train on. */
export class DatasetError extends BitnetError {
  readonly code = 'BAD_DATASET';
  readonly fault = 'call';
}

export type Message = { readonly role: string; readonly content: string };

export type DatasetRecord =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'completion'; readonly prompt: string; readonly completion: string }
  | { readonly kind: 'chat'; readonly messages: readonly Message[] };

/** The whole dataset is held in memory: as one text, which is the longest there can be, then as tokens. */
export const MAX_DATASET_BYTES = constants.MAX_STRING_LENGTH;

export async function readDataset(path: string): Promise<DatasetRecord[]> {
  const fix = 'give one .jsonl or .txt file; split a larger one and train on the parts in turn';
  const bytes = await readSmallFile(path, MAX_DATASET_BYTES).catch((cause: unknown) => {
    if (!(cause instanceof FileAccessError)) throw cause;
    throw new DatasetError({ what: cause.text.what, where: path, fix }, { cause });
  });
  if (bytes === undefined) throw new DatasetError({ what: 'there is no such file', where: path, fix });
  const text = textOf(bytes, path);
  const records = path.endsWith('.txt') ? [{ kind: 'text', text } as const] : parseJsonl(text, path);
  if (records.every((record) => record.kind === 'text' && record.text.trim() === '')) {
    throw new DatasetError({ what: 'there is no text in it', where: path, fix: 'give at least one line of data' });
  }
  return records;
}

/** As UTF-8, without the mark that Windows editors put first. Other bytes would be learned as replacement characters. */
function textOf(bytes: Buffer, path: string): string {
  if (!isUtf8(bytes)) {
    let line = 1;
    for (let start = 0; start < bytes.length; line += 1) {
      const newline = bytes.indexOf(NEWLINE, start);
      const end = newline < 0 ? bytes.length : newline + 1;
      if (!isUtf8(bytes.subarray(start, end))) break;
      start = end;
    }
    throw new DatasetError({ what: 'not UTF-8', where: `${path}, line ${line}`, fix: 'save the file as UTF-8' });
  }
  const text = bytes.toString('utf8');
  return text.startsWith('\ufeff') ? text.slice(1) : text;
}

const NEWLINE = 0x0a;

export function parseJsonl(text: string, path: string): DatasetRecord[] {
  const records: DatasetRecord[] = [];
  text.split('\n').forEach((line, index) => {
    if (line.trim() === '') return;
    const where = `${path}, line ${index + 1}`;
    let value: unknown;
    try {
      value = parseJson(line, { where, fix: 'write one JSON object a line' });
    } catch (cause) {
      throw cause instanceof JsonError ? new DatasetError(cause.text, { cause }) : cause;
    }
    const record = recordOf(value);
    if (record === undefined) {
      throw new DatasetError({
        what: `${line.length > 60 ? `${line.slice(0, 57)}...` : line} is none of the known forms`,
        where,
        fix: 'write {"text"}, {"prompt", "completion"} or {"messages": [{"role", "content"}]}, all of them strings',
      });
    }
    records.push(record);
  });
  return records;
}

function recordOf(value: unknown): DatasetRecord | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { text, prompt, completion, messages } = value as Readonly<Record<string, unknown>>;
  if (typeof text === 'string') return { kind: 'text', text };
  if (typeof prompt === 'string' && typeof completion === 'string') return { kind: 'completion', prompt, completion };
  if (!Array.isArray(messages) || messages.length === 0) return undefined;
  const sound = messages.every(
    (message) =>
      typeof message === 'object' &&
      message !== null &&
      typeof message.role === 'string' &&
      typeof message.content === 'string',
  );
  return sound ? { kind: 'chat', messages } : undefined;
}

/** One record as sequences of at most `context` inputs. */
export function sequencesOf(record: DatasetRecord, tokenizer: Tokenizer, context: number): Sequence[] {
  return examplesOf(record, tokenizer).flatMap(({ ids, from }) => windows(ids, context, (index) => index >= from));
}

/** Ids as sequences of at most `context` inputs. Every token but the first is a target exactly once, if it is to be learned. */
export function windows(
  ids: readonly number[],
  context: number,
  learn: (index: number) => boolean = () => true,
): Sequence[] {
  const sequences: Sequence[] = [];
  for (let start = 0; start + 1 < ids.length; start += context) {
    const end = Math.min(start + context, ids.length - 1);
    const tokens = Int32Array.from(ids.slice(start, end));
    const targets = Int32Array.from(ids.slice(start + 1, end + 1), (id, i) => (learn(start + 1 + i) ? id : NO_TARGET));
    if (targets.some((target) => target !== NO_TARGET)) sequences.push({ tokens, targets });
  }
  return sequences;
}

/** Ids of which those from `from` on are learned. */
type Example = { readonly ids: readonly number[]; readonly from: number };

function examplesOf(record: DatasetRecord, tokenizer: Tokenizer): Example[] {
  const end = tokenizer.eosIds.slice(0, 1);
  if (record.kind === 'text') return [{ ids: [...tokenizer.encode(record.text), ...end], from: 0 }];
  if (record.kind === 'completion') {
    const prompt = tokenizer.encode(record.prompt);
    const completion = tokenizer.encode(record.completion, { addSpecial: false });
    return [{ ids: [...prompt, ...completion, ...end], from: prompt.length }];
  }
  const { messages } = record;
  const replies = messages.flatMap((message, i) =>
    message.role === 'assistant' ? [replyExample(messages.slice(0, i), message, tokenizer)] : [],
  );
  // Nobody answers: there is only the text itself.
  return replies.length > 0
    ? replies
    : [{ ids: tokenizer.encodeChat(messages, { addGenerationPrompt: false }), from: 0 }];
}

/**
 * One answer and all that was said before. The conversation up to it is encoded as it will be when the model is asked;
 * encoding the whole at once could merge the end of the prompt with the beginning of the answer.
 */
function replyExample(before: readonly Message[], reply: Message, tokenizer: Tokenizer): Example {
  const prompt = tokenizer.encodeChat(before, { addGenerationPrompt: true });
  const asked = tokenizer.renderChat(before, { addGenerationPrompt: true });
  const answered = tokenizer.renderChat([...before, reply], { addGenerationPrompt: false });
  const plain = (text: string) => tokenizer.encode(text, { addSpecial: false, parseSpecial: false });
  const answer = answered.startsWith(asked) ? answered.slice(asked.length) : undefined;
  const content = [reply.content, reply.content.trim()].find((text) => answer?.startsWith(text));
  if (answer === undefined || content === undefined) {
    // A template that writes answers in its own way: the content and the end of the turn.
    const end = [...tokenizer.endOfTurnIds, ...tokenizer.eosIds].slice(0, 1);
    return { ids: [...prompt, ...plain(reply.content), ...end], from: prompt.length };
  }
  // Special tokens count in what the template adds, not in what was said.
  const rest = tokenizer.encode(answer.slice(content.length), { addSpecial: false });
  return { ids: [...prompt, ...plain(content), ...rest], from: prompt.length };
}

export type Split = { readonly train: readonly Sequence[]; readonly heldOut: readonly Sequence[] };

/**
 * Sets a share of the records aside, chosen by the seed; of a single record (one long text) the last part instead. The
 * sequences of one record stay together.
 */
export function splitHeldOut(
  records: readonly (readonly Sequence[])[],
  options: { readonly share: number; readonly seed: bigint },
): Split {
  const { share, seed } = options;
  if (share === 0) return { train: records.flat(), heldOut: [] };
  const units = records.length === 1 ? records[0]!.map((sequence) => [sequence]) : records;
  const count = units.length < 2 ? 0 : Math.min(units.length - 1, Math.max(1, Math.round(units.length * share)));
  const order = units.map((_, i) => i);
  if (records.length > 1) shuffle(order, seed);
  const held = new Set(order.slice(order.length - count));
  return {
    train: units.flatMap((unit, i) => (held.has(i) ? [] : unit)),
    heldOut: units.flatMap((unit, i) => (held.has(i) ? unit : [])),
  };
}

/** Fisher-Yates in place. */
export function shuffle(items: number[], seed: bigint): void {
  const random = new SplitMix64(seed);
  for (let i = items.length - 1; i > 0; i -= 1) {
    const j = Math.floor(random.nextFloat() * (i + 1));
    [items[i], items[j]] = [items[j]!, items[i]!];
  }
}

/** Where a run stands in its data. */
export type Cursor = { readonly epoch: number; readonly next: number };

/**
 * Deals sequences into batches of about `tokens` tokens, in an order that depends on (seed, epoch) alone; so a cursor is
 * all that a resumed run needs to see the same batches. An epoch ends between batches.
 */
export class BatchDealer {
  readonly #sequences: readonly Sequence[];
  readonly #tokens: number;
  readonly #seed: bigint;
  #epoch = -1;
  #order: number[] = [];

  constructor(sequences: readonly Sequence[], options: { readonly tokens: number; readonly seed: bigint }) {
    this.#sequences = sequences;
    this.#tokens = options.tokens;
    this.#seed = options.seed;
  }

  /** The batch at a cursor (always at least one sequence) and the cursor behind it. */
  deal(cursor: Cursor): { readonly sequences: readonly Sequence[]; readonly cursor: Cursor } {
    this.#orderOf(cursor.epoch);
    const sequences: Sequence[] = [];
    let count = 0;
    let { next } = cursor;
    while (next < this.#order.length) {
      const sequence = this.#sequences[this.#order[next]!]!;
      if (sequences.length > 0 && count + sequence.tokens.length > this.#tokens) break;
      sequences.push(sequence);
      count += sequence.tokens.length;
      next += 1;
    }
    const atEnd = next >= this.#order.length;
    return { sequences, cursor: atEnd ? { epoch: cursor.epoch + 1, next: 0 } : { epoch: cursor.epoch, next } };
  }

  #orderOf(epoch: number): void {
    if (epoch === this.#epoch) return;
    this.#epoch = epoch;
    this.#order = this.#sequences.map((_, i) => i);
    // Seeds of neighbouring epochs must not give related orders: each is a draw of the seed's own stream.
    const seeds = new SplitMix64(this.#seed ^ 0x5eedn);
    let seed = 0n;
    for (let i = 0; i <= epoch; i += 1) seed = seeds.nextUint64();
    shuffle(this.#order, seed);
  }
}
