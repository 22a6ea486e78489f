// Every example that a user can read is run, as it stands, by a shell against the built program: page by page in a folder
// of its own. What is not run is listed here with the reason, and is at least parsed.

import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { COMMANDS, loadCommand } from '../../src/cli/commands.ts';
import { parseFlags } from '../../src/cli/parse-flags.ts';
import { ALL_TOOLS } from '../../src/tools/all-tools.ts';
import { MAIN, runCli } from '../cli/run-cli.ts';
import { ROOT } from '../mcp/server-process.ts';
import { blocksIn, helpSources, PAGES, pageSources, textOf, wordsOf } from './examples.ts';

const HUB = 'needs the network and gigabytes; test/hub/pull.test.ts pulls from a hub of its own';
const CLIENT = 'needs Claude Code; npm run interop:claude does it where it is installed';
const GIGABYTES = 'takes gigabytes of memory and minutes; test/bench/bench.test.ts measures a small shape';

/** Not run: the whole command, and why. */
const NOT_RUN: Readonly<Record<string, string>> = {
  'bitnet-gf3 pull ORG/NAME': HUB,
  'bitnet-gf3 pull microsoft/bitnet-b1.58-2B-4T': HUB,
  'bitnet-gf3 pull microsoft/bitnet-b1.58-2B-4T-gguf/ggml-model-i2_s.gguf': HUB,
  'bitnet-gf3 pull tiiuae/Falcon-E-3B-Instruct': HUB,
  'bitnet-gf3 pull prism-ml/Ternary-Bonsai-1.7B-gguf': HUB,
  'bitnet-gf3 pull prism-ml/Ternary-Bonsai-4B-gguf': HUB,
  'bitnet-gf3 pull prism-ml/Ternary-Bonsai-8B-gguf': HUB,
  'bitnet-gf3 pull prism-ml/Ternary-Bonsai-27B-gguf': HUB,
  'bitnet-gf3 pull prism-ml/Ternary-Bonsai-2-27B-gguf': HUB,
  'bitnet-gf3 pull deepgrove/maple-preview-GGUF': HUB,
  'bitnet-gf3 infer "Once upon a time" --backend openai --model NAME --trace-gf3':
    'needs a server; test/generate/openai has one of its own',
  'node examples/extract.mjs "Lily is five. She has a red ball." MODEL': 'test/docs/extract.test.ts runs it with one',
  'bitnet-gf3 chat': 'needs a terminal; test/cli/chat.test.ts has one',
  'bitnet-gf3 chat --model NAME --system "Answer in one sentence." --thinking off':
    'is for a terminal and another model',
  'bitnet-gf3 bench --shape 2b4t': GIGABYTES,
  'bitnet-gf3 bench --shape 2b4t --threads 2': GIGABYTES,
  'bitnet-gf3 bench --shape 2b4t --threads 2 --json': GIGABYTES,
  'bitnet-gf3 bench --shape 2b4t --concurrency 4': GIGABYTES,
  'bitnet-gf3 bench --shape large --concurrency 4': GIGABYTES,
  'bitnet-gf3 bench --shape bonsai-8b --threads 16': GIGABYTES,
  'bitnet-gf3 bench --shape bonsai-27b --threads 16': GIGABYTES,
  'bitnet-gf3 bench --backend cuda': 'needs an NVIDIA GPU',
  'bitnet-gf3 bench --threads sweep': 'measures a quiet machine; test/bench/sweep.test.ts sweeps a small shape',
  'npm link': 'changes the machine; test/packages/npm-package.test.ts starts both names by npx',
  'npm test': 'is this',
  'TEST_INSTALLS=1 npm test': 'is this, with what takes minutes',
  'npm install --ignore-scripts onnxruntime-node': 'test/packages/on-request.test.ts, when asked',
  'npm audit signatures': 'asks the registry about a published package',
  'npm install --ignore-scripts': 'is told of in prose; scripts/try-package.mjs does it',
  'npm run release -- 0.2.0': 'writes versions; test/packages/release.test.ts checks what it compares',
  'npm install bitnet-gf3-mcp': 'is not on npm yet; test/packages/npm-package.test.ts installs the packed package',
  'npx vitest run test/color': 'is this',
  'npx @modelcontextprotocol/inspector node REPO/dist/cli/main.js': 'npm run interop runs the inspector',
  'scripts/kernel-selftest': 'compiles every instruction set; test/kernels/x86-64.test.ts runs it',
  'claude mcp add bitnet-gf3 -- node /path/to/bitnet-gf3-mcp/dist/cli/main.js': CLIENT,
  'claude mcp add --transport http bitnet-gf3 http://127.0.0.1:8069/mcp': CLIENT,
  'claude mcp add --transport http bitnet-gf3 https://mcp.example.com/mcp -H "Authorization: Bearer $BITNET_TOKEN"':
    CLIENT,
  'BITNET_TOKEN=$(openssl rand -hex 32) BITNET_HANDLE_KEY=$(openssl rand -hex 32) docker compose -f deploy/compose.yaml up':
    'needs Docker',
};

