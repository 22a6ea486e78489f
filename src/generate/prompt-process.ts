// The child process of `PromptHost`: the tokenizer of the model that was asked for last.

import { serveParent } from '../child/serve-parent.ts';
import { loadTokenizer } from '../tokenizer/load-tokenizer.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { readPrompt } from './prompt.ts';
import type { ReadRequest, ReadResult } from './prompt-host.ts';

let loaded: { readonly home: string; readonly tokenizer: Tokenizer } | undefined;

serveParent({
  read: async ({ args }): Promise<ReadResult> => {
    const { home, contextLength, ...request } = args as ReadRequest;
    if (loaded?.home !== home) loaded = { home, tokenizer: await loadTokenizer(home) };
    const { text, tokens } = readPrompt(loaded.tokenizer, request, { contextLength });
    return { text, tokens: Int32Array.from(tokens) };
  },
});
