// The seam between a tokenizer and the ways to turn text into ids.

/** Text (well formed) to ids, nothing added at either end. */
export type TextEncoding = {
  /** With `parseSpecial` false, literals of special tokens are ordinary text and special ids do not come out. */
  encode(text: string, options: { readonly parseSpecial: boolean }): number[];
};
