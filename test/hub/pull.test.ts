// `pull` against a Hub of our own on the loopback interface, which can misbehave in every way we care about.

import { createHash } from 'node:crypto';
import { mkdtemp, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { CancelledError } from '../../src/errors.ts';
import { HubConnectionError, HubContentError, HubResponseError, HubSelectionError } from '../../src/hub/hub-errors.ts';
import { type PullOptions, type PullProgress, pull } from '../../src/hub/pull.ts';
import { resolveModel } from '../../src/hub/resolve-model.ts';
import { selectFiles } from '../../src/hub/select-files.ts';

const COMMIT = 'a'.repeat(40);
const WEIGHTS = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7) % 251));
const CONFIG = Buffer.from('{"model_type":"bitnet"}');
const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
const gitSha1 = (bytes: Buffer) => createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');

type Handler = (request: IncomingMessage, response: ServerResponse) => boolean;

let folder: string;
let server: Server;
let cdn: Server;
let requests: { url: string; range: string | undefined; authorization: string | undefined }[];
let special: Handler;
let siblings: object[];

const weightsEntry = {
  rfilename: 'model.safetensors',
  size: WEIGHTS.length,
  lfs: { sha256: sha256(WEIGHTS), size: WEIGHTS.length },
};
const configEntry = { rfilename: 'config.json', size: CONFIG.length, blobId: gitSha1(CONFIG) };

function portOf(of: Server): number {
  return (of.address() as AddressInfo).port;
}

function send(request: IncomingMessage, response: ServerResponse, bytes: Buffer): void {
  const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  if (start > 0) response.setHeader('content-range', `bytes ${start}-${bytes.length - 1}/${bytes.length}`);
  response.writeHead(start > 0 ? 206 : 200, { 'content-length': bytes.length - start });
  response.end(bytes.subarray(start));
}

function serve(request: IncomingMessage, response: ServerResponse): void {
  const { url = '' } = request;
  requests.push({ url, range: request.headers.range, authorization: request.headers.authorization });
  if (special(request, response)) return;
  if (url.startsWith('/api/models/org/model/revision/')) {
    response.end(JSON.stringify({ sha: COMMIT, siblings }));
  } else if (url === `/org/model/resolve/${COMMIT}/config.json`) send(request, response, CONFIG);
  else if (url === `/org/model/resolve/${COMMIT}/model.safetensors`) {
    response.writeHead(302, { location: `http://127.0.0.1:${portOf(cdn)}/blob` }).end();
  } else if (url === '/blob') send(request, response, WEIGHTS);
  else response.writeHead(404).end();
}

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pull-'));
  requests = [];
  special = () => false;
  siblings = [configEntry, weightsEntry, { rfilename: 'pytorch_model.bin', size: 9, blobId: 'b'.repeat(40) }];
  server = createServer(serve).listen(0, '127.0.0.1');
  cdn = createServer(serve).listen(0, '127.0.0.1');
  await Promise.all([server, cdn].map((s) => new Promise((resolve) => s.once('listening', resolve))));
});
afterEach(async () => {
  for (const s of [server, cdn]) {
    s.closeAllConnections();
    await new Promise((resolve) => s.close(resolve));
  }
  await rm(folder, { recursive: true });
});

const environment = () => ({ HF_HOME: folder, HF_ENDPOINT: `http://127.0.0.1:${portOf(server)}/`, HF_TOKEN: 'secret' });
const pullIt = (options: PullOptions = {}) => pull('org/model', { env: environment(), retryDelayMs: 1, ...options });
// Comparing large buffers with toEqual takes seconds.
const holdsWeights = async () => WEIGHTS.equals(await readFile(repoPath('snapshots', COMMIT, 'model.safetensors')));
const repoPath = (...parts: string[]) => join(folder, 'hub/models--org--model', ...parts);

