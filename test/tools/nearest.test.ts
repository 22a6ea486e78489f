import { expect, test } from 'vitest';
import { nearest } from '../../src/tools/nearest.ts';

test('the nearest word within a third of the letters', () => {
  expect(nearest('palete', ['color', 'palette'])).toBe('palette');
  expect(nearest('colro', ['color', 'colors'])).toBe('color');
  expect(nearest('zebra', ['color', 'palette'])).toBeUndefined();
});

test('a word over 64 letters has none, and long candidates are not compared', () => {
  expect(nearest('a'.repeat(64), [`${'a'.repeat(63)}b`])).toBe(`${'a'.repeat(63)}b`);
  expect(nearest('a'.repeat(65), ['a'.repeat(65)])).toBeUndefined();
  const started = performance.now();
  expect(nearest('a'.repeat(1_000_000), ['a'.repeat(1_000_000)])).toBeUndefined();
  expect(nearest('a'.repeat(64), ['a'.repeat(10_000_000)])).toBeUndefined();
  expect(performance.now() - started).toBeLessThan(5000);
});
