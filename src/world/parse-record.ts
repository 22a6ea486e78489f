// What a record must look like to be used. The store is files on a disk that is shared with others, so nothing in them
// is taken for granted: a record names a folder to read and a parent to follow.

import { isAbsolute } from 'node:path';
import { JsonError, parseJson } from '../formats/strict-json.ts';
import { isRate, MAX_STEPS } from './morphism.ts';
import type { WorldRecord } from './world-record.ts';

type Fields = Readonly<Record<string, unknown>>;

const ID = /^[0-9a-f]{64}$/;

/** The record of world `id`; a string says what is wrong with it. */
export function parseRecord(text: string, id: string): WorldRecord | string {
  let value: unknown;
  try {
    value = parseJson(text, { where: id });
  } catch (error) {
    return `it cannot be read: ${error instanceof JsonError ? error.text.what : error}`;
  }
  if (!isObject(value)) return 'it is not a JSON object';
  const { format, parent, base, stepCount, morphism, report, created } = value;
  if (format !== 1) return 'its format is not 1';
  if (value.id !== id) return 'its id is not that of its file';
  if (parent !== null && !(isId(parent) && parent !== id)) return 'its parent is not an id';
  if (!isObject(base) || !isId(base.id) || typeof base.model !== 'string') return 'its base is not that of a model';
  if (typeof base.folder !== 'string' || !isAbsolute(base.folder)) return "its base's folder is not an absolute path";
  if (!isCount(stepCount)) return 'its stepCount is not a count';
  if (typeof created !== 'string' || Number.isNaN(Date.parse(created))) return 'its time is not a time';
  if ((parent === null) !== (morphism === undefined)) return 'a parent and the step that led from it go together';
  if (morphism !== undefined && !isMorphism(morphism)) return 'its morphism is incomplete';
  if (report !== undefined && !isReport(report)) return 'its report is incomplete';
  return value as WorldRecord;
}

function isMorphism(value: unknown): boolean {
  if (!isObject(value)) return false;
  const { optimizer, lr, steps, conserve, text, tokens } = value;
  return (
    (optimizer === 'adamw' || optimizer === 'sgd') &&
    isRate(lr) &&
    // To have the world again, they are taken again.
    isCount(steps) &&
    steps !== 0 &&
    (steps as number) <= MAX_STEPS &&
    typeof conserve === 'boolean' &&
    (text === undefined) !== (tokens === undefined) &&
    (text === undefined || isListOf(text, (one) => typeof one === 'string')) &&
    (tokens === undefined || isListOf(tokens, (ids) => isListOf(ids, isCount)))
  );
}

/** A loss that is not finite is null in JSON. */
function isReport(value: unknown): boolean {
  if (!isObject(value)) return false;
  const { lossBefore, lossAfter, flips, tritDeltaSum } = value;
  const isLoss = (loss: unknown) => loss === null || typeof loss === 'number';
  return isLoss(lossBefore) && isLoss(lossAfter) && isCount(flips) && Number.isSafeInteger(tritDeltaSum);
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isListOf(value: unknown, isOne: (one: unknown) => boolean): boolean {
  return Array.isArray(value) && value.every(isOne);
}

function isId(value: unknown): value is string {
  return typeof value === 'string' && ID.test(value);
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
