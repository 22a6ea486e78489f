// Text that comes through standard input: from a pipe, a file or, when asked for by `-`, from the keyboard.

import { ArgumentError, BitnetError, CancelledError } from '../errors.ts';

/** More than any model's context; a pipe that never ends is refused before it fills the memory. */
const MAX_BYTES = 64 << 20;

type Request = {
  /** Said when there is nothing. */
  readonly what: string;
  /** Whether the caller wrote `-`: then a terminal is read, too. */
  readonly explicit: boolean;
  readonly signal: AbortSignal;
};

/** The whole of it without its last line break. Throws ArgumentError for nothing, too much, or what is not UTF-8. */
export async function readStdin({ what, explicit, signal }: Request): Promise<string> {
  const fix = 'give it as an argument, or through a pipe: echo "Once upon a time" | bitnet-gf3 infer';
  if (process.stdin.isTTY && !explicit) throw new ArgumentError({ what, fix });
  const parts: Uint8Array[] = [];
  let size = 0;
  const stop = () => process.stdin.destroy(new CancelledError('stopped while reading standard input'));
  signal.addEventListener('abort', stop, { once: true });
  try {
    for await (const part of process.stdin as AsyncIterable<Uint8Array>) {
      size += part.length;
      if (size > MAX_BYTES) {
        throw new ArgumentError({
          what: `standard input gave more than ${MAX_BYTES >> 20} MiB`,
          fix: 'give less text',
        });
      }
      parts.push(part);
    }
  } catch (cause) {
    if (cause instanceof BitnetError) throw cause;
    const { code, message } = cause as NodeJS.ErrnoException;
    throw new ArgumentError({ what: `standard input cannot be read: ${code ?? message}`, fix }, { cause });
  } finally {
    signal.removeEventListener('abort', stop);
  }
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(parts));
  } catch (cause) {
    throw new ArgumentError({ what: 'standard input is not UTF-8 text', fix: 'give a text' }, { cause });
  }
  text = text.replace(/\r?\n$/, '');
  if (text === '') throw new ArgumentError({ what: explicit ? 'standard input is empty' : what, fix });
  return text;
}
