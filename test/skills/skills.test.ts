// The skills as files: they validate as Agent Skills, say what the registry says, and every call they show works and
// gives what they claim.

import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseFrontmatter, validate } from 'skills-ref';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { isConserved } from '../../src/gf3/sums.ts';
import { ALL_TOOLS } from '../../src/tools/all-tools.ts';
import { callTool } from '../../src/tools/call-tool.ts';
import { EngineServices } from '../../src/tools/engine-services.ts';
import { manifestMetadata, manifestSchema } from '../../src/triads/manifest.ts';
import { balancedSets, readRegistry } from '../../src/triads/registry.ts';
import { ROOT } from '../mcp/server-process.ts';
import { callsIn, toolsNamedIn } from './skill-text.ts';

const folder = join(ROOT, 'skills');
const registry = readRegistry(join(folder, 'triads.json'));
const names = readdirSync(folder).filter((name) => statSync(join(folder, name)).isDirectory());

/** The first training step of a machine compiles its kernels. */
const CALL_TIMEOUT_MS = 300_000;

let services: EngineServices;
let worlds: string;
beforeAll(() => {
  worlds = mkdtempSync(join(tmpdir(), 'bitnet-skills-'));
  vi.stubEnv('BITNET_WORLDS', worlds);
  // The native kernels would be compiled first, which may take a minute.
  vi.stubEnv('BITNET_BACKEND', 'wasm');
  services = new EngineServices();
});
afterAll(async () => {
  await services.close();
  vi.unstubAllEnvs();
  rmSync(worlds, { recursive: true, force: true });
});

test('the skills are those of the source, with its trits and colors', () => {
  const stated = registry.skills.map(({ name, trit, color }) => `${name} ${trit} ${color ?? '-'}`);
  expect(stated).toEqual([
    'mlx-bitnet-gf3 1 #38E6AF',
    'worlding -1 #633ECE',
    'geb 0 #57DBC0',
    'unworlding-involution 1 #84A1DF',
    'world-hopping 0 #A590DA',
    'world-extractable-value 0 #98DE8E',
    'gay-mcp 1 #E67F86',
    'mlx-apple-silicon 0 -',
    'mlx-jax-splitmix 0 -',
    'discrete-backprop -1 -',
    'forward-forward-learning 1 -',
  ]);
});

test('declared triads conserve; the open one is completed by +1', () => {
  const sets = balancedSets(registry);
  expect(sets.map(({ name, kind, conserved, completingTrit }) => [name, kind, conserved, completingTrit])).toEqual([
    ['mlx-bitnet-gf3 (+1) x worlding (-1) x geb (0)', 'triad', true, 0],
    ['mlx-bitnet-gf3 (+1) x unworlding-involution (+1) x ? (+1)', 'open triad', false, 1],
    ['neighborhood', 'list', false, -1],
    ['loaded', 'list', false, 1],
  ]);
  for (const { kind, members, completingTrit } of sets) {
    if (kind === 'list') continue;
    const sum = members.reduce((total, { trit }) => total + trit, 0);
    expect(isConserved(kind === 'triad' ? sum : sum + completingTrit)).toBe(true);
  }
});

test('a member with another trit than its skill is explained by a note, and only such a one', () => {
  const differing = new Set<string>();
  for (const { members } of balancedSets(registry)) {
    for (const { skill, trit } of members) {
      if (registry.skills.find(({ name }) => name === skill)!.trit !== trit) differing.add(skill);
    }
  }
  expect([...differing]).toEqual(['geb']);
  for (const name of differing) expect(registry.skills.find((skill) => skill.name === name)!.note).toContain('trit');
});

test('a missing or broken registry is refused with its place', () => {
  expect(() => readRegistry('/nowhere/triads.json')).toThrow('/nowhere/triads.json');
  expect(() => readRegistry(join(ROOT, 'package.json'))).toThrow('schemas/triads.json');
});

describe.each(names)('%s', (name) => {
  const text = readFileSync(join(folder, name, 'SKILL.md'), 'utf8');
  const [head] = parseFrontmatter(text);
  // Not the second half of that: it ends at the first table's `---`.
  const body = text.slice(text.indexOf('\n---\n') + 5);

  test('is a valid Agent Skill', async () => {
    expect(await validate(join(folder, name))).toEqual([]);
    expect(manifestSchema.safeParse(head).error).toBeUndefined();
    // Its text is read into a model's context whole.
    expect(text.length).toBeLessThan(10_000);
  });

  test('has the trit, role, color and triads of the registry', () => {
    expect(head.metadata).toEqual(manifestMetadata(registry, name));
  });

  test('names only tools and skills that exist', () => {
    for (const [, skill] of body.matchAll(/\(skill ([a-z-]+)\)/g)) expect(names).toContain(skill);
    const tools = ALL_TOOLS.map((tool) => tool.name);
    expect(toolsNamedIn(body).filter((tool) => !tools.includes(tool))).toEqual([]);
    expect(callsIn(body).length, 'it shows at least one call').toBeGreaterThan(0);
  });

  test.each(callsIn(body).map((call) => ({ ...call, title: JSON.stringify(call.arguments) })))(
    '$tool $title gives what it says',
    async (call) => {
      const tool = ALL_TOOLS.find((candidate) => candidate.name === call.tool);
      expect(tool, call.tool).toBeDefined();
      const { structured } = await callTool(tool!, call.arguments, { services });
      expect(structured).toMatchObject(call.gives);
    },
    CALL_TIMEOUT_MS,
  );
});
