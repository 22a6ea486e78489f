// What a command tells the shell.

export const EXIT = {
  ok: 0,
  jobFailed: 1,
  callWrong: 2,
  /** What shells report for a program that ended by Ctrl-C: neither done nor failed. What there was is kept. */
  stopped: 130,
} as const;
