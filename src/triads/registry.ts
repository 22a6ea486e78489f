// The skills this package knows and the triads and lists they stand in, as skills/triads.json declares them. A skill
// has one trit of its own; what a triad or list says of a member may differ from it (then the skill has a note), so each
// is balanced with the trits that it declares.

import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { BitnetError } from '../errors.ts';
import type { Trit } from '../gf3/trit.ts';
import { balanceOf, type TriadBalance } from './balance.ts';

const skillName = z
  .string()
  .max(64)
  .regex(/^[a-z0-9]+(-[a-z0-9]+)*$/);
const trit = z.literal([-1, 0, 1]);
export const skillColor = z.string().regex(/^#[0-9A-F]{6}$/);

const member = z.strictObject({ skill: skillName, trit, color: skillColor.optional() });

/** The shape of skills/triads.json. */
export const registrySchema = z.strictObject({
  $schema: z.string().optional(),
  skills: z.array(
    z.strictObject({
      name: skillName,
      trit,
      color: skillColor.optional(),
      does: z.string().describe('In a few words'),
      note: z.string().optional().describe('What a reader must know about its trit or color'),
    }),
  ),
  triads: z.array(
    z.strictObject({
      members: z.array(member).min(2).max(3),
      open: z.boolean().default(false).describe('A member is missing; the completing trit says which kind'),
    }),
  ),
  lists: z
    .array(z.strictObject({ name: skillName, members: z.array(member).min(1) }))
    .describe('Sets that claim no balance'),
});

export type Registry = z.output<typeof registrySchema>;
export type Skill = Registry['skills'][number];
export type Member = z.output<typeof member>;

/** The declared skills cannot be used as they are. */
export class RegistryError extends BitnetError {
  readonly code = 'BAD_SKILL_REGISTRY';
  readonly fault = 'job';
}

/** Reads and checks a triads.json: its shape, and that members are declared skills. */
export function readRegistry(file: string): Registry {
  const fix = 'install the package again, or correct the file by schemas/triads.json';
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw new RegistryError({ what: `the list of skills is not readable: ${cause}`, where: file, fix }, { cause });
  }
  const parsed = registrySchema.safeParse(json);
  if (!parsed.success) throw new RegistryError({ what: z.prettifyError(parsed.error), where: file, fix });
  const registry = parsed.data;
  const known = new Set(registry.skills.map(({ name }) => name));
  for (const { members } of [...registry.triads, ...registry.lists]) {
    const stranger = members.find(({ skill }) => !known.has(skill));
    if (stranger !== undefined) {
      throw new RegistryError({ what: `"${stranger.skill}" is a member but not among the skills`, where: file, fix });
    }
  }
  return registry;
}

/** Names of the skills with this trit, in the file's order, without those in `except`. */
export function skillsWithTrit(registry: Registry, trit: Trit, except: readonly string[] = []): string[] {
  return registry.skills.filter((skill) => skill.trit === trit && !except.includes(skill.name)).map(({ name }) => name);
}

export type BalancedSet = TriadBalance & {
  readonly name: string;
  readonly kind: 'triad' | 'open triad' | 'list';
  readonly members: readonly Member[];
};

/** Every triad and list with its balance. An open triad is named with a `?` and the trit that completes it. */
export function balancedSets(registry: Registry): BalancedSet[] {
  const triads = registry.triads.map(({ members, open }) => {
    const balance = balanceOf(members.map((member) => member.trit));
    const names = members.map(({ skill, trit }) => `${skill} (${signed(trit)})`);
    if (open) names.push(`? (${signed(balance.completingTrit)})`);
    return { ...balance, kind: open ? ('open triad' as const) : ('triad' as const), name: names.join(' x '), members };
  });
  const lists = registry.lists.map(({ name, members }) => {
    return { ...balanceOf(members.map((member) => member.trit)), kind: 'list' as const, name, members };
  });
  return [...triads, ...lists];
}

/** -1, 0 or +1 as triads are written. */
export function signed(trit: Trit): '-1' | '0' | '+1' {
  return trit === 0 ? '0' : trit > 0 ? '+1' : '-1';
}
