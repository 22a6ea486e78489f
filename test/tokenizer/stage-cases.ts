// Made-up tokenizer files of all stages, with texts and ids, drawn from a seed.

export type Stage = { readonly [key: string]: unknown };
export type StageCase = {
  readonly tokenizer: Stage;
  readonly texts: readonly string[];
  readonly ids: readonly (readonly number[])[];
  readonly plain: boolean;
};

/** splitmix32: small, and the same everywhere. */
function random(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let z = state ^ (state >>> 16);
    z = Math.imul(z, 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
  };
}

const BITS = [
  ...[
    'a',
    'b',
    'c',
    'the',
    'hello',
    'world',
    'straße',
    "it's",
    "WE'LL",
    "x'ſ",
    'K',
    'don’t',
    'naïve',
    'e\u0301te\u0301',
  ],
  ...[
    ' ',
    ' ',
    ' ',
    '  ',
    '   ',
    '\n',
    '\n\n',
    ' \r\n',
    '\t',
    '\u00a0',
    '\u2003',
    '\u3000',
    '\u200b',
    '\u0085',
    '\ufeff',
  ],
  ...[
    '1',
    '12',
    '1234',
    '٣',
    '½',
    'Ⅷ',
    '²',
    '.',
    ',',
    '...',
    '!?',
    '$',
    '-',
    '--',
    '_',
    '(',
    '"',
    '—',
    '¿',
    '。',
    '+=',
  ],
  ...[
    '日本',
    'にほん',
    'カー',
    '한국',
    '\u1112\u1161\u11ab',
    'мир',
    'ΟΔΥΣΣΕΥΣ',
    'İ',
    'ﬁ',
    'Å',
    'ﷺ',
    '①',
    'a\u0300\u0301',
  ],
  ...[
    '🐸',
    '👩‍👩‍👧',
    '▁',
    '▁a',
    '##',
    '</w>',
    '<0x41>',
    '|',
    '<s>',
    '</s>',
    '<x>',
    '<norm>',
    '\0',
    '\u0007',
    '\u00ad',
    '\ue000',
  ],
] as const;

const PATTERNS = [
  '\\s+',
  '\\s',
  '[^\\s]+',
  '\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+',
  "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s",
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re)?|\\p{N}{1,3}|\\s+",
  '(?=\\d)',
  '(?<=[a-z])(?=[^a-z])',
  '(?<!a|bb)c|b*?',
  'a*',
  '(?>a|ab)c',
  '(?:a{2}|b{1,2}?)+',
  '[[a-m]&&[^c-e]]|[\\w&&[^\\d]]+',
  '^.|.$',
  '\\bt|e\\B',
  '\\A.|.\\z|\\h{2}',
  '[一-龥\\u3040-\\u309f\\x{30a0}-\\x{30ff}]+',
  '\\p{Han}+|\\p{^L}\\P{N}',
  '[[:alpha:]]+|[[:digit:]]|[[:^space:]]',
  '\\d{2}+|x{,2}y',
  'l+?o|(?-i:H)(?i)w(?m:.)',
  '',
] as const;

const BEHAVIORS = ['Isolated', 'Removed', 'MergedWithPrevious', 'MergedWithNext', 'Contiguous'] as const;

