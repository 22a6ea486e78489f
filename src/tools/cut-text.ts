// Texts that are too long for any call. The reader of the wire does not keep them; what stands in their place says how
// long they were, and callTool refuses it.

const CUT = /^\0text (\d{1,10})$/;

/** What stands in the place of a text of so many bytes, as JSON between its quotes. */
export function cutText(bytes: number): string {
  return `\\u0000text ${bytes}`;
}

/** How long the text was that stood in the place of this one; undefined for any other value. */
export function cutBytes(value: unknown): number | undefined {
  // Most texts are something else at their first character.
  if (typeof value !== 'string' || value.charCodeAt(0) !== 0) return undefined;
  const bytes = CUT.exec(value)?.[1];
  return bytes === undefined ? undefined : Number(bytes);
}

/** Arguments have texts no deeper than this: a list of objects. */
export const TEXT_DEPTH = 3;

/** Texts in a value, names left out: characters of whole ones, and bytes of those that were cut. */
export function textIn(value: unknown, depth = TEXT_DEPTH): { characters: number; cut: number[] } {
  const found = { characters: 0, cut: [] as number[] };
  const look = (one: unknown, left: number): void => {
    if (typeof one === 'string') {
      const bytes = cutBytes(one);
      if (bytes === undefined) found.characters += one.length;
      else found.cut.push(bytes);
    } else if (left > 0 && typeof one === 'object' && one !== null) {
      for (const inner of Array.isArray(one) ? one : Object.values(one)) look(inner, left - 1);
    }
  };
  look(value, depth);
  return found;
}
