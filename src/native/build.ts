#!/usr/bin/env node
// Compiles native code ahead of its first use:
//
//   node dist/native/build.js [bitnet] [train] [metal]    unless up to date; never exits with an error
//   node dist/native/build.js --strict ...                the same, but a failed build is an error; says what was built
//
// Without a name: what runs models here.

import { packageRoot } from '../package/root.ts';
import { compileAddon, findCompiler } from './compile.ts';
import { ADDON_KINDS, ADDON_NAMES, type AddonKind } from './kind.ts';
import { noteFailedBuild } from './notes.ts';
import { buildKey, sourcePaths } from './recipe.ts';

const strict = process.argv.includes('--strict');
const named = ADDON_KINDS.filter((kind) => process.argv.slice(2).includes(kind));
const usual: readonly AddonKind[] = process.platform === 'darwin' ? ['bitnet', 'metal'] : ['bitnet'];
const root = packageRoot();

for (const kind of named.length > 0 ? named : usual) {
  const built = await compileAddon(kind, root);
  if (built.path === undefined) {
    process.stderr.write(`${ADDON_NAMES[kind]} were not built, something slower takes over: ${built.reason}\n`);
    const { files } = sourcePaths(kind, root) ?? {};
    const compiler = findCompiler();
    if (files !== undefined && compiler !== undefined) {
      await noteFailedBuild(kind, buildKey(kind, root, files), { compiler: compiler.version, reason: built.reason });
    }
    if (strict) process.exitCode = 1;
  } else if (strict) {
    const missing = built.without.length > 0 ? `, without ${built.without.join(', ')}` : '';
    process.stderr.write(`${built.path}${missing} (${built.seconds.toFixed(1)} s)\n`);
  }
}
