import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ALL_TOOLS } from '../tools/all-tools.ts';
import { schemaFiles, withToolTable } from '../tools/schema-files.ts';
import { defineCommand } from './command.ts';

export const command = defineCommand({
  name: 'schemas',
  summary: 'Write the JSON Schemas of the tools',
  positionals: [],
  flags: {
    out: { type: 'string', default: 'schemas', placeholder: 'DIR', description: 'Folder to write to' },
    readme: {
      type: 'string',
      placeholder: 'FILE',
      description: 'Also bring the table of tools in this file up to date',
    },
  },
  examples: ['schemas --out schemas'],
  run: async ({ flags, json, output }) => {
    const files = schemaFiles(ALL_TOOLS);
    await mkdir(flags.out, { recursive: true });
    for (const name of await readdir(flags.out)) {
      // A tool that was renamed leaves a file that nothing would ever update.
      if (name.endsWith('.json') && !files.has(name)) await rm(join(flags.out, name));
    }
    for (const [name, text] of files) await writeFile(join(flags.out, name), text);
    if (flags.readme !== undefined) {
      await writeFile(flags.readme, withToolTable(await readFile(flags.readme, 'utf8'), ALL_TOOLS));
    }
    if (json) output.json({ files: [...files.keys()] });
    else output.note(`wrote ${files.size} schemas to ${flags.out}`);
    return 0;
  },
});