test('lays a model into the cache as the Hub tools do, and reports progress', async () => {
  const seen: PullProgress[] = [];
  const result = await pullIt({ onProgress: (progress) => seen.push(progress) });
  expect(result).toEqual({
    repo: 'org/model',
    commit: COMMIT,
    path: repoPath('snapshots', COMMIT),
    files: ['config.json', 'model.safetensors'],
    downloadedBytes: WEIGHTS.length + CONFIG.length,
  });
  expect(await holdsWeights()).toBe(true);
  expect(await readlink(repoPath('snapshots', COMMIT, 'config.json'))).toBe(`../../blobs/${gitSha1(CONFIG)}`);
  expect(await readFile(repoPath('refs/main'), 'utf8')).toBe(COMMIT);
  expect(seen.at(-1)).toMatchObject({ doneBytes: result.downloadedBytes, totalBytes: result.downloadedBytes });
  expect(seen.every((now, i) => i === 0 || now.doneBytes >= seen[i - 1]!.doneBytes)).toBe(true);
  expect(await resolveModel('org/model', { env: environment() })).toMatchObject({ kind: 'folder', commit: COMMIT });
});

test('the token goes to the endpoint only, not to where it redirects', async () => {
  await pullIt();
  expect(requests.filter(({ url }) => url !== '/blob').every((r) => r.authorization === 'Bearer secret')).toBe(true);
  expect(requests.find(({ url }) => url === '/blob')?.authorization).toBeUndefined();
});

test('a second pull downloads nothing', async () => {
  await pullIt();
  requests = [];
  expect((await pullIt()).downloadedBytes).toBe(0);
  expect(requests).toHaveLength(1);
});

test('an interrupted download goes on where it stopped', async () => {
  await pullIt({ files: ['config.json'] });
  await writeFile(repoPath('blobs', `${sha256(WEIGHTS)}.incomplete`), WEIGHTS.subarray(0, 123_456));
  const { downloadedBytes } = await pullIt();
  expect(downloadedBytes).toBe(WEIGHTS.length - 123_456);
  expect(requests.filter(({ url }) => url === '/blob').at(-1)?.range).toBe('bytes=123456-');
  expect(await holdsWeights()).toBe(true);
});

test('a body that ends early is continued by itself', async () => {
  let cuts = 0;
  special = (request, response) => {
    if (request.url !== '/blob' || cuts === 6) return false;
    cuts++;
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    if (start > 0) response.setHeader('content-range', `bytes ${start}-${WEIGHTS.length - 1}/${WEIGHTS.length}`);
    response.writeHead(start > 0 ? 206 : 200, { 'content-length': WEIGHTS.length - start });
    response.write(WEIGHTS.subarray(start, start + 20_000), () => response.destroy());
    return true;
  };
  await pullIt();
  expect(cuts).toBe(6);
  expect(await holdsWeights()).toBe(true);
});

test('a server that ignores ranges is taken from the beginning', async () => {
  await pullIt({ files: ['config.json'] });
  await writeFile(repoPath('blobs', `${sha256(WEIGHTS)}.incomplete`), Buffer.alloc(1000, 9));
  special = (request, response) => {
    if (request.url !== '/blob') return false;
    response.writeHead(200, { 'content-length': WEIGHTS.length }).end(WEIGHTS);
    return true;
  };
  await pullIt();
  expect(await holdsWeights()).toBe(true);
});

test('a connection that never delivers ends in an error, and what came is kept', async () => {
  let first = true;
  special = (request, response) => {
    if (request.url !== '/blob') return false;
    if (!first) response.destroy();
    else {
      first = false;
      response.writeHead(200, { 'content-length': WEIGHTS.length });
      response.write(WEIGHTS.subarray(0, 5000), () => response.destroy());
    }
    return true;
  };
  await expect(pullIt()).rejects.toThrow(HubConnectionError);
  expect((await stat(repoPath('blobs', `${sha256(WEIGHTS)}.incomplete`))).size).toBeGreaterThan(0);
  await expect(stat(repoPath('refs/main'))).rejects.toThrow('ENOENT');
});

