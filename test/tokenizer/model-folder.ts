// A model folder made of parts, for tests that change one thing.

import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const golden = new URL('../golden/tokenizer/', import.meta.url);

export type Json = { [key: string]: unknown };

/** The path of a tokenizer's folder in test/golden/tokenizer. */
export function goldenFolder(name: string): string {
  return new URL(`${name}/`, golden).pathname;
}

/** A fresh copy of a golden tokenizer.json, to be changed. */
export function goldenTokenizer(name: string): Json & { model: Json; added_tokens: Json[] } {
  return JSON.parse(readFileSync(new URL(`${name}/tokenizer.json`, golden), 'utf8'));
}

/** Writes the files into a new folder; objects as JSON, strings and bytes as they are. */
export function folderOf(files: Readonly<Record<string, unknown>>): string {
  const folder = mkdtempSync(join(tmpdir(), 'tokenizer-'));
  for (const [name, content] of Object.entries(files)) {
    const raw = typeof content === 'string' || content instanceof Uint8Array;
    writeFileSync(join(folder, name), raw ? content : JSON.stringify(content));
  }
  return folder;
}
