#!/bin/sh
# undici 7.30.2: a plain http:// request through EnvHttpProxyAgent asks the proxy for a tunnel (CONNECT host:80).
# Expectation: as curl and Python do with HTTP_PROXY, one GET with the whole address; many proxies allow CONNECT to port
# 443 only (squid's default). ProxyAgent with proxyTunnel: false does that. Exits non-zero when either changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
printf '{"type":"module"}' > package.json
npm install --silent --no-audit --no-fund --ignore-scripts undici@7.30.2 > /dev/null 2>&1
cat > seen.mjs <<'JS'
import { once } from 'node:events';
import { createServer } from 'node:http';
import { EnvHttpProxyAgent, fetch, ProxyAgent } from 'undici';

const seen = [];
const proxy = createServer((request, response) => {
  seen.push(`${request.method} ${request.url}`);
  response.end('ok');
});
proxy.on('connect', (request, socket) => {
  seen.push(`${request.method} ${request.url}`);
  socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
});
proxy.listen(0, '127.0.0.1');
await once(proxy, 'listening');
const address = `http://127.0.0.1:${proxy.address().port}`;
for (const dispatcher of [
  new EnvHttpProxyAgent({ httpProxy: address, httpsProxy: address, noProxy: '' }),
  new ProxyAgent({ uri: address, proxyTunnel: false }),
]) {
  await fetch('http://hub.invalid/file', { dispatcher }).then((answer) => answer.text(), () => {});
}
proxy.closeAllConnections();
proxy.close();
console.log(`undici 7.30.2, Node ${process.version}`);
console.log('expected of EnvHttpProxyAgent: GET http://hub.invalid/file');
console.log(`seen of EnvHttpProxyAgent:     ${seen[0]}`);
console.log(`seen with proxyTunnel: false:  ${seen[1]}`);
process.exit(seen[0] === 'CONNECT hub.invalid:80' && seen[1] === 'GET http://hub.invalid/file' ? 0 : 1);
JS
node seen.mjs
