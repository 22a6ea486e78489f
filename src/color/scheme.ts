// The names of the three rules that turn (seed, index) into a color, and how far each goes.

import { ArgumentError } from '../errors.ts';
import { GAY_MCP_MAX_INDEX } from './gay-mcp.ts';

/** `trace` is the default. */
export const SCHEMES = ['trace', 'gay-mcp', 'gay.jl'] as const;
export type Scheme = (typeof SCHEMES)[number];

export const DEFAULT_SCHEME: Scheme = 'trace';
export const DEFAULT_SEED = 1069n;

/** Sequences start here. */
export const FIRST_INDEX = 1;

/** The largest index of a scheme: every safe integer, but for the one that must be walked to. */
export function maxIndexOf(scheme: Scheme): number {
  return scheme === 'gay-mcp' ? GAY_MCP_MAX_INDEX : Number.MAX_SAFE_INTEGER;
}

/** Throws ArgumentError unless `scheme` is one of SCHEMES. */
export function checkScheme(scheme: Scheme): void {
  if (!SCHEMES.includes(scheme)) {
    throw new ArgumentError({
      what: `unknown scheme "${String(scheme).slice(0, 40)}"`,
      fix: `use one of ${SCHEMES.join(', ')}`,
    });
  }
}

/** Throws ArgumentError unless 0 <= index <= maxIndexOf(scheme). */
export function checkIndex(index: number, scheme: Scheme, name = 'index'): void {
  if (!Number.isSafeInteger(index) || index < 0) {
    throw new ArgumentError({
      what: `${name} must be an integer, 0 or more, got ${index}`,
      fix: `pass an integer from 0 to ${maxIndexOf(scheme)}; sequences start at ${FIRST_INDEX}`,
    });
  }
  if (index > maxIndexOf(scheme)) {
    throw new ArgumentError({
      what: `${name} ${index} is past the limit ${GAY_MCP_MAX_INDEX} of scheme gay-mcp, which must walk through every index before it`,
      fix: `stay at or below ${GAY_MCP_MAX_INDEX}, or use scheme trace or gay.jl, where every index costs the same`,
    });
  }
}
