// What the head of a SKILL.md of this package holds. The Agent Skills format gives the keys and lets metadata carry
// strings only; trit, role, color and triads live there.

import { z } from 'zod';
import { role } from '../gf3/trit.ts';
import { balancedSets, type Registry, signed, skillColor } from './registry.ts';

/** As the format limits it, so that every client loads it. */
const MAX_DESCRIPTION = 1024;

/** The head of a SKILL.md. */
export const manifestSchema = z.strictObject({
  name: z
    .string()
    .max(64)
    .regex(/^[a-z0-9]+(-[a-z0-9]+)*$/)
    .describe('Equal to the name of its folder'),
  description: z.string().min(1).max(MAX_DESCRIPTION).describe('What it does and when to use it'),
  license: z.string(),
  metadata: z.strictObject({
    trit: z.enum(['-1', '0', '+1']),
    role: z.enum(['MINUS', 'ERGODIC', 'PLUS']),
    color: skillColor,
    triads: z.string().optional().describe('The triads it stands in, with the trits they declare, split by "; "'),
    lists: z.string().optional().describe('The lists it stands in, with the trit that each gives it'),
    note: z.string().optional(),
  }),
});

export type Manifest = z.output<typeof manifestSchema>;

/** The metadata that the registry asks of a skill's SKILL.md; undefined for a skill that needs none (it has no color). */
export function manifestMetadata(registry: Registry, name: string): Manifest['metadata'] | undefined {
  const skill = registry.skills.find((candidate) => candidate.name === name);
  if (skill?.color === undefined) return undefined;
  const sets = balancedSets(registry).flatMap((set) => {
    const member = set.members.find((candidate) => candidate.skill === name);
    return member === undefined ? [] : [{ ...set, trit: member.trit }];
  });
  const triads = sets.filter(({ kind }) => kind !== 'list').map((set) => set.name);
  const lists = sets.filter(({ kind }) => kind === 'list').map((set) => `${set.name} (${signed(set.trit)})`);
  return {
    trit: signed(skill.trit),
    role: role(skill.trit),
    color: skill.color,
    ...(triads.length > 0 && { triads: triads.join('; ') }),
    ...(lists.length > 0 && { lists: lists.join('; ') }),
    ...(skill.note !== undefined && { note: skill.note }),
  };
}
