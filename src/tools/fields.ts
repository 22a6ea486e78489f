// Schema fields that several tools share.

import { z } from 'zod';
import { SCHEMES } from '../color/scheme.ts';
import { BitnetError } from '../errors.ts';
import { parseSeed } from '../random/seed.ts';
import { lostText } from './lost-number.ts';

/**
 * An unsigned 64-bit integer as JSON can carry it; parsed to a bigint. `z.unknown` with its schema written out, because
 * a union would say "Invalid input" where `parseSeed` says what is wrong with the value.
 */
export const uint64 = (name: string) =>
  z
    .unknown()
    .meta({ anyOf: [{ type: 'integer', minimum: 0 }, { type: 'string' }] })
    .transform((value, issues) => {
      const lost = lostText(value);
      if (lost !== undefined) {
        issues.addIssue({ code: 'custom', message: lostSeed(name, lost) });
        return z.NEVER;
      }
      try {
        return parseSeed(value, name);
      } catch (error) {
        if (!(error instanceof BitnetError)) throw error;
        issues.addIssue({ code: 'custom', message: error.message });
        return z.NEVER;
      }
    });

function lostSeed(name: string, text: string): string {
  const shown = text.length > 40 ? `${text.slice(0, 40)}...` : text;
  return /^\d+$/.test(text)
    ? `${name} as a number above 2^53-1 may have lost digits on its way: pass "${shown}" as text, got ${shown}`
    : `${name} must be an unsigned 64-bit integer, got ${shown}`;
}

export const seedField = uint64('seed')
  // prefault, not default: the schema's default must be JSON, and a bigint is not.
  .prefault(1069)
  .describe('Color stream: integer up to 2^53-1, or decimal/0x string up to 2^64-1');

export const schemeField = z.enum(SCHEMES).default('trace').describe('Rule that turns (seed, index) into a color');

export const modelField = z
  .string()
  .min(1)
  .default('default')
  .describe('"default" (embedded), a model folder, a .gguf or .safetensors file, or a cached hub id');

export const imageField = z.boolean().default(false);

export const trit = z.literal([-1, 0, 1]);

export const residue = z.literal([0, 1, 2]);

/** Counts of the three trits. */
export const tritCounts = z.strictObject({ minus: z.int(), ergodic: z.int(), plus: z.int() });

/** `#RRGGBB`. */
export const hex = z.string();

/** The fields of one color; index, seed and scheme are the tool's own. */
export const colorFields = {
  hex: hex.describe('#RRGGBB'),
  rgb: z.array(z.int()).length(3),
  hsl: z.strictObject({ h: z.number(), s: z.number(), l: z.number() }),
  oklch: z.strictObject({ l: z.number(), c: z.number(), h: z.number() }),
  trit,
  role: z.enum(['PLUS', 'ERGODIC', 'MINUS']),
};
