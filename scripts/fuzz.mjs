// Coverage-guided fuzzing of everything that reads what others wrote: `npm run fuzz -- --help`.
//
// A target is test/fuzz/NAME.ts: `fuzz(bytes)` returns for what is read or refused and throws for what must not happen;
// SEEDS are inputs to begin from, and test/fuzz/seeds/NAME.txt holds those that a run found. Each target runs in a process
// of its own, so that one that hangs, eats memory or crashes is a finding and no end.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join, relative, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { bundleTarget } from './fuzz/bundle.mjs';
import { fromLine, toLine } from './fuzz/seed-lines.mjs';

const HELP = `npm run fuzz -- --target NAME | --all   [--runs N] [--seconds N] [--seed N] [--keep]
npm run fuzz -- --target NAME --replay FILE

  --target NAME  a file of test/fuzz, without .ts; may be given several times
  --all          every target
  --runs N       inputs for each target, its seeds among them (100000 when neither this nor --seconds is given)
  --seconds N    time for each target
  --seed N       same seed, same inputs (1)
  --keep         write the inputs that went somewhere new to test/fuzz/seeds, the fewest that go everywhere
  --replay FILE  run one input, and show where it fails
  --folder DIR   where targets are looked for (test/fuzz)

Inputs that fail are written to build/fuzz. Exit code 1 when there are any.
`;

/** What one input may take. Files that somebody hands us should not be felt. */
const CPU_SECONDS = 2;
const MEGABYTES = 300;
/** Of V8's heap: far above what any input may need, far below what a machine has. */
const HEAP_MEGABYTES = 1500;
/** Processes for one target, which each begin after one that was ended. */
const MAX_STARTS = 3;
/** Of a file in test/fuzz/seeds. */
const MAX_SEED_BYTES = 24_000;
const MAX_SEED = 2_000;

const root = resolve(import.meta.dirname, '..');
const options = readOptions();
let failed = false;
for (const name of options.targets) {
  const target = await prepare(name);
  if (options.replay !== undefined) {
    const found = await replay(target, resolve(options.replay));
    process.stdout.write(found === undefined ? 'fine\n' : `${found.kind}: ${found.what}\n`);
    failed ||= found !== undefined;
  } else {
    failed = (await fuzzTarget(target)) || failed;
  }
}
process.exitCode = failed ? 1 : 0;

function readOptions() {
  const text = { type: 'string' };
  const { values } = parseArgs({
    options: {
      target: { type: 'string', multiple: true },
      all: { type: 'boolean' },
      keep: { type: 'boolean' },
      help: { type: 'boolean', short: 'h' },
      ...{ runs: text, seconds: text, seed: text, replay: text, folder: text },
    },
  });
  if (values.help) {
    process.stdout.write(HELP);
    process.exit(0);
  }
  const folder = resolve(values.folder ?? join(root, 'test/fuzz'));
  const all = readdirSync(folder)
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
    .map((name) => basename(name, '.ts'))
    .sort();
  const targets = values.all ? all : (values.target ?? []);
  const unknown = targets.filter((name) => !all.includes(name));
  if (targets.length === 0 || unknown.length > 0) fail(`--target: one of ${all.join(', ')}; or --all`);
  const number = (name) => {
    if (values[name] === undefined) return undefined;
    return /^\d{1,15}$/.test(values[name]) ? Number(values[name]) : fail(`--${name}: a whole number`);
  };
  const seconds = number('seconds');
  const runs = number('runs') ?? (seconds === undefined ? 100_000 : Number.MAX_SAFE_INTEGER);
  return {
    folder,
    targets,
    runs,
    seconds,
    seed: number('seed') ?? 1,
    keep: values.keep === true,
    replay: values.replay,
  };
}

function fail(message) {
  process.stderr.write(`fuzz: ${message}\n`);
  process.exit(2);
}

async function prepare(name) {
  const folder = join(root, 'build/fuzz', name);
  mkdirSync(folder, { recursive: true });
  const seedFile = join(options.folder, 'seeds', `${name}.txt`);
  const corpus = existsSync(seedFile) ? readFileSync(seedFile, 'utf8').split('\n').filter(Boolean) : [];
  return { name, folder, seedFile, corpus, ...(await bundleTarget(join(options.folder, `${name}.ts`), folder)) };
}

