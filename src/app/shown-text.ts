// Text of a model as it is safe and readable to show: special tokens set apart as marks, line breaks and tabs seen, and
// characters that would hide, or turn the text around, by their numbers.

/** How models write their special tokens: `<|eot_id|>`, `<s>`, `<end_of_turn>`, `[INST]`. */
const SPECIAL =
  /<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|<\/?(?:s|bos|eos|pad|unk|mask|cls|sep|think|tool_call|start_of_turn|end_of_turn)>|\[\/?(?:INST|CLS|SEP|PAD|UNK|MASK|BOS|EOS)\]/gu;
const HIDDEN = /[\p{Cc}\p{Cf}\u2028\u2029]/gu;

export type TextPart = { readonly text: string; readonly special: boolean };

/** The parts of a text in their order; none of them is empty. */
export function textParts(text: string): TextPart[] {
  const parts: TextPart[] = [];
  let end = 0;
  const plain = (to: number) => {
    if (to > end) parts.push({ text: seen(text.slice(end, to)), special: false });
  };
  for (const { 0: name, index } of text.matchAll(SPECIAL)) {
    plain(index);
    parts.push({ text: name, special: true });
    end = index + name.length;
  }
  plain(text.length);
  return parts;
}

/** A token; one without text of its own is a mark as well. */
export function tokenParts(token: string): TextPart[] {
  return token === '' ? [{ text: '∅', special: true }] : textParts(token);
}

function seen(text: string): string {
  return text.replace(HIDDEN, (character) => {
    if (character === '\n') return '⏎\n';
    if (character === '\t') return '⇥\t';
    // They join emoji and letters: seen by what they do.
    if (character === '\u200d' || character === '\u200c') return character;
    const code = character.codePointAt(0)!;
    return code < 0x20
      ? String.fromCodePoint(0x2400 + code)
      : `⟨U+${code.toString(16).toUpperCase().padStart(4, '0')}⟩`;
  });
}

/** A log-probability in nats, and as a share; what rounds to nothing has no sign. */
export function nats(logprob: number): string {
  return logprob.toFixed(3).replace('-0.000', '0.000');
}

export function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.001 ? 3 : 1)}%`;
}
