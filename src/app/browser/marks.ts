// Text of a model as nodes: special tokens as marks.

import { type TextPart, textParts, tokenParts } from '../shown-text.ts';
import { h } from './dom.ts';

export function marked(text: string): (Node | string)[] {
  return nodesOf(textParts(text));
}

export function markedToken(token: string): (Node | string)[] {
  return nodesOf(tokenParts(token));
}

function nodesOf(parts: readonly TextPart[]): (Node | string)[] {
  return parts.map(({ text, special }) => (special ? h('span', { class: 'special' }, text) : text));
}
