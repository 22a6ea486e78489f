// Masks against the plain way to find them: every token of the vocabulary by itself, at every place that a text comes to.

import { describe, expect, test } from 'vitest';
import { Matcher, type Place } from '../../../src/generate/structure/matcher.ts';
import { automatonOf, type Structure } from '../../../src/generate/structure/structure.ts';
import { readVocabulary } from '../../../src/generate/structure/token-tree.ts';
import { TokenTrie, toEnd } from '../../../src/generate/structure/token-trie.ts';
import { type Draw, drawFrom } from './random-schemas.ts';

const PIECES = [
  ...[
    'a',
    'b',
    'Z',
    '0',
    '7',
    ' ',
    '"',
    '\\',
    '/',
    ',',
    ':',
    '{',
    '}',
    '[',
    ']',
    '\n',
    '\t',
    '.',
    '-',
    '_',
    '\\n',
    '\\u00',
  ],
  ...['é', 'ß', '中', '文', '😀', '\u2028', '\u0000', '\u007f', '": "', '","', 'name', 'true', 'ing', '\\"', '"}'],
];

/** All bytes, twice the letter a, texts of a few pieces, long runs, and what is no text. */
function drawVocabulary(draw: Draw): Uint8Array[] {
  const tokens = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte));
  tokens.push(new Uint8Array(), Uint8Array.of(0x61));
  for (const length of [40, 253, 254, 255, 300]) {
    for (const text of [' ', 'a', '中'])
      tokens.push(Buffer.from(text.repeat(length)), Buffer.from(`${text.repeat(length)}"`));
  }
  for (const bytes of [
    [0xe4, 0xb8],
    [0xb8, 0xad],
    [0xad, 0x61],
    [0xf0, 0x9f, 0x98],
    [0xc0, 0x80],
    [0xed, 0xa0, 0x80],
    [0xf5],
  ]) {
    tokens.push(Uint8Array.from(bytes), Uint8Array.from([0x61, 0x62, ...bytes]), Uint8Array.from([...bytes, 0x22]));
  }
  while (tokens.length < 1500) {
    const text = Array.from({ length: 1 + draw.below(6) }, () => PIECES[draw.below(PIECES.length)]!).join('');
    tokens.push(Buffer.from(text));
  }
  return tokens;
}

const schema = (value: unknown): Structure => ({ kind: 'schema', text: JSON.stringify(value) });
const grammar = (text: string): Structure => ({ kind: 'grammar', text });

const STRUCTURES: readonly Structure[] = [
  schema({}),
  schema({ type: 'object', properties: { name: { type: 'string' }, a: { type: 'string' } }, required: ['name'] }),
  schema({ type: 'object', properties: { name: {} }, additionalProperties: { type: 'string', minLength: 3 } }),
  schema({ type: 'string', maxLength: 7 }),
  schema({ type: 'string', minLength: 5, maxLength: 400 }),
  schema({ type: 'string', pattern: '^[a-zA-Z0-9_]{2,300}$' }),
  schema({ type: 'string', pattern: '^[a-z]{3,9}[0-9a-z]*:[^:]+$' }),
  schema({ type: 'string', pattern: '^\\w+( \\w+){0,3}$', maxLength: 30 }),
  schema({ type: 'string', pattern: '中{5,}|[^a"]{1,260}' }),
  schema({
    anyOf: [
      { type: 'string', maxLength: 10 },
      { enum: ['name', 'naming', 'a"b'] },
      { type: 'string', pattern: '^a+$' },
    ],
  }),
  schema({ type: 'array', items: { type: ['string', 'number', 'null'] }, maxItems: 3 }),
  schema({ type: 'string', format: 'uri' }),
  grammar('root ::= [a-z ]{5,40} "." [^"]*'),
  grammar('root ::= ( "a"* [b-z0-9A-Z]* )* | .{3,500} "!"'),
  grammar('root ::= "(" root ")" | [a-zA-Z0-9 中文]* '),
  grammar('root ::= [\\u0080-\\U0010ffff]+ [a-y]{20,} "z"'),
];

function plainMask(tokens: readonly Uint8Array[], matcher: Matcher, place: Place): number[] {
  return tokens.flatMap((bytes, id) => (bytes.length > 0 && matcher.walk(place, bytes) !== null ? [id] : []));
}

function idsOf(mask: Uint32Array): number[] {
  return [...mask]
    .flatMap((word, i) => Array.from({ length: 32 }, (_, bit) => ((word >>> bit) & 1 ? 32 * i + bit : -1)))
    .filter((id) => id >= 0);
}

describe.each([1, 2])('vocabulary %i', (seed) => {
  const draw = drawFrom(seed);
  const tokens = drawVocabulary(draw);
  const bytes = { of: (id: number) => (tokens[id]!.length === 0 ? undefined : tokens[id]!), stripsStart: false };
  const vocabulary = toEnd(readVocabulary(bytes, tokens.length, (id) => id === 300));
  tokens[300] = new Uint8Array();

  test.each(STRUCTURES.map((structure) => [structure.text, structure] as const))('%s', (_, structure) => {
    const trie = new TokenTrie(vocabulary, false);
    const matcher = new Matcher(automatonOf(structure));
    trie.expect(matcher.sets);
    for (let text = 0; text < 6; text++) {
      let place = matcher.start;
      for (let step = 0; step < 12; step++) {
        // What is found at once, in slices, and with tables made in between is the same.
        const ahead = (text + step) % 3;
        if (ahead === 1) trie.prepare(matcher, place, 0);
        if (ahead === 2) while (!trie.prepare(matcher, place, 1));
        const { mask, count } = trie.allowed(matcher, place);
        const wanted = plainMask(tokens, matcher, place);
        const found = idsOf(mask);
        expect(found).toEqual(wanted);
        expect(count).toBe(wanted.length);
        if (wanted.length === 0) break;
        // Now and then one of the long ones.
        const next = draw.chance(0.3) ? wanted.find((id) => tokens[id]!.length > 30) : undefined;
        place = matcher.walk(place, tokens[next ?? wanted[draw.below(wanted.length)]!]!)!;
      }
    }
  });

  test('spells with the fewest tokens, and knows each token’s bytes and which begin with a space', () => {
    const trie = new TokenTrie(vocabulary, false);
    expect(trie.hasAllBytes).toBe(true);
    expect(tokens.map((_, id) => Buffer.from(trie.bytesOf(id)).toString('hex'))).toEqual(
      tokens.map((own) => Buffer.from(own).toString('hex')),
    );
    expect([...trie.spaces].sort((a, b) => a - b)).toEqual(tokens.flatMap((own, id) => (own[0] === 0x20 ? [id] : [])));
    const text = Buffer.from('name": "a中😀'.repeat(3));
    const spelled = trie.spell(text)!;
    expect(Buffer.concat(spelled.map((id) => tokens[id]!))).toEqual(text);
    const fewest = [0];
    for (let end = 1; end <= text.length; end++) {
      fewest[end] = Math.min(
        ...tokens.flatMap((own) =>
          own.length > 0 && own.length <= end && text.subarray(end - own.length, end).equals(own)
            ? [1 + fewest[end - own.length]!]
            : [],
        ),
      );
    }
    expect(spelled.length).toBe(fewest[text.length]);
  });
});
