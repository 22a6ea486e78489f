// What users of other tools reported: proxies, tokens, mirrors that give something else, two downloads at once, systems
// without links. Each against a Hub on the loopback interface.

import { createHash } from 'node:crypto';
import { getEventListeners } from 'node:events';
import { lstat, mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { ArgumentError } from '../../src/errors.ts';
import { HubConnectionError, HubContentError, HubResponseError } from '../../src/hub/hub-errors.ts';
import { type PullOptions, pull, readFileList } from '../../src/hub/pull.ts';
import { resolveModel } from '../../src/hub/resolve-model.ts';

const noLinks = vi.hoisted(() => ({ on: false }));
vi.mock('node:fs/promises', async (original) => {
  const fs = await original<typeof import('node:fs/promises')>();
  const symlink: typeof fs.symlink = (...args) =>
    noLinks.on ? Promise.reject(Object.assign(new Error('EPERM'), { code: 'EPERM' })) : fs.symlink(...args);
  return { ...fs, symlink, default: { ...fs, symlink } };
});

const COMMIT = 'c'.repeat(40);
const CONFIG = Buffer.from('{"model_type":"bitnet"}\n');
const WEIGHTS = Buffer.alloc(40_960, 'abcdefg');
const gitSha1 = (bytes: Buffer) => createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
const SHA256 = createHash('sha256').update(WEIGHTS).digest('hex');
const LIST = {
  sha: COMMIT,
  siblings: [
    { rfilename: 'config.json', size: CONFIG.length, blobId: gitSha1(CONFIG) },
    { rfilename: 'model.safetensors', size: WEIGHTS.length, lfs: { sha256: SHA256, size: WEIGHTS.length } },
  ],
};

let home: string;
let server: Server;
let endpoint: string;
let asked: IncomingMessage[];
let answer: (request: IncomingMessage, response: ServerResponse) => void;
const notices: string[] = [];

const ordinary = ({ url = '' }: IncomingMessage, response: ServerResponse): void => {
  if (url.includes('/api/models/')) response.end(JSON.stringify(LIST));
  else response.end(url.endsWith('config.json') ? CONFIG : WEIGHTS);
};
/** Answers everything but the weights as it should be. */
const weightsBy = (give: (response: ServerResponse, request: IncomingMessage) => void) => {
  answer = (request, response) =>
    request.url?.endsWith('model.safetensors') ? give(response, request) : ordinary(request, response);
};

const open = async (handler: (request: IncomingMessage, response: ServerResponse) => void) => {
  const one = createServer(handler).listen(0, '127.0.0.1');
  await new Promise((resolve) => one.once('listening', resolve));
  return one;
};
const addressOf = (of: Server) => `http://127.0.0.1:${(of.address() as AddressInfo).port}`;
const shut = async (one: Server) => {
  one.closeAllConnections();
  await new Promise((resolve) => one.close(resolve));
};

beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'hub-'));
  asked = [];
  notices.length = 0;
  answer = ordinary;
  server = await open((request, response) => {
    asked.push(request);
    answer(request, response);
  });
  endpoint = addressOf(server);
});
afterEach(async () => {
  noLinks.on = false;
  await shut(server);
  await rm(home, { recursive: true });
});

const pullIt = (env: Record<string, string> = {}, options: PullOptions = {}) =>
  pull('o/m', {
    env: { HF_HOME: home, HF_ENDPOINT: endpoint, ...env },
    retryDelayMs: 1,
    onNotice: (line) => notices.push(line),
    ...options,
  });
const failureOf = (pulling: Promise<unknown>) =>
  pulling.then(
    () => expect.unreachable('the pull went well'),
    (error: Error) => error,
  );
const inRepo = (...parts: string[]) => join(home, 'hub/models--o--m', ...parts);
const isSound = async () => WEIGHTS.equals(await readFile(inRepo('snapshots', COMMIT, 'model.safetensors')));

