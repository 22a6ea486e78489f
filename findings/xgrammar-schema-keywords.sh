#!/bin/sh
# xgrammar's web build compiles JSON Schemas with these keywords without a word, to grammars that take what they forbid.
#
# Expected: the text is refused, or the schema is, with an error that names the keyword. Seen: both are taken. Exits
# non-zero when that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts @mlc-ai/web-xgrammar@0.1.27
cp node_modules/@mlc-ai/web-xgrammar/lib/index.js xgrammar.cjs
cat >run.cjs <<'JS'
const { Grammar, Testings } = require('./xgrammar.cjs');
(async () => {
  const { version } = require('./node_modules/@mlc-ai/web-xgrammar/package.json');
  console.log(`@mlc-ai/web-xgrammar ${version}`);
  let changed = 0;
  for (const [keyword, schema, text] of [
    ['uniqueItems', { type: 'array', items: { type: 'integer' }, uniqueItems: true }, '[1, 1]'],
    ['multipleOf', { type: 'integer', multipleOf: 5 }, '7'],
    ['not', { type: 'string', not: { enum: ['no'] } }, '"no"'],
  ]) {
    let seen;
    try {
      const grammar = await Grammar.fromJSONSchema(JSON.stringify(schema));
      seen = (await Testings.isGrammarAcceptString(grammar, text)) ? 'taken' : 'refused';
    } catch (error) {
      seen = `an error: ${error.message}`;
    }
    console.log(`${keyword}: ${text} under ${JSON.stringify(schema)}: expected refused or an error, got ${seen}`);
    if (seen !== 'taken') changed += 1;
  }
  process.exit(changed === 0 ? 0 : 1);
})();
JS
node run.cjs
