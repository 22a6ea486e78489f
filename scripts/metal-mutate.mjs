// Plants faults in the Metal kernels and in their host code, one at a time, and counts how many the checks catch.
//
//   node scripts/metal-mutate.mjs [--count 40] [--seed 1] [--kind barriers|kernels|indices|host] [--file exact,grouped]
//
// Mutants are drawn from all places where an operator of OPERATORS fits, with a fixed seed. One that does not compile is
// drawn again and does not count. A survivor is printed with its line: it is either a fault that the checks miss or a
// change that changes nothing. docs/metal.md has the figures of the last run.
import { spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { ROOT } from './metal-tools.mjs';

const option = (name, otherwise) => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? otherwise : process.argv[at + 1];
};
const COUNT = Number(option('count', '40'));
const SEED = Number(option('seed', '1'));
const KIND = option('kind');
/** Files by name; all of them when not given. */
const FILES = option('file')?.split(',');

const wanted = (name) => FILES === undefined || FILES.includes(name);
const METAL_FILES = JSON.parse(readFileSync(join(ROOT, 'kernels/metal/order.json'), 'utf8'))
  .map((file) => `kernels/metal/${file}`)
  .filter((file) => wanted(basename(file, '.metal')));
const HOST_FILES = ['executable', 'encode', 'plan', 'weights', 'kv-pool', 'state-pool', 'gpu']
  .filter(wanted)
  .map((f) => `src/engine/metal/${f}.ts`);

const nextNumber = (text) => text.replace(/\d+/, (digits) => String(Number(digits) + 1));

