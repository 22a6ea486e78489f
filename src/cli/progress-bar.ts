// A bar on stderr for work that takes a while; nothing where stderr is no terminal or a program asked for JSON.

import type { CommandInput, FlagSpecs } from './command.ts';

const WIDEST_BAR = 28;
const REDRAW_MS = 60;
/** Work that ends sooner shows no bar at all. */
const QUIET_MS = 300;
/** Between looks at the clock while nothing else is to be told. */
const TICK_MS = 1000;

export type ProgressBar = Disposable & {
  /** `total` may change between calls. */
  readonly update: (done: number, total: number, label?: string) => void;
  /** Says what is waited for, and for how long by now, until the next update. */
  readonly wait: (what: string) => void;
};

/** Dispose it to take the bar off the terminal. */
export function openProgressBar(
  { output, json }: Pick<CommandInput<FlagSpecs>, 'output' | 'json'>,
  label: string,
): ProgressBar {
  const terminal = json ? undefined : output.progressTerminal;
  if (terminal === undefined) return { update: () => {}, wait: () => {}, [Symbol.dispose]: () => {} };
  const start = performance.now();
  let drawn = 0;
  let timer: NodeJS.Timeout | undefined;
  /** Some pseudo terminals say 0: nobody has told them. */
  const columns = () => terminal.columns || 80;
  const draw = (line: string) => {
    drawn = performance.now();
    terminal.write(`\r\x1b[K${line.slice(0, columns() - 1)}`);
  };
  const stopWaiting = () => {
    clearInterval(timer);
    timer = undefined;
  };
  return {
    update: (done, total, detail) => {
      stopWaiting();
      const now = performance.now();
      if (now - start < QUIET_MS || now - drawn < REDRAW_MS) return;
      const share = total > 0 ? Math.min(1, done / total) : 0;
      // On a narrow terminal the words matter more.
      const width = Math.max(4, Math.min(WIDEST_BAR, columns() >> 2));
      const filled = Math.round(share * width);
      const left = share > 0 ? ((now - start) / share) * (1 - share) : undefined;
      const bar = `${'█'.repeat(filled)}${'░'.repeat(width - filled)}`;
      draw(
        `${label} ${bar} ${`${Math.floor(100 * share)}`.padStart(3)}%${left === undefined ? '' : ` ${duration(left)} left`}${detail ? `  ${detail}` : ''}`,
      );
    },
    wait: (what) => {
      stopWaiting();
      const since = performance.now();
      draw(`${label}: ${what}`);
      timer = setInterval(() => draw(`${label}: ${what}, ${duration(performance.now() - since)} by now`), TICK_MS);
      timer.unref();
    },
    [Symbol.dispose]: () => {
      stopWaiting();
      if (drawn > 0) terminal.write('\r\x1b[K');
      drawn = 0;
    },
  };
}

function duration(milliseconds: number): string {
  const seconds = Math.ceil(milliseconds / 1000);
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)}:${`${seconds % 60}`.padStart(2, '0')} min`;
}