describe('a mirror', () => {
  test('that always gives a complete but shorter file is given up after some tries', async () => {
    weightsBy((response) => response.setHeader('content-length', 1000).end(WEIGHTS.subarray(0, 1000)));
    const error = await failureOf(pullIt());
    expect(error).toBeInstanceOf(HubConnectionError);
    expect(error.message).toMatch(/failed 4 times: model.safetensors ended at byte 1000 of the 40960/);
    expect(asked.filter(({ url }) => url?.endsWith('model.safetensors'))).toHaveLength(4);
    expect(notices).toHaveLength(3);
    expect(notices[0]).toMatch(/ended at byte 1000 .*; trying again \(2 of 4\)$/);
  });

  test('that always closes at the same byte and ignores ranges, too', async () => {
    weightsBy((response) => {
      response.setHeader('content-length', WEIGHTS.length);
      response.write(WEIGHTS.subarray(0, 1000), () => setTimeout(() => response.destroy(), 5));
    });
    expect(await failureOf(pullIt())).toBeInstanceOf(HubConnectionError);
    expect(asked.filter(({ url }) => url?.endsWith('model.safetensors'))).toHaveLength(4);
  });

  test('that gets a little farther each time from the beginning ends when it wasted too much', async () => {
    let length = 1000;
    weightsBy((response) => {
      response.setHeader('content-length', length).end(WEIGHTS.subarray(0, length));
      length += 10;
    });
    const error = await failureOf(pullIt());
    expect(error).toBeInstanceOf(HubContentError);
    expect(error.message).toMatch(/begins anew again and again/);
    expect(length).toBeLessThan(4000);
  });

  test('that gives a Git LFS pointer says so', async () => {
    weightsBy((response) =>
      response.end(`version https://git-lfs.github.com/spec/v1\noid sha256:${SHA256}\nsize ${WEIGHTS.length}\n`),
    );
    expect((await failureOf(pullIt())).message).toMatch(/gives a Git LFS pointer in the place of model.safetensors/);
  });

  test('that announces a size without end fills neither disk nor time', async () => {
    answer = (request, response) => {
      if (!request.url?.includes('/api/')) return ordinary(request, response);
      const lfs = { sha256: SHA256, size: Number.MAX_SAFE_INTEGER };
      response.end(JSON.stringify({ ...LIST, siblings: [{ rfilename: 'model.safetensors', lfs }] }));
    };
    expect((await failureOf(pullIt())).message).toMatch(/the download needs 9007199254740991 bytes, the disk has \d+/);
  });

  test('leaves no listener on the signal of the caller, however often it is tried', async () => {
    const { signal } = new AbortController();
    weightsBy((response, { headers }) => {
      if (headers.range === undefined) response.end(WEIGHTS.subarray(0, 1000));
      else response.writeHead(206, { 'content-range': 'bytes 7-9/10' }).end('abc');
    });
    await failureOf(pullIt({}, { signal }));
    expect(getEventListeners(signal, 'abort')).toHaveLength(0);
  });
});

