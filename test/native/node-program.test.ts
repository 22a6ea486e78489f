// Inside Electron the program itself is the application: starting it again would open another window.

import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { nodeProgram } from '../../src/native/try-in-child.ts';

const folder = mkdtempSync(join(tmpdir(), 'node-program-'));
afterAll(() => rmSync(folder, { recursive: true }));
const name = process.platform === 'win32' ? 'node.exe' : 'node';

test('a plain Node is its own', () => {
  expect(nodeProgram({}, { PATH: '' })).toBe(process.execPath);
});

test('inside Electron it is the first node on the PATH, or none; never the application', () => {
  const electron = '38.1.0';
  expect(nodeProgram({ electron }, {})).toBeUndefined();
  expect(nodeProgram({ electron }, { PATH: `${delimiter}${folder}${delimiter}` })).toBeUndefined();
  const places = ['a', 'b'].map((part) => join(folder, part));
  for (const place of places) {
    mkdirSync(place);
    writeFileSync(join(place, name), '');
    chmodSync(join(place, name), 0o755);
  }
  expect(nodeProgram({ electron }, { PATH: [folder, ...places].join(delimiter) })).toBe(join(places[0]!, name));
  // As Windows may spell it.
  expect(nodeProgram({ electron }, { Path: places[1] })).toBe(join(places[1]!, name));
});
