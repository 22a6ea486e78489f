// A bar on stderr for work that takes a while; nothing where stderr is no terminal or a program asked for JSON.

import type { CommandInput, FlagSpecs } from './command.ts';

const WIDTH = 28;
const REDRAW_MS = 60;
/** Work that ends sooner shows no bar at all. */
const QUIET_MS = 300;

export type ProgressBar = Disposable & {
  /** `total` may change between calls. */
  readonly update: (done: number, total: number, label?: string) => void;
};

/** Dispose it to take the bar off the terminal. */
export function openProgressBar(
  { output, json }: Pick<CommandInput<FlagSpecs>, 'output' | 'json'>,
  label: string,
): ProgressBar {
  const terminal = json ? undefined : output.progressTerminal;
  if (terminal === undefined) return { update: () => {}, [Symbol.dispose]: () => {} };
  const start = performance.now();
  let drawn = 0;
  return {
    update: (done, total, detail) => {
      const now = performance.now();
      if (now - start < QUIET_MS || now - drawn < REDRAW_MS) return;
      drawn = now;
      const share = total > 0 ? Math.min(1, done / total) : 0;
      const filled = Math.round(share * WIDTH);
      const left = share > 0 ? ((now - start) / share) * (1 - share) : undefined;
      const bar = `${'█'.repeat(filled)}${'░'.repeat(WIDTH - filled)}`;
      const line = `${label} ${bar} ${`${Math.floor(100 * share)}`.padStart(3)}%${left === undefined ? '' : ` ${duration(left)} left`}${detail ? `  ${detail}` : ''}`;
      terminal.write(`\r\x1b[K${line.slice(0, terminal.columns - 1)}`);
    },
    [Symbol.dispose]: () => {
      if (drawn > 0) terminal.write('\r\x1b[K');
      drawn = 0;
    },
  };
}

function duration(milliseconds: number): string {
  const seconds = Math.ceil(milliseconds / 1000);
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)}:${`${seconds % 60}`.padStart(2, '0')} min`;
}
