import { defineCommand } from './command.ts';
import { openProgressBar } from './progress-bar.ts';

const FORMATS = ['hf', 'gguf-i2_s', 'gguf-tq2_0', 'gguf-tq1_0'] as const;

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
      choices: FORMATS,
      placeholder: 'FORMAT',
      description: 'Default: gguf-i2_s when DST ends in .gguf, else hf',
    },
  },
  examples: [
    'convert default model.gguf',
    'convert default model-tq2.gguf --to gguf-tq2_0',
    'convert model.gguf folder',
  ],
  notes:
    'hf is a folder in Hugging Face layout with packed trits (autobitlinear, offline). Trits are copied exactly; a scale\n' +
    'that a GGUF type would round is kept exact beside the matrix where the architecture has a place for it.',
  run: async ({ positionals, flags, json, output, signal }) => {
    const [{ convertModel }, { resolveModel }] = await Promise.all([
      import('../model/convert.ts'),
      import('../hub/resolve-model.ts'),
    ]);
    const source = await resolveModel(positionals[0]!);
    const to = flags.to as (typeof FORMATS)[number] | undefined;
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
