// The process that a target runs in; fuzz.mjs starts it, reads its lines of JSON, and outlives it. Arguments: a file of JSON.

import { createHash } from 'node:crypto';
import { appendFileSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { Mutator, randomFrom } from './mutate.mjs';
import { fromLine, toLine } from './seed-lines.mjs';

const job = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const { folder, bundle, words, numbers, seed, runs, seconds, corpus, replay, cpuSeconds, megabytes, sift } = job;

const turns = new SharedArrayBuffer(4);
const turn = new Int32Array(turns);
const tell = (message) => writeSync(1, `${JSON.stringify(message)}\n`);

const { fuzz, SEEDS } = await import(pathToFileURL(bundle).href);
const watchdog = new Worker(new URL('watchdog.mjs', import.meta.url), {
  workerData: { turns, verdictFile: join(folder, 'verdict.json'), cpuSeconds, megabytes },
});
await new Promise((resolve) => watchdog.once('online', resolve));
watchdog.unref();

/** What nobody waited for fails the input during which it came out. */
let stray;
process.on('unhandledRejection', (error) => {
  stray = error;
});

async function run(bytes) {
  // Odd while an input is at work.
  Atomics.add(turn, 0, 1);
  try {
    const promise = fuzz(bytes);
    if (promise !== undefined) await promise;
    const error = stray;
    stray = undefined;
    return error;
  } catch (error) {
    return error ?? new Error('something was thrown that is nothing');
  } finally {
    Atomics.add(turn, 0, 1);
  }
}

if (replay !== undefined) {
  const error = await run(new Uint8Array(readFileSync(replay)));
  // A rejection that nobody waits for is told after this turn.
  await new Promise((resolve) => setImmediate(resolve));
  const found = error ?? stray;
  tell(found === undefined ? { fine: true } : { error: textOf(found) });
  process.exit(0);
}

// ---- Coverage ----

const counters = globalThis.__fuzzCounters;
const padded = new Uint8Array(Math.ceil(counters.length / 4) * 4);
const fours = new Int32Array(padded.buffer);
/** For every counter a bit for each size of count that was seen: 1, 2, 3, 4-7, 8-15, 16-31, 32-127, 128 and more. */
const seenSizes = new Uint8Array(padded.length);
const SIZE = Uint8Array.from({ length: 256 }, (_, count) => {
  const limits = [1, 2, 3, 7, 15, 31, 127, 255];
  return count === 0 ? 0 : 1 << limits.findIndex((limit) => count <= limit);
});
let covered = 0;

/** Whether the last run went where no run before it went, or more often. */
function isNew() {
  padded.set(counters);
  counters.fill(0);
  let found = false;
  for (let i = 0; i < fours.length; i++) {
    if (fours[i] === 0) continue;
    for (let at = 4 * i; at < 4 * i + 4; at++) {
      const size = SIZE[padded[at]];
      if ((seenSizes[at] & size) !== size) {
        if (seenSizes[at] === 0) covered++;
        seenSizes[at] |= size;
        found = true;
      }
    }
  }
  return found;
}

// ---- What is worth keeping ----

if (sift) {
  for (const bytes of SEEDS) {
    await run(new Uint8Array(bytes));
    isNew();
  }
  for (let i = 0; i < corpus.length; i++) {
    await run(new Uint8Array(fromLine(corpus[i])));
    if (isNew()) tell({ chosen: i });
  }
  process.exit(0);
}

// ---- The loop ----

const MAX_FINDINGS = 20;
const current = openSync(join(folder, 'current'), 'w');
const keptFile = join(folder, 'corpus');
const findings = new Map();
const kept = [];
/** How many inputs came before the one that follows, and its length. */
const head = Buffer.alloc(8);
let done = 0;

async function turnOf(bytes, isSeed) {
  // A crash leaves nothing else behind.
  head.writeUInt32LE(done);
  head.writeUInt32LE(bytes.length, 4);
  writeSync(current, head, 0, 8, 0);
  writeSync(current, bytes, 0, bytes.length, 8);
  const error = await run(bytes);
  done++;
  if (isNew() || isSeed) {
    kept.push(bytes);
    if (!isSeed) appendFileSync(keptFile, `${toLine(bytes)}\n`);
  }
  if (error !== undefined) await found(error, bytes);
}

async function found(error, bytes) {
  const key = keyOf(error);
  if (findings.has(key) || findings.size >= MAX_FINDINGS) return;
  findings.set(key, true);
  const least = await lessOf(bytes, key);
  const file = join(folder, `error-${createHash('sha256').update(least).digest('hex').slice(0, 12)}`);
  writeFileSync(file, least);
  tell({ finding: { kind: 'error', file, what: textOf(error) } });
}

/** A shorter input with the same failure, by leaving parts out. */
async function lessOf(bytes, key) {
  let least = bytes;
  let tries = 400;
  for (let size = Math.ceil(least.length / 2); size >= 1 && tries > 0; size = Math.floor(size / 2)) {
    for (let at = 0; at < least.length && tries > 0; tries--) {
      const less = new Uint8Array(Buffer.concat([least.subarray(0, at), least.subarray(at + size)]));
      const error = await run(less);
      if (error !== undefined && keyOf(error) === key) least = less;
      else at += size;
    }
  }
  counters.fill(0);
  return least;
}

/** The same failure has the same place, and the same words but for what the input brought. */
function keyOf(error) {
  if (!(error instanceof Error)) return `${typeof error}`;
  const place = /\n\s+at [^\n]*/.exec(error.stack ?? '')?.[0] ?? '';
  return `${error.name}: ${error.message.replace(/\d+|["'`].*/gs, '').slice(0, 60)}${place}`;
}

function textOf(error) {
  const text = error instanceof Error ? (error.stack ?? `${error}`) : `thrown: ${String(error)}`;
  return text.slice(0, 3000);
}

const next = randomFrom(seed);
const mutator = new Mutator({ words, numbers }, next);
const until = seconds === undefined ? Number.POSITIVE_INFINITY : Date.now() + seconds * 1000;
const more = () => done < runs && Date.now() < until;

for (const bytes of [...SEEDS, ...corpus.map(fromLine)]) {
  if (done < runs) await turnOf(new Uint8Array(bytes), true);
}
let told = Date.now();
while (more()) {
  // The newest half as often as all: they have been tried the least.
  const from = next(2) === 0 ? next(kept.length) : Math.floor((kept.length + next(kept.length)) / 2);
  await turnOf(new Uint8Array(mutator.mutated(kept[from], kept[next(kept.length)])), false);
  if (done % 256 === 0 && Date.now() - told > 1000) {
    told = Date.now();
    tell({ done, covered, kept: kept.length });
  }
}
tell({ done, covered, kept: kept.length, end: true });
process.exit(0);