test('wrong bytes are removed and never become visible', async () => {
  for (const [bytes, text] of [
    [Buffer.from(WEIGHTS).fill(1, 0, 1), 'has the hash'],
    [Buffer.concat([WEIGHTS, WEIGHTS]), 'longer than'],
  ] as const) {
    special = (request, response) => {
      if (request.url !== '/blob') return false;
      send(request, response, bytes);
      return true;
    };
    const error = await pullIt().then(
      () => undefined,
      (reason: Error) => reason,
    );
    expect(error).toBeInstanceOf(HubContentError);
    expect(error?.message).toContain(text);
    await expect(stat(repoPath('snapshots', COMMIT, 'model.safetensors'))).rejects.toThrow('ENOENT');
  }
  special = () => false;
  await pullIt();
});

test.each([
  [401, 'set HF_TOKEN'],
  [403, 'set HF_TOKEN'],
  [404, 'check the name'],
])('status %i says what to do and is not tried again', async (status, text) => {
  special = (_, response) => {
    response.writeHead(status).end();
    return true;
  };
  await expect(pullIt()).rejects.toThrow(text);
  await expect(pullIt()).rejects.toThrow(HubResponseError);
  expect(requests).toHaveLength(2);
});

test('a server error is tried again', async () => {
  let failures = 2;
  special = (_, response) => {
    if (failures === 0) return false;
    failures--;
    response.writeHead(503).end();
    return true;
  };
  await pullIt();
  expect(failures).toBe(0);
});

test('names that lead out of the cache refuse the whole repository', async () => {
  for (const rfilename of ['../evil.safetensors', '/etc/x', 'a/../../b', 'a\\b', 'a//b', '', 'c:x', 'a\0b']) {
    siblings = [{ ...configEntry, rfilename }];
    await expect(pullIt(), rfilename).rejects.toThrow('could lead out of the cache');
  }
});

test('lists that are not what the Hub gives', async () => {
  for (const answer of ['no json', '{}', '{"sha":"../x","siblings":[]}', `{"sha":"${COMMIT}","siblings":5}`, 'null']) {
    special = (_, response) => {
      response.end(answer);
      return true;
    };
    await expect(pullIt(), answer).rejects.toThrow(HubContentError);
  }
  special = () => false;
  siblings = [{ ...configEntry, blobId: '../x' }];
  await expect(pullIt()).rejects.toThrow('gives no hash of "config.json"');
  siblings = [{ ...configEntry, size: -1 }];
  await expect(pullIt()).rejects.toThrow('gives no size');
});

test('what a repository must hold', async () => {
  siblings = [configEntry, { rfilename: 'pytorch_model.bin', size: 9, blobId: 'b'.repeat(40) }];
  await expect(pullIt()).rejects.toThrow('pickles');
  siblings = ['a.gguf', 'b.gguf'].map((rfilename) => ({ ...weightsEntry, rfilename }));
  await expect(pullIt()).rejects.toThrow('name the one you want with --file: a.gguf, b.gguf');
  await expect(pullIt({ files: ['c.gguf'] })).rejects.toThrow(HubSelectionError);
});

test('an endless redirect and one to another protocol', async () => {
  for (const location of ['/again', 'file:///etc/passwd']) {
    special = (request, response) => {
      if (request.url?.startsWith('/api')) return false;
      response.writeHead(302, { location }).end();
      return true;
    };
    await expect(pullIt()).rejects.toThrow(HubContentError);
  }
});

test('cancelling ends the download and keeps what came', async () => {
  const controller = new AbortController();
  special = (request, response) => {
    if (request.url !== '/blob') return false;
    response.writeHead(200, { 'content-length': WEIGHTS.length });
    response.write(WEIGHTS.subarray(0, 5000));
    return true;
  };
  const sizeSoFar = async () => {
    const partial = repoPath('blobs', `${sha256(WEIGHTS)}.incomplete`);
    return (await stat(partial).catch(() => ({ size: 0 }))).size;
  };
  const pulling = expect(pullIt({ signal: controller.signal })).rejects.toThrow(CancelledError);
  await expect.poll(sizeSoFar, { timeout: 20_000 }).toBe(5000);
  controller.abort();
  await pulling;
  expect(await sizeSoFar()).toBe(5000);
});

