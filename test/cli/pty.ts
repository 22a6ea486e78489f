// A command at a terminal of a given width, by Python's pty module: Node has no pseudo terminals of its own.

import { spawn, spawnSync } from 'node:child_process';
import { MAIN } from './run-cli.ts';

export const hasPty = process.platform !== 'win32' && spawnSync('python3', ['-c', 'import pty, fcntl']).status === 0;

const SCRIPT = `
import fcntl, os, pty, select, struct, sys, termios
columns, wait_for, send = int(sys.argv[1]), sys.argv[2].encode(), sys.argv[3].encode()
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[4], sys.argv[4:])
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
seen, sent = b'', not send
if send and not wait_for:
    os.write(fd, send)
    sent = True
while True:
    try:
        part = os.read(fd, 65536)
    except OSError:
        break
    if not part:
        break
    seen += part
    sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()
    if not sent and wait_for in seen:
        os.write(fd, send)
        sent = True
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
`;

type Typing = {
  readonly columns?: number;
  /** Typed when `after` was printed; \\x03 is Ctrl-C. */
  readonly type?: string;
  readonly after?: string;
  readonly env?: Record<string, string>;
};

const DIALOGUE = `
import fcntl, json, os, pty, struct, sys, termios
columns, steps = int(sys.argv[1]), json.loads(sys.argv[2])
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[3], sys.argv[3:])
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
unread = b''
while True:
    while steps and steps[0]['after'].encode() in unread:
        unread = unread.split(steps[0]['after'].encode(), 1)[1]
        os.write(fd, steps.pop(0)['type'].encode())
    try:
        part = os.read(fd, 65536)
    except OSError:
        break
    if not part:
        break
    unread += part
    sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()
_, status = os.waitpid(pid, 0)
if steps:
    print('never printed: ' + steps[0]['after'])
sys.exit(os.waitstatus_to_exitcode(status))
`;

type Step = {
  /** Typed when this was printed after what the step before waited for. */
  readonly after: string;
  readonly type: string;
};

/** A conversation with a command at a terminal: everything that it got, with plain line ends, and the exit status. */
export function talkAtTerminal(
  args: readonly string[],
  steps: readonly Step[],
  { columns = 60, env = {} }: Pick<Typing, 'columns' | 'env'> = {},
): Promise<{ readonly code: number | null; readonly screen: string }> {
  return atTerminal([DIALOGUE, `${columns}`, JSON.stringify(steps), process.execPath, MAIN, ...args], env);
}

/** Everything that the terminal got, with plain line ends, and the exit status. */
export function runAtTerminal(
  args: readonly string[],
  { columns = 60, type = '', after = '', env = {} }: Typing = {},
): Promise<{ readonly code: number | null; readonly screen: string }> {
  return atTerminal([SCRIPT, `${columns}`, after, type, process.execPath, MAIN, ...args], env);
}

function atTerminal(
  script: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<{ readonly code: number | null; readonly screen: string }> {
  return new Promise((resolve, reject) => {
    // The size is set before the program asks: its start takes longer than that of a call to the system.
    const child = spawn('python3', ['-c', ...script], {
      env: { PATH: process.env.PATH, HOME: process.env.HOME, TERM: 'xterm-256color', ...env },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let screen = '';
    child.stdout.setEncoding('utf8').on('data', (text) => {
      screen += text;
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, screen: screen.replaceAll('\r\n', '\n') }));
  });
}

/** Lines as a person sees them: without what moves the cursor or colors. */
export const linesOf = (screen: string) =>
  screen
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what terminals are told
    .replace(/\x1b\[[0-9;?]*[A-Za-z]/g, '')
    .split('\n')
    .map((line) => line.split('\r').at(-1)!);
