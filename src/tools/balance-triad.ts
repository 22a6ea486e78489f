import { z } from 'zod';
import { ArgumentError } from '../errors.ts';
import type { Trit } from '../gf3/trit.ts';
import { balanceOf } from '../triads/balance.ts';
import { type Skill, skillsWithTrit } from '../triads/registry.ts';
import { defineTool } from './define-tool.ts';
import { residue, trit } from './fields.ts';
import { nearest } from './nearest.ts';
import { presentSkills, skillRegistry } from './skill-registry.ts';

/** More than any triad, list or trace that an agent would send by hand. */
const MAX_MEMBERS = 4096;
/** So many are looked at in less than a millisecond. */
const FEW_MEMBERS = 64;

export const balanceTriadTool = defineTool({
  name: 'balance_triad',
  title: 'Balance a triad',
  description:
    'Sums trits over GF(3), says which one trit more brings the sum to 0 mod 3, and suggests skills that have it. ' +
    'Give exactly one of trits or skills: all three members of a triad to check it, two to complete it.',
  input: z.strictObject({
    trits: z.array(trit).min(1).max(MAX_MEMBERS).optional().describe('Each -1, 0 or 1'),
    skills: z
      .array(z.string().min(1).max(64))
      .min(1)
      .max(MAX_MEMBERS)
      .optional()
      .describe('Names, as in mlx-bitnet-gf3'),
  }),
  output: z.strictObject({
    skills: z.array(z.strictObject({ name: z.string(), trit, note: z.string().optional() })).optional(),
    sum: z.int(),
    residue,
    conserved: z.boolean(),
    completing_trit: trit.describe('0 when conserved'),
    suggestions: z.array(z.string()).describe('Other skills here with the completing trit'),
  }),
  hints: { readOnly: true, idempotent: true },
  isInstant: ({ trits, skills }) => isFew(trits) && isFew(skills),
  isAside: ({ trits, skills }) => !isFew(trits) || !isFew(skills),
  example: { skills: ['mlx-bitnet-gf3', 'worlding'] },
  run: ({ trits, skills }) => {
    if ((trits === undefined) === (skills === undefined)) {
      throw new ArgumentError({
        what: `balance_triad: ${trits === undefined ? 'no trits or skills' : 'trits and skills together'}`,
        fix: 'give exactly one of trits, skills',
      });
    }
    const members = skills?.map(skillNamed);
    const { completingTrit, ...balance } = balanceOf(members?.map((skill): Trit => skill.trit) ?? trits!);
    return {
      ...(members && {
        skills: members.map(({ name, trit, note }) => ({ name, trit, ...(note !== undefined && { note }) })),
      }),
      ...balance,
      completing_trit: completingTrit,
      suggestions: skillsWithTrit(skillRegistry(), completingTrit, skills).filter((name) => presentSkills().has(name)),
    };
  },
  summarize: ({ sum, residue, conserved, completing_trit, suggestions }) => {
    const balance = conserved
      ? `sum ${sum}: conserved`
      : `sum ${sum} mod 3 = ${residue}: not conserved; trit ${completing_trit} completes it`;
    return `${balance}; skills with trit ${completing_trit}: ${suggestions.join(', ') || 'no other'}`;
  },
});

/** Of a list that is sent as text, its length says enough. */
function isFew(list: unknown): boolean {
  return !(Array.isArray(list) || typeof list === 'string') || list.length <= FEW_MEMBERS;
}

function skillNamed(name: string): Skill {
  const { skills } = skillRegistry();
  const skill = skills.find((candidate) => candidate.name === name);
  if (skill !== undefined) return skill;
  const names = skills.map((candidate) => candidate.name);
  const guess = nearest(name, names);
  throw new ArgumentError({
    what: `balance_triad: there is no skill ${JSON.stringify(name.slice(0, 64))}`,
    fix: `${guess === undefined ? '' : `did you mean ${guess}? `}skills: ${names.join(', ')}; or give trits`,
  });
}