test('bad ids, revisions and offline mode are refused before any request', async () => {
  await expect(pull('../x', { env: environment() })).rejects.toThrow('write it as ORG/NAME');
  await expect(pullIt({ revision: '../x' })).rejects.toThrow('is not a revision');
  await expect(pullIt({ env: { ...environment(), HF_HUB_OFFLINE: '1' } })).rejects.toThrow('HF_HUB_OFFLINE');
  expect(requests).toEqual([]);
});

test('offline, what was downloaded before is what a pull gives', async () => {
  const env = { ...environment(), HF_HUB_OFFLINE: '1' };
  await expect(pullIt({ env })).rejects.toThrow(
    /HF_HUB_OFFLINE forbids downloads, and the cache has no org\/model at main/,
  );
  const before = await pullIt();
  requests = [];
  const notices: string[] = [];
  const again = await pullIt({ env, onNotice: (line) => notices.push(line) });
  expect(again).toEqual({ ...before, files: expect.arrayContaining([...before.files]), downloadedBytes: 0 });
  expect(notices).toEqual(['HF_HUB_OFFLINE is set: the Hub was not asked for anything newer']);
  const lacking = pullIt({ env, files: ['other.gguf'] });
  await expect(lacking).rejects.toThrow(
    /HF_HUB_OFFLINE forbids downloads, and in the cache org\/model has no file "other.gguf"/,
  );
  await expect(lacking).rejects.toThrow(HubConnectionError);
  expect(requests).toEqual([]);
});

test('a port that fetch refuses is not tried again', async () => {
  const notices: string[] = [];
  const failed = pullIt({
    env: { ...environment(), HF_ENDPOINT: 'http://127.0.0.1:1' },
    onNotice: (line) => notices.push(line),
  });
  await expect(failed).rejects.toThrow(/the connection failed: port 1 is one that fetch refuses.*check the address/);
  expect(notices).toEqual([]);
});

test.each<[string, string[], string[] | undefined, string[]]>([
  [
    'in onnx/',
    ['config.json', 'onnx/model.onnx', 'onnx/model_q4.onnx', 'onnx/model.onnx_data'],
    undefined,
    ['config.json', 'onnx/model.onnx', 'onnx/model.onnx_data'],
  ],
  [
    'on top',
    ['config.json', 'model.onnx', 'model.onnx.data', 'sub/model.onnx'],
    undefined,
    ['config.json', 'model.onnx', 'model.onnx.data'],
  ],
  ['only where there are no safetensors', ['model.safetensors', 'onnx/model.onnx'], undefined, ['model.safetensors']],
  [
    'by name, with what it needs',
    ['config.json', 'tokenizer.json', 'onnx/model.onnx', 'onnx/model_q4.onnx', 'onnx/model_q4.onnx_data_1'],
    ['onnx/model_q4.onnx'],
    ['config.json', 'tokenizer.json', 'onnx/model_q4.onnx_data_1', 'onnx/model_q4.onnx'],
  ],
])('takes an ONNX graph %s', (_, there, names, expected) => {
  const all = there.map((name) => ({ name, size: 1, etag: 'a'.repeat(40) }));
  expect(selectFiles('org/model', all, names).files.map(({ name }) => name)).toEqual(expected);
});

test('names the ONNX graphs where it cannot choose', () => {
  const all = ['onnx/a.onnx', 'onnx/b.onnx'].map((name) => ({ name, size: 1, etag: 'a'.repeat(40) }));
  expect(() => selectFiles('org/model', all)).toThrow(
    /several ONNX graphs; name the one you want: onnx\/a.onnx, onnx\/b.onnx/,
  );
});
