// What each token adds to a text, as bytes: the decoder's rules for one token at a time. For whoever has to know before a
// token is chosen what the text would be.

import { fromByteAlphabet } from './byte-alphabet.ts';
import { byteOfToken, type DecoderPlan } from './token-decoder.ts';
import type { Vocabulary } from './vocabulary.ts';

export type TokenBytes = {
  /** Undefined for an id that adds none: special, without a token, or empty. */
  of(id: number): Uint8Array | undefined;
  /** Spaces at the beginning of a text are taken away by the decoder. */
  readonly stripsStart: boolean;
};

/** Undefined for a decoder that looks at more than one token, where a token's bytes depend on what stands around it. */
export function tokenBytes(plan: DecoderPlan, vocabulary: Vocabulary): TokenBytes | undefined {
  if (plan.kind === 'chain' || (plan.kind === 'pieces' && plan.separator !== '')) return undefined;
  const utf8 = new TextEncoder();
  const bytesOf = (written: string): Uint8Array => {
    if (plan.kind === 'byte-level') return fromByteAlphabet(written);
    const byte = plan.bytes === 'none' ? undefined : byteOfToken(written);
    if (byte !== undefined) return Uint8Array.of(byte);
    let text = written;
    for (const [from, to] of plan.replace) text = text.replaceAll(from, to);
    return utf8.encode(text);
  };
  return {
    of(id) {
      const written = vocabulary.isSpecial(id) ? undefined : vocabulary.written(id);
      const bytes = written === undefined ? undefined : bytesOf(written);
      return bytes === undefined || bytes.length === 0 ? undefined : bytes;
    },
    stripsStart: plan.kind === 'pieces' && plan.stripStart > 0,
  };
}
