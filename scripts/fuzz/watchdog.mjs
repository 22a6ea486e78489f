// Runs beside the worker's own thread and ends the process when one input takes too long or too much memory. CPU time is
// the process's: on a busy machine the clock on the wall says nothing.

import { writeFileSync } from 'node:fs';
import { workerData } from 'node:worker_threads';

const { turns, verdictFile, cpuSeconds, megabytes } = workerData;
const seen = new Int32Array(turns);
const POLL_MS = 20;

let turn = -1;
let cpu = 0;
let rss = 0;

setInterval(() => {
  const { user, system } = process.cpuUsage();
  const now = seen[0];
  if (now !== turn) {
    turn = now;
    cpu = user + system;
    rss = process.memoryUsage.rss();
    return;
  }
  // Between runs the worker is at its own work.
  if (now % 2 === 0) return;
  const took = (user + system - cpu) / 1e6;
  if (took > cpuSeconds) end('hang', `more than ${cpuSeconds} s of CPU time for one input`);
  const grown = (process.memoryUsage.rss() - rss) / 1e6;
  if (grown > megabytes) end('memory', `${Math.round(grown)} MB more resident memory during one input`);
}, POLL_MS);

function end(kind, what) {
  writeFileSync(verdictFile, JSON.stringify({ kind, what }));
  process.kill(process.pid, 'SIGKILL');
}
