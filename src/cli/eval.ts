import { readFile } from 'node:fs/promises';
import { ArgumentError } from '../errors.ts';
import { defineCommand } from './command.ts';
import { BACKEND_FLAGS, backendOptions } from './model-flags.ts';
import { openProgressBar } from './progress-bar.ts';
import { refuseSuffix } from './write-output.ts';

export const command = defineCommand({
  name: 'eval',
  summary: 'Logits of given tokens, or cross-entropy and perplexity of a text',
  positionals: [{ name: 'MODEL', description: 'default, a model folder, a .gguf file, or a cached hub id' }],
  flags: {
    ids: { type: 'integers', placeholder: '1,2,3', description: 'Token ids, taken as they are' },
    logits: {
      type: 'string',
      placeholder: 'OUT.safetensors',
      description: 'With --ids: write the tensor logits, float32 [tokens, vocab]',
    },
    text: { type: 'string', placeholder: 'FILE', description: 'Cross-entropy of this UTF-8 file' },
    ...BACKEND_FLAGS,
  },
  examples: ['eval default --ids 0,1645,690,261,516 --logits out.safetensors', 'eval default --text story.txt'],
  notes: "The head has the checkpoint's own precision unless --head says otherwise.",
  run: async ({ positionals, flags, json, output, signal }) => {
    const model = positionals[0]!;
    const { ids, text: file } = flags;
    if ((ids === undefined) === (file === undefined)) {
      throw new ArgumentError({
        what: ids === undefined ? 'eval needs --ids or --text' : 'eval takes --ids or --text, not both',
        fix: `for example: bitnet-gf3 eval ${model} --ids 0,1,2`,
      });
    }
    if (flags.logits !== undefined && ids === undefined) {
      throw new ArgumentError({ what: '--logits goes with --ids', fix: 'give --ids, or leave --logits out' });
    }
    if (flags.logits !== undefined) refuseSuffix(flags.logits, '.safetensors', 'logits are written as safetensors');
    using bar = openProgressBar({ output, json }, 'eval');
    const { evaluateIds, evaluateText } = await import('../generate/evaluate.ts');
    const options = {
      ...backendOptions(flags),
      signal,
      onChunk: (done: number, total: number) => bar.update(done, total, `${done} of ${total} tokens`),
    };
    if (ids !== undefined) {
      const { vocabSize, logits, argmax, meanNll, warnings } = await evaluateIds(model, ids, options);
      if (flags.logits !== undefined) {
        const { writeSafetensors } = await import('../formats/write-safetensors.ts');
        const bytes = new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength);
        await writeSafetensors(flags.logits, [{ name: 'logits', dtype: 'F32', shape: [ids.length, vocabSize], bytes }]);
      }
      const perplexity = meanNll === undefined ? undefined : Math.exp(meanNll);
      if (json) {
        output.json({
          model,
          tokens: ids.length,
          vocab_size: vocabSize,
          argmax,
          ...(meanNll !== undefined && { cross_entropy: meanNll, perplexity }),
          ...(flags.logits !== undefined && { logits: flags.logits }),
          ...(warnings.length > 0 && { warnings }),
        });
      } else {
        output.line(`likeliest next tokens: ${argmax.join(',')}`);
        if (meanNll !== undefined)
          output.line(`cross-entropy ${meanNll.toFixed(4)} nats, perplexity ${perplexity!.toFixed(2)}`);
        if (flags.logits !== undefined)
          output.note(`wrote ${flags.logits}: logits float32 [${ids.length}, ${vocabSize}]`);
      }
      for (const warning of warnings) output.note(`warning: ${warning}`);
      return 0;
    }
    const text = await readText(file!);
    const result = await evaluateText(model, text, options);
    if (json) {
      output.json({
        model,
        tokens: result.tokens,
        bytes: result.bytes,
        cross_entropy: result.crossEntropy,
        perplexity: result.perplexity,
        bits_per_byte: result.bitsPerByte,
        windows: result.windows,
        ...(result.warnings.length > 0 && { warnings: result.warnings }),
      });
    } else {
      output.line(
        `cross-entropy ${result.crossEntropy.toFixed(4)} nats, perplexity ${result.perplexity.toFixed(2)}, ` +
          `${result.bitsPerByte.toFixed(4)} bits per byte`,
      );
      output.line(`${result.tokens} tokens of ${result.bytes} bytes in ${result.windows} windows`);
    }
    for (const warning of result.warnings) output.note(`warning: ${warning}`);
    return 0;
  },
});

async function readText(file: string): Promise<string> {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(await readFile(file));
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const what =
      code === 'ENOENT'
        ? 'there is no such file'
        : code === 'ERR_ENCODING_INVALID_ENCODED_DATA'
          ? 'the file is not UTF-8'
          : `the file cannot be read: ${code ?? error}`;
    throw new ArgumentError({ what, where: file, fix: 'give a UTF-8 text file' }, { cause: error });
  }
}
