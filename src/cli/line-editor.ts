// Lines typed by a person, by way of node:readline: editing, history with the arrow keys, and several lines at once, either
// pasted (terminals mark the beginning and end of what is pasted when asked to) or ended by a backslash. While a program
// works, Ctrl-C is heard here as well, for the terminal stays raw: nothing that is typed then is lost or disturbs the text.

import { createInterface, type Interface, type Key } from 'node:readline';

/** What a terminal's two ends are; a test may bring its own. */
export type Terminal = {
  readonly input: NodeJS.ReadableStream & { setRawMode?(raw: boolean): unknown };
  readonly output: NodeJS.WritableStream;
};

const PASTE_ON = '\x1b[?2004h';
const PASTE_OFF = '\x1b[?2004l';
const CONTROL_C = '\x03';
/** Lines that the arrow keys reach. */
const HISTORY = 500;

/** Why there is no line. */
export type NoLine = 'interrupted' | 'ended';

export class LineEditor {
  readonly #terminal: Terminal;
  #history: string[] = [];
  #typedAhead = '';
  readonly #onExit = () => this.#terminal.output.write(PASTE_OFF);

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
    process.once('exit', this.#onExit);
  }

  /**
   * One text of one or several lines, without its last line break. `interrupted`: Ctrl-C on an empty line (on any other it
   * empties the line); `ended`: Ctrl-D, or the input is over, or the signal fired.
   */
  async read(prompt: string, more: string, signal: AbortSignal): Promise<{ readonly text: string } | NoLine> {
    const { input, output } = this.#terminal;
    const reader = createInterface({
      input,
      output,
      terminal: true,
      prompt,
      history: this.#history,
      historySize: HISTORY,
      removeHistoryDuplicates: true,
    });
    reader.on('history', (history) => {
      this.#history = history.filter((line) => line.trim() !== '');
    });
    output.write(PASTE_ON);
    try {
      return await this.#lines(reader, { prompt, more, signal });
    } finally {
      output.write(PASTE_OFF);
      reader.close();
      // Closing makes the terminal ordinary, where Ctrl-C before the next line would end the program.
      this.#holdKeys();
    }
  }

  #lines(
    reader: Interface,
    { prompt, more, signal }: { readonly prompt: string; readonly more: string; readonly signal: AbortSignal },
  ): Promise<{ readonly text: string } | NoLine> {
    const { input } = this.#terminal;
    return new Promise((resolve) => {
      let lines: string[] = [];
      let isPasting = false;
      const onKey = (_: string | undefined, { name }: Key) => {
        if (name === 'paste-start') isPasting = true;
        if (name === 'paste-end') isPasting = false;
      };
      const done = (result: { readonly text: string } | NoLine) => {
        input.off('keypress', onKey);
        signal.removeEventListener('abort', onAbort);
        resolve(result);
      };
      const onAbort = () => done('ended');
      input.on('keypress', onKey);
      signal.addEventListener('abort', onAbort, { once: true });
      if (signal.aborted) onAbort();
      reader.on('line', (line) => {
        if (isPasting) {
          lines.push(line);
        } else if (line.endsWith('\\')) {
          lines.push(line.slice(0, -1));
          reader.setPrompt(more);
          reader.prompt();
        } else {
          done({ text: [...lines, line].join('\n').replace(/\n+$/, '') });
        }
      });
      reader.on('SIGINT', () => {
        if (lines.length === 0 && reader.line === '') {
          this.#terminal.output.write('\n');
          done('interrupted');
          return;
        }
        lines = [];
        reader.write(null, { ctrl: true, name: 'e' });
        reader.write(null, { ctrl: true, name: 'u' });
        this.#terminal.output.write('\n');
        reader.setPrompt(prompt);
        reader.prompt();
      });
      reader.on('close', () => done('ended'));
      reader.prompt();
      if (this.#typedAhead !== '') reader.write(this.#typedAhead);
      this.#typedAhead = '';
    });
  }

  /** Runs work during which Ctrl-C calls `interrupt`; what is typed meanwhile stands in the next line. */
  async during<T>(work: () => Promise<T>, interrupt: () => void): Promise<T> {
    const { input } = this.#terminal;
    const onData = (data: Buffer | string) => {
      const text = data.toString();
      if (text.includes(CONTROL_C)) interrupt();
      // Keys that are no characters have a meaning in a line only.
      // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is left out
      this.#typedAhead += text.replace(/\x1b(\[[0-9;?]*[A-Za-z~]|.)?|[\x00-\x1f\x7f]/g, '');
    };
    this.#holdKeys();
    input.on('data', onData);
    input.resume();
    try {
      return await work();
    } finally {
      input.off('data', onData);
      input.pause();
    }
  }

  /** From now on a key is one whoever reads next gets, Ctrl-C among them. */
  #holdKeys(): void {
    this.#terminal.input.setRawMode?.(true);
  }

  close(): void {
    const { input } = this.#terminal;
    process.off('exit', this.#onExit);
    input.pause();
    input.setRawMode?.(false);
  }
}
