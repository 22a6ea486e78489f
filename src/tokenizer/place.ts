// Reading fields of parsed JSON that anybody may have written: every refusal names the file, and shows of a value only
// as much as a person wants to read.

import { isObject, type JsonObject, kindOf } from './json-file.ts';
import { TokenizerFileError } from './tokenizer-error.ts';
import { quote } from './vocabulary.ts';

const AGAIN = 'fetch the tokenizer files again';

/** A value in a message: text and numbers as they are, of anything else its kind. */
export function shown(value: unknown): string {
  if (typeof value === 'string') return quote(value);
  return typeof value === 'number' || typeof value === 'boolean' ? String(value) : kindOf(value);
}

export class Place {
  readonly file: string;

  constructor(file: string) {
    this.file = file;
  }

  error(what: string, fix: string = AGAIN, cause?: unknown): TokenizerFileError {
    return new TokenizerFileError({ what, where: this.file, fix }, cause === undefined ? undefined : { cause });
  }

  wrongType(key: string, expected: string, value: unknown): TokenizerFileError {
    return this.error(`"${key}" must be ${expected}, found ${kindOf(value)}`);
  }

  object(from: JsonObject, key: string): JsonObject {
    const value = own(from, key);
    if (isObject(value)) return value;
    throw this.wrongType(key, 'an object', value);
  }

  objectOrNull(from: JsonObject, key: string): JsonObject | null {
    const value = own(from, key);
    return value === undefined || value === null ? null : this.object(from, key);
  }

  text(from: JsonObject, key: string, fallback?: string): string {
    const value = own(from, key) ?? fallback;
    if (typeof value === 'string') return value;
    throw this.wrongType(key, 'a string', value);
  }

  textOrNull(from: JsonObject, key: string): string | null {
    const value = own(from, key) ?? null;
    if (value === null || typeof value === 'string') return value;
    throw this.wrongType(key, 'a string or null', value);
  }

  flag(from: JsonObject, key: string, fallback: boolean): boolean {
    const value = own(from, key) ?? fallback;
    if (typeof value === 'boolean') return value;
    throw this.wrongType(key, 'true or false', value);
  }

  /** A whole number from `least` on. */
  count(from: JsonObject, key: string, least: number, fallback?: number): number {
    const value = own(from, key) ?? fallback;
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= least) return value;
    throw this.wrongType(key, `a whole number from ${least} on`, value);
  }

  /** One character. */
  character(from: JsonObject, key: string, fallback?: string): string {
    const value = this.text(from, key, fallback);
    if ([...value.slice(0, 3)].length === 1 && value.length <= 2) return value;
    throw this.error(`"${key}" must be one character, found ${quote(value)}`);
  }

  list(from: JsonObject, key: string): readonly unknown[] {
    const value = own(from, key);
    if (Array.isArray(value)) return value;
    throw this.wrongType(key, 'an array', value);
  }
}

function own(from: JsonObject, key: string): unknown {
  return Object.hasOwn(from, key) ? from[key] : undefined;
}

/** Steps in each other; and all together. The largest in public use has 9 steps in 2 levels. */
const MAX_DEPTH = 16;
const MAX_STAGES = 256;

/** The steps of a stage, sequences in sequences laid out flat. `key` names the list in a `Sequence`. */
export function flatStages(stage: JsonObject | null, key: string, at: Place): JsonObject[] {
  const out: JsonObject[] = [];
  const visit = (value: JsonObject, depth: number): void => {
    if (depth > MAX_DEPTH)
      throw at.error(`"${key}" lie in each other more than ${MAX_DEPTH} deep`, 'use another tokenizer');
    if (value.type !== 'Sequence') {
      out.push(value);
      if (out.length > MAX_STAGES) {
        throw at.error(`"${key}" are more than ${MAX_STAGES} steps`, 'use another tokenizer');
      }
      return;
    }
    const list = at.list(value, key);
    if (list.length > MAX_STAGES) throw at.error(`"${key}" are more than ${MAX_STAGES} steps`, 'use another tokenizer');
    for (const [i, step] of list.entries()) {
      if (!isObject(step)) throw at.wrongType(`${key}[${i}]`, 'an object', step);
      visit(step, depth + 1);
    }
  };
  if (stage !== null) visit(stage, 0);
  return out;
}
