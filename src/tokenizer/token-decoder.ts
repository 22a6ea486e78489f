// Ids to text. The stream is the only decoder there is: a whole list is decoded by pushing its ids one after another, so
// that the pieces of a stream always join to the text of the list.
//
// Two kinds of vocabulary exist. Byte-level tokens are bytes, and a character may be cut anywhere. Sentencepiece-style
// tokens are text with "▁" for a space; characters without a token are spelled by <0xXX> tokens, and one space that the
// encoder put in front of everything is taken away again.

import { fromByteAlphabet } from './byte-alphabet.ts';
import type { DecoderStage } from './decoder-stage.ts';
import { strictUtf8, Utf8Stream } from './utf8-stream.ts';
import type { Vocabulary } from './vocabulary.ts';
import { WorkBudget } from './work-budget.ts';

export type DecoderPlan =
  | { readonly kind: 'byte-level' }
  | {
      readonly kind: 'pieces';
      /** Literal replacements in each token, in order; usually "▁" to a space. */
      readonly replace: readonly (readonly [from: string, to: string])[];
      /**
       * <0xXX> tokens. `run`: a run of them is text only if all of it is well formed, else each byte becomes U+FFFD
       * (Hugging Face's ByteFallback); `character`: character by character (sentencepiece); `none`: plain text.
       */
      readonly bytes: 'run' | 'character' | 'none';
      /** How many leading spaces of the whole text go. */
      readonly stripStart: number;
      /** Put between tokens. */
      readonly separator: string;
    }
  /** Any other decoder of tokenizer.json. */
  | { readonly kind: 'chain'; readonly stages: readonly DecoderStage[]; readonly file: string };

export type StreamOptions = {
  /** Ids that stand before the stream. They give no output; with text before it, a stream keeps its leading space. */
  readonly after?: readonly number[];
  /** Special tokens give no text. */
  readonly skipSpecial?: boolean;
};

/** Text that grows token by token. `push` returns what became certain (maybe ''), `end` the rest. */
export type StreamDecoder = {
  push(id: number): string;
  end(): string;
};

const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/;

/** The byte of a `<0xXX>` token, or undefined. */
export function byteOfToken(token: string): number | undefined {
  const match = token.length === 6 ? BYTE_TOKEN.exec(token) : null;
  return match === null ? undefined : Number.parseInt(match[1]!, 16);
}

/** A new stream. Ids without a token (a padded embedding table has such rows) give no text. */
export function openStream(plan: DecoderPlan, vocabulary: Vocabulary, options: StreamOptions = {}): StreamDecoder {
  const shows = (id: number): boolean => !(options.skipSpecial === true && vocabulary.isSpecial(id));
  if (plan.kind === 'byte-level') {
    const utf8 = new Utf8Stream('sequence');
    return {
      push(id) {
        const token = vocabulary.written(id);
        return token === undefined || !shows(id) ? '' : utf8.push(fromByteAlphabet(token));
      },
      end: () => utf8.end(),
    };
  }
  const continues =
    options.after?.some((id) => vocabulary.token(id) !== undefined && !vocabulary.isSpecial(id)) ?? false;
  if (plan.kind === 'chain') return openChain(plan, vocabulary, shows, continues);
  return new PieceStream(plan, vocabulary, shows, continues);
}

function openChain(
  { stages, file }: DecoderPlan & { kind: 'chain' },
  vocabulary: Vocabulary,
  shows: (id: number) => boolean,
  continues: boolean,
): StreamDecoder {
  let budget = new WorkBudget(file, 0);
  let length = 0;
  const steps = stages.map((stage) => stage({ continues, budget: () => budget }));
  /** What the last step gives. */
  let out = '';
  const emitters: ((text: string) => void)[] = [];
  for (let i = steps.length; i >= 0; i--) {
    const step = steps[i];
    const next = emitters[i + 1];
    emitters[i] = step === undefined ? (text) => (out += text) : (text) => step.push(text, next!);
  }
  const taken = (): string => {
    const text = out;
    out = '';
    return text;
  };
  return {
    push(id) {
      const token = vocabulary.written(id);
      if (token === undefined || !shows(id)) return '';
      length += token.length;
      budget = new WorkBudget(file, token.length);
      emitters[0]!(token);
      return taken();
    },
    end() {
      budget = new WorkBudget(file, length);
      for (const [i, step] of steps.entries()) step.end(emitters[i + 1]!);
      return taken();
    },
  };
}

class PieceStream implements StreamDecoder {
  readonly #plan: DecoderPlan & { kind: 'pieces' };
  readonly #vocabulary: Vocabulary;
  readonly #shows: (id: number) => boolean;
  readonly #utf8 = new Utf8Stream('byte');
  #run: number[] = [];
  #toStrip: number;
  #first: boolean;

  constructor(
    plan: DecoderPlan & { kind: 'pieces' },
    vocabulary: Vocabulary,
    shows: (id: number) => boolean,
    continues: boolean,
  ) {
    this.#plan = plan;
    this.#vocabulary = vocabulary;
    this.#shows = shows;
    this.#toStrip = continues ? 0 : plan.stripStart;
    this.#first = !continues;
  }

  push(id: number): string {
    const token = this.#vocabulary.written(id);
    if (token === undefined || !this.#shows(id)) return '';
    const byte = this.#plan.bytes === 'none' ? undefined : byteOfToken(token);
    const separator = this.#first ? '' : this.#plan.separator;
    this.#first = false;
    if (byte !== undefined) {
      if (this.#plan.bytes === 'character') {
        // Only the mark of a piece is taken away; a space spelled as a byte was in the text.
        this.#toStrip = 0;
        return separator + this.#utf8.push([byte]);
      }
      this.#run.push(byte);
      return this.#strip(separator);
    }
    let text = token;
    for (const [from, to] of this.#plan.replace) text = text.replaceAll(from, to);
    return this.#strip(this.#endBytes() + separator + text);
  }

  end(): string {
    return this.#strip(this.#endBytes());
  }

  #endBytes(): string {
    if (this.#plan.bytes === 'character') return this.#utf8.end();
    const run = this.#run;
    if (run.length === 0) return '';
    this.#run = [];
    return strictUtf8(run) ?? '\u{fffd}'.repeat(run.length);
  }

  #strip(text: string): string {
    if (text === '' || this.#toStrip === 0) return text;
    let start = 0;
    while (start < this.#toStrip && text[start] === ' ') start++;
    this.#toStrip = start === text.length ? this.#toStrip - start : 0;
    return text.slice(start);
  }
}
