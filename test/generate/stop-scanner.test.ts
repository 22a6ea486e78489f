import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { StopScanner } from '../../src/generate/stop-scanner.ts';
import type { TraceStep } from '../../src/generate/types.ts';

const step = (token: string, index: number): TraceStep => ({
  step: index,
  token,
  tokenId: index,
  logprob: 0,
  color: '#000000',
  trit: 1,
});

function scan(stops: string[], tokens: string[], rest = '') {
  const released: TraceStep[] = [];
  const scanner = new StopScanner(stops, (released_) => released.push(released_));
  const stopped = tokens.some((token, i) => scanner.push(step(token, i)));
  const { trace, completion } = scanner.end(rest);
  return { stopped, completion, tokens: trace.map(({ token }) => token), released };
}

describe('StopScanner', () => {
  test.each([
    [['END'], ['one ', 'END', ' two'], 'one ', ['one ']],
    [['END'], ['one E', 'N', 'D two'], 'one ', ['one ']],
    [['END'], ['one E', 'N', 'O'], 'one ENO', ['one E', 'N', 'O']],
    [['b', 'ab'], ['x', 'ab'], 'x', ['x']],
    [['\n\n'], ['a\n', '\nb'], 'a', ['a']],
    [[], ['a', '', 'b', ''], 'ab', ['a', '', 'b', '']],
    [['x'], ['x'], '', []],
  ])('%j in %j', (stops, tokens, completion, kept) => {
    expect(scan(stops, tokens)).toMatchObject({ completion, tokens: kept });
  });

  test('text that ends a cut character goes to the last step', () => {
    expect(scan([], ['a', ''], '\u{fffd}')).toMatchObject({ completion: 'a\u{fffd}', tokens: ['a', '\u{fffd}'] });
  });

  test('a stop string completed by the rest still cuts', () => {
    expect(scan(['b\u{fffd}'], ['a', 'b'], '\u{fffd}').completion).toBe('a');
  });

  test('for any text and stops: the completion ends before the first stop string, and the trace joins to it', () => {
    const token = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 3 });
    const stop = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 4 });
    fc.assert(
      fc.property(fc.array(stop, { maxLength: 3 }), fc.array(token, { maxLength: 20 }), (stops, tokens) => {
        const text = tokens.join('');
        const cuts = stops.map((value) => text.indexOf(value)).filter((at) => at >= 0);
        const result = scan(stops, tokens);
        // A later token may complete a stop string that begins earlier than one already found.
        if (cuts.length === 0) expect(result.completion).toBe(text);
        else {
          expect(stops.some((value) => result.completion.includes(value))).toBe(false);
          expect(text.startsWith(result.completion)).toBe(true);
          expect(stops.some((value) => text.startsWith(value, result.completion.length))).toBe(true);
        }
        expect(result.tokens.join('')).toBe(result.completion);
        expect(result.released.map(({ token: part }) => part).join('')).toBe(result.completion);
      }),
    );
  });
});
