// What scripts/bundle-dist.mjs made of the compiled program is still the program.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { runInThisContext } from 'node:vm';
import { expect, test } from 'vitest';
import { ROOT } from '../mcp/server-process.ts';

const dist = join(ROOT, 'dist');
const bundle = join(dist, 'bundle');

/** Files of the bundle that are named in a text. */
const namedIn = (text: string) => [...text.matchAll(/["'](?:\.\.\/bundle)?\.?\/([\w-]+\.cjs)[#"']/g)].map((m) => m[1]!);

/** Those that the program's files lead to; parts of an earlier build may lie there, too, for who still runs it. */
function filesOfBundle(): string[] {
  const entries = readdirSync(dist, { recursive: true, encoding: 'utf8' }).filter((file) =>
    /(main|-process)\.js$/.test(file),
  );
  const waiting = entries.flatMap((file) => namedIn(readFileSync(join(dist, file), 'utf8')));
  const found = new Set<string>();
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    if (found.has(file)) continue;
    found.add(file);
    waiting.push(...namedIn(readFileSync(join(bundle, file), 'latin1')));
  }
  return [...found].filter((file) => file !== 'start.cjs').sort();
}

const files = filesOfBundle();

test('a start reads few files, and late packages lie apart', () => {
  expect(files.length).toBeGreaterThan(20);
  expect(files).toEqual(expect.arrayContaining(['infer.cjs', 'serve.cjs']));
  // undici, which only pulls and other servers need, in a file of its own that no start reads.
  const undici = files.filter((name) => readFileSync(join(bundle, name), 'latin1').includes('EnvHttpProxyAgent'));
  expect(undici).toEqual([expect.stringMatching(/^part-/)]);
});

test.each(files)('%s is ASCII, and its modules are strict', (name) => {
  const text = readFileSync(join(bundle, name), 'latin1');
  expect(/[^\0-\x7f]/.test(text)).toBe(false);
  const makers = runInThisContext(text) as Record<string, () => void>;
  expect(Object.keys(makers).length).toBeGreaterThan(0);
  for (const [id, maker] of Object.entries(makers)) {
    expect(id.startsWith(`./${name}`), id).toBe(true);
    expect(maker.toString().slice(0, 120), id).toContain('{"use strict";');
  }
});
