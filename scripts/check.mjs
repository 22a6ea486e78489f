// Everything that must hold before a commit: types, lint, then the tests (which also check import rules and
// drift of generated files). `--no-tests` leaves the last step out, for a caller that has just run it.
import { spawnSync } from 'node:child_process';

const steps = [
  ['npm', ['run', '--silent', 'types']],
  ['npm', ['run', '--silent', 'lint']],
];
if (!process.argv.includes('--no-tests')) steps.push(['npm', ['test']]);

for (const [command, args] of steps) {
  process.stderr.write(`> ${command} ${args.join(' ')}\n`);
  const done = spawnSync(command, args, { stdio: 'inherit', shell: process.platform === 'win32' });
  if (done.status !== 0) process.exit(1);
}
