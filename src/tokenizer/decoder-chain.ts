// Decoders of tokenizer.json: steps that take the texts of tokens one after another and give texts. Each is written for a
// stream, so that whatever comes out while tokens arrive joins to what the whole list gives. Where the reference needs
// all tokens before it can say anything (Fuse, and expressions after it), what is certain already is given out.

import { fromByteAlphabet } from './byte-alphabet.ts';
import type { DecoderStage } from './decoder-stage.ts';
import { isObject, type JsonObject } from './json-file.ts';
import { type Finder, finderOf } from './pattern.ts';
import { flatStages, type Place, shown } from './place.ts';
import { byteOfToken, type DecoderPlan } from './token-decoder.ts';
import { strictUtf8, Utf8Stream } from './utf8-stream.ts';
import type { WorkBudget } from './work-budget.ts';

type Kind = { readonly stage: DecoderStage; readonly joins?: true };

const nothing = (): void => {};

/** The plan of a `decoder` object. Throws TokenizerFileError for a kind that is not known. */
export function decoderOf(config: JsonObject | null, at: Place): DecoderPlan {
  // Without a decoder the reference joins tokens with spaces.
  if (config === null) return { kind: 'pieces', replace: [], bytes: 'none', stripStart: 0, separator: ' ' };
  const steps = flatStages(config, 'decoders', at);
  if (steps.length === 1 && steps[0]!.type === 'ByteLevel') return { kind: 'byte-level' };
  return usualPieces(steps) ?? chainOf(steps, at);
}

/** What Llama 2 and its like have: a mark becomes a space, bytes are joined, the space at the start goes. */
function usualPieces(steps: readonly JsonObject[]): DecoderPlan | undefined {
  const [mark, bytes, fuse, strip, ...more] = steps;
  const { pattern, content } = mark ?? {};
  const from = isObject(pattern) ? pattern.String : undefined;
  const usual =
    mark?.type === 'Replace' && bytes?.type === 'ByteFallback' && fuse?.type === 'Fuse' && more.length === 0;
  if (!usual || typeof from !== 'string' || from === '' || typeof content !== 'string') return undefined;
  // What grows must be counted.
  if (content.length > from.length) return undefined;
  let stripStart = 0;
  if (strip !== undefined) {
    const { type, content: space, start, stop } = strip;
    if (type !== 'Strip' || space !== ' ' || !Number.isSafeInteger(start) || (stop ?? 0) !== 0) return undefined;
    stripStart = start as number;
  }
  return stripStart < 0
    ? undefined
    : { kind: 'pieces', replace: [[from, content]], bytes: 'run', stripStart, separator: '' };
}

function chainOf(steps: readonly JsonObject[], at: Place): DecoderPlan {
  let joined = false;
  const stages = steps.map((step) => {
    const { stage, joins } = stageOf(step, joined, at);
    joined ||= joins === true;
    return stage;
  });
  return { kind: 'chain', stages, file: at.file };
}

function stageOf(config: JsonObject, joined: boolean, at: Place): Kind {
  switch (config.type) {
    case 'ByteLevel':
      return { stage: whole(joined, byteLevel), joins: true };
    case 'Fuse':
      return { stage: () => ({ push: (text, emit) => emit(text), end: nothing }), joins: true };
    case 'ByteFallback':
      return { stage: whole(joined, byteFallback) };
    case 'Replace':
      return { stage: replace(config, joined, at) };
    case 'Strip':
      return { stage: strip(config, joined, at) };
    case 'Metaspace':
      return { stage: metaspace(config, joined, at) };
    case 'WordPiece': {
      const prefix = at.text(config, 'prefix', '##');
      const cleans = at.flag(config, 'cleanup', true);
      return { stage: whole(joined, wordPiece(prefix, cleans)) };
    }
    case 'BPEDecoder':
      return { stage: whole(joined, bpe(at.text(config, 'suffix', '</w>'))) };
    case 'CTC':
      return { stage: whole(joined, ctc(config, at)) };
    default:
      throw at.error(
        `the decoder ${shown(config.type)} is not supported`,
        'supported: ByteLevel, Metaspace, ByteFallback, Fuse, Strip, Replace, WordPiece, BPEDecoder, CTC, Sequence',
      );
  }
}

