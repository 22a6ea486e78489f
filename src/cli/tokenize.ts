import { dirname } from 'node:path';
import { ArgumentError } from '../errors.ts';
import { resolveModel } from '../hub/resolve-model.ts';
import { loadTokenizer } from '../tokenizer/load-tokenizer.ts';
import { defineCommand } from './command.ts';
import { visible } from './visible.ts';

export const command = defineCommand({
  name: 'tokenize',
  summary: "Text to a model's token ids and back",
  positionals: [
    { name: 'MODEL', description: 'default, a model folder, a .gguf (vocabulary alone is enough), or a cached hub id' },
    { name: 'TEXT', description: 'text to turn into ids; leave out with --ids', optional: true },
  ],
  flags: {
    ids: { type: 'integers', placeholder: '1,2,3', description: 'Turn these ids into text' },
    'no-special': { type: 'boolean', description: 'Add no BOS (or other ids the model expects around a text)' },
  },
  examples: ['tokenize default "Once upon a time"', 'tokenize default --ids 1645,690,261,516'],
  run: async ({ positionals, flags, json, output }) => {
    const [model, text] = positionals;
    if ((text === undefined) === (flags.ids === undefined)) {
      throw new ArgumentError({
        what: text === undefined ? 'tokenize needs TEXT or --ids' : 'tokenize takes TEXT or --ids, not both',
        fix: `for example: bitnet-gf3 tokenize ${model} "Once upon a time"`,
      });
    }
    const location = await resolveModel(model!);
    const tokenizer = await loadTokenizer(location.kind === 'safetensors' ? dirname(location.path) : location.path);
    for (const warning of tokenizer.warnings) output.note(`warning: ${warning}`);
    const ids = flags.ids ?? tokenizer.encode(text!, { addSpecial: !flags['no-special'] });
    // Of a text, the way back is shown without what the model wants around it: it should read like what went in.
    const back = tokenizer.decode(text === undefined ? ids : tokenizer.encode(text, { addSpecial: false }));
    const tokens = ids.map((id) => tokenizer.token(id) ?? '');
    if (json) {
      output.json({ ids, tokens, text: back });
    } else if (flags.ids !== undefined) {
      output.line(back);
    } else {
      output.line(ids.join(','));
      output.line(tokens.map(visible).join(' '));
    }
    return 0;
  },
});
