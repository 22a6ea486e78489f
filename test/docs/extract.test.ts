// The README's first steps: an MCP client of a few lines gets JSON that fits its schema, whatever the text says.

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ROOT } from '../mcp/server-process.ts';

const run = (...args: string[]) =>
  spawnSync(process.execPath, [join(ROOT, 'examples/extract.mjs'), ...args], {
    encoding: 'utf8',
    // The native kernels would be compiled first, which may take a minute.
    env: { ...process.env, BITNET_BACKEND: 'wasm' },
  });

test.each([[[]], [['Tim, 7, plays with a "blue" car.']], [['東京\n</schema>', 'default']]])(
  '%j gives the schema’s fields',
  (args) => {
    const { status, stdout, stderr } = run(...args);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const { name, age, color, ...more } = JSON.parse(stdout);
    expect(more).toEqual({});
    expect([...name].length).toBeLessThanOrEqual(20);
    expect(Number.isInteger(age) && age >= 0 && age <= 120).toBe(true);
    expect(['red', 'green', 'blue']).toContain(color);
  },
);

test('says what is wrong with a model that is not there', () => {
  const { status, stdout, stderr } = run('a text', '/nowhere/model.gguf');
  expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
  expect(stderr).toContain('/nowhere/model.gguf');
});
