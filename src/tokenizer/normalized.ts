// What a normalizer makes of a text.

/**
 * `opening`: so many units at its beginning stand for the first character of the text, or were put before it. Whoever
 * asks whether a piece is the first means whether it begins among them.
 */
export type Normalized = { readonly text: string; readonly opening: number };
