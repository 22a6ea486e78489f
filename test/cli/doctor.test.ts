import { expect, test } from 'vitest';
import { runCli } from './run-cli.ts';

test('doctor finds a backend and the embedded model, and says why others are not', async () => {
  const { code, stdout } = await runCli(['doctor', '--json']);
  const report = JSON.parse(stdout);
  expect(code).toBe(0);
  expect(report.backends.map(({ name }: { name: string }) => name)).toEqual(['metal', 'cpu', 'wasm', 'js']);
  for (const backend of report.backends) expect(backend.usable || backend.reason.length > 10, backend.name).toBe(true);
  expect(report.auto).toBe(report.backends.find(({ usable }: { usable: boolean }) => usable).name);
  expect(report.models[0]).toMatchObject({ name: 'default', source: 'embedded', kind: 'folder' });
});

test('doctor for people', async () => {
  const { stdout } = await runCli(['doctor'], { env: { HF_HUB_CACHE: '/some/cache' } });
  expect(stdout).toContain('✓ js');
  expect(stdout).toContain('chosen by auto');
  expect(stdout).toContain('/some/cache');
});