/** `npm run NAME`: what does it instead. */
const SCRIPTS: Readonly<Record<string, string>> = {
  extract: 'test/docs/extract.test.ts runs its client',
  demo: 'test/packages/on-request.test.ts, in a fresh clone, when asked',
  onnx: 'test/packages/on-request.test.ts, when asked',
  check: 'is this, with types and lint',
  schemas: 'test/tools/schemas.test.ts finds drift',
  fuzz: 'test/fuzz/fuzz-command.test.ts, for a short while',
  'package:mcpb': 'test/packages/bundles.test.ts',
  'package:plugin': 'test/packages/bundles.test.ts',
  prebuilds: 'compiles for minutes; .ci/run and the workflow release do',
  'interop:windows': 'wants Wine; .ci/run does',
  interop: 'fetches the inspector',
  'interop:claude': 'needs Claude Code',
  'interop:openai': 'builds llama.cpp',
  'bench:calls': 'measures a quiet machine',
  'bench:hostile': 'measures a quiet machine',
  'bench:peers': 'fetches llama.cpp',
  'bench:structure': 'measures a quiet machine',
};

/** Run with more at their end (the last of a flag counts), because as it stands it takes minutes. */
const SHORTENED: Readonly<Record<string, string>> = { train: '--steps 1 --batch-tokens 128' };

/** Of those, what has run: the same words on several pages do the same. */
const hasRun = new Set<string>();

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'bitnet-examples-'));
  const bin = join(scratch, 'bin');
  mkdirSync(bin);
  for (const name of ['bitnet-gf3', 'bitnet-gf3-mcp']) {
    writeFileSync(join(bin, name), `#!/bin/sh\nexec "${process.execPath}" "${MAIN}" "$@"\n`);
  }
  // What it would fetch is what is built here.
  writeFileSync(join(bin, 'npx'), '#!/bin/sh\nname=$1\nshift\nexec "$name" "$@"\n');
  for (const name of readdirSync(bin)) chmodSync(join(bin, name), 0o755);
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** What a reader of the examples has beside them: texts of theirs, and the clone. */
const GIVEN = [
  'data.jsonl',
  'story.txt',
  'prompt.txt',
  'CASE_DIR',
  'scripts',
  'dist',
  'test',
  'deploy',
  'examples',
  'schemas',
];

function folderWithInputs(name: string): string {
  const folder = join(scratch, name.replace(/\W+/g, '-'));
  mkdirSync(folder);
  const animals = ['fox', 'hen', 'owl', 'cat', 'dog'];
  const sentences = Array.from({ length: 400 }, (_, i) => {
    const [a, b] = [animals[i % 5], animals[(i * i + 3 * i + 1) % 5]];
    return `The ${a} number ${i} met the ${b} at the old bridge on day ${(i * 37) % 365} and they walked home.`;
  });
  writeFileSync(join(folder, 'story.txt'), `${sentences.slice(0, 60).join(' ')}\n`);
  writeFileSync(join(folder, 'prompt.txt'), 'Once upon a time\n');
  writeFileSync(join(folder, 'data.jsonl'), sentences.map((text) => `${JSON.stringify({ text })}\n`).join(''));
  symlinkSync(join(ROOT, 'test/golden/model/bitnet_packed_a_s111'), join(folder, 'CASE_DIR'));
  for (const part of ['scripts', 'dist', 'test', 'deploy', 'examples'])
    symlinkSync(join(ROOT, part), join(folder, part));
  // The one command that writes into the repository.
  mkdirSync(join(folder, 'schemas'));
  return folder;
}

