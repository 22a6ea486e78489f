#!/bin/sh
# @huggingface/tokenizers (JavaScript) cuts words with accents where tokenizers (Rust) does not, without an error.
#
# Expected of the pre-tokenizer Whitespace: the three words, as tokenizers 0.23.2 gives them. Seen: what is no ASCII letter
# is no part of a word. Exits non-zero when that has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund @huggingface/tokenizers@0.2.0
cat > run.mjs <<'JS'
import { readFileSync } from 'node:fs';
import { Tokenizer } from '@huggingface/tokenizers';
const version = JSON.parse(readFileSync('node_modules/@huggingface/tokenizers/package.json', 'utf8')).version;
console.log('@huggingface/tokenizers', version);
const vocab = { '[UNK]': 0, été: 1, naïve: 2, über: 3, t: 4 };
const config = {
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: { type: 'Whitespace' },
  post_processor: null,
  decoder: null,
  model: { type: 'WordPiece', vocab, unk_token: '[UNK]', continuing_subword_prefix: '##', max_input_chars_per_word: 100 },
};
const tokenizer = new Tokenizer(config, {});
const expected = ['été', 'naïve', 'über'];
const seen = tokenizer.encode('été naïve über', { add_special_tokens: false }).tokens;
console.log(JSON.stringify({ text: 'été naïve über', expected, seen }));
process.exit(JSON.stringify(seen) === JSON.stringify(expected) ? 1 : 0);
JS
node run.mjs
