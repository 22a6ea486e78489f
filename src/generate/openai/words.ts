// What a server says of an error, in one short line. Servers have many forms for it, and send some of them with status
// 200 or in the middle of a stream:
// - OpenAI: `{"error": {"message", "type", "code"}}`; others put text or a list there;
// - vLLM: `{"object": "error", "message", "code"}`;
// - FastAPI: `{"detail": "..."}` or `{"detail": [{"loc", "msg"}]}`;
// - OpenRouter: a choice with `error` and the finish_reason "error"; Google: a list around it all.

export type Loose = { readonly [key: string]: unknown };

/** Characters of a server's own words in our messages. */
const MAX_QUOTE = 300;
/** Levels of an answer in which words are looked for. */
const MAX_DEPTH = 6;
const KEYS = [
  'error',
  'message',
  'msg',
  'detail',
  'details',
  'error_message',
  'errors',
  'reason',
  'title',
  'code',
  'type',
];

export function asObject(value: unknown): Loose | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Loose) : undefined;
}

/** The words of an answer that tells of an error, perhaps empty; undefined for one that does not. */
export function errorWords(answer: unknown): string | undefined {
  if (Array.isArray(answer)) return answer.map(errorWords).find((words) => words !== undefined);
  const object = asObject(answer);
  if (object === undefined) return undefined;
  if (tells(object.error)) return wordsOf(object.error);
  if (object.object === 'error' || object.type === 'error')
    return wordsOf({ ...object, object: undefined, type: undefined });
  if (Array.isArray(object.choices)) {
    const choice = object.choices.map(asObject).find((one) => one?.finish_reason === 'error' || tells(one?.error));
    return choice === undefined ? undefined : wordsOf(choice.error);
  }
  const told = ['message', 'detail', 'msg', 'errors', 'error_message'].some((key) => tells(object[key]));
  return told ? wordsOf(object) : undefined;
}

function tells(value: unknown): boolean {
  if (value === undefined || value === null || value === false || value === '') return false;
  return typeof value !== 'object' || Object.keys(value).length > 0;
}

/** The most telling text in `value`, fit for a terminal. */
export function wordsOf(value: unknown): string {
  const found = textIn(value, 0) ?? (value === undefined ? '' : (JSON.stringify(value) ?? ''));
  return oneLine(found, MAX_QUOTE);
}

function textIn(value: unknown, depth: number): string | undefined {
  if (typeof value === 'string') return value.trim() === '' ? undefined : value;
  if (typeof value === 'number') return String(value);
  if (depth === MAX_DEPTH || typeof value !== 'object' || value === null) return undefined;
  if (Array.isArray(value)) {
    const texts = value.slice(0, 4).flatMap((one) => textIn(one, depth + 1) ?? []);
    return texts.length === 0 ? undefined : texts.join('; ');
  }
  for (const key of KEYS) {
    const text = textIn((value as Loose)[key], depth + 1);
    if (text !== undefined) return text;
  }
  return undefined;
}

/** `text` without what would move a terminal's cursor, cut to `length` characters. */
export function oneLine(text: string, length: number): string {
  const line = text
    .slice(0, 2 * length)
    .replace(/[\s\p{Cc}\p{Surrogate}]+/gu, ' ')
    .trim();
  return line.length > length ? `${line.slice(0, length - 3)}...` : line;
}
