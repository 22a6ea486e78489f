import { extname } from 'node:path';
import { ArgumentError } from '../errors.ts';
import { CONVERT_FORMATS, type ConvertFormat, isFolderFormat } from '../model/convert-formats.ts';
import { defineCommand } from './command.ts';
import { openProgressBar } from './progress-bar.ts';

export const command = defineCommand({
  name: 'convert',
  summary: 'Write a model in another format',
  positionals: [
    { name: 'SRC', description: 'model to read: a name, folder, .gguf or .safetensors file, or cached hub id' },
    { name: 'DST', description: 'folder or .gguf file to make; it must not exist' },
  ],
  flags: {
    to: {
      type: 'string',
      choices: CONVERT_FORMATS,
      placeholder: 'FORMAT',
      description:
        'Default: hf, or gguf-i2_s when DST ends in .gguf; with scales for groups of columns hf-unpacked, or gguf-q2_0',
    },
  },
  examples: [
    'convert default model.gguf',
    'convert default model-tq2.gguf --to gguf-tq2_0',
    'convert default model-q2.gguf --to gguf-q2_0',
    'convert model.gguf folder',
  ],
  notes:
    'hf is a folder in Hugging Face layout with packed trits (autobitlinear, offline), hf-unpacked one with trits as ' +
    'floats, mlx one with 2-bit packs. gguf-q2_0 is what upstream llama.cpp reads; gguf-pq2_0 and gguf-ptq1_0 are read by ' +
    "PrismML's fork, gguf-i2_s by bitnet.cpp. Trits are copied exactly; a scale " +
    'that a GGUF type would round is kept exact beside the matrix where the architecture has a place for it.',
  run: async ({ positionals, flags, json, output, signal }) => {
    const [{ convertModel }, { resolveModel }] = await Promise.all([
      import('../model/convert.ts'),
      import('../hub/resolve-model.ts'),
    ]);
    const to = flags.to as ConvertFormat | undefined;
    checkSuffix(positionals[1]!, to);
    const source = await resolveModel(positionals[0]!);
    using bar = openProgressBar({ output, json }, 'convert');
    const options = { signal, onProgress: bar.update, ...(to !== undefined && { to }) };
    const report = await convertModel(source, positionals[1]!, options);
    bar[Symbol.dispose]();
    if (json) {
      output.json({ format: report.format, path: report.path, size_bytes: report.sizeBytes, notes: report.notes });
    } else {
      output.line(`${report.path}: ${report.format}, ${(report.sizeBytes / 1e6).toFixed(1)} MB`);
      for (const note of report.notes) output.line(`note: ${note}`);
    }
    return 0;
  },
});

/** A name says what it will hold: `.gguf` a file, none a folder. Throws ArgumentError for one that says something else. */
function checkSuffix(path: string, to: ConvertFormat | undefined): void {
  const suffix = extname(path).toLowerCase();
  const isGguf = suffix === '.gguf';
  if (to !== undefined && !isFolderFormat(to) && !isGguf) {
    throw new ArgumentError({
      what: `--to ${to} makes a file, whose name ends in .gguf`,
      where: path,
      fix: `name it ${path.slice(0, path.length - suffix.length)}.gguf`,
    });
  }
  if (to !== undefined && isFolderFormat(to) && isGguf) {
    throw new ArgumentError({
      what: `--to ${to} makes a folder, and this name is that of a GGUF file`,
      where: path,
      fix: 'name a folder, or leave --to out',
    });
  }
  // A version at the end of a folder's name (b1.58) is no type of file.
  if (to === undefined && !isGguf && /^\.[a-z]\w*$/.test(suffix)) {
    throw new ArgumentError({
      what: `no ${suffix} file can be written`,
      where: path,
      fix: 'end the name in .gguf for a file, or give the name of a folder (with --to hf it may end in anything)',
    });
  }
}