/** Prints what is found. Returns whether anything was. */
async function fuzzTarget(target) {
  const { name, folder, counters } = target;
  for (const left of ['corpus', 'current']) rmSync(join(folder, left), { force: true });
  const began = Date.now();
  const until = options.seconds === undefined ? undefined : began + options.seconds * 1000;
  const findings = [];
  let { seed } = options;
  let done = 0;
  let last = { covered: 0, kept: 0 };
  let starts = 0;
  let alone = 0;
  while (done < options.runs && (until === undefined || Date.now() < until) && starts++ < MAX_STARTS) {
    const corpus = [...target.corpus, ...foundLines(folder)];
    const seconds = until === undefined ? undefined : Math.max(1, (until - Date.now()) / 1000);
    const { counted: bundle, words, numbers } = target;
    const job = { ...limits(), bundle, words, numbers, corpus, seed, runs: options.runs - done, seconds };
    const ended = await start(target, job, (message) => {
      if (message.finding !== undefined) {
        findings.push(message.finding);
        printFinding(name, message.finding);
      } else {
        last = message;
        progress(`${name}: ${done + message.done} inputs, ${message.covered} of ${counters} places`);
      }
    });
    if (last.end) {
      done += last.done;
      break;
    }
    // The process is gone: what was it at?
    const { file, before } = saveCurrent(folder, ended.kind) ?? fail(`${name} does not start: ${ended.what}`);
    done += before + 1;
    const confirmed = await replay(target, file);
    if (confirmed === undefined) {
      alone++;
      process.stdout.write(`${name}: ${ended.kind} (${ended.what}), but not by ${shown(file)} alone\n`);
    } else {
      const finding = { ...confirmed, file };
      findings.push(finding);
      printFinding(name, finding);
    }
    // Another path: the same seed would come to the same end.
    seed += 1_000_003;
  }
  if (options.keep) await keep(target);
  const seconds = (Date.now() - began) / 1000;
  const ends = alone === 0 ? '' : `, ${alone} ended without one input to blame`;
  process.stdout.write(
    `${name}: ${done} inputs in ${seconds.toFixed(1)} s, seed ${options.seed}, ${last.covered} of ${counters} places, ` +
      `${last.kept} inputs kept, ${findings.length} findings${ends}\n`,
  );
  return findings.length > 0;
}

function limits() {
  return { cpuSeconds: CPU_SECONDS, megabytes: MEGABYTES };
}

/** Resolves when the process is gone: with what the watchdog said, or how it ended. */
async function start(target, job, onMessage, flags = []) {
  const { folder } = target;
  const jobFile = join(folder, 'job.json');
  const verdictFile = join(folder, 'verdict.json');
  rmSync(verdictFile, { force: true });
  writeFileSync(jobFile, JSON.stringify({ ...job, folder }));
  const worker = join(import.meta.dirname, 'fuzz/worker.mjs');
  const args = [`--max-old-space-size=${HEAP_MEGABYTES}`, ...flags, worker, jobFile];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let errors = '';
  child.stderr.setEncoding('utf8').on('data', (text) => {
    errors = (errors + text).slice(0, 1000);
  });
  const lines = createInterface({ input: child.stdout });
  const read = (async () => {
    for await (const line of lines) onMessage(JSON.parse(line));
  })();
  const [code, signal] = await new Promise((done) => child.once('close', (...how) => done(how)));
  await read;
  if (existsSync(verdictFile)) return JSON.parse(readFileSync(verdictFile, 'utf8'));
  return code === 0 ? undefined : { kind: 'crash', what: `ended with ${signal ?? code}\n${errors}` };
}

/** What is wrong with one input in a process of its own; undefined when nothing is. */
async function replay(target, file) {
  let found;
  const job = { ...limits(), bundle: target.plain, replay: file };
  const ended = await start(
    target,
    job,
    (message) => {
      if (message.error !== undefined) found = { kind: 'error', what: message.error };
    },
    ['--enable-source-maps'],
  );
  return ended ?? found;
}

function saveCurrent(folder, kind) {
  const current = join(folder, 'current');
  if (!existsSync(current)) return undefined;
  const written = readFileSync(current);
  if (written.length < 8) return undefined;
  const bytes = written.subarray(8, 8 + written.readUInt32LE(4));
  const file = join(folder, `${kind}-${createHash('sha256').update(bytes).digest('hex').slice(0, 12)}`);
  writeFileSync(file, bytes);
  return { file, before: written.readUInt32LE() };
}

function foundLines(folder) {
  const file = join(folder, 'corpus');
  return existsSync(file) ? readFileSync(file, 'utf8').split('\n').filter(Boolean) : [];
}

function printFinding(name, { kind, what, file }) {
  const other = resolve(options.folder) === join(root, 'test/fuzz') ? '' : ` --folder ${shown(options.folder)}`;
  process.stdout.write(
    `${name}: ${kind}: ${what}\n  again: npm run fuzz -- --target ${name}${other} --replay ${shown(file)}\n`,
  );
}

function shown(file) {
  return relative(process.cwd(), file);
}

function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r${text}\x1b[K\r`);
}

/** Short ones first, those whose coverage the ones before them have are left out: the worker says which. */
async function keep(target) {
  const lines = [...new Set([...target.corpus, ...foundLines(target.folder)])]
    .filter((line) => line.length <= MAX_SEED)
    .sort((a, b) => a.length - b.length);
  const chosen = [];
  const job = {
    ...limits(),
    bundle: target.counted,
    words: [],
    numbers: [],
    seed: 1,
    runs: 0,
    corpus: lines,
    sift: true,
  };
  const ended = await start(target, job, ({ chosen: index }) => {
    if (index !== undefined) chosen.push(lines[index]);
  });
  if (ended !== undefined) process.stdout.write(`${target.name}: ${ended.kind} while choosing what to keep\n`);
  let size = 0;
  const few = chosen.filter((line) => {
    size += Buffer.byteLength(line) + 1;
    return size <= MAX_SEED_BYTES;
  });
  mkdirSync(join(options.folder, 'seeds'), { recursive: true });
  writeFileSync(target.seedFile, few.map((line) => `${toLine(fromLine(line))}\n`).join(''));
  process.stdout.write(`${target.name}: ${few.length} inputs in ${shown(target.seedFile)}\n`);
}
