import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { describe, expect, test } from 'vitest';
import { failureOf, request } from '../../src/net/request.ts';

const HUB = new URL('https://hub.example/x');

/** As undici throws it. */
const failed = (code: string | undefined, message = 'x') =>
  new TypeError('fetch failed', { cause: Object.assign(new Error(message), code === undefined ? {} : { code }) });

describe('a failure is said in words', () => {
  test.each([
    'SELF_SIGNED_CERT_IN_CHAIN',
    'DEPTH_ZERO_SELF_SIGNED_CERT',
    'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
    'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
    'CERT_HAS_EXPIRED',
    'ERR_TLS_CERT_ALTNAME_INVALID',
  ])('of a certificate: %s', (code) => {
    const failure = failureOf(failed(code), HUB, {});
    expect(failure?.reason).toBe(`the certificate of hub.example is not trusted: ${code}`);
    expect(failure?.fix).toContain('NODE_EXTRA_CA_CERTS');
    expect(failure?.passing).toBe(false);
  });

  test('of a network without a way out', () => {
    expect(failureOf(failed('ENOTFOUND'), HUB, {})?.fix).toContain('HTTPS_PROXY');
    expect(failureOf(failed('ECONNRESET'), HUB, {})).toEqual({ reason: 'ECONNRESET', passing: true });
  });

  test('of a proxy, by its name and without its password', () => {
    const failure = failureOf(failed('ECONNREFUSED'), HUB, { HTTPS_PROXY: 'http://me:hunter2@p:3128' });
    expect(failure?.reason).toBe('ECONNREFUSED through the proxy p:3128 of HTTPS_PROXY');
    expect(JSON.stringify(failure)).not.toContain('hunter2');
  });

  test('of several addresses, by the first', () => {
    const all = new AggregateError([Object.assign(new Error('a'), { code: 'ECONNREFUSED' }), new Error('b')]);
    expect(failureOf(new TypeError('fetch failed', { cause: all }), HUB, {})?.reason).toBe('ECONNREFUSED');
  });

  test('but not what is no failure of a request', () => {
    for (const error of [new Error('x'), new DOMException('x', 'AbortError'), undefined, 'x', new RangeError('y')])
      expect(failureOf(error, HUB, {})).toBeUndefined();
  });
});

test('a redirect is given to the caller, not followed', async () => {
  const server = createServer((_, response) => response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const answer = await request(new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`), { env: {} });
  expect(answer.status).toBe(302);
  expect(answer.headers.get('location')).toBe('http://127.0.0.1:1/');
  await answer.body?.cancel();
  server.closeAllConnections();
  server.close();
});
