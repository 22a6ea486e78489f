// JSON in texts of which nobody knows whether they are JSON.

/** The value, by JSON.parse or whatever else reads; undefined for what is no JSON. */
export function jsonIn(text: string, read: (text: string) => unknown = JSON.parse): unknown {
  try {
    return read(text);
  } catch {
    return undefined;
  }
}

export function isJson(text: string, read?: (text: string) => unknown): boolean {
  return jsonIn(text, read) !== undefined;
}

/** The object that a text is; undefined for what is none. */
export function jsonObjectIn(text: string): { readonly [name: string]: unknown } | undefined {
  const value = jsonIn(text);
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  return isObject ? (value as { readonly [name: string]: unknown }) : undefined;
}
