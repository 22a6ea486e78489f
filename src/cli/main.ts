#!/usr/bin/env node
// The entry of both bin names: finds the command, parses its arguments, turns errors into one line and an exit code.
// Keep imports few: everything here is paid before the first token of `infer`.

import { ArgumentError, BitnetError, CancelledError } from '../errors.ts';
import { packageVersion } from '../package/version.ts';
import { COMMANDS, loadCommand } from './commands.ts';
import { enableCompileCache } from './compile-cache.ts';
import { Descriptor } from './descriptor.ts';
import { EXIT } from './exit-status.ts';
import { Output } from './output.ts';
import { unsetPlaceholders } from './placeholders.ts';

enableCompileCache();

async function main(argv: readonly string[], output: Output, signal: AbortSignal): Promise<number> {
  const [first, ...rest] = argv;
  if (first === '--version' || first === '-v' || first === '-V') return main(['version', ...rest], output, signal);
  if (first === '--help' || first === '-h' || first === 'help') {
    if (first === 'help' && rest[0] !== undefined) return main([rest[0], '--help'], output, signal);
    const { programHelp } = await import('./help.ts');
    output.line(programHelp(packageVersion(), COMMANDS, output.width));
    return 0;
  }
  const name = first ?? 'serve';
  const entry = COMMANDS.find((candidate) => candidate.name === name);
  if (entry === undefined) throw await unknownCommand(name);

  const command = await loadCommand(entry);
  const { parseFlags } = await import('./parse-flags.ts');
  const parsed = parseFlags(command, rest);
  if (parsed.help) {
    const { commandHelp } = await import('./help.ts');
    output.line(commandHelp(command, output.width));
    return 0;
  }
  return (await command.run({ ...parsed, output, signal })) ?? 0;
}

async function unknownCommand(name: string): Promise<ArgumentError> {
  const { nearest } = await import('../tools/nearest.ts');
  const names = COMMANDS.filter(({ hidden }) => !hidden).map((command) => command.name);
  const guess = nearest(name, names);
  return new ArgumentError({
    what: name.startsWith('-') ? `unknown flag ${name}` : `unknown command "${name}"`,
    fix: `${guess === undefined ? '' : `did you mean ${guess}? `}commands: ${names.join(', ')}`,
  });
}

/** The first signal asks the work to stop, the second ends the process. */
function abortOnSignals(): AbortSignal {
  const controller = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(EXIT.stopped);
      controller.abort(new CancelledError(`stopped by ${name}`));
    });
  }
  return controller.signal;
}

function report(error: unknown, output: Output): number {
  const message = error instanceof Error ? error.message : String(error);
  output.note(`error: ${message}`);
  const foreseen = error instanceof BitnetError;
  if (process.env.BITNET_DEBUG || !foreseen) {
    const hint = process.env.BITNET_DEBUG ? '' : '(set BITNET_DEBUG=1 for the stack trace)';
    output.note(hint || (error instanceof Error ? (error.stack ?? '') : ''));
  }
  if (error instanceof CancelledError) return EXIT.stopped;
  return foreseen && error.fault === 'call' ? EXIT.callWrong : EXIT.jobFailed;
}

/** A reader that went away (`bitnet-gf3 palette 4096 | head -1`) is not a failure. */
function stdoutFailed({ code, message }: NodeJS.ErrnoException): void {
  if (code === 'EPIPE') process.exit(EXIT.ok);
  // At once: the process ends before a stream would have written it.
  new Descriptor(2, ignore).write(
    `error: the result cannot be written: ${code ?? message} (stdout); make room for it\n`,
  );
  process.exit(EXIT.jobFailed);
}

/** Without a place for remarks the results still come. */
function ignore(): void {}

async function run(): Promise<never> {
  const signal = abortOnSignals();
  const output = new Output(new Descriptor(1, stdoutFailed), new Descriptor(2, ignore), process.env);
  const unset = unsetPlaceholders(process.env);
  if (unset.length > 0)
    output.note(`${unset.join(', ')}: nothing but a placeholder, as clients leave it; taken as not set`);
  const exitCode = await main(process.argv.slice(2), output, signal).catch((error) => report(error, output));
  await output.flush();
  // Not `process.exitCode`: a worker thread or a timer that is winding down must not hold the shell.
  process.exit(exitCode);
}

// Not awaited here: the bundled program is a script, which cannot wait.
void run();
