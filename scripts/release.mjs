// Makes a version, from one clean commit to the files that are published and attached. Publishes nothing itself.
//
//   npm run release -- 0.2.0                 writes the version everywhere, then builds and checks all of it
//   npm run release -- --owner NAME          the account that the repository is under, wherever it is named
//   npm run release -- --check               only whether all places say the same version and owner
//   npm run release -- --build               builds and checks the version that package.json has (the workflow's step)
//
// --targets linux-x64,win32-x64,...: binaries that must be there (default: all that a Linux machine builds). They are
// built unless they are current, so that those of other machines can be put into prebuilds/ first.
// What comes out lies in build/release: the tarball, the plugin, the bundle for Claude Desktop, server.json, an SBOM and
// the checksums of all. npm's tarball is made twice and compared.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const out = join(root, 'build', 'release');
const npm = 'npm';
const shell = process.platform === 'win32';

const LINUX_TARGETS = ['linux-x64', 'linux-x64-musl', 'linux-arm64', 'linux-arm64-musl', 'win32-x64', 'cuda'];

/** What one download may weigh: 9 MB without native code (7 of them the model), seven systems' 4, the CUDA kernels' machine code 1.6. */
const MAX_TARBALL_BYTES = 16e6;

class Refusal extends Error {}

const read = (file, from = root) => readFileSync(join(from, file), 'utf8');
const readJson = (file, from = root) => JSON.parse(read(file, from));

/** `change` returns the new text. */
function edit(file, change) {
  const before = read(file);
  const after = change(before);
  if (after !== before) writeFileSync(join(root, file), after);
}

const editJson = (file, change) =>
  edit(file, (text) => {
    const json = JSON.parse(text);
    change(json);
    const same = JSON.stringify(JSON.parse(text)) === JSON.stringify(json);
    return same ? text : `${JSON.stringify(json, null, 2)}\n`;
  });

function run(command, ...args) {
  const done = spawnSync(command, args, { cwd: root, encoding: 'utf8', shell, maxBuffer: 64 << 20 });
  if (done.status !== 0) throw new Refusal(`${command} ${args.join(' ')} failed:\n${done.stdout}${done.stderr}`);
  return done.stdout;
}

// ---- One version, one owner

/** The account on GitHub: the one setting is the repository's address in package.json. */
export function ownerOf({ repository }) {
  return /^git\+https:\/\/github\.com\/([\w-]+)\/bitnet-gf3-mcp\.git$/.exec(repository.url)?.[1];
}

/** Places that name the owner, with how they do. */
const OWNER_TEXTS = ['SECURITY.md', '.github/ISSUE_TEMPLATE/config.yml'];

function setOwner(owner) {
  if (!/^[A-Za-z0-9](?:[A-Za-z0-9-]{0,37}[A-Za-z0-9])?$/.test(owner))
    throw new Refusal(`${owner} is no account's name`);
  const page = `https://github.com/${owner}/bitnet-gf3-mcp`;
  editJson('package.json', (json) => {
    json.mcpName = `io.github.${owner}/bitnet-gf3-mcp`;
    json.homepage = `${page}#readme`;
    json.bugs = `${page}/issues`;
    json.repository.url = `git+${page}.git`;
  });
  editJson('server.json', (json) => {
    json.name = `io.github.${owner}/bitnet-gf3-mcp`;
  });
  for (const file of OWNER_TEXTS) {
    edit(file, (text) => text.replace(/github\.com\/[\w-]+\/bitnet-gf3-mcp/g, `github.com/${owner}/bitnet-gf3-mcp`));
  }
}

function setVersion(version) {
  for (const file of ['package.json', '.claude-plugin/plugin.json']) {
    editJson(file, (json) => {
      json.version = version;
    });
  }
  editJson('package-lock.json', (json) => {
    json.version = version;
    json.packages[''].version = version;
  });
  editJson('server.json', (json) => {
    json.version = version;
    for (const part of json.packages) part.version = version;
  });
  edit('.claude-plugin/marketplace.json', (text) =>
    text.replace(/("package": "bitnet-gf3-mcp", "version": )"[^"]*"/, `$1"${version}"`),
  );
}

/** The change log's notes of a version; undefined where it has no such section. */
export function sectionOf(changelog, version) {
  const lines = changelog.split('\n');
  const from = lines.findIndex((line) => line === `## ${version}` || line.startsWith(`## ${version} `));
  if (from < 0) return undefined;
  const length = lines.slice(from + 1).findIndex((line) => line.startsWith('## '));
  return lines
    .slice(from + 1, length < 0 ? undefined : from + 1 + length)
    .join('\n')
    .trim();
}

