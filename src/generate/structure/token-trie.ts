// A vocabulary as a tree of bytes: which of 150,000 tokens fit a place in a grammar is found by walking it once, a whole
// branch left out as soon as a byte does not fit.

import type { TokenBytes } from '../../tokenizer/token-bytes.ts';
import type { Matcher, Place } from './matcher.ts';
import { overLimit } from './structure-error.ts';

/** Bits by token id: which tokens may come next. */
export type TokenMask = Uint32Array;

/** Ways visited for one mask: some seconds. A schema's takes 100,000 the first time. */
const MAX_MASK_WORK = 50_000_000;
/** Masks kept, of those asked for last. */
const MAX_MASKS = 512;

export class TokenTrie {
  readonly vocabSize: number;
  /** Every single byte is a token: any text can be written. */
  readonly hasAllBytes: boolean;
  readonly stripsStart: boolean;
  readonly #bytes: TokenBytes;
  /** In order of depth first: the byte that leads here, how deep, where the next branch begins, a token that ends here. */
  readonly #byte: Uint8Array;
  readonly #depth: Uint16Array;
  readonly #after: Int32Array;
  readonly #token: Int32Array;
  /** Of tokens with the same bytes the next one, by id; -1 at the end. */
  readonly #same: Int32Array;
  readonly #deepest: number;
  /** Where the branch of each first byte begins; -1 for none. */
  readonly #first = new Int32Array(256).fill(-1);
  #masks = new Map<Place, { readonly mask: TokenMask; readonly count: number }>();

  /** `vocabSize`: length of the logits. `without`: ids that have a meaning beside their text. */
  constructor(bytes: TokenBytes, vocabSize: number, without: (id: number) => boolean) {
    this.vocabSize = vocabSize;
    this.#bytes = bytes;
    this.stripsStart = bytes.stripsStart;
    const tokens: { readonly text: string; readonly id: number }[] = [];
    let size = 0;
    for (let id = 0; id < vocabSize; id++) {
      const own = without(id) ? undefined : bytes.of(id);
      if (own === undefined) continue;
      tokens.push({ text: Buffer.from(own).toString('latin1'), id });
      size += own.length;
    }
    tokens.sort((a, b) => (a.text < b.text ? -1 : a.text > b.text ? 1 : a.id - b.id));
    this.#byte = new Uint8Array(size);
    this.#depth = new Uint16Array(size);
    this.#after = new Int32Array(size);
    this.#token = new Int32Array(size).fill(-1);
    this.#same = new Int32Array(vocabSize).fill(-1);
    /** Nodes from the root to the last token. */
    const path: number[] = [];
    let previous = '';
    let count = 0;
    let deepest = 0;
    for (const { text, id } of tokens) {
      let shared = 0;
      while (shared < previous.length && previous.charCodeAt(shared) === text.charCodeAt(shared)) shared++;
      while (path.length > shared) this.#after[path.pop()!] = count;
      for (let depth = path.length; depth < text.length; depth++) {
        this.#byte[count] = text.charCodeAt(depth);
        this.#depth[count] = depth;
        if (depth === 0) this.#first[text.charCodeAt(0)] = count;
        path.push(count++);
      }
      const end = path.at(-1)!;
      if (this.#token[end] === -1) this.#token[end] = id;
      else {
        let last = this.#token[end]!;
        while (this.#same[last] !== -1) last = this.#same[last]!;
        this.#same[last] = id;
      }
      deepest = Math.max(deepest, text.length);
      previous = text;
    }
    while (path.length > 0) this.#after[path.pop()!] = count;
    this.#byte = this.#byte.slice(0, count);
    this.#deepest = deepest;
    this.hasAllBytes = this.#first.every((node) => node >= 0 && this.#token[node]! >= 0);
  }

  bytesOf(token: number): Uint8Array {
    return this.#bytes.of(token) ?? new Uint8Array();
  }

  /** Tokens whose whole bytes fit, and how many. The mask is shared: not to be written to. */
  allowed(matcher: Matcher, place: Place): { readonly mask: TokenMask; readonly count: number } {
    const known = this.#masks.get(place);
    if (known !== undefined) return known;
    const mask = new Uint32Array(Math.ceil(this.vocabSize / 32));
    let count = 0;
    const limit = matcher.work + MAX_MASK_WORK;
    const places: Place[] = new Array(this.#deepest + 1);
    places[0] = place;
    const nodes = this.#byte.length;
    for (let node = 0; node < nodes; ) {
      const depth = this.#depth[node]!;
      const next = matcher.step(places[depth]!, this.#byte[node]!);
      if (next === null) {
        node = this.#after[node]!;
        continue;
      }
      if (matcher.work > limit) throw overLimit('steps to find the next tokens', MAX_MASK_WORK);
      places[depth + 1] = next;
      for (let token = this.#token[node]!; token >= 0; token = this.#same[token]!) {
        mask[token >> 5]! |= 1 << (token & 31);
        count++;
      }
      node++;
    }
    const found = { mask, count };
    if (this.#masks.size >= MAX_MASKS) this.#masks.delete(this.#masks.keys().next().value!);
    this.#masks.set(place, found);
    return found;
  }

  /** The fewest tokens that spell these bytes; undefined where none do. */
  spell(bytes: Uint8Array): readonly number[] | undefined {
    const count = bytes.length;
    const fewest = new Float64Array(count + 1).fill(Number.POSITIVE_INFINITY);
    const choice: { token: number; end: number }[] = [];
    fewest[count] = 0;
    for (let from = count - 1; from >= 0; from--) {
      let node = this.#first[bytes[from]!]!;
      for (let depth = 0; node >= 0 && node < this.#byte.length; ) {
        const end = from + depth + 1;
        if (this.#token[node]! >= 0 && 1 + fewest[end]! < fewest[from]!) {
          fewest[from] = 1 + fewest[end]!;
          choice[from] = { token: this.#token[node]!, end };
        }
        if (end === count) break;
        const child = this.#child(node, depth + 1, bytes[end]!);
        if (child < 0) break;
        node = child;
        depth++;
      }
    }
    if (fewest[0] === Number.POSITIVE_INFINITY) return undefined;
    const tokens: number[] = [];
    for (let at = 0; at < count; at = choice[at]!.end) tokens.push(choice[at]!.token);
    return tokens;
  }

  #child(node: number, depth: number, byte: number): number {
    const end = this.#after[node]!;
    for (let child = node + 1; child < end && this.#depth[child] === depth; child = this.#after[child]!) {
      if (this.#byte[child] === byte) return child;
    }
    return -1;
  }
}
