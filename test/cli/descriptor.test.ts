// Results reach whoever reads them, however slowly, and nobody who has gone away is a failure.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { ROOT } from '../mcp/server-process.ts';
import { MAIN, runCli } from './run-cli.ts';

const folder = mkdtempSync(join(tmpdir(), 'descriptor-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** More than any pipe holds. */
const LONG = ['palette', '4096', '--json'];

/** Runs the program with a socket of Node as its stdout, which does not block; `read` gets the other end. */
async function runOnSocket(args: readonly string[], read: (socket: Socket) => Promise<string>) {
  const path = join(folder, 'socket');
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
  const stdout = connect(path);
  const other = await accepted;
  // By way of a shell: Node makes what a child gets as its stdout block.
  const script = 'exec "$0" "$@" >&3';
  const child = spawn('sh', ['-c', script, process.execPath, MAIN, ...args], {
    stdio: ['ignore', 'pipe', 'pipe', stdout],
  });
  let stderr = '';
  child.stderr!.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  stdout.destroy();
  const text = await read(other);
  const code = await ended;
  server.close();
  return { text, code, stderr };
}

test.skipIf(process.platform === 'win32')('all of it comes through a pipe that does not block', async () => {
  const { stdout: expected } = await runCli(LONG);
  const { text, code, stderr } = await runOnSocket(LONG, async (socket) => {
    socket.pause();
    // By now the program has met the end of the buffer.
    await new Promise((resolve) => setTimeout(resolve, 500));
    let text = '';
    for await (const part of socket.setEncoding('utf8')) text += part;
    return text;
  });
  expect(expected.length).toBeGreaterThan(500_000);
  expect(text).toBe(expected);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
});

test.skipIf(process.platform === 'win32').each([LONG, ['palette', '3']])(
  'a reader that has gone away is no failure: %s %s',
  async (...args) => {
    const { code, stderr } = await runOnSocket(args, async (socket) => {
      socket.destroy();
      return '';
    });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  },
);

test.skipIf(process.platform !== 'linux')('a disk without room is told', async () => {
  const child = spawn('sh', ['-c', 'exec "$0" "$@" >/dev/full', process.execPath, MAIN, 'color', '1']);
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  const code = await new Promise<number | null>((resolve) => child.on('close', resolve));
  expect({ code, stderr }).toEqual({
    code: 1,
    stderr: 'error: the result cannot be written: ENOSPC (stdout); make room for it\n',
  });
});

test.skipIf(process.platform === 'win32')(
  'what leads nowhere is no terminal, and no stream is loaded to know',
  async () => {
    const script = `
    import { writeSync } from 'node:fs';
    import { Descriptor } from ${JSON.stringify(`${ROOT}dist/cli/descriptor.js`)};
    let opened = false;
    const get = () => { opened = true; return { isTTY: true, on() {} }; };
    Object.defineProperty(process, 'stderr', { get });
    const { isTTY } = new Descriptor(2, () => {});
    writeSync(1, JSON.stringify({ isTTY, opened }));`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    let told = '';
    for await (const part of child.stdout.setEncoding('utf8')) told += part;
    expect(JSON.parse(told)).toEqual({ isTTY: false, opened: false });
  },
);