describe('two pulls at once', () => {
  const slowly = () =>
    weightsBy((response) => {
      response.setHeader('content-length', WEIGHTS.length);
      let at = 0;
      const next = (): void => {
        if (at >= WEIGHTS.length) return void response.end();
        response.write(WEIGHTS.subarray(at, at + 4096));
        at += 4096;
        setTimeout(next, 10);
      };
      next();
    });

  test('download once, and both end well', async () => {
    slowly();
    const both = await Promise.all([pullIt(), pullIt()]);
    expect(await isSound()).toBe(true);
    expect(both.map(({ downloadedBytes }) => downloadedBytes).reduce((a, b) => a + b)).toBe(
      WEIGHTS.length + CONFIG.length,
    );
    expect(notices.filter((line) => /^another pull is at .*: waiting for it$/.test(line)).length).toBeGreaterThan(0);
    expect((await readdir(inRepo('blobs'))).sort()).toEqual([gitSha1(CONFIG), SHA256].sort());
  });

  test('one of which is stopped: the other goes on from there', async () => {
    // Stops in the middle the first time, so that the other always finds it there.
    let asked = 0;
    weightsBy((response) => {
      asked += 1;
      response.setHeader('content-length', WEIGHTS.length);
      if (asked === 1) response.write(WEIGHTS.subarray(0, 12_288));
      else response.end(WEIGHTS);
    });
    const controller = new AbortController();
    const first = failureOf(pullIt({}, { signal: controller.signal }));
    await expect.poll(() => asked, { timeout: 60_000 }).toBe(1);
    const second = pullIt();
    await expect.poll(() => notices.length, { timeout: 60_000 }).toBeGreaterThan(0);
    controller.abort();
    await first;
    await second;
    expect(await isSound()).toBe(true);
  });

  test('what a killed one leaves behind is taken over', async () => {
    await mkdir(inRepo('blobs'), { recursive: true });
    const lock = inRepo('blobs', `${SHA256}.incomplete.lock`);
    await writeFile(lock, 'somebody');
    await utimes(lock, 1, 1);
    await pullIt({}, { leftBehindMs: 600 });
    expect(await isSound()).toBe(true);
    expect(await readdir(inRepo('blobs'))).not.toContain(`${SHA256}.incomplete.lock`);
  });
});

describe('where links are not allowed', () => {
  test('files that another tool laid into the snapshot are there', async () => {
    const snapshot = inRepo('snapshots', COMMIT);
    await mkdir(snapshot, { recursive: true });
    await mkdir(inRepo('refs'));
    await writeFile(inRepo('refs/main'), COMMIT);
    await writeFile(join(snapshot, 'config.json'), CONFIG);
    await writeFile(join(snapshot, 'model.safetensors'), WEIGHTS);
    expect((await pullIt()).downloadedBytes).toBe(0);
    expect(asked).toHaveLength(1);
    expect((await lstat(join(snapshot, 'model.safetensors'))).isFile()).toBe(true);
  });

  test('what we download lies in the snapshot, once', async () => {
    noLinks.on = true;
    await pullIt();
    expect(await isSound()).toBe(true);
    expect((await lstat(inRepo('snapshots', COMMIT, 'model.safetensors'))).isFile()).toBe(true);
    expect(await readdir(inRepo('blobs'))).toEqual([]);
    expect((await readdir(inRepo('snapshots', COMMIT))).sort()).toEqual(['config.json', 'model.safetensors']);
    expect((await pullIt()).downloadedBytes).toBe(0);
  });
});

