#!/bin/sh
# xgrammar's web build: a character class that lists characters beyond ASCII matches none of them.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund --ignore-scripts @mlc-ai/web-xgrammar@0.1.27
# Its file is CommonJS under "type": "module": import and require both find no exports, a copy called .cjs works.
cp node_modules/@mlc-ai/web-xgrammar/lib/index.js xgrammar.cjs
cat >run.cjs <<'JS'
const { Grammar, Testings } = require('./xgrammar.cjs');
(async () => {
  const { version } = require('./node_modules/@mlc-ai/web-xgrammar/package.json');
  console.log(`@mlc-ai/web-xgrammar ${version}`);
  const seen = [];
  for (const [grammar, text] of [
    ['root ::= "é"', 'é'],
    ['root ::= [^a]', 'é'],
    ['root ::= [cé]', 'c'],
    ['root ::= [cé]', 'é'],
    ['root ::= [à-ü]', 'é'],
  ]) {
    const accepted = await Testings.isGrammarAcceptString(await Grammar.fromEBNF(grammar), text);
    seen.push(accepted);
    console.log(`${grammar}  on ${text}: expected true, got ${accepted}`);
  }
  if (seen.join() !== 'true,true,true,false,false') {
    console.log('this has changed');
    process.exit(1);
  }
})();
JS
node run.cjs
