// What was said in a chat, and what of it a model can still be given.

import type { ChatMessage, GenerateResult } from '../generate/types.ts';

export type Exchange = {
  readonly user: string;
  /** Absent when there is no answer: it was stopped before its first token. */
  readonly reply?: GenerateResult;
};

export class Conversation {
  system: string | undefined;
  readonly #exchanges: Exchange[] = [];

  get exchanges(): readonly Exchange[] {
    return this.#exchanges;
  }

  get last(): Exchange | undefined {
    return this.#exchanges.at(-1);
  }

  add(exchange: Exchange): void {
    this.#exchanges.push(exchange);
  }

  /** Takes the last exchange back; undefined when there is none. */
  undo(): Exchange | undefined {
    return this.#exchanges.pop();
  }

  clear(): void {
    this.#exchanges.length = 0;
  }

  /** As a model gets it, with what the user says now; without the `skipped` oldest exchanges. */
  messages(user: string, skipped = 0): ChatMessage[] {
    return [
      ...(this.system === undefined ? [] : [{ role: 'system', content: this.system } as const]),
      ...this.#exchanges
        .slice(skipped)
        .flatMap((exchange): ChatMessage[] => [
          { role: 'user', content: exchange.user },
          ...(exchange.reply === undefined ? [] : [{ role: 'assistant', content: exchange.reply.completion } as const]),
        ]),
      { role: 'user', content: user },
    ];
  }
}

/** For people, as Markdown. */
export function toMarkdown(conversation: Conversation): string {
  const parts = conversation.exchanges.flatMap(({ user, reply }) => [
    `**User**\n\n${user}`,
    ...(reply === undefined ? [] : [`**${reply.model}**\n\n${reply.completion.trim()}`]),
  ]);
  const system = conversation.system === undefined ? [] : [`**System**\n\n${conversation.system}`];
  return `${[...system, ...parts].join('\n\n')}\n`;
}