/** A stage of whole tokens; where they were joined before, all of them are one, which is whole at the end. */
function whole(joined: boolean, stage: DecoderStage): DecoderStage {
  if (!joined) return stage;
  return (of) => {
    const inner = stage(of);
    let all = '';
    return {
      push(text) {
        all += text;
      },
      end(emit) {
        if (all !== '') inner.push(all, emit);
        all = '';
        inner.end(emit);
      },
    };
  };
}

const byteLevel: DecoderStage = () => {
  const utf8 = new Utf8Stream('sequence');
  return {
    push: (text, emit) => emit(utf8.push(fromByteAlphabet(text))),
    end: (emit) => emit(utf8.end()),
  };
};

/** A run of <0xXX> is text if all of it is well formed, else every byte is U+FFFD. */
const byteFallback: DecoderStage = () => {
  let run: number[] = [];
  const endRun = (emit: (text: string) => void): void => {
    const bytes = run;
    run = [];
    if (bytes.length === 0) return;
    const text = strictUtf8(bytes);
    if (text !== undefined) emit(text);
    else for (const _ of bytes) emit('\u{fffd}');
  };
  return {
    push(text, emit) {
      const byte = byteOfToken(text);
      if (byte !== undefined) {
        run.push(byte);
        return;
      }
      endRun(emit);
      emit(text);
    },
    end: endRun,
  };
};

const STAGE = 'the decoder';

function replace(config: JsonObject, joined: boolean, at: Place): DecoderStage {
  const find = finderOf(config.pattern, at, 'the decoder Replace');
  const content = at.text(config, 'content');
  const literal = (config.pattern as { readonly String?: unknown }).String;
  const stage: DecoderStage = ({ budget }) => ({
    push: (text, emit) => emit(replaced(text, find, content, budget())),
    end: nothing,
  });
  if (!joined || typeof literal !== 'string' || literal === '') return whole(joined, stage);
  // A literal may be cut between two parts: as much is held as it could begin with.
  return ({ budget }) => {
    let held = '';
    return {
      push(text, emit) {
        held += text;
        const sure = Math.max(endOfMatches(held, literal), held.length - literal.length + 1, 0);
        const part = held.slice(0, sure);
        held = held.slice(sure);
        emit(replaced(part, find, content, budget()));
      },
      end(emit) {
        const part = held;
        held = '';
        emit(replaced(part, find, content, budget()));
      },
    };
  };
}

function endOfMatches(text: string, literal: string): number {
  let end = 0;
  for (let at = text.indexOf(literal); at >= 0; at = text.indexOf(literal, end)) end = at + literal.length;
  return end;
}

function replaced(text: string, find: Finder, content: string, budget: WorkBudget): string {
  // The reference finds nothing in nothing, not even what may be empty.
  if (text === '') return '';
  const parts: string[] = [];
  let done = 0;
  let length = text.length;
  for (const [start, end] of find(text, budget)) {
    length += content.length - (end - start);
    budget.checkLength(length, STAGE);
    parts.push(text.slice(done, start), content);
    done = end;
  }
  parts.push(text.slice(done));
  return parts.join('');
}

/** Characters that Strip takes away. Llama 2 has 1. */
const MAX_STRIP = 1 << 16;

function strip(config: JsonObject, joined: boolean, at: Place): DecoderStage {
  const content = at.character(config, 'content', ' ');
  const start = at.count(config, 'start', 0, 0);
  const stop = at.count(config, 'stop', 0, 0);
  if (Math.max(start, stop) > MAX_STRIP)
    throw at.error(`Strip takes more than ${MAX_STRIP} characters`, 'use another tokenizer');
  if (!joined) {
    return () => ({
      push(text, emit) {
        const begin = leading(text, content, start);
        emit(text.slice(begin, text.length - trailing(text.slice(begin), content, stop)));
      },
      end: nothing,
    });
  }
  return ({ continues }) => {
    let toStrip = continues ? 0 : start;
    let held = '';
    return {
      push(text, emit) {
        const begin = leading(text, content, toStrip);
        toStrip = begin === text.length ? toStrip - begin / content.length : 0;
        const all = held + text.slice(begin);
        const kept = trailing(all, content, stop);
        held = all.slice(all.length - kept);
        emit(all.slice(0, all.length - kept));
      },
      end() {
        held = '';
      },
    };
  };
}

