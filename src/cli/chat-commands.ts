// What a line of a chat means: words to the model, or a command to the program.

import { nearest } from '../tools/nearest.ts';

export type ChatCommand = {
  readonly name: string;
  readonly argument?: string;
  readonly description: string;
};

export const CHAT_COMMANDS: readonly ChatCommand[] = [
  { name: '/help', description: 'these lines' },
  { name: '/system', argument: 'TEXT', description: 'what the model is told first; alone it shows it, with - it goes' },
  { name: '/model', argument: 'MODEL', description: 'go on with another model; alone it says which' },
  { name: '/trace', argument: 'on|off', description: 'replies token by token, with color, trit and log-probability' },
  { name: '/thought', description: 'what the model thought before its last reply' },
  { name: '/save', argument: 'FILE', description: '.md or .json: all that was said; .html or .png: the last reply' },
  { name: '/undo', description: 'take the last question and its reply back' },
  { name: '/clear', description: 'begin anew' },
  { name: '/exit', description: 'leave (Ctrl-D does, too)' },
];

export const HELP_NOTES =
  'Ctrl-C stops a reply. Up and down bring earlier lines back. A pasted text may have several lines; a line that ends in \\ ' +
  'goes on. A line that begins with // is said with one /.';

export type ChatLine =
  | { readonly kind: 'nothing' }
  | { readonly kind: 'say'; readonly text: string }
  | { readonly kind: 'command'; readonly name: string; readonly argument: string }
  | { readonly kind: 'unknown'; readonly what: string };

/** A text of several lines is never a command. */
export function readChatLine(text: string): ChatLine {
  const line = text.trim();
  if (line === '') return { kind: 'nothing' };
  if (line.startsWith('//')) return { kind: 'say', text: text.replace('//', '/') };
  if (!line.startsWith('/') || line.includes('\n')) return { kind: 'say', text };
  const [name = '', ...rest] = line.split(/\s+/);
  const names = CHAT_COMMANDS.map((command) => command.name);
  const meant = { '/quit': '/exit', '/bye': '/exit', '/?': '/help' }[name] ?? name;
  if (names.includes(meant)) {
    return { kind: 'command', name: meant, argument: rest.length === 0 ? '' : line.slice(name.length).trim() };
  }
  const guess = nearest(name, names);
  const shown = name.slice(0, 40);
  return {
    kind: 'unknown',
    what: `no command ${shown}${guess === undefined ? '; /help shows them' : `: did you mean ${guess}?`}`,
  };
}
