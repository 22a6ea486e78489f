// Which room of src/ may import which. A room stands for what it owns; an edge that is not here is a dependency that
// nobody decided on. To add one, write it down with its reason.

import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { expect, test } from 'vitest';

const src = resolve(import.meta.dirname, '../src');

/** May be imported by every room. */
const COMMON = ['errors.ts'];

const ANY = 'any';

/** From leaf to face. */
const ROOMS: Readonly<Record<string, readonly string[] | typeof ANY>> = {
  'errors.ts': [],
  'logger.ts': [],
  gf3: [],
  random: [],
  tensor: [],
  color: ['gf3', 'random'],
  quant: ['gf3', 'tensor'],
  // A checkpoint's ternary layers are read as windows of trits.
  formats: ['quant', 'tensor'],
  // Where the package lies, its version, its cache.
  package: [],
  // Finds, tries, compiles and loads addons; knows nothing of what they compute. Its notes are files.
  native: ['package', 'formats'],
  // Requests to other machines, and the proxies between.
  net: [],
  // Folders, JSON and pointers of Git LFS are read and written in one way; so are the .gguf files that are a model.
  hub: ['formats', 'net', 'package'],
  // GGUF files carry their vocabulary.
  tokenizer: ['formats', 'package'],
  engine: ['native', 'package', 'quant', 'tensor'],
  analysis: ['gf3', 'quant', 'tensor'],
  image: ['color', 'gf3', 'tensor'],
  triads: ['gf3'],
  // A page that runs in a client's browser: it knows results by their JSON, and what a trit is called.
  app: ['gf3'],
  // Converting to GGUF carries the vocabulary over.
  model: ['engine', 'formats', 'quant', 'tensor', 'tokenizer'],
  // A process boundary for whoever needs one: knows no domain.
  child: [],
  // From a model's name (hub) to text; `verify` reads the logits that a case expects (formats, quant).
  generate: ['child', 'model', 'engine', 'tokenizer', 'color', 'gf3', 'random', 'hub', 'net', 'formats', 'quant'],
  // Times what the other rooms compute.
  bench: ['generate', 'model', 'engine', 'quant', 'tensor', 'random', 'hub', 'formats'],
  train: ['native', 'model', 'engine', 'quant', 'formats', 'tokenizer', 'tensor', 'random'],
  // A world begins from a model's name (hub), and its batches are text (tokenizer).
  world: ['child', 'train', 'model', 'formats', 'quant', 'gf3', 'color', 'hub', 'package', 'tokenizer'],
  tools: ANY,
  // OpenAI's API over our services: requests and answers, no wire.
  openai: ['generate', 'tools'],
  mcp: ['tools', 'openai', 'hub', 'world', 'triads', 'image', 'app', 'logger.ts', 'package'],
  cli: ANY,
  'index.ts': ANY,
};

/** What `any` leaves out: faces are not building blocks. */
const NEVER: Readonly<Record<string, readonly string[]>> = {
  tools: ['mcp', 'cli', 'index.ts'],
  cli: ['index.ts'],
  'index.ts': ['mcp', 'cli'],
};

/** The wire is one room's business. */
const SDK = /^@modelcontextprotocol\//;

const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'));

const roomOf = (path: string) => path.split(sep)[0]!;

function importsOf(file: string): string[] {
  const text = readFileSync(join(src, file), 'utf8');
  const pattern =
    /^import\s+(?:[^'"();]*?\bfrom\s+)?['"]([^'"]+)['"]|^export\s[^'"();=]*?\bfrom\s+['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]|new URL\(\s*['"](\.[^'"]+\.[tj]s)['"]/gm;
  return [...text.matchAll(pattern)].map((match) => match.slice(1).find((specifier) => specifier !== undefined)!);
}

function allowed(room: string): readonly string[] {
  const list = ROOMS[room] ?? [];
  const rooms = list === ANY ? Object.keys(ROOMS).filter((name) => !NEVER[room]?.includes(name)) : list;
  return [room, ...rooms, ...COMMON];
}

test('every file lies in a room of the table', () => {
  expect(files.filter((file) => ROOMS[roomOf(file)] === undefined)).toEqual([]);
});

test('every room imports only what the table allows', () => {
  const broken: string[] = [];
  for (const file of files) {
    const room = roomOf(file);
    for (const specifier of importsOf(file)) {
      if (!specifier.startsWith('.')) {
        if (SDK.test(specifier) && room !== 'mcp') broken.push(`${file} imports ${specifier}: only mcp/ may`);
        continue;
      }
      const target = roomOf(relative(src, resolve(src, dirname(file), specifier)));
      if (!allowed(room).includes(target)) {
        broken.push(`${file} imports ${specifier}: ${room} may import ${allowed(room).join(', ')}`);
      }
    }
  }
  expect(broken).toEqual([]);
});

test('the check sees imports in all their forms', () => {
  // If the pattern broke, the test above would pass on an empty list.
  expect(importsOf('cli/commands.ts')).toContain('./serve.ts');
  expect(importsOf('cli/main.ts')).toContain('../errors.ts');
  expect(importsOf('tools/fields.ts')).toContain('zod');
});

/** Evaluation of templates is recursive by nature: what a method calls may call a method. */
const RECURSIVE = /^tokenizer\/jinja\//;

test('no file imports itself by way of others, not even types', () => {
  // What is loaded when it is called for (`import()`) is no part of a file.
  const targetsOf = (file: string): string[] =>
    [
      ...readFileSync(join(src, file), 'utf8').matchAll(/^(?:import|export)\s[^'"();]*?\bfrom\s+['"](\.[^'"]+)['"]/gm),
    ].map(([, specifier]) => relative(src, resolve(src, dirname(file), specifier!)));
  const graph = new Map(files.map((file) => [file, targetsOf(file)]));
  const circles: string[] = [];
  const done = new Set<string>();
  const visit = (file: string, path: readonly string[]): void => {
    const from = path.indexOf(file);
    if (from >= 0) {
      const circle = path.slice(from);
      if (!circle.every((one) => RECURSIVE.test(one))) circles.push([...circle, file].join(' -> '));
      return;
    }
    if (done.has(file)) return;
    for (const target of graph.get(file) ?? []) visit(target, [...path, file]);
    done.add(file);
  };
  for (const file of files) visit(file, []);
  expect(circles).toEqual([]);
});
