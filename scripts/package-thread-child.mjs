// Stands for `fork` in bundles. Claude Desktop may run a bundle inside Electron, whose executable need not start as a
// plain Node: there the child is a thread of this process with the messages of a child process. Everywhere else, and in
// the package from npm, it is a process. BITNET_CHILD=thread asks for a thread, for tests.
import { fork as forkProcess } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { Worker } from 'node:worker_threads';

export function fork(file, args, options) {
  const thread = process.versions.electron !== undefined || process.env.BITNET_CHILD === 'thread';
  return thread ? new ThreadChild(file) : forkProcess(file, args, options);
}

/** As much of a ChildProcess as the hosts use. */
class ThreadChild extends EventEmitter {
  connected = true;
  /** It has no process of its own to be killed by. */
  pid = undefined;
  #worker;

  constructor(file) {
    super();
    // Its stdout is not ours: over stdio, ours is the protocol.
    this.#worker = new Worker(file, { stdout: true });
    this.#worker.stdout.pipe(process.stderr, { end: false });
    this.#worker.on('message', (message) => this.emit('message', message));
    this.#worker.on('error', (error) => this.emit('error', error));
    this.#worker.on('exit', (code) => {
      this.connected = false;
      this.emit('exit', code, null);
    });
  }

  get channel() {
    return this.#worker;
  }

  send(message, done) {
    this.#worker.postMessage(message);
    done?.(null);
    return true;
  }

  disconnect() {
    this.kill();
  }

  kill() {
    this.connected = false;
    void this.#worker.terminate();
    return true;
  }

  ref() {
    this.#worker.ref();
  }

  unref() {
    this.#worker.unref();
  }
}