const environment = (folder: string) => ({
  PATH: `${join(scratch, 'bin')}${delimiter}${process.env.PATH}`,
  HOME: process.env.HOME ?? folder,
  BITNET_WORLDS: join(folder, '.worlds'),
  BITNET_TOKEN: 'f00d'.repeat(8),
  BITNET_LOG: 'warn',
});

function runInShell(command: string, cwd: string) {
  const { status, stdout, stderr } = spawnSync('bash', ['-c', command], {
    cwd,
    env: environment(cwd),
    encoding: 'utf8',
    input: '',
    maxBuffer: 1 << 26,
  });
  return { code: status, stdout, stderr };
}

/** A server is started, spoken to, and asked to stop. */
async function serve(words: readonly string[], cwd: string): Promise<void> {
  const http = words.includes('--http');
  const args = http ? [...words, '--port', '0', '--json'] : words;
  const child = spawn(process.execPath, [MAIN, ...args], { cwd, env: environment(cwd) });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  let stdout = '';
  const said = new Promise<string>((resolve) => {
    child.stdout.setEncoding('utf8').on('data', (text) => {
      stdout += text;
      if (http ? stdout.includes('}') : stdout.includes('\n')) resolve(stdout);
    });
    child.on('close', () => resolve(stdout));
  });
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  if (!http) {
    const params = { protocolVersion: '2025-06-18', capabilities: {}, clientInfo: { name: 'docs', version: '0' } };
    child.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'initialize', params })}\n`);
  }
  const first = JSON.parse(await said);
  if (http) expect((await fetch(new URL('/healthz', first.url.replace('0.0.0.0', '127.0.0.1')))).status).toBe(200);
  else expect(first.result.serverInfo.name).toContain('bitnet-gf3');
  child.stdin.end();
  if (http) child.kill('SIGTERM');
  expect({ code: await ended, stderr }).toEqual({ code: 0, stderr: '' });
}

async function checkParse(words: readonly string[]): Promise<void> {
  const entry = COMMANDS.find(({ name }) => name === words[0]);
  expect(entry, `command ${words[0]}`).toBeDefined();
  parseFlags(await loadCommand(entry!), words.slice(1));
}

/** What is left of a shown line to run: no comment, no build before it (the tests have built), no placeholder. */
const runnable = (shown: string) =>
  shown
    .replace(/\s+#\s.*$/, '')
    .replace(/^npm run build && /, '')
    .replace('REPO/', '');
const scriptOf = (command: string) => /^npm run ([\w:]+)/.exec(command)?.[1];
const sources = [...pageSources(), ...(await helpSources())];

describe.skipIf(process.platform === 'win32').each(sources)('$name', ({ name, examples }) => {
  let folder: string;
  beforeAll(() => {
    folder = folderWithInputs(name);
  });

  test.each(examples)('$line: $command', async ({ command: shown, inline }) => {
    const command = runnable(shown);
    const script = scriptOf(command);
    const reason = NOT_RUN[command] ?? NOT_RUN[shown] ?? (script === undefined ? undefined : SCRIPTS[script]);
    if (script !== undefined) {
      expect(packageScripts).toContain(script);
      expect(reason, 'a reason not to run it').toBeDefined();
      return;
    }
    const words = wordsOf(command);
    const ours = words[0] === 'bitnet-gf3' ? words.slice(1) : undefined;
    if (reason !== undefined) {
      if (ours !== undefined) await checkParse(ours);
      return;
    }
    // The name of a command within prose.
    if (inline && ours?.length === 1) {
      expect(COMMANDS.map((entry) => entry.name)).toContain(ours[0]);
      return;
    }
    if (ours?.[0] === 'serve' && !ours.includes('--help')) return await serve(ours, folder);
    if (command === 'node dist/cli/main.js') return await serve([], folder);
    const more = ours === undefined ? undefined : SHORTENED[ours[0]!];
    if (more !== undefined) {
      if (hasRun.has(command)) return;
      hasRun.add(command);
    }
    const { code, stdout, stderr } = runInShell(more === undefined ? command : `${command} ${more}`, folder);
    expect({ code, said: stderr }).toEqual({ code: 0, said: expect.not.stringMatching(/error|warning/i) });
    // What the page shows below it is what comes.
    const shownBelow = outputBelow(name, shown);
    if (shownBelow !== undefined) expect(stdout.trimEnd()).toBe(shownBelow);
  });

  test('what the commands leave here git does not see', () => {
    if (name !== 'README.md') return;
    const left = readdirSync(folder, { withFileTypes: true })
      .filter((entry) => !entry.name.startsWith('.') && !GIVEN.slice(1).includes(entry.name))
      .map((entry) => (entry.isDirectory() ? `${entry.name}/` : entry.name));
    expect(left).toContain('layer_0.weights.png');
    const ignored = spawnSync('git', ['check-ignore', '--no-index', ...left, 'my-model/config.json', 'model.gguf'], {
      cwd: ROOT,
      encoding: 'utf8',
    });
    expect(ignored.stdout.trim().split('\n')).toEqual([...left, 'my-model/config.json', 'model.gguf']);
  });

  test('docs/morphisms.md leaves no world behind', async () => {
    if (name !== 'docs/morphisms.md') return;
    const { stdout } = await runCli(['world', 'list', '--json'], { env: environment(folder) });
    expect(JSON.parse(stdout)).toEqual([]);
  });
});

const packageScripts = Object.keys(
  JSON.parse(spawnSync('cat', [join(ROOT, 'package.json')], { encoding: 'utf8' }).stdout).scripts,
);

/** The block without a language that follows the block with this command, if one does. */
function outputBelow(page: string, command: string): string | undefined {
  if (!PAGES.includes(page)) return undefined;
  const blocks = blocksIn(textOf(page));
  const at = blocks.findIndex(({ language, text }) => language === 'sh' && text.trim() === command);
  const next = blocks[at + 1];
  return at >= 0 && next?.language === '' ? next.text.trimEnd() : undefined;
}

test('what is listed as not run is there', () => {
  const shown = sources.flatMap(({ examples }) => examples.map(({ command }) => command));
  const commands = new Set([...shown, ...shown.map(runnable)]);
  const scripts = shown.map((command) => scriptOf(runnable(command)));
  expect(Object.keys(NOT_RUN).filter((command) => !commands.has(command))).toEqual([]);
  expect(Object.keys(SCRIPTS).filter((name) => !scripts.includes(name))).toEqual([]);
});

describe('calls in the documentation', () => {
  test.each(
    PAGES.flatMap((page) =>
      blocksIn(textOf(page))
        .filter(({ language }) => language === 'json')
        .map(({ text, line }) => ({ page, line, text })),
    ),
  )('$page, line $line: JSON, and arguments that the tool takes', ({ page, text }) => {
    // Skills show whole calls with results; test/skills runs them.
    if (page.startsWith('skills/')) return void JSON.parse(text);
    for (const json of text.includes('\n{') ? text.split('\n') : [text]) {
      const value = JSON.parse(json);
      if (value.name === undefined) continue;
      const tool = ALL_TOOLS.find((candidate) => candidate.name === value.name);
      expect(tool?.input.safeParse(value.arguments).error, json).toBeUndefined();
      expect(tool, json).toBeDefined();
    }
  });
});

describe('ids in help are those of the words that they stand for', () => {
  test('tokenize and eval', async () => {
    const { stdout } = await runCli(['tokenize', 'default', 'Once upon a time']);
    const ids = stdout.split('\n')[0]!;
    expect(ids).toBe('0,1645,690,261,516');
    expect((await runCli(['eval', '--help'])).stdout).toContain(`--ids ${ids} `);
    expect((await runCli(['tokenize', '--help'])).stdout).toContain(`--ids ${ids.slice(2)}\n`);
    expect((await runCli(['tokenize', 'default', '--ids', ids.slice(2)])).stdout).toBe('Once upon a time\n');
  });

  test('the skill names the rate that the tool has', () => {
    const rate = /[Dd]efault (0\.\d+) for adamw, (0\.\d+) for sgd/.exec(
      JSON.stringify(ALL_TOOLS.find(({ name }) => name === 'morphism_step')!.input.shape.lr!.description),
    )!;
    const skill = textOf('skills/worlding/SKILL.md');
    expect(skill).toContain(`The default \`lr\` (${Number(rate[1]).toExponential()} for adamw, ${rate[2]} for sgd)`);
    expect(skill).toContain(`the default \`lr\` of ${Number(rate[1]).toExponential()} `);
  });
});
