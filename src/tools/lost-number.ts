// Numbers of a JSON text that JavaScript cannot hold. Parsed, 9007199254740993 is another integer and 1e400 is Infinity;
// a message must show what was sent, so the parser of the wire puts the text in their place, and no tool takes it.

const LOST = '\0number';
const NUMBER = /^-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?$/;

/** What stands in the place of such a number; undefined for one that JavaScript holds. */
export function lostNumber(text: string): object | undefined {
  const value = Number(text);
  const isLost = /^-?\d+$/.test(text) ? !Number.isSafeInteger(value) : !Number.isFinite(value);
  return isLost ? { [LOST]: text } : undefined;
}

/** The text of such a number; undefined for any other value. */
export function lostText(value: unknown): string | undefined {
  const text = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[LOST] : undefined;
  return typeof text === 'string' && NUMBER.test(text) ? text : undefined;
}