describe('the environment', () => {
  test.each([
    [{ HF_HUB_OFFLINE: 'yes' }, 'HF_HUB_OFFLINE forbids'],
    [{ HF_HUB_OFFLINE: 'ON' }, 'HF_HUB_OFFLINE forbids'],
    [{ HF_HUB_OFFLINE: 'True' }, 'HF_HUB_OFFLINE forbids'],
    [{ TRANSFORMERS_OFFLINE: '1' }, 'TRANSFORMERS_OFFLINE forbids'],
    [{ HF_ENDPOINT: 'hf-mirror.example' }, 'begins with https://; write it as https://hf-mirror.example'],
    [{ HF_ENDPOINT: 'hf-mirror.example:8443/hub' }, 'write it as https://hf-mirror.example:8443/hub'],
    [{ HF_ENDPOINT: 'ftp://x' }, 'HF_ENDPOINT is not a URL'],
    [{ HF_ENDPOINT: 'http://me:hunter2@x' }, 'HF_ENDPOINT holds more than an address'],
    [{ HTTP_PROXY: 'socks5://x', HF_ENDPOINT: 'http://hub.invalid' }, 'HTTP_PROXY names a SOCKS proxy'],
  ])('%j is answered before any request', async (env, message) => {
    const error = await failureOf(pullIt(env as Record<string, string>));
    expect(error.message).toContain(message);
    expect(error.message).not.toContain('hunter2');
    expect(asked).toEqual([]);
    expect(notices).toEqual([]);
  });

  test.each([
    { HF_HUB_OFFLINE: '0' },
    { HF_HUB_OFFLINE: 'no', TRANSFORMERS_OFFLINE: '1' },
    { TRANSFORMERS_OFFLINE: '' },
  ])('%j forbids nothing', async (env) => {
    await pullIt(env as Record<string, string>);
    expect(await isSound()).toBe(true);
  });

  test('without a network tells of each try, and of what is there already', async () => {
    await pullIt();
    await shut(server);
    const error = await failureOf(pullIt());
    server = await open(ordinary);
    expect(error).toBeInstanceOf(HubConnectionError);
    expect(error.message).toContain('ECONNREFUSED');
    expect(notices.map((line) => line.replace(/.*; /, ''))).toEqual([
      'trying again (2 of 4)',
      'trying again (3 of 4)',
      'trying again (4 of 4)',
      `what was downloaded before can still be used: ${inRepo('snapshots', COMMIT)}`,
    ]);
  });

  test('HF_HUB_DOWNLOAD_TIMEOUT is how long silence is borne', async () => {
    answer = () => {};
    expect((await failureOf(pullIt({ HF_HUB_DOWNLOAD_TIMEOUT: '0.05' }))).message).toContain(
      'no data for 0.05 seconds',
    );
  });
});

