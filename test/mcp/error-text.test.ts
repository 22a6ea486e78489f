// What of an error leaves this machine.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { ArgumentError } from '../../src/errors.ts';
import { localErrorText, remoteErrorText } from '../../src/mcp/error-text.ts';
import { WorldError } from '../../src/world/world-error.ts';
import { openSession, type RunningServer, send, startProcess, startServer, statelessCall } from './http-harness.ts';
import { RawClient } from './server-process.ts';

const teller = remoteErrorText(['/srv/our models', '/srv/m']);
const remote = (error: unknown) => teller(error, new Set(['/srv/asked for/x']));
const local = (error: unknown) => localErrorText(error, new Set());

test.each([
  ['/home/ann/.cache/hub/model.safetensors', 'model.safetensors'],
  ['/home/ann/.cache/hub/model.safetensors, byte 12', 'model.safetensors, byte 12'],
  ['/home/ann/My Models (old), 2/data.jsonl, line 3', 'data.jsonl, line 3'],
  ['tensor "a.weight" in /home/ann/My Models/model.gguf', 'tensor "a.weight" in model.gguf'],
  ['/home/ann/a in /home/bob/model.gguf', 'model.gguf'],
  ['C:\\Users\\Ann B\\model.gguf, byte 0', 'model.gguf, byte 0'],
  ['\\\\nas\\models\\model.gguf', 'model.gguf'],
  ['/', '(a folder of the server)'],
  ['/srv/our models/a/config.json', '/srv/our models/a/config.json'],
  ['/srv/m', '/srv/m'],
  ['/srv/asked for/x', '/srv/asked for/x'],
  ['/srv/asked for/x/config.json', 'config.json'],
  ['/srv/models-of-ann/x.gguf', 'x.gguf'],
  ['/srv/m/../ann/x.gguf', 'x.gguf'],
  ['model.layers.0 is 4 x 4', 'model.layers.0 is 4 x 4'],
  ['continuation', 'continuation'],
  ['https://example.com/a/b', 'https://example.com/a/b'],
])('the place %s is told as %s', (where, told) => {
  expect(remote(new ArgumentError({ what: 'no', where }))).toBe(`no (${told})`);
});

test.each([
  [
    "ENOENT: no such file or directory, open '/home/ann b/x y.json'",
    "ENOENT: no such file or directory, open 'x y.json'",
  ],
  ['the model "/home/ann b/x" is not there', 'the model "x" is not there'],
  ['the model "/srv/asked for/x" is not there', 'the model "/srv/asked for/x" is not there'],
  ['cannot load /home/ann/lib.so: bad ELF', 'cannot load lib.so: bad ELF'],
  ['imported from file:///home/ann/a.mjs', 'imported from a.mjs'],
  ['use a path inside /srv/our models or /srv/m, "default"', 'use a path inside /srv/our models or /srv/m, "default"'],
  ['see /srv/m/a and /srv/m-private/b', 'see /srv/m/a and b'],
  ['run `bitnet-gf3 pull org/name`, and/or ask', 'run `bitnet-gf3 pull org/name`, and/or ask'],
  [
    'the token </s> at https://example.com/a/b is 1/2 of ~/x',
    'the token </s> at https://example.com/a/b is 1/2 of ~/x',
  ],
])('in %s', (text, told) => {
  expect(remote(new ArgumentError({ what: text }))).toBe(told);
  expect(remote(new ArgumentError({ what: 'no', fix: text }))).toBe(`no; ${told}`);
});

test('no folder of a path outside the known ones is told, wherever it stands', () => {
  const secret = fc.stringMatching(/^[a-z]{8}$/).map((name) => `Secret${name}`);
  const file = fc.stringMatching(/^[a-z][a-z0-9._-]{0,8}[a-z]$/);
  fc.assert(
    fc.property(fc.array(secret, { minLength: 1, maxLength: 4 }), file, (folders, name) => {
      const path = `/${folders.join('/')}/${name}`;
      for (const text of [
        path,
        `open '${path}'`,
        `"${path}" is bad`,
        `(${path})`,
        `at ${path}, byte 5`,
        `${path}: no`,
      ]) {
        const told = remote(new WorldError({ what: text, where: text, fix: text }));
        expect(told).not.toContain('Secret');
        expect(told).toContain(name);
      }
    }),
  );
});

