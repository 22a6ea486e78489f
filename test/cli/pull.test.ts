// `pull` as a user calls it, against a Hub of our own on the loopback interface.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { MAIN, runCli } from './run-cli.ts';

const COMMIT = 'c'.repeat(40);
const WEIGHTS = Buffer.alloc(1_500_000, 'weights ');
const CONFIG = Buffer.from('{"model_type":"bitnet"}');
const files: Readonly<Record<string, Buffer>> = { 'config.json': CONFIG, 'model.safetensors': WEIGHTS };
const gitSha1 = (bytes: Buffer) => createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
const siblings = Object.entries(files).map(([rfilename, bytes]) => ({
  rfilename,
  size: bytes.length,
  blobId: gitSha1(bytes),
}));

const ggufs = ['m-F16.gguf', 'm-PQ2_0.gguf', 'mmproj-m.gguf'].map((rfilename) => ({
  rfilename,
  size: CONFIG.length,
  blobId: gitSha1(CONFIG),
}));

let home: string;
let server: Server;
let urls: string[];
/** How the weights are sent. */
let sendWeights: (response: ServerResponse, bytes: Buffer) => void;

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'pull-'));
  urls = [];
  sendWeights = (response, bytes) => response.end(bytes);
  server = createServer(({ url = '', headers }, response) => {
    urls.push(url);
    const name = new RegExp(`^/org/model/resolve/${COMMIT}/(.+)$`).exec(url)?.[1] ?? '';
    const bytes = files[name];
    if (url.startsWith('/api/models/org/model/revision/')) {
      response.end(JSON.stringify({ sha: COMMIT, siblings }));
    } else if (url.startsWith('/api/models/org/ggufs/')) {
      response.end(JSON.stringify({ sha: COMMIT, siblings: ggufs }));
    } else if (url.startsWith('/org/ggufs/resolve/')) {
      response.end(CONFIG);
    } else if (url.startsWith('/api/models/org/gated/')) {
      response.writeHead(401).end();
    } else if (bytes === undefined) {
      response.writeHead(404).end();
    } else {
      const start = Number(/^bytes=(\d+)-$/.exec(headers.range ?? '')?.[1] ?? 0);
      const part = start > 0 ? { 'content-range': `bytes ${start}-${bytes.length - 1}/${bytes.length}` } : {};
      response.writeHead(start > 0 ? 206 : 200, { 'content-length': bytes.length - start, ...part });
      if (name === 'model.safetensors') sendWeights(response, bytes.subarray(start));
      else response.end(bytes);
    }
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(home, { recursive: true });
});

const env = () => ({ HF_HOME: home, HF_ENDPOINT: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
const pull = (...args: string[]) => runCli(['pull', ...args], { env: env() });
const snapshot = () => join(home, 'hub/models--org--model/snapshots', COMMIT);

test('prints the folder, and the second time downloads nothing', async () => {
  const first = await pull('org/model');
  expect(first).toMatchObject({ code: 0, stdout: `${snapshot()}\n` });
  expect(first.stderr).toBe('2 files, 1.5 MB downloaded; use them as --model org/model\n');
  expect(WEIGHTS.equals(await readFile(join(snapshot(), 'model.safetensors')))).toBe(true);
  const again = await pull('org/model');
  expect(again.stderr).toBe('2 files, all there already; use them as --model org/model\n');
});

test('--json', async () => {
  const { code, stdout, stderr } = await pull('org/model@v1', '--file', 'config.json', '--json');
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(JSON.parse(stdout)).toEqual({
    repo: 'org/model',
    revision: 'v1',
    commit: COMMIT,
    path: snapshot(),
    files: ['config.json'],
    downloaded_bytes: CONFIG.length,
    model: 'org/model@v1',
  });
  expect(urls[0]).toContain('/revision/v1');
});

test('a file in the name, and --revision', async () => {
  const { stdout } = await pull('org/model/config.json', '--revision', 'v2', '--json');
  expect(JSON.parse(stdout)).toMatchObject({
    files: ['config.json'],
    revision: 'v2',
    model: 'org/model/config.json@v2',
  });
});

test('Ctrl-C stops it, and the next call goes on where it stopped', async () => {
  sendWeights = (response, bytes) => void response.write(bytes.subarray(0, 600_000));
  const child = spawn(process.execPath, [MAIN, 'pull', 'org/model'], {
    env: { ...process.env, ...env() },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let errors = '';
  child.stderr.setEncoding('utf8').on('data', (text) => {
    errors += text;
  });
  const partial = join(home, 'hub/models--org--model/blobs', `${gitSha1(WEIGHTS)}.incomplete`);
  await expect
    .poll(async () => (await stat(partial).catch(() => ({ size: 0 }))).size, { timeout: 20_000 })
    .toBe(600_000);
  child.kill('SIGINT');
  const [code] = await once(child, 'close');
  expect({ code, errors }).toEqual({ code: 130, errors: 'stopped; the same command goes on from here\n' });

  sendWeights = (response, bytes) => response.end(bytes);
  const { stdout } = await pull('org/model', '--json');
  expect(JSON.parse(stdout).downloaded_bytes).toBe(WEIGHTS.length - 600_000);
  expect(WEIGHTS.equals(await readFile(join(snapshot(), 'model.safetensors')))).toBe(true);
});

test.each<[readonly string[], number, string]>([
  [[], 2, 'pull needs REPO'],
  [['../up'], 2, 'is not the id of a repository'],
  [['org/model@v1', '--revision', 'v2'], 2, 'two revisions: "v1" in REPO and --revision v2'],
  [['org/model', '--revision', '..'], 2, 'is not a revision'],
  [['org/none'], 1, 'the Hub has no org/none'],
  [['org/gated'], 1, 'HF_TOKEN'],
  [['org/model/other.gguf'], 2, 'it has config.json, model.safetensors'],
])('%j fails with one clear line', async (args, expected, message) => {
  const { code, stdout, stderr } = await pull(...args);
  expect({ code, stdout }).toEqual({ code: expected, stdout: '' });
  expect(stderr).toContain(message);
  expect(stderr.trimEnd().split('\n')).toHaveLength(1);
});

test('of several GGUF models one is chosen, and said; --file picks another', async () => {
  const env = { HF_HOME: home, HF_ENDPOINT: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
  const chosen = await runCli(['pull', 'org/ggufs', '--json'], { env });
  const said = 'chose m-PQ2_0.gguf of 2 GGUF models (exact trits); --file takes another: m-F16.gguf';
  expect(chosen.stderr).toBe(`${said}\n`);
  expect(JSON.parse(chosen.stdout)).toMatchObject({ files: ['m-PQ2_0.gguf'], choice: said, model: 'org/ggufs' });
  const other = await runCli(['pull', 'org/ggufs', '--file', 'm-F16.gguf'], { env });
  expect(other.stderr).toMatch(/use them as --model org\/ggufs\/m-F16\.gguf\n$/);
});