/** Units of the leading characters, `most` at most. */
function leading(text: string, character: string, most: number): number {
  let at = 0;
  for (let i = 0; i < most && text.startsWith(character, at); i++) at += character.length;
  return at;
}

function trailing(text: string, character: string, most: number): number {
  let at = text.length;
  for (let i = 0; i < most && at > 0 && text.endsWith(character, at); i++) at -= character.length;
  return text.length - at;
}

function metaspace(config: JsonObject, joined: boolean, at: Place): DecoderStage {
  const mark = at.character(config, 'replacement', '▁');
  const prefixed = at.flag(config, 'add_prefix_space', true);
  const scheme = at.text(config, 'prepend_scheme', prefixed ? 'always' : 'never');
  if (!['always', 'first', 'never'].includes(scheme)) throw at.error(`Metaspace.prepend_scheme is ${shown(scheme)}`);
  // In the first token every mark goes, not only the one at its start.
  return ({ continues }) => {
    let first = !continues && scheme !== 'never';
    return {
      push(text, emit) {
        emit(text.replaceAll(mark, first ? '' : ' '));
        if (!joined) first = false;
      },
      end: nothing,
    };
  };
}

/** Spaces that writers of word pieces put before signs, and their contractions. */
const CLEANED = [
  [' .', '.'],
  [' ?', '?'],
  [' !', '!'],
  [' ,', ','],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [' do not', " don't"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
] as const;

function cleaned(text: string): string {
  return CLEANED.reduce((out, [from, to]) => out.replaceAll(from, to), text);
}

function wordPiece(prefix: string, cleans: boolean): DecoderStage {
  return ({ continues }) => {
    let first = !continues;
    return {
      push(token, emit) {
        let text = token;
        if (!first) text = token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`;
        first = false;
        emit(cleans ? cleaned(text) : text);
      },
      end: nothing,
    };
  };
}

/** The end of a word is a space, but for the last token's. */
function bpe(suffix: string): DecoderStage {
  const replaceBy = (token: string, content: string, budget: WorkBudget): string => {
    const find: Finder = function* borders(text) {
      if (suffix !== '') {
        for (let i = text.indexOf(suffix); i >= 0; i = text.indexOf(suffix, i + suffix.length)) {
          yield [i, i + suffix.length];
        }
        return;
      }
      let i = 0;
      for (const character of text) {
        yield [i, i];
        i += character.length;
      }
      yield [i, i];
    };
    return replaced(token, find, content, budget);
  };
  return ({ budget }) => {
    let held: string | undefined;
    return {
      push(token, emit) {
        if (held !== undefined) emit(replaceBy(held, ' ', budget()));
        held = token;
      },
      end(emit) {
        if (held !== undefined) emit(replaceBy(held, '', budget()));
        held = undefined;
      },
    };
  };
}

function ctc(config: JsonObject, at: Place): DecoderStage {
  const pad = at.text(config, 'pad_token', '<pad>');
  const delimiter = at.text(config, 'word_delimiter_token', '|');
  const cleans = at.flag(config, 'cleanup', true);
  if (pad === '' || delimiter === '') throw at.error('the decoder CTC has an empty token', 'use another tokenizer');
  return () => {
    let last: string | undefined;
    return {
      push(token, emit) {
        if (token === last) return;
        last = token;
        const text = token.replaceAll(pad, '');
        const out = cleans ? cleaned(text).replaceAll(delimiter, ' ') : text;
        if (out !== '') emit(out);
      },
      end: nothing,
    };
  };
}
