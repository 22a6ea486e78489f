// What a device or its driver throws, in our words.

import type { ErrorText } from '../../errors.ts';

/** `api`: Metal, CUDA; `where`: what was being done, if that says more. */
export function deviceErrorText(api: string, cause: unknown, where?: string): ErrorText {
  return {
    what: `${api}: ${cause instanceof Error ? cause.message : String(cause)}`,
    ...(where === undefined ? {} : { where }),
    fix: 'use --backend cpu, and report this with the output of `doctor`',
  };
}