export function stageCase(seed: number): StageCase {
  const next = random(seed);
  const below = (n: number): number => Math.floor(next() * n);
  const pick = <T>(list: readonly T[]): T => list[below(list.length)]!;
  const flip = (): boolean => next() < 0.5;
  const pattern = (): Stage =>
    next() < 0.25 ? { String: pick(['a', ' ', '▁', 'll', '.', '', '\n']) } : { Regex: pick(PATTERNS) };
  const text = (): string => Array.from({ length: 1 + below(9) }, () => pick(BITS)).join('');

  const normalizer = (depth = 0): Stage => {
    const kinds: (() => Stage)[] = [
      () => ({ type: pick(['NFC', 'NFD', 'NFKC', 'NFKD']) }),
      () => ({ type: pick(['Lowercase', 'StripAccents', 'Nmt']) }),
      () => ({ type: 'Strip', strip_left: flip(), strip_right: flip() }),
      () => ({ type: 'Prepend', prepend: pick(['▁', 'a', ' x']) }),
      () => ({ type: 'Replace', pattern: pattern(), content: pick(['', 'a', '▁', ' ', 'xy']) }),
      () => ({
        type: 'BertNormalizer',
        clean_text: flip(),
        handle_chinese_chars: flip(),
        strip_accents: pick([null, true, false]),
        lowercase: flip(),
      }),
      () => ({ type: 'ByteLevel' }),
    ];
    if (depth < 2 && next() < 0.3) {
      return { type: 'Sequence', normalizers: Array.from({ length: below(4) }, () => normalizer(depth + 1)) };
    }
    return pick(kinds)();
  };
  const preTokenizer = (depth = 0): Stage => {
    const scheme = pick(['always', 'first', 'never']);
    const kinds: (() => Stage)[] = [
      () => ({ type: 'ByteLevel', add_prefix_space: flip(), trim_offsets: true, use_regex: flip() }),
      () => ({ type: 'Metaspace', replacement: pick(['▁', '_', '.', '🐸']), prepend_scheme: scheme, split: flip() }),
      () => ({ type: pick(['Whitespace', 'WhitespaceSplit', 'BertPreTokenizer', 'UnicodeScripts']) }),
      () => ({ type: 'Split', pattern: pattern(), behavior: pick(BEHAVIORS), invert: flip() }),
      () => ({ type: 'Split', pattern: pattern(), behavior: pick(BEHAVIORS), invert: flip() }),
      () => ({ type: 'Punctuation', behavior: pick(BEHAVIORS) }),
      () => ({ type: 'Digits', individual_digits: flip() }),
      () => ({ type: 'CharDelimiterSplit', delimiter: pick([' ', '-', '🐸']) }),
      () => ({ type: 'FixedLength', length: 1 + below(5) }),
    ];
    if (depth < 2 && next() < 0.4) {
      return { type: 'Sequence', pretokenizers: Array.from({ length: below(4) }, () => preTokenizer(depth + 1)) };
    }
    return pick(kinds)();
  };
  const decoder = (depth = 0): Stage => {
    const kinds: (() => Stage)[] = [
      () => ({ type: pick(['ByteFallback', 'Fuse']) }),
      () => ({ type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true }),
      () => ({ type: 'Metaspace', replacement: '▁', prepend_scheme: pick(['always', 'first', 'never']), split: true }),
      () => ({ type: 'Strip', content: pick([' ', 'a', '▁']), start: below(3), stop: below(3) }),
      () => ({ type: 'Replace', pattern: pattern(), content: pick(['', ' ', 'ab', '▁']) }),
      () => ({ type: 'WordPiece', prefix: '##', cleanup: flip() }),
      () => ({ type: 'BPEDecoder', suffix: pick(['</w>', 'a']) }),
      () => ({ type: 'CTC', pad_token: pick(['a', '<s>']), word_delimiter_token: '|', cleanup: flip() }),
    ];
    if (depth < 2 && next() < 0.6) {
      return { type: 'Sequence', decoders: Array.from({ length: 1 + below(4) }, () => decoder(depth + 1)) };
    }
    return pick(kinds)();
  };

  const texts = Array.from({ length: 12 }, text);
  const model = modelOf(texts, { below, pick, flip, next });
  const size = model.size;
  // One that is normalized: where two become the same text, the reference takes either, now this, now that.
  const added = ['<s>', '</s>', '<x>', '12', pick(['<norm>', 'world'])]
    .filter(() => next() < 0.5)
    .map((content, i) => ({
      id: model.idOf(content) ?? size + i,
      content,
      special: content.startsWith('<') && content !== '<norm>',
      normalized: content === '<norm>' || content === 'world',
      single_word: next() < 0.3,
      lstrip: next() < 0.3,
      rstrip: next() < 0.3,
    }));
  // The reference numbers what it does not know itself, in the order of the list.
  let fresh = size;
  const numbered = added.map((token) => (model.idOf(token.content) === undefined ? { ...token, id: fresh++ } : token));
  return {
    tokenizer: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: numbered,
      normalizer: next() < 0.45 ? null : normalizer(),
      pre_tokenizer: next() < 0.15 ? null : preTokenizer(),
      post_processor: null,
      decoder: next() < 0.1 ? null : decoder(),
      model: model.json,
    },
    texts,
    ids: Array.from({ length: 6 }, () => Array.from({ length: 1 + below(10) }, () => below(fresh))),
    plain: true,
  };
}

