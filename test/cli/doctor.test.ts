import { join } from 'node:path';
import { expect, test } from 'vitest';
import { backendText, topologyText } from '../../src/cli/doctor.ts';
import { openMockServer } from '../generate/openai/mock-server.ts';
import { runCli } from './run-cli.ts';

test('doctor finds a backend and the embedded model, and says why others are not', async () => {
  const { code, stdout } = await runCli(['doctor', '--json']);
  const report = JSON.parse(stdout);
  expect(code).toBe(0);
  expect(report.backends.map(({ name }: { name: string }) => name)).toEqual(['metal', 'cuda', 'cpu', 'wasm', 'js']);
  for (const backend of report.backends) expect(backend.usable || backend.reason.length > 10, backend.name).toBe(true);
  expect(report.auto).toBe(report.backends.find(({ usable }: { usable: boolean }) => usable).name);
  expect(report.models[0]).toMatchObject({ name: 'default', source: 'embedded', kind: 'folder' });
});

test('doctor for people', async () => {
  const { stdout } = await runCli(['doctor'], { env: { HF_HUB_CACHE: '/some/cache' } });
  expect(stdout).toContain('✓ js');
  expect(stdout).toContain('chosen by auto');
  expect(stdout).toContain('/some/cache');
});

test('a backend that works may have more to say', () => {
  const detail = 'kernels: the cubin for compute capability 9.0';
  expect(backendText({ usable: true, detail }, true)).toBe(`chosen by auto; ${detail}`);
  expect(backendText({ usable: true, detail }, false)).toBe(`usable; ${detail}`);
  expect(backendText({ usable: true }, true)).toBe('chosen by auto');
  expect(backendText({ usable: false, reason: 'no card' }, false)).toBe('no card');
});

test('doctor tells whether the other sources of tokens can be used', async () => {
  await using server = await openMockServer();
  server.answer = (response) => void response.end('{"data":[{"id":"fox-3b"}]}');
  const env = { BITNET_OPENAI_BASE_URL: `${server.url}/`, BITNET_OPENAI_API_KEY: 'very-secret' };
  const { stdout } = await runCli(['doctor', '--json'], { env });
  const { sources, warnings } = JSON.parse(stdout);
  expect(sources.map(({ name }: { name: string }) => name)).toEqual(['onnx', 'openai']);
  expect(sources[0].usable || sources[0].reason.startsWith('onnxruntime-node: ')).toBe(true);
  expect(sources[1]).toEqual({
    name: 'openai',
    usable: true,
    endpoint: server.url,
    endpoint_set: true,
    key_set: true,
    models: ['fox-3b'],
  });
  expect(stdout).not.toContain('very-secret');
  expect(server.asked[0]!.authorization).toBe('Bearer very-secret');
  expect(warnings).toEqual([]);

  server.answer = (response) => void response.writeHead(401).end();
  expect((await runCli(['doctor'], { env })).stdout).toContain(
    `✗ openai  ${server.url} (BITNET_OPENAI_BASE_URL): the server refused the key (HTTP 401)`,
  );
});

test('doctor does not take its own slow start for a server that does not answer', async () => {
  await using server = await openMockServer();
  server.answer = (response) => void response.end('{"data":[{"id":"fox-3b"}]}');
  const NODE_OPTIONS = `--require ${join(import.meta.dirname, 'slow-loading.cjs')}`;
  const { stdout } = await runCli(['doctor', '--json'], { env: { BITNET_OPENAI_BASE_URL: server.url, NODE_OPTIONS } });
  expect(JSON.parse(stdout).sources[1]).toMatchObject({ usable: true, models: ['fox-3b'] });
});

test('doctor gives up on a server that does not answer', async () => {
  await using server = await openMockServer();
  server.answer = () => {};
  const { code, stdout } = await runCli(['doctor'], { env: { BITNET_OPENAI_BASE_URL: server.url } });
  expect(code).toBe(0);
  expect(stdout).toContain('no answer within 3 s');
});

test('doctor tells which processors share caches and memory', async () => {
  const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);
  const caches = [range(0, 8), range(8, 16), range(16, 22)];
  expect(topologyText({ caches, nodes: [range(0, 16), range(16, 22)] })).toBe(
    '2 memory nodes of 16 or 6, 3 last-level caches of 8 or 6',
  );
  expect(topologyText({ caches: [], nodes: [[0]] })).toBe('1 memory node of 1');
  expect(topologyText(null)).toBe('not told by this system');
  const { stdout } = await runCli(['doctor', '--json']);
  const { threads } = JSON.parse(stdout) as {
    threads: { processors: number; limit: string; topology: { caches: number[][]; nodes: number[][] } | null };
  };
  expect(threads.limit).toMatch(/processor/);
  for (const groups of Object.values(threads.topology ?? {})) {
    expect([0, threads.processors]).toContain(groups.flat().length);
  }
});
