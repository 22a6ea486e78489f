// Which steps of a trace stand for one token. Servers that wait for whole characters send several tokens in one event,
// with the id and log-probability of the last alone: what the step shows would then be another token's. Two things tell:
// an id has one text, so a longer one under the same id holds more tokens; and the server's own count, which comes last.
// Seen on llama.cpp's server with characters of several byte tokens.

import type { Piece } from '../token-source.ts';

export type Settlement = {
  /** Tokens of the answer: the server's count, or else what the pieces show. */
  readonly tokens: number;
  /** Pieces that stand for several tokens, by their place; with how many, where that can be told. */
  readonly merged: ReadonlyMap<number, number | undefined>;
  /** Pieces whose id and log-probability may be another token's. */
  readonly unsure: ReadonlySet<number>;
  /** The server counts more tokens than the pieces can be. */
  readonly hidden: boolean;
};

type Seen = { readonly text: string; readonly id: number | undefined; readonly hasNumbers: boolean };

export class TokenAccount {
  readonly #pieces: Seen[] = [];
  readonly #merged = new Map<number, number | undefined>();
  #shown = 0;

  add({ text, tokenId, logprob, tokens, merged }: Piece): void {
    if (merged) this.#merged.set(this.#pieces.length, tokens);
    this.#pieces.push({ text, id: tokenId, hasNumbers: tokenId !== undefined || logprob !== undefined });
    this.#shown += tokens ?? 1;
  }

  /** `counted`: tokens of the answer as the server counts; `withEnd`: one of them may be the token that ends the text. */
  settle({ counted, withEnd }: { readonly counted: number | undefined; readonly withEnd: boolean }): Settlement {
    const merged = new Map(this.#merged);
    const confirmed = new Set<number>();
    for (const places of this.#placesById().values()) {
      const shortest = places.map((place) => this.#pieces[place]!.text).reduce((a, b) => (b.length < a.length ? b : a));
      for (const place of places) {
        const { text } = this.#pieces[place]!;
        if (text === shortest) confirmed.add(place);
        else if (text.endsWith(shortest)) merged.set(place, undefined);
      }
      // One text alone proves nothing.
      if (places.length === 1) confirmed.delete(places[0]!);
    }
    const hidden = counted === undefined ? 0 : counted - this.#shown;
    const open = new Set<number>();
    if (hidden > 0) {
      // Only characters that are several bytes are waited for.
      this.#pieces.forEach(({ text, hasNumbers }, place) => {
        const isOpen = hasNumbers && /[^\0-\x7f]/.test(text) && !confirmed.has(place) && !merged.has(place);
        if (isOpen) open.add(place);
      });
      const uncounted = [...merged].filter(([, tokens]) => tokens === undefined).map(([place]) => place);
      const suspects = [...uncounted, ...open];
      if (suspects.length === 1 && !(withEnd && hidden === 1 && open.size === 1)) {
        merged.set(suspects[0]!, withEnd ? undefined : 1 + hidden);
        open.clear();
      }
    }
    return {
      tokens: counted ?? this.#shown,
      merged,
      unsure: withEnd && hidden === 1 ? new Set() : open,
      hidden: hidden > (withEnd ? 1 : 0) || merged.size > 0,
    };
  }

  /** Empty texts have part of a character, which the next piece completes: they say nothing of their ids. */
  #placesById(): Map<number, number[]> {
    const places = new Map<number, number[]>();
    this.#pieces.forEach(({ id, text }, place) => {
      if (id === undefined || text === '') return;
      const known = places.get(id);
      if (known === undefined) places.set(id, [place]);
      else known.push(place);
    });
    return places;
  }
}