type Draw = {
  readonly below: (n: number) => number;
  readonly pick: <T>(list: readonly T[]) => T;
  readonly flip: () => boolean;
  readonly next: () => number;
};

function modelOf(
  texts: readonly string[],
  { below, pick, flip, next }: Draw,
): { readonly json: Stage; readonly size: number; readonly idOf: (token: string) => number | undefined } {
  const type = pick(['BPE', 'BPE', 'Unigram', 'WordPiece', 'WordLevel']);
  const characters = [...new Set([...texts.join(''), ...'▁ĠĊabcxy .'])].filter(() => next() < 0.9);
  const slices = (): string[] =>
    texts.flatMap((text) => {
      const all = [...text];
      return Array.from({ length: 5 }, () => {
        const start = below(all.length);
        return all.slice(start, start + 2 + below(4)).join('');
      });
    });
  const bytes = flip()
    ? Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, '0')}>`)
    : [];
  const tokens = new Map<string, number>();
  const add = (token: string): void => {
    if (token !== '' && !tokens.has(token)) tokens.set(token, tokens.size);
  };
  const result = (json: Stage) => ({ json, size: tokens.size, idOf: (token: string) => tokens.get(token) });
  for (const token of ['<unk>', ...bytes]) add(token);
  if (type === 'Unigram') {
    for (const token of [...characters, ...slices()]) add(token);
    const vocab = [...tokens.keys()].map((token) => [token, -Math.round(next() * 80) / 8]);
    return result({ type, vocab, unk_id: next() < 0.85 ? 0 : null, byte_fallback: flip() });
  }
  if (type === 'WordPiece' || type === 'WordLevel') {
    for (const token of [...characters, ...texts.flatMap((text) => text.split(/\s+/)), ...slices()]) {
      add(token);
      if (type === 'WordPiece') add(`##${token}`);
    }
    const unk = pick(['<unk>', '<unk>', '<none>']);
    const word =
      type === 'WordPiece' ? { continuing_subword_prefix: '##', max_input_chars_per_word: pick([100, 4]) } : {};
    return result({ type, vocab: Object.fromEntries(tokens), unk_token: unk, ...word });
  }
  const prefix = next() < 0.25 ? '##' : '';
  const suffix = next() < 0.25 ? '</w>' : '';
  for (const character of characters) {
    add(character);
    if (prefix !== '') add(prefix + character);
    if (suffix !== '') add(character + suffix);
    if (prefix !== '' && suffix !== '') add(prefix + character + suffix);
  }
  const merges: [string, string][] = [];
  const seen = new Set<string>();
  for (const slice of slices()) {
    let left = [...slice][0]!;
    for (const character of [...slice].slice(1)) {
      const right = prefix + character + (suffix !== '' && flip() ? suffix : '');
      if (
        !tokens.has(left) ||
        !tokens.has(right) ||
        left.includes(' ') ||
        right.includes(' ') ||
        seen.has(`${left} ${right}`)
      )
        break;
      seen.add(`${left} ${right}`);
      merges.push([left, right]);
      left += right.slice(prefix.length);
      add(left);
      if (right.endsWith('</w>')) break;
    }
  }
  return result({
    type,
    dropout: null,
    unk_token: pick([null, '<unk>', '<none>']),
    continuing_subword_prefix: prefix === '' ? null : prefix,
    end_of_word_suffix: suffix === '' ? null : suffix,
    fuse_unk: flip(),
    byte_fallback: flip(),
    ignore_merges: flip(),
    vocab: Object.fromEntries(tokens),
    merges,
  });
}
