#!/bin/sh
# @huggingface/jinja renders these chat template expressions, without an error, to something else than Jinja2 does.
#
# Expected (Jinja2 3.1.6 as transformers sets it up) and seen are printed side by side; exits non-zero when the library
# no longer differs in all of them, or differs in another way.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund @huggingface/jinja@0.5.11
cat > run.mjs <<'JS'
import { readFileSync } from 'node:fs';
import { Template } from '@huggingface/jinja';
const version = JSON.parse(readFileSync('node_modules/@huggingface/jinja/package.json', 'utf8')).version;
console.log('@huggingface/jinja', version);
// [template, Jinja2's text, this library's text]
const cases = [
  ["{{ '\\n\\n    return x'.lstrip('\\n') }}", '    return x', 'return x'],
  ["{{ 'xxhixx'.strip('x') }}", 'hi', 'xxhixx'],
  ["{{ 'hELLO'.capitalize() }}", 'Hello', 'HELLO'],
  ['{{ [1] == [1] }}', 'True', 'false'],
  ['{{ 1.0 | tojson }}', '1.0', '1'],
  ['a\r\n{% if true %}\r\nb\r\n{% endif %}\r\nc', 'a\nb\nc', 'a\r\n\r\nb\r\n\r\nc'],
  ['{% for a in [1, 2] %}{{ a }}{% break %}{% endfor %}', '1', ''],
];
let changed = 0;
for (const [template, expected, seen] of cases) {
  let text;
  try {
    text = new Template(template).render({});
  } catch (error) {
    text = `error: ${error.message}`;
  }
  console.log(JSON.stringify({ template, expected, seen: text }));
  if (text !== seen) changed++;
}
process.exit(changed === 0 ? 0 : 1);
JS
node run.mjs