function openSection(version) {
  edit('CHANGELOG.md', (text) => {
    if (sectionOf(text, version) !== undefined) return text;
    if (!sectionOf(text, 'Unreleased')) throw new Refusal('CHANGELOG.md tells nothing under Unreleased');
    return text.replace('## Unreleased\n', `## Unreleased\n\n## ${version}\n`);
  });
}

/** Every place that does not say what package.json says, one sentence each. `from`: a folder with the package's files. */
export function disagreements(from = root) {
  const { version, mcpName, homepage, bugs, ...manifest } = readJson('package.json', from);
  const found = [];
  const same = (place, actual, expected) => {
    if (actual !== expected) found.push(`${place} says ${actual}, package.json ${expected}`);
  };
  const lock = readJson('package-lock.json', from);
  same('package-lock.json', lock.version, version);
  same("package-lock.json's first package", lock.packages[''].version, version);
  const server = readJson('server.json', from);
  same('server.json', server.version, version);
  for (const part of server.packages) same(`server.json's ${part.registryType} package`, part.version, version);
  same('.claude-plugin/plugin.json', readJson('.claude-plugin/plugin.json', from).version, version);
  for (const { source } of readJson('.claude-plugin/marketplace.json', from).plugins) {
    same('.claude-plugin/marketplace.json', source.version, version);
  }
  if (!sectionOf(read('CHANGELOG.md', from), version)) found.push(`CHANGELOG.md has no section of ${version}`);
  const owner = ownerOf(manifest);
  if (owner === undefined)
    return [...found, `package.json's repository ${manifest.repository.url} is not of the known form`];
  same("package.json's mcpName", mcpName, `io.github.${owner}/bitnet-gf3-mcp`);
  same("server.json's name", server.name, mcpName);
  same("package.json's homepage", homepage, `https://github.com/${owner}/bitnet-gf3-mcp#readme`);
  same("package.json's bugs", bugs, `https://github.com/${owner}/bitnet-gf3-mcp/issues`);
  for (const file of OWNER_TEXTS) {
    for (const [, named] of read(file, from).matchAll(/github\.com\/([\w-]+)\/bitnet-gf3-mcp/g))
      same(file, named, owner);
  }
  return found;
}

// ---- Files

