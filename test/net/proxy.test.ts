import { describe, expect, test } from 'vitest';
import { ArgumentError } from '../../src/errors.ts';
import { proxyFor } from '../../src/net/proxy.ts';

const chosen = (url: string, env: Record<string, string>) => proxyFor(new URL(url), env)?.url.href;

describe('the variable', () => {
  test.each<[string, Record<string, string>, string | undefined]>([
    ['https://hub.example/x', { HTTPS_PROXY: 'http://p:3128' }, 'http://p:3128/'],
    ['https://hub.example/x', { https_proxy: 'http://low:1', HTTPS_PROXY: 'http://up:2' }, 'http://low:1/'],
    ['https://hub.example/x', { https_proxy: '', HTTPS_PROXY: 'http://up:2' }, undefined],
    ['https://hub.example/x', { HTTP_PROXY: 'http://p:3128' }, undefined],
    ['http://hub.example/x', { HTTP_PROXY: 'p:3128' }, 'http://p:3128/'],
    ['http://hub.example/x', { http_proxy: 'http://p' }, 'http://p/'],
    ['http://hub.example/x', { HTTPS_PROXY: 'http://p' }, undefined],
    ['https://hub.example/x', { ALL_PROXY: 'http://all:9' }, 'http://all:9/'],
    ['http://hub.example/x', { all_proxy: 'http://all:9', HTTP_PROXY: 'http://own:8' }, 'http://own:8/'],
    ['https://hub.example/x', { HTTPS_PROXY: ' https://p:3128 ' }, 'https://p:3128/'],
    ['https://hub.example/x', {}, undefined],
  ])('for %s of %j is %s', (url, env, expected) => {
    expect(chosen(url, env)).toBe(expected);
  });

  test('is not asked about this machine', () => {
    for (const host of ['127.0.0.1:8080', 'localhost', '[::1]:80', '127.8.9.10', 'a.localhost'])
      expect(chosen(`http://${host}/v1`, { HTTP_PROXY: 'http://p' })).toBeUndefined();
    expect(chosen('http://127.example.org/', { HTTP_PROXY: 'http://p' })).toBe('http://p/');
  });
});

describe('NO_PROXY', () => {
  test.each<[string, string, boolean]>([
    ['https://a.example.com', 'example.com', true],
    ['https://example.com', 'example.com', true],
    ['https://notexample.com', 'example.com', false],
    ['https://a.example.com', '.example.com', true],
    ['https://a.example.com', '*.example.com', true],
    ['https://A.Example.COM.', 'EXAMPLE.com', true],
    ['https://a.example.com', 'x.org , example.com', true],
    ['https://a.example.com', 'x.org\texample.com', true],
    ['https://a.example.com:8443', 'example.com:8443', true],
    ['https://a.example.com', 'example.com:8443', false],
    ['https://a.example.com', 'example.com:443', true],
    ['http://a.example.com', 'example.com:80', true],
    ['https://a.example.com', '*', true],
    ['https://a.example.com', ',,', false],
    ['http://10.1.2.3', '10.0.0.0/8', true],
    ['http://11.1.2.3', '10.0.0.0/8', false],
    ['http://10.1.2.3', '10.0.0.0/99', false],
    ['http://10.1.2.3', '10.1.2.3', true],
    ['http://10.1.2.3', '2.3', false],
    ['http://[fd00::5]', 'fd00::/8', true],
    ['http://[fd00::5]', '[fd00::5]', true],
    ['http://[fd00::5]:81', '[fd00::5]:80', false],
    ['http://[fd00::5]', 'fd00::5', true],
  ])('%s with %j: %s', (url, list, excepted) => {
    for (const name of ['NO_PROXY', 'no_proxy']) {
      const env = { HTTPS_PROXY: 'http://p', HTTP_PROXY: 'http://p', [name]: list };
      expect(chosen(url, env) === undefined).toBe(excepted);
    }
  });
});

test('user and password are apart from the address', () => {
  const proxy = proxyFor(new URL('https://hub.example'), { HTTPS_PROXY: 'http://me:s%40cret@p:3128' });
  expect(proxy?.url.href).toBe('http://p:3128/');
  expect(proxy?.authorization).toBe(`Basic ${Buffer.from('me:s@cret').toString('base64')}`);
});

test.each(['socks5://me:secret@p:1080', 'http://me:secret@', 'ftp://me:secret@p', 'me:secret@p:x'])(
  'a proxy that cannot be used is refused without its password',
  (value) => {
    const error = (() => {
      try {
        proxyFor(new URL('https://hub.example'), { HTTPS_PROXY: value });
      } catch (thrown) {
        return thrown as Error;
      }
    })();
    expect(error).toBeInstanceOf(ArgumentError);
    expect(error?.message).toMatch(/HTTPS_PROXY/);
    expect(error?.message).not.toContain('secret');
  },
);
