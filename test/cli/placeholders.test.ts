import { expect, test } from 'vitest';
import { unsetPlaceholders } from '../../src/cli/placeholders.ts';
import { RawClient } from '../mcp/server-process.ts';

test('variables of ours that are nothing but a placeholder are taken out', () => {
  const kept = {
    PATH: '\x24{HOME}/bin',
    OTHER: '\x24{x}',
    BITNET_MODEL_ROOTS: '/models/\x24{x}',
    BITNET_TOKEN: '\x24{a}\x24{b}',
    HF_TOKEN: '{user_config.token}',
    BITNET_WORLDS: '',
  };
  const env: Record<string, string | undefined> = {
    ...kept,
    BITNET_BACKEND: '\x24{user_config.backend}',
    HF_HOME: ' \x24{HF_HOME} ',
    https_proxy: '\x24{}',
  };
  expect(unsetPlaceholders(env)).toEqual(['BITNET_BACKEND', 'HF_HOME', 'https_proxy']);
  expect(env).toEqual(kept);
});

test('a server that is started with them generates, and says so in one line', async () => {
  const client = new RawClient({
    BITNET_BACKEND: '\x24{user_config.backend}',
    BITNET_MODEL_ROOTS: '\x24{user_config.roots}',
    BITNET_OPENAI_BASE_URL: '\x24{user_config.url}',
    HF_HOME: '\x24{user_config.hf_home}',
  });
  await client.initialize();
  const { result } = await client.call('generate_with_trace', { prompt: 'Once', max_tokens: 2 });
  expect(result.structuredContent.usage.completion_tokens).toBe(2);
  client.child.stdin!.end();
  await client.exit();
  const told = client.stderr
    .join('')
    .split('\n')
    .filter((line) => line.includes('placeholder'));
  expect(told).toHaveLength(1);
  expect(told[0]).toMatch(/^BITNET_BACKEND, BITNET_MODEL_ROOTS, BITNET_OPENAI_BASE_URL, HF_HOME: nothing but/);
});
