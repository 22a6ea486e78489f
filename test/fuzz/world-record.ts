// Records of worlds: files that others may have written.

import { isRate, MAX_STEPS } from '../../src/world/morphism.ts';
import { parseRecord } from '../../src/world/parse-record.ts';

const ID = 'a'.repeat(64);
/** Characters of a reason: it stands in an error message. */
const MAX_REASON = 1000;

/** Throws when a record is neither refused in a sentence nor such that its world can be replayed. */
export function fuzz(bytes: Uint8Array): void {
  const record = parseRecord(Buffer.from(bytes).toString('utf8'), ID);
  if (typeof record === 'string') {
    if (record === '' || record.length > MAX_REASON) throw new Error('a reason is no sentence');
    return;
  }
  const { morphism, parent, stepCount, base } = record;
  if (record.id !== ID || parent === ID || !Number.isSafeInteger(stepCount)) throw new Error('a record lies');
  if (typeof base.folder !== 'string' || (morphism === undefined) !== (parent === null))
    throw new Error('a record lies');
  if (morphism !== undefined && (!isRate(morphism.lr) || morphism.steps < 1 || morphism.steps > MAX_STEPS)) {
    throw new Error('a step that nobody can take');
  }
}

const BEGINNING = {
  format: 1,
  id: ID,
  parent: null,
  base: { id: 'b'.repeat(64), model: 'default', folder: '/models/default' },
  stepCount: 0,
  created: '2026-01-01T00:00:00.000Z',
};

/** Records that are sound, for a fuzzer to begin from. */
export const SEEDS: readonly Uint8Array[] = [
  BEGINNING,
  {
    ...BEGINNING,
    parent: 'c'.repeat(64),
    stepCount: 1,
    morphism: { optimizer: 'sgd', lr: 0.02, steps: 1, conserve: true, text: ['a fox'] },
    report: { lossBefore: 3.5, lossAfter: 3.25, flips: 3, tritDeltaSum: -3 },
  },
].map((record) => Buffer.from(JSON.stringify(record)));
