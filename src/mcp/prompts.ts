// Prompts: what a person picks from a client's menu to see the tools at work. Each is a request in the person's words
// that names the calls to make, with arguments that work.

import { completable, type McpServer } from '@modelcontextprotocol/server';
import { z } from 'zod';

const DEFAULT_SEED = '1069';
const DEFAULT_BEGINNING = 'Once upon a time';

/** A trace of the tour: short enough to be read token by token, and conserved at the default seed. */
const TOUR_TOKENS = 12;
const DEFAULT_MAX_TOKENS = '24';

// `optional` outside: the SDK looks for completions inside it.
const seedArgument = completable(z.string().describe(`Color stream; default ${DEFAULT_SEED}`), (start) =>
  [DEFAULT_SEED].filter((seed) => seed.startsWith(start)),
).optional();

type Step = { readonly tool: string; readonly arguments: Record<string, unknown>; readonly shows: string };

const tourArguments = z.object({
  beginning: z.string().optional().describe(`Text for the model to continue; default "${DEFAULT_BEGINNING}"`),
  seed: seedArgument,
});

const explainArguments = z.object({
  beginning: z.string().describe('Text for the model to continue'),
  max_tokens: z
    .string()
    .regex(/^[1-9]\d{0,4}$/, 'a number of tokens, in digits')
    .optional()
    .describe(`How many tokens; default ${DEFAULT_MAX_TOKENS}`),
  seed: seedArgument,
});

export function registerPrompts(server: McpServer): void {
  server.registerPrompt(
    'tour',
    {
      title: 'Tour of the tools',
      description: 'Shows every tool at work on one small example and what their results have to do with each other',
      argsSchema: tourArguments,
    },
    (args) => userMessage(tourText(args)),
  );
  server.registerPrompt(
    'explain_trace',
    {
      title: 'Write and explain a trace',
      description: 'Lets the model continue a text and explains, token by token, how sure it was',
      argsSchema: explainArguments,
    },
    (args) => userMessage(explainText(args)),
  );
}

function userMessage(text: string) {
  return { messages: [{ role: 'user' as const, content: { type: 'text' as const, text } }] };
}

function tourText({ beginning, seed }: z.output<typeof tourArguments>): string {
  const stream = { seed: seed || DEFAULT_SEED };
  const steps: Step[] = [
    {
      tool: 'color_at',
      arguments: { index: 1, ...stream },
      shows: 'the first color of the stream, its trit and its role',
    },
    {
      tool: 'palette',
      arguments: { n: TOUR_TOKENS, ...stream, image: true },
      shows: `the first ${TOUR_TOKENS} colors with their GF(3) sum, and a picture of them`,
    },
    {
      tool: 'generate_with_trace',
      arguments: { prompt: beginning || DEFAULT_BEGINNING, max_tokens: TOUR_TOKENS, ...stream },
      shows: 'a text of that many tokens, each with its log-probability, color and trit',
    },
    {
      tool: 'analyze_layer',
      arguments: { layer: 'model.layers.0.*', ...stream },
      shows: 'how the weights that wrote it split into -1, 0 and +1',
    },
    {
      tool: 'morphism_step',
      arguments: { model: 'default', text: [beginning || DEFAULT_BEGINNING], conserve: true },
      shows: 'one training step on that text: which trits flipped, and what it did to the loss',
    },
    {
      tool: 'morphism_invert',
      arguments: { world: 'latest' },
      shows: 'that the step can be taken back: the world it came from, exactly as it was',
    },
    {
      tool: 'balance_triad',
      arguments: { skills: ['mlx-bitnet-gf3', 'worlding'] },
      shows: 'that two skills lack a third, and which trit it has',
    },
  ];
  return [
    'Show me what the bitnet-gf3 tools do, on one small example. Make these calls one after the other:',
    '',
    ...steps.map(
      ({ tool, arguments: args, shows }, i) => `${i + 1}. ${tool} with ${JSON.stringify(args)} - it shows ${shows}`,
    ),
    '',
    'After each call say in one or two sentences what its result shows. Then point out how they belong together: the ' +
      'palette and the trace have the same colors and the same trit sum, because token i (from 0) takes the color of ' +
      'index i + 1, whatever the text is. Close with a table of the trace: token, log-probability, color, trit. Use the ' +
      'numbers of the results; compute none yourself.',
  ].join('\n');
}

function explainText({ beginning, max_tokens, seed }: z.output<typeof explainArguments>): string {
  const call = {
    prompt: beginning,
    max_tokens: Number(max_tokens || DEFAULT_MAX_TOKENS),
    seed: seed || DEFAULT_SEED,
  };
  return [
    `Call generate_with_trace with ${JSON.stringify(call)}. Then show me:`,
    '',
    '1. The whole text, the part that the model wrote in bold.',
    '2. The three tokens it was least sure of (lowest logprob), each with its probability in percent, and what that ' +
      'says about the place in the text.',
    '3. The trits in order as - o +, with trit_sum and whether it is conserved.',
    '',
    'The text is from a small story model: do not take it for facts. If finish_reason is "time", call again with the ' +
      'continuation handle until the tokens are there.',
  ].join('\n');
}