describe('the token', () => {
  test.each(['hf_secret\nb', '“hf_secret”', 'hf_secret b', 'hf_secr\u00e9t'])(
    '%j is refused at once, unseen',
    async (token) => {
      for (const env of [{ HF_TOKEN: token }, { HUGGING_FACE_HUB_TOKEN: token }]) {
        const error = await failureOf(pullIt(env));
        expect(error).toBeInstanceOf(ArgumentError);
        expect(error.message).toMatch(/holds characters that no token has .*(HF_TOKEN|HUGGING_FACE_HUB_TOKEN)/);
        expect(JSON.stringify([error.message, String(error.stack), notices])).not.toContain('hf_sec');
      }
      expect(asked).toEqual([]);
    },
  );

  test('comes from HF_TOKEN_PATH or the home of the tools, without white space around it', async () => {
    await writeFile(join(home, 'mine'), '\n hf_file \r\n');
    await pullIt({ HF_TOKEN_PATH: '$HOME_OF_MINE/mine', HOME_OF_MINE: home, HF_TOKEN: ' \n' });
    expect(asked[0]?.headers.authorization).toBe('Bearer hf_file');
    await writeFile(join(home, 'token'), 'hf_home\n');
    await pullIt();
    expect(asked.at(-1)?.headers.authorization).toBe('Bearer hf_home');
    await pullIt({ HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' });
    expect(asked.at(-1)?.headers.authorization).toBeUndefined();
  });

  const rejecting = (isPublic: boolean) => {
    answer = (request, response) => {
      if (request.headers.authorization === undefined && isPublic) return ordinary(request, response);
      const words = request.headers.authorization
        ? `Invalid credentials in Authorization header: ${request.headers.authorization}`
        : 'Repository not found';
      response.writeHead(401, { 'x-error-message': words }).end();
    };
  };

  test('that ran out does not keep anybody from a public model', async () => {
    rejecting(true);
    await pullIt({ HF_TOKEN: 'hf_old' });
    expect(await isSound()).toBe(true);
    expect(notices).toEqual([
      'the Hub rejected the token of HF_TOKEN (Invalid credentials in Authorization header: Bearer ***): going on without it; renew or unset it',
    ]);
    expect(asked.filter(({ headers }) => headers.authorization !== undefined)).toHaveLength(1);
  });

  test('that ran out is what is wrong with a private one', async () => {
    rejecting(false);
    const error = await failureOf(pullIt({ HF_TOKEN: 'hf_old' }));
    expect(error).toBeInstanceOf(HubResponseError);
    expect(error.message).toMatch(/rejected the token of HF_TOKEN, .*Repository not found/);
    expect(error.message).not.toContain('hf_old');
  });

  test('is never shown by what the Hub answers', async () => {
    answer = (request, response) =>
      response.writeHead(403, { 'x-error-message': `no: ${request.headers.authorization}` }).end();
    const error = await failureOf(pullIt({ HF_TOKEN: 'hf_secret' }));
    expect(error.message).toContain('no: Bearer ***');
    expect(error.message).not.toContain('hf_secret');
  });
});

describe('a proxy', () => {
  let proxy: Server;
  let seen: { line: string; authorization: string | undefined }[];
  beforeEach(async () => {
    seen = [];
    // A forwarding proxy: what it is asked for by a whole address it gets from our Hub.
    proxy = await open((request, response) => {
      seen.push({ line: `${request.method} ${request.url}`, authorization: request.headers['proxy-authorization'] });
      asked.push(request);
      answer(request, response);
    });
  });
  afterEach(() => shut(proxy));

  test.each(['HTTP_PROXY', 'http_proxy', 'ALL_PROXY'])('of %s is asked for the whole address', async (name) => {
    await pullIt({ HF_ENDPOINT: 'http://hub.invalid', [name]: addressOf(proxy) });
    expect(await isSound()).toBe(true);
    expect(seen[0]?.line).toBe('GET http://hub.invalid/api/models/o/m/revision/main?blobs=true');
  });

  test('gets user and password', async () => {
    await pullIt({ HF_ENDPOINT: 'http://hub.invalid', HTTP_PROXY: addressOf(proxy).replace('//', '//me:se%20cret@') });
    expect(seen[0]?.authorization).toBe(`Basic ${Buffer.from('me:se cret').toString('base64')}`);
  });

  test('is passed by for what NO_PROXY names', async () => {
    const error = await failureOf(
      pullIt({ HF_ENDPOINT: 'http://hub.invalid', HTTP_PROXY: addressOf(proxy), NO_PROXY: '.invalid' }),
    );
    expect(error.message).toMatch(/ENOTFOUND|EAI_AGAIN/);
    expect(error.message).toContain('set HTTPS_PROXY to it');
    expect(seen).toEqual([]);
  });

  test('that refuses the tunnel is named, and asked once', async () => {
    let tunnels = 0;
    proxy.on('connect', (_, socket) => {
      tunnels += 1;
      socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
    });
    const named = addressOf(proxy).replace('//', '//me:hunter2@');
    const error = await failureOf(pullIt({ HF_ENDPOINT: 'https://hub.invalid', HTTPS_PROXY: named }));
    expect(error.message).toMatch(/the proxy 127.0.0.1:\d+ of HTTPS_PROXY refused \(HTTP 407\).*USER:PASSWORD/);
    expect(error.message).not.toContain('hunter2');
    expect(tunnels).toBe(1);
  });

  test('that wants a password says so without a tunnel, too', async () => {
    answer = (_, response) => response.writeHead(407).end();
    const error = await failureOf(pullIt({ HF_ENDPOINT: 'http://hub.invalid', HTTP_PROXY: addressOf(proxy) }));
    expect(error.message).toMatch(/407/);
    expect(error.message).toMatch(/USER:PASSWORD@HOST:PORT/);
  });

  test('that is not there is named', async () => {
    const gone = addressOf(proxy);
    await shut(proxy);
    const error = await failureOf(pullIt({ HF_ENDPOINT: 'http://hub.invalid', HTTP_PROXY: gone }));
    proxy = await open(ordinary);
    expect(error.message).toMatch(/ECONNREFUSED through the proxy 127.0.0.1:\d+ of HTTP_PROXY/);
  });
});

describe('the list of files', () => {
  const list = (...names: unknown[]) =>
    readFileList(
      { sha: COMMIT, siblings: names.map((rfilename) => ({ rfilename, size: 1, blobId: 'b'.repeat(40) })) },
      'https://hub.invalid',
    );

  test.each([
    '../x',
    '/etc/x',
    'a/../b',
    'a/./b',
    'a//b',
    'a/',
    '..',
    '.',
    '',
    'a\\b',
    'C:x',
    'a\0b',
    'a\u001b[31mb',
    'a\nb',
    'NUL',
    'con.json',
    'aux/x',
    'sub/COM1.gguf',
    'lpt9',
    'CONIN$',
    'x.',
    'x ',
    ' x',
    'a?b',
    'a*b',
    'a|b',
    'a<b',
    '\ud800',
    'x'.repeat(300),
    `${'a/'.repeat(600)}b`,
  ])('holds no %j', (name) => {
    expect(() => list(name)).toThrow(/could lead out of the cache/);
  });

  test('may hold what is only like it', () => {
    expect(list('console.json', 'nulls', 'a..b', '.gitattributes', 'com10', 'onnx/model.onnx').all).toHaveLength(6);
  });

  test.each<[string, unknown]>([
    ['a number', 5],
    ['an array', []],
    ['text', 'x'],
    ['nothing', null],
    ['other types', { sha: 5, siblings: {} }],
    ['files that are none', { sha: COMMIT, siblings: [5, null, [], 'x'] }],
    ['names that are none', { sha: COMMIT, siblings: [{ rfilename: { a: 1 } }] }],
    ['sizes that are text', { sha: COMMIT, siblings: [{ rfilename: 'a', size: '1', blobId: 'b'.repeat(40) }] }],
    ['sizes without end', { sha: COMMIT, siblings: [{ rfilename: 'a', size: Infinity, blobId: 'b'.repeat(40) }] }],
    ['hashes in an array', { sha: COMMIT, siblings: [{ rfilename: 'a', size: 1, blobId: ['b'.repeat(40)] }] }],
    ['lfs that is none', { sha: COMMIT, siblings: [{ rfilename: 'a', size: 1, lfs: 7 }] }],
    [
      'a name twice',
      { sha: COMMIT, siblings: [1, 2].map(() => ({ rfilename: 'a', size: 1, blobId: 'b'.repeat(40) })) },
    ],
    ['a million of them', { sha: COMMIT, siblings: Array(1e6).fill({}) }],
  ])('is refused as %s', (_, value) => {
    expect(() => readFileList(value, 'https://hub.invalid')).toThrow(HubContentError);
  });

  test.each([
    ['nested thousands deep', '['.repeat(200_000)],
    ['a web page', '<!DOCTYPE html><html>log in</html>'],
    ['nothing', ''],
    ['a name of 437,000 characters', JSON.stringify({ sha: COMMIT, siblings: [{ rfilename: 'x'.repeat(437_000) }] })],
  ])('%s is one short sentence', async (_, text) => {
    answer = (__, response) => response.end(text);
    const error = await failureOf(pullIt());
    expect(error).toBeInstanceOf(HubContentError);
    expect(error.message.length).toBeLessThan(600);
    expect(asked).toHaveLength(1);
  });
});

test('a cache that cannot be made says why', async () => {
  await writeFile(join(home, 'hub'), '');
  await expect(pullIt()).rejects.toThrow(/a file is in the way \(ENOTDIR\)/);
});

test('where to is found again', async () => {
  await pullIt();
  expect(await resolveModel('o/m', { env: { HF_HOME: home } })).toMatchObject({ kind: 'folder', commit: COMMIT });
  expect((await stat(dirname(inRepo('refs/main')))).isDirectory()).toBe(true);
});