test.each(['"/', "'/`/", ' in /', '/, byte 1', '/srv/our models', 'C:\\'])(
  'a megabyte of %j is no work of hours',
  (part) => {
    const text = part.repeat(Math.ceil(1e6 / part.length));
    expect(remote(new ArgumentError({ what: text, where: text, fix: text })).length).toBeLessThan(12_100);
    expect(local(new ArgumentError({ what: text })).length).toBeLessThan(4100);
  },
);

test('of a defect of ours, only a client on this machine hears more than that it is one', () => {
  const error = new TypeError("cannot read '/home/ann/secret'");
  expect(remote(error)).toMatch(/^internal error: this is a defect/);
  expect(remote(error)).not.toContain('secret');
  expect(local(error)).toContain("internal error: cannot read '/home/ann/secret'");
});

const folder = mkdtempSync(join(tmpdir(), 'error-text-'));
const broken = join(folder, 'model.safetensors');
writeFileSync(broken, 'nonsense');
afterAll(() => rmSync(folder, { recursive: true }));

const analyze = (model: string) => statelessCall(1, 'analyze_layer', { model });

/** What a tool, a resource and a session's tool say of it over HTTP. */
async function textsOverHttp(server: RunningServer, model: string): Promise<string[]> {
  const { headers } = await openSession(server);
  const params = { uri: `bitnet-gf3://models/${encodeURIComponent(model)}/trits/a/0/0` };
  const answers = await Promise.all([
    send(server, analyze(model)),
    send(server, {
      headers,
      body: { ...(analyze(model).body as object), params: { name: 'analyze_layer', arguments: { model } } },
    }),
    send(server, { headers, body: { jsonrpc: '2.0', id: 2, method: 'resources/read', params } }),
  ]);
  return answers.map(({ text }) => text);
}

test('over HTTP a client learns which file is broken, not where it lies; over stdio it does', async () => {
  const server = await startServer();
  try {
    for (const text of await textsOverHttp(server, folder)) {
      expect(text).toContain('(model.safetensors, byte 0)');
      expect(text).not.toContain(broken);
    }
    for (const text of await textsOverHttp(server, 'no/such-model')) expect(text).not.toContain(homedir());
  } finally {
    await server.close();
  }
  const stdio = new RawClient({ BITNET_LOG: 'silent' });
  try {
    await stdio.initialize();
    const { result } = await stdio.call('analyze_layer', { model: folder });
    expect(result.isError).toBe(true);
    expect(result.content[0].text).toContain(broken);
  } finally {
    stdio.child.kill();
  }
});

describe('the built program', () => {
  test('tells paths of folders that callers may name', async () => {
    const server = await startProcess([], { BITNET_MODEL_ROOTS: folder });
    try {
      for (const text of await textsOverHttp(server, folder)) expect(text).toContain(broken);
      for (const text of await textsOverHttp(server, '/etc/nowhere/model.gguf')) {
        expect(text).toContain('/etc/nowhere/model.gguf');
        expect(text).toContain(`use a path inside ${folder}`);
      }
    } finally {
      await server.close();
    }
  });

  test('tells no others, and has them in its log', async () => {
    const server = await startProcess([], { BITNET_LOG: 'info' });
    let log = '';
    server.child.stderr!.on('data', (text: string) => {
      log += text;
    });
    try {
      for (const text of await textsOverHttp(server, folder)) expect(text).not.toContain(broken);
    } finally {
      await server.close();
    }
    expect(log).toContain(broken);
  });
});
