import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { packageRoot } from '../../src/package/root.ts';
import { balanceTriadTool } from '../../src/tools/balance-triad.ts';
import { callTool } from '../../src/tools/call-tool.ts';

const services = { generate: () => Promise.reject(new Error('not called')) };
const call = (args: unknown) => callTool(balanceTriadTool, args, { services });

test('two trits: the third, and skills that have it', async () => {
  const { structured, text } = await call({ trits: [1, 1] });
  expect(structured).toEqual({
    sum: 2,
    residue: 2,
    conserved: false,
    completing_trit: 1,
    suggestions: ['mlx-bitnet-gf3', 'unworlding-involution', 'gay-mcp'],
  });
  expect(text).toBe(
    'sum 2 mod 3 = 2: not conserved; trit 1 completes it; ' +
      'skills with trit 1: mlx-bitnet-gf3, unworlding-involution, gay-mcp',
  );
});

test('skills: their trits, a note where sources disagree, and no suggestion of what is there already', async () => {
  const { structured } = await call({ skills: ['mlx-bitnet-gf3', 'unworlding-involution'] });
  expect(structured).toMatchObject({
    skills: [
      { name: 'mlx-bitnet-gf3', trit: 1 },
      { name: 'unworlding-involution', trit: 1 },
    ],
    completing_trit: 1,
    suggestions: ['gay-mcp'],
  });
  const { structured: whole } = await call({ skills: ['mlx-bitnet-gf3', 'worlding', 'geb'] });
  expect(whole).toMatchObject({ sum: 0, residue: 0, conserved: true, completing_trit: 0 });
  expect(whole.skills).toMatchObject([{}, {}, { name: 'geb', trit: 0, note: expect.stringContaining('+1') }]);
});

test('suggests only skills that come with the package, whatever else is declared', async () => {
  for (const trits of [[0], [1], [-1]]) {
    const { suggestions } = (await call({ trits })).structured as { suggestions: string[] };
    expect(suggestions.length).toBeGreaterThan(0);
    for (const name of suggestions)
      expect(existsSync(join(packageRoot(), 'skills', name, 'SKILL.md')), name).toBe(true);
  }
  // Declared, and not here: it may be balanced, and is not suggested.
  expect((await call({ skills: ['world-hopping'] })).structured.suggestions).toEqual(['geb']);
});

test.each([
  [{}, 'no trits or skills; give exactly one of trits, skills'],
  [{ trits: [1], skills: ['geb'] }, 'trits and skills together'],
  [{ trits: [2] }, 'trits.0 must be one of -1, 0, 1, got 2'],
  [{ trits: [] }, 'a list of 1 to 4096'],
  [{ skills: ['mlx-bitnet-g3'] }, 'did you mean mlx-bitnet-gf3? skills: mlx-bitnet-gf3, worlding'],
  [{ skills: ['../../etc/passwd'] }, 'there is no skill "../../etc/passwd"'],
])('refuses %j', async (args, message) => {
  await expect(call(args)).rejects.toThrow(message);
});