/** name, pattern of a place, what it becomes. */
const OPERATORS = {
  barriers: [['no barrier', /(threadgroup|simdgroup)_barrier\(mem_flags::mem_threadgroup\);/g, () => '']],
  kernels: [
    ['< becomes <=', / < /g, () => ' <= '],
    ['>= becomes >', / >= /g, () => ' > '],
    ['== becomes !=', / == /g, () => ' != '],
    ['+ becomes -', / \+ /g, () => ' - '],
    ['- becomes +', / - /g, () => ' + '],
    ['* becomes +', / \* /g, () => ' + '],
    ['/ becomes *', / \/ /g, () => ' * '],
    ['min becomes max', /\bmin\(/g, () => 'max('],
    ['max becomes min', /\bmax\(/g, () => 'min('],
    ['another integer', /\b\d+u\b/g, nextNumber],
    ['another constant', /\b\d+\.\d+f\b/g, (text) => `(${text} * 1.5f + 0.1f)`],
    ['no simd_sum', /\bsimd_sum\(/g, () => '('],
    ['no return', /\{ return; \}/g, () => '{ }'],
    ['other component', /\.x\b/g, () => '.y'],
    ['other component', /\.y\b/g, () => '.x'],
  ],
  indices: [['two buffer indices swapped', /\[\[buffer\((\d+)\)\]\](?=,)/g, 'swap-next']],
  host: [
    ['ceil becomes floor', /Math\.ceil/g, () => 'Math.floor'],
    ['min becomes max', /Math\.min/g, () => 'Math.max'],
    ['max becomes min', /Math\.max/g, () => 'Math.min'],
    ['+ becomes -', / \+ (?=[^=])/g, () => ' - '],
    ['* becomes +', / \* /g, () => ' + '],
    ['/ becomes *', / \/ /g, () => ' * '],
    ['another number', /(?<=[ ([])\d+(?=[ ,;)\]])/g, nextNumber],
    ['=== becomes !==', / === /g, () => ' !== '],
    ['< becomes <=', / < /g, () => ' <= '],
    ['> becomes >=', / > /g, () => ' >= '],
  ],
};

/** Comments, strings and preprocessor lines to spaces: no mutant is planted there. */
function codeOf(text) {
  const blank = (found) => found.replace(/[^\n]/g, ' ');
  return text
    .replace(/\/\*[\s\S]*?\*\//g, blank)
    .replace(/\/\/[^\n]*/g, blank)
    .replace(/^\s*(#|import\b|\} from)[^\n]*/gm, blank)
    .replace(/'[^'\n]*'/g, blank)
    .replace(/`[^`]*`/g, blank);
}

/** Read once: the tree under test is a copy, and this one may change meanwhile. */
const originals = new Map(
  [...METAL_FILES, ...HOST_FILES].map((file) => [file, readFileSync(join(ROOT, file), 'utf8')]),
);

function sites(kind) {
  const found = [];
  for (const file of kind === 'host' ? HOST_FILES : METAL_FILES) {
    const text = originals.get(file);
    const code = codeOf(text);
    for (const [name, pattern, change] of OPERATORS[kind]) {
      for (const match of code.matchAll(pattern))
        found.push({ kind, file, name, at: match.index, found: match[0], change });
    }
  }
  return found;
}

function apply(text, { at, found, change }) {
  if (change !== 'swap-next') return text.slice(0, at) + change(found) + text.slice(at + found.length);
  const index = Number(/\d+/.exec(found)[0]);
  const next = text.indexOf(`[[buffer(${index + 1})]]`, at);
  const swapped = `${text.slice(0, at)}[[buffer(${index + 1})]]${text.slice(at + found.length, next)}[[buffer(${index})]]`;
  return swapped + text.slice(next + `[[buffer(${index + 1})]]`.length);
}

/** A tree in which a mutant can be built and tested without touching this one. */
function makeTree() {
  const tree = mkdtempSync(join(tmpdir(), 'metal-mutants-'));
  for (const path of [
    'src',
    'scripts',
    'kernels/metal',
    'test/metal',
    'test/kernels',
    'test/setup',
    'package.json',
    'vitest.config.ts',
    'tsconfig.json',
  ]) {
    cpSync(join(ROOT, path), join(tree, path), { recursive: true });
  }
  mkdirSync(join(tree, 'test/golden'), { recursive: true });
  for (const room of ['model', 'qwen3']) {
    cpSync(join(ROOT, 'test/golden', room), join(tree, 'test/golden', room), { recursive: true });
  }
  symlinkSync(join(ROOT, 'node_modules'), join(tree, 'node_modules'));
  // Objects that do not depend on the kernels' text.
  const build = join(ROOT, 'build', 'metal');
  for (const name of readdirSync(build)) {
    if (/(emulator|fake_metal|addon)-o$/.test(name))
      cpSync(join(build, name), join(tree, 'build', 'metal', name), { recursive: true });
  }
  return tree;
}

/** Cheapest first: most faults do not outlive the self-test. */
const PHASES = [
  { files: ['self-test'], only: 'passes its self-test|loads group-scaled programs|loads hybrid programs' },
  { files: ['ops'] },
  { files: ['grouped'] },
  { files: ['hybrid'] },
  { files: ['static', 'sequences', 'plan', 'addon', 'self-test'] },
  { files: ['grouped-golden', 'golden'] },
];

/** Runs test files; undefined when they pass, else the first failure. */
function runTests(tree, { files: names, only }) {
  return new Promise((resolve) => {
    const files = names.map((name) => `test/metal/${name}.test.ts`);
    const command = [join(tree, 'node_modules/vitest/vitest.mjs'), 'run', ...files, '--bail=1', '--reporter=verbose'];
    if (only !== undefined) command.push('-t', only);
    const child = spawn(process.execPath, command, {
      cwd: tree,
      detached: true,
      env: { ...process.env, NO_COLOR: '1' },
    });
    let output = '';
    const collect = (data) => {
      output += data;
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    const timer = setTimeout(() => {
      output += '\nFAIL hung';
      process.kill(-child.pid, 'SIGKILL');
    }, 300_000);
    child.on('close', (code) => {
      clearTimeout(timer);
      if (code === 0) return resolve(undefined);
      const broken = /g\+\+ failed|clang\+\+\S* failed/.test(output) && /kernels\.cc|stdin/.test(output);
      const first = /^.*(?:FAIL|×)\s+(.*)$/m.exec(output)?.[1] ?? `exit ${code}`;
      resolve({ compiles: !broken, first: first.replace(/\s+\d+ms$/, '').slice(0, 110) });
    });
  });
}

function shuffled(list, seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  return list
    .map((item) => [next(), item])
    .sort((a, b) => a[0] - b[0])
    .map(([, item]) => item);
}

const tree = makeTree();
process.on('exit', () => rmSync(tree, { recursive: true, force: true }));
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130));

// The tests themselves are npm test's business; here only that the copy of the tree works.
const broken = await runTests(tree, PHASES[0]);
if (broken !== undefined) {
  process.stderr.write(`the checks fail without any fault planted: ${broken.first}\n`);
  process.exit(1);
}
const kinds = KIND === undefined ? Object.keys(OPERATORS) : [KIND];
for (const kind of kinds) {
  const all = sites(kind);
  let planted = 0;
  let caught = 0;
  for (const site of shuffled(all, SEED)) {
    if (planted === COUNT) break;
    const original = originals.get(site.file);
    const line = original.slice(0, site.at).split('\n').length;
    writeFileSync(join(tree, site.file), apply(original, site));
    let failure;
    for (const phase of kind === 'indices' ? [PHASES.find(({ files }) => files.includes('static'))] : PHASES)
      failure ??= await runTests(tree, phase);
    writeFileSync(join(tree, site.file), original);
    if (failure?.compiles === false) continue;
    planted += 1;
    if (failure !== undefined) caught += 1;
    const where = `${site.file.split('/').pop()}:${line}`;
    process.stdout.write(
      `${failure === undefined ? 'SURVIVED' : 'caught'} ${kind} ${where} ${site.name}: ${failure?.first ?? original.split('\n')[line - 1].trim()}\n`,
    );
  }
  process.stdout.write(`${kind}: ${caught} of ${planted} caught (${all.length} places)\n`);
}
