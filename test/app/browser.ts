// A real Chromium, where there is one.

import { existsSync } from 'node:fs';

const PLACES = [
  process.env.CHROMIUM ?? '',
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
];

/** Path of the browser, or undefined. CHROMIUM names one that lies elsewhere. */
export const chromiumPath = PLACES.find((path) => path !== '' && existsSync(path));

if (chromiumPath === undefined) {
  console.warn(
    '\nSKIPPED: the MCP App is not tested, there is no Chromium here. ' +
      'Debian: apt-get install -y --no-install-recommends chromium. Elsewhere: CHROMIUM=/path/to/chrome\n',
  );
}