/** Parts of earlier bundles, which a server that runs may still load, are no part of a package. */
function prepack() {
  const bundle = join(root, 'dist', 'bundle');
  if (!existsSync(bundle)) throw new Refusal('dist/ is not built: npm run build');
  const wanted = new Set(['start.cjs', 'THIRD-PARTY-LICENSES.txt']);
  const waiting = readdirSync(join(root, 'dist'), { recursive: true, encoding: 'utf8' })
    .filter((file) => /(^|[/\\])(main|[\w-]+-process)\.js$/.test(file))
    .map((file) => join(root, 'dist', file));
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    for (const [, name] of readFileSync(file, 'latin1').matchAll(/["'](?:\.\.\/bundle)?\.?\/([\w-]+\.cjs)[#"']/g)) {
      if (wanted.has(name) || !existsSync(join(bundle, name))) continue;
      wanted.add(name);
      waiting.push(join(bundle, name));
    }
  }
  for (const name of readdirSync(bundle)) {
    if (!wanted.has(name)) rmSync(join(bundle, name), { recursive: true, force: true });
  }
}

const hashOf = (file) => createHash('sha256').update(readFileSync(file)).digest('hex');

/** npm's tarball of a folder, under a name. */
function pack(folder, name) {
  const to = mkdtempSync(join(root, 'build', '.pack-'));
  try {
    const [made] = Object.values(
      JSON.parse(run(npm, 'pack', folder, '--json', '--ignore-scripts', '--pack-destination', to)),
    );
    renameSync(join(to, made.filename), join(out, name));
    return made;
  } finally {
    rmSync(to, { recursive: true, force: true });
  }
}

/** What is installed and what is bundled, in CycloneDX; the same bytes each time. */
function sbom(version) {
  const bom = JSON.parse(run(npm, 'sbom', '--sbom-format', 'cyclonedx', '--omit', 'dev', '--package-lock-only'));
  delete bom.serialNumber;
  delete bom.metadata.timestamp;
  for (const target of readdirSync(join(root, 'prebuilds')).sort()) {
    const manifest = readJson(join('prebuilds', target, 'manifest.json'));
    const addons = Object.entries(manifest.addons ?? {}).map(([kind, { sha256 }]) => [`${kind}.node`, sha256]);
    const kernels = Object.entries(manifest.files ?? {}).map(([file, { sha256 }]) => [file, sha256]);
    for (const [file, sha256] of [...addons, ...kernels]) {
      bom.components.push({
        type: 'library',
        name: `prebuilds/${target}/${file}`,
        version,
        licenses: [{ license: { id: 'MIT' } }],
        hashes: [{ alg: 'SHA-256', content: sha256 }],
        properties: [{ name: 'built_with', value: manifest.built_with }],
      });
    }
  }
  return `${JSON.stringify(bom, null, 2)}\n`;
}

async function build(targets) {
  const { version } = readJson('package.json');
  const { whyNotCurrent } = await import('./prebuild.mjs');
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  const missing = targets.filter((target) => whyNotCurrent(target) !== undefined);
  if (missing.length > 0) {
    const done = spawnSync(process.execPath, ['scripts/prebuild.mjs', ...missing], {
      cwd: root,
      stdio: ['ignore', 2, 2],
    });
    if (done.status !== 0) throw new Refusal(`not all binaries could be built: ${missing.join(', ')}`);
  }
  // Others that lie there are packed, too, and must not be old ones.
  for (const target of readdirSync(join(root, 'prebuilds'))) {
    const why = whyNotCurrent(target);
    if (why !== undefined) throw new Refusal(`prebuilds: ${why}`);
  }
  prepack();
  const tarball = `bitnet-gf3-mcp-${version}.tgz`;
  const packed = pack('.', tarball);
  const first = hashOf(join(out, tarball));
  pack('.', tarball);
  if (hashOf(join(out, tarball)) !== first) throw new Refusal('npm pack made other bytes the second time');
  const { size } = statSync(join(out, tarball));
  if (size > MAX_TARBALL_BYTES) throw new Refusal(`${tarball} has ${size} bytes, the limit is ${MAX_TARBALL_BYTES}`);
  for (const target of targets) {
    const { addons, files } = readJson(join('prebuilds', target, 'manifest.json'));
    for (const file of files === undefined ? Object.keys(addons).map((kind) => `${kind}.node`) : Object.keys(files)) {
      const path = `prebuilds/${target}/${file}`;
      if (!packed.files.some((file) => file.path === path)) throw new Refusal(`${tarball} lacks ${path}`);
    }
  }
  const { stagePlugin, whyStale, PLUGIN } = await import('./package-plugin.mjs');
  await stagePlugin();
  const stale = await whyStale();
  if (stale !== undefined) throw new Refusal(stale);
  pack(PLUGIN, `bitnet-gf3-plugin-${version}.tgz`);
  const { packMcpb, stageMcpb } = await import('./package-mcpb.mjs');
  packMcpb(await stageMcpb(), join(out, `bitnet-gf3-${version}.mcpb`));
  copyFileSync(join(root, 'server.json'), join(out, 'server.json'));
  writeFileSync(join(out, `bitnet-gf3-mcp-${version}.cdx.json`), sbom(version));
  writeFileSync(join(out, 'NOTES.md'), `${sectionOf(read('CHANGELOG.md'), version)}\n`);
  const files = readdirSync(out).sort();
  writeFileSync(join(out, 'SHA256SUMS'), files.map((file) => `${hashOf(join(out, file))}  ${file}\n`).join(''));
  for (const file of files) process.stderr.write(`${(statSync(join(out, file)).size / 1e6).toFixed(2)} MB  ${file}\n`);
}

// ---- The command

async function main(args) {
  if (args.includes('--prepack')) return prepack();
  const valueAfter = (flag) => (args.includes(flag) ? args[args.indexOf(flag) + 1] : undefined);
  const owner = valueAfter('--owner');
  const targets = valueAfter('--targets')?.split(',') ?? LINUX_TARGETS;
  const version = args.find((word, i) => /^\d/.test(word) && !['--owner', '--targets'].includes(args[i - 1]));
  if (version !== undefined && !/^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$/.test(version)) {
    throw new Refusal(`${version} is no version (0.2.0, 1.0.0-rc.1)`);
  }
  if (owner !== undefined) setOwner(owner);
  if (version !== undefined) {
    setVersion(version);
    openSection(version);
  }
  const wrong = disagreements();
  if (wrong.length > 0) throw new Refusal(wrong.join('\n'));
  const toBuild = version !== undefined || args.includes('--build');
  if (!toBuild) return process.stderr.write('all places say the same version and owner\n');
  rmSync(join(root, 'dist'), { recursive: true, force: true });
  run(npm, 'run', 'build');
  await build(targets);
  process.stderr.write(
    `\nbuild/release is ready. Commit the version and tag it v${readJson('package.json').version}: the workflow "release"\n` +
      'builds it again on every system, with the binaries of macOS, and publishes it with provenance.\n',
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    await main(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
  }
}
