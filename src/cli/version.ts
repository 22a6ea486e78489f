import { packageVersion } from '../package/version.ts';
import { defineCommand } from './command.ts';

export const command = defineCommand({
  name: 'version',
  summary: 'The version of this program',
  positionals: [],
  flags: {},
  examples: ['version'],
  run: async ({ json, output }) => {
    const version = packageVersion();
    if (json) output.json({ version, node: process.version });
    else output.line(version);
    return 0;
  },
});
