import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ArgumentError } from '../errors.ts';
import { refusalOf, WriteError } from '../formats/errors.ts';
import { makeFolder } from '../formats/make-folder.ts';
import { ALL_TOOLS } from '../tools/all-tools.ts';
import { schemaFiles, withToolTable } from '../tools/schema-files.ts';
import { defineCommand } from './command.ts';
import { writeOutput } from './write-output.ts';

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
    // Both are looked at before anything is written.
    const readme = flags.readme && withToolTable(await readReadme(flags.readme), ALL_TOOLS);
    await clearFolder(flags.out, files);
    for (const [name, text] of files) await writeOutput(join(flags.out, name), text);
    if (readme !== undefined) await writeOutput(flags.readme!, readme);
    if (json) output.json({ files: [...files.keys()] });
    else output.note(`wrote ${files.size} schemas to ${flags.out}`);
    return 0;
  },
});

async function readReadme(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    const what = `cannot read this file: ${(cause as NodeJS.ErrnoException).code}`;
    throw new ArgumentError({ what, where: file, fix: 'give a text file that has a table of tools' }, { cause });
  }
}

/** Makes the folder, or removes what a renamed tool left in it: files that nothing would ever update. */
async function clearFolder(folder: string, files: ReadonlyMap<string, string>): Promise<void> {
  try {
    await makeFolder(folder);
    for (const name of await readdir(folder)) {
      if (name.endsWith('.json') && !files.has(name)) await rm(join(folder, name));
    }
  } catch (cause) {
    const reason = cause instanceof WriteError ? cause.text.what : refusalOf(cause).reason;
    const what = `cannot write to this folder: ${reason}`;
    throw new ArgumentError({ what, where: folder, fix: 'give a folder that you may write to' }, { cause });
  }
}
