// The threads of one loaded program: each runs an instance of the same module over the same memory, and sleeps inside it
// (kernels/wasm/pool.h) until the host begins a step. The host's own thread only waits for the message that a step is
// over, so that its event loop stays free.

import { Worker } from 'node:worker_threads';
import type { WasmMemory, WasmModule } from './web-assembly.ts';

/** A text, not a file: a bundle has no file of ours to start. */
const THREAD = `
const { parentPort, workerData } = require('node:worker_threads');
const { module, memory, stackTop, thread } = workerData;
const finished = () => parentPort.postMessage('finished');
const { exports } = new WebAssembly.Instance(module, { env: { memory, finished } });
exports.__stack_pointer.value = stackTop;
parentPort.postMessage('ready');
exports.serve(thread);
`;

/** Starting takes some 20 ms; what takes this long does not come. */
const START_MS = 10_000;
/** A step in which no item (about a millisecond of work) was done for this long stands still. */
const STALL_MS = 30_000;

export type WasmThreadsOptions = {
  readonly module: WasmModule;
  readonly memory: WasmMemory;
  /** One a thread: the address above its stack. */
  readonly stackTops: readonly number[];
  /** Changes with every item that is done. */
  readonly progress: () => number;
  readonly startMs?: number;
  readonly stallMs?: number;
};

type Waiting = { readonly resolve: () => void; readonly reject: (error: Error) => void };

export class WasmThreads {
  readonly #workers: Worker[] = [];
  readonly #progress: () => number;
  readonly #stallMs: number;
  #ready = 0;
  /** Why these threads cannot be used any more. */
  #failure: Error | undefined;
  /** Of the start, then of the running step. */
  #waiting: Waiting | undefined;

  private constructor(progress: () => number, stallMs: number) {
    this.#progress = progress;
    this.#stallMs = stallMs;
  }

  /** False once one of them has ended. */
  get usable(): boolean {
    return this.#failure === undefined;
  }

  /** Resolves when all threads serve. When one does not, none is left, and the error says why. */
  static async start(options: WasmThreadsOptions): Promise<WasmThreads> {
    const { module, memory, stackTops, startMs = START_MS } = options;
    const threads = new WasmThreads(options.progress, options.stallMs ?? STALL_MS);
    const late = () => threads.#fail(new Error(`its threads were not ready after ${startMs} ms`));
    const timer = setTimeout(late, startMs);
    try {
      await new Promise<void>((resolve, reject) => {
        threads.#waiting = { resolve, reject };
        stackTops.forEach((stackTop, thread) => {
          const workerData = { module, memory, stackTop, thread };
          threads.#add(new Worker(THREAD, { eval: true, execArgv: [], workerData }));
        });
      });
      return threads;
    } catch (error) {
      await threads.end();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Runs the step that `begin` starts, to its end. After an error no thread is left, and the memory is the caller's. */
  async run(begin: () => void): Promise<void> {
    let seen = this.#progress();
    // Also keeps the process alive, which the threads do not.
    const watch = setInterval(() => {
      const now = this.#progress();
      if (now === seen) this.#fail(new Error(`its threads did nothing for ${this.#stallMs} ms`));
      seen = now;
    }, this.#stallMs);
    try {
      if (this.#failure !== undefined) throw this.#failure;
      await new Promise<void>((resolve, reject) => {
        this.#waiting = { resolve, reject };
        begin();
      });
    } catch (error) {
      await this.end();
      throw error;
    } finally {
      clearInterval(watch);
    }
  }

  /** For the case that the last item of a step is done by the host's own thread. */
  finished(): void {
    this.#settle();
  }

  /** Resolves when no thread runs any more. */
  async end(): Promise<void> {
    this.#failure ??= new Error('ended');
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }

  #add(worker: Worker): void {
    this.#workers.push(worker);
    worker.on('message', (message: 'ready' | 'finished') => {
      if (message === 'finished') return this.#settle();
      worker.unref();
      this.#ready += 1;
      if (this.#ready === this.#workers.length) this.#settle();
    });
    worker.on('error', (error) => this.#fail(error));
    worker.on('exit', (code) => this.#fail(new Error(`a thread ended with exit code ${code}`)));
  }

  #settle(): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.resolve();
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.reject(error);
  }
}
