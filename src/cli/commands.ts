// The commands: one line each, loaded when called, so that no command pays for another's imports.

import type { Command } from './command.ts';

export type CommandEntry = {
  readonly name: string;
  readonly summary: string;
  /** For people who work on this repository; left out of help. */
  readonly hidden?: boolean;
  readonly load: () => Promise<{ readonly command: unknown }>;
};

export const COMMANDS: readonly CommandEntry[] = [
  { name: 'serve', summary: 'Serve MCP on stdio, or over HTTP', load: () => import('./serve.ts') },
  { name: 'infer', summary: 'Write text with a model, with a GF(3) trace if asked', load: () => import('./infer.ts') },
  { name: 'chat', summary: 'Talk with a model in the terminal', load: () => import('./chat.ts') },
  {
    name: 'analyze',
    summary: 'How the trits of every ternary layer are distributed',
    load: () => import('./analyze.ts'),
  },
  { name: 'viz', summary: "A layer's weights as pixels in the three trit colors", load: () => import('./viz.ts') },
  {
    name: 'verify',
    summary: 'Compare a checkpoint with what reference code computed from it',
    load: () => import('./verify.ts'),
  },
  {
    name: 'eval',
    summary: 'Logits of given tokens, or cross-entropy and perplexity of a text',
    load: () => import('./eval.ts'),
  },
  { name: 'train', summary: 'Train a ternary model on a text (quantization-aware)', load: () => import('./train.ts') },
  {
    name: 'world',
    summary: 'Take training steps and take them back; list, log, compare, export or delete worlds',
    load: () => import('./world.ts'),
  },
  {
    name: 'pull',
    summary: 'Download a model from the Hugging Face Hub into the standard hub cache',
    load: () => import('./pull.ts'),
  },
  { name: 'convert', summary: 'Write a model in another format', load: () => import('./convert.ts') },
  { name: 'tokenize', summary: "Text to a model's token ids and back", load: () => import('./tokenize.ts') },
  { name: 'color', summary: 'The color at one index of a seeded stream', load: () => import('./color.ts') },
  { name: 'palette', summary: 'A run of colors and their GF(3) sum', load: () => import('./palette.ts') },
  {
    name: 'triad',
    summary: 'Whether trits or skills sum to 0 mod 3, and what completes them',
    load: () => import('./triad.ts'),
  },
  {
    name: 'bench',
    summary: "Prompt and generation speed beside the machine's own memory bandwidth",
    load: () => import('./bench.ts'),
  },
  {
    name: 'doctor',
    summary: 'Backends found and why others are not, CPU features, model and cache folders',
    load: () => import('./doctor.ts'),
  },
  {
    name: 'completion',
    summary: 'A script that completes commands and flags in bash, zsh or fish',
    load: () => import('./completion.ts'),
  },
  { name: 'version', summary: 'The version of this program', load: () => import('./version.ts') },
  { name: 'schemas', summary: 'Write the JSON Schemas of the tools', hidden: true, load: () => import('./schemas.ts') },
];

export async function loadCommand(entry: CommandEntry): Promise<Command> {
  // A command's flags differ from every other's; the parser reads them from the same object it then calls.
  return (await entry.load()).command as Command;
}
