// Which proxy a request goes through, by the variables that curl, Python and Go obey: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY
// and NO_PROXY, in lower or upper case. Node's own fetch obeys none of them.

import { BlockList, isIP } from 'node:net';
import { ArgumentError } from '../errors.ts';

export type Environment = Readonly<Record<string, string | undefined>>;

export type ProxyServer = {
  /** Without user and password. */
  readonly url: URL;
  /** Value of Proxy-Authorization; never to be shown. */
  readonly authorization?: string;
  /** The variable that names it, for messages. */
  readonly variable: string;
};

/**
 * The proxy for `url`, or undefined for none. What runs on this machine is never asked through a proxy, as in Go: no
 * other machine could reach it. Throws ArgumentError for a value that is no http or https URL, without showing it,
 * because it may hold a password.
 */
export function proxyFor(url: URL, env: Environment): ProxyServer | undefined {
  const named = variable(env, url.protocol === 'https:' ? 'https_proxy' : 'http_proxy') ?? variable(env, 'all_proxy');
  if (named === undefined || isLoopback(hostOf(url)) || isExcepted(url, variable(env, 'no_proxy')?.value)) {
    return undefined;
  }
  const { name, value } = named;
  // Without a scheme, as many write it: host:port.
  const text = /^[a-z][a-z0-9+.-]*:\/\//i.test(value) ? value : `http://${value}`;
  const proxy = URL.canParse(text) ? new URL(text) : undefined;
  if (proxy === undefined || !/^https?:$/.test(proxy.protocol) || proxy.hostname === '') {
    const kind = proxy?.protocol.startsWith('socks') ? 'a SOCKS proxy, which' : 'a value that';
    throw new ArgumentError({
      what: `${name} names ${kind} cannot be used here`,
      fix: 'write an HTTP proxy as http://HOST:PORT, or unset it',
    });
  }
  const { username, password } = proxy;
  proxy.username = '';
  proxy.password = '';
  if (username === '' && password === '') return { url: proxy, variable: name };
  const pair = `${decoded(username)}:${decoded(password)}`;
  return { url: proxy, variable: name, authorization: `Basic ${Buffer.from(pair).toString('base64')}` };
}

/** The lower case wins, also where it is empty: so a single command can be run without. */
function variable(env: Environment, lower: string): { name: string; value: string } | undefined {
  const upper = lower.toUpperCase();
  const name = env[lower] === undefined ? upper : lower;
  const value = env[name]?.trim() ?? '';
  return value === '' ? undefined : { name, value };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Lower case, without brackets and the root's dot. */
function hostOf({ hostname }: URL): string {
  return hostname
    .toLowerCase()
    .replace(/^\[|\]$/g, '')
    .replace(/\.$/, '');
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host.endsWith('.localhost') || host === '::1' || /^127(\.\d+){3}$/.test(host);
}

/** NO_PROXY: names (their subdomains, too), addresses, ranges of addresses, each perhaps with a port; `*` is everything. */
function isExcepted(url: URL, list: string | undefined): boolean {
  if (list === undefined) return false;
  const host = hostOf(url);
  const port = url.port || (url.protocol === 'https:' ? '443' : '80');
  return list
    .toLowerCase()
    .split(/[\s,]+/)
    .some((entry) => matches(entry, host, port));
}

function matches(entry: string, host: string, port: string): boolean {
  if (entry === '') return false;
  if (entry === '*') return true;
  const range = /^([0-9a-f.:]+)\/(\d{1,3})$/.exec(entry);
  if (range !== null) return isInRange(host, range[1]!, Number(range[2]));
  if (isIP(entry) !== 0) return entry === host;
  const [, bracketed, plain, only] = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d+))?$/.exec(entry) ?? [];
  if (only !== undefined && only !== port) return false;
  const name = (bracketed ?? plain ?? '').replace(/^\*?\./, '').replace(/\.$/, '');
  return name !== '' && (host === name || (isIP(host) === 0 && host.endsWith(`.${name}`)));
}

function isInRange(host: string, base: string, bits: number): boolean {
  const family = isIP(base);
  if (family === 0 || isIP(host) !== family || bits > (family === 4 ? 32 : 128)) return false;
  const kind = family === 4 ? 'ipv4' : 'ipv6';
  const range = new BlockList();
  range.addSubnet(base, bits, kind);
  return range.check(host, kind);
}
