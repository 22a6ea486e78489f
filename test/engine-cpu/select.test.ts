import { expect, test } from 'vitest';
import { chooseIsa } from '../../src/engine/cpu/backend.ts';
import { selectBackend, surveyBackends } from '../../src/engine/select.ts';

test('auto takes the first backend that works and says why the faster ones do not', async () => {
  const survey = await surveyBackends();
  expect(survey.map((one) => one.backend)).toEqual(['metal', 'cuda', 'cpu', 'wasm', 'js']);
  const { backend, reasons } = await selectBackend('auto', { warn: () => {} });
  const first = survey.find((one) => one.reason === undefined)!;
  expect(backend.name).toBe(first.backend);
  expect(reasons).toEqual(survey.slice(0, survey.indexOf(first)));
  for (const { reason } of reasons) expect(reason).toMatch(/\S/);
});

test('a backend asked for by name is taken or refused, never replaced', async () => {
  expect((await selectBackend('js')).backend.name).toBe('js');
  expect((await selectBackend('wasm')).backend.name).toBe('wasm');
  for (const { backend, reason } of await surveyBackends()) {
    if (reason === undefined) continue;
    await expect(selectBackend(backend)).rejects.toThrow(`the backend "${backend}" does not work here`);
  }
  await expect(selectBackend('vulkan' as 'cpu')).rejects.toThrow('unknown backend "vulkan"');
});

test('BITNET_ISA: one that the CPU lacks, or nobody knows, is an error that lists the usable ones', () => {
  const usable = ['avx2', 'scalar'];
  const built = ['amx', 'avx512', 'avx2', 'scalar'];
  expect(chooseIsa(undefined, usable, built)).toBe('');
  expect(chooseIsa('avx2', usable, built)).toBe('avx2');
  expect(() => chooseIsa('amx', usable, built)).toThrow(/cannot run the instruction set "amx".*avx2, scalar/);
  expect(() => chooseIsa('neon', usable, built)).toThrow('cannot run the instruction set "neon"');
  expect(() => chooseIsa('sse9', usable, built)).toThrow('unknown instruction set "sse9"');
  expect(chooseIsa('neon', ['neon-dot', 'neon', 'scalar'], [])).toBe('neon');
});
