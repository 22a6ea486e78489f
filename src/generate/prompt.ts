// A request's prompt as a model reads it: text and tokens, or a reason why not.

import { ArgumentError } from '../errors.ts';
import type { ChatMessage } from '../tokenizer/chat-template.ts';
import { leastTokens } from '../tokenizer/least-tokens.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { Prompt } from './token-source.ts';
import { withParsedArguments } from './tools/call-arguments.ts';
import { toolsOf, toTemplate } from './tools/tool-request.ts';
import type { GenerateRequest } from './types.ts';

/** Characters; shorter prompts are read in place: some 20 ms. */
export const LONG_PROMPT = 16_384;

export type PromptRequest = Pick<
  GenerateRequest,
  'model' | 'prompt' | 'messages' | 'thinking' | 'tools' | 'toolChoice'
>;

export type PromptOptions = {
  /** Positions of the model; prompt and at least one token must fit. */
  readonly contextLength: number;
};

/**
 * Throws ArgumentError for an empty prompt and for one that is too long; one that is much too long is not tokenized. What
 * a chat template refuses throws as it does.
 */
export function readPrompt(tokenizer: Tokenizer, request: PromptRequest, { contextLength }: PromptOptions): Prompt {
  const { model, prompt = '', thinking } = request;
  const messages = request.messages === undefined ? undefined : withParsedArguments(request.messages);
  const tools = toolsOf(request).map(toTemplate);
  const chat = {
    ...(thinking === undefined ? {} : { enableThinking: thinking !== 'off' }),
    ...(tools.length === 0 ? {} : { tools }),
  };
  const text = messages === undefined ? prompt : tokenizer.renderChat(messages, chat);
  // No id has less than a byte. For a short prompt, the look at the whole vocabulary would be most of the work.
  const mayBeTooLong = Buffer.byteLength(text) > contextLength;
  if (mayBeTooLong && leastTokens(tokenizer, text, contextLength) > contextLength)
    throw tooLong(model, { contextLength });
  const tokens = messages === undefined ? tokenizer.encode(prompt) : tokenizer.encodeChat(messages, chat);
  if (tokens.length === 0) {
    throw new ArgumentError({
      what: 'the prompt is empty and this model has no token to begin a text with',
      fix: 'give at least one character',
    });
  }
  if (tokens.length >= contextLength) throw tooLong(model, { tokens: tokens.length, contextLength });
  return { text, tokens };
}

/** Turning a message into text takes as long as reading so many characters. */
const MESSAGE_CHARACTERS = 64;

/** Characters of a request's prompt or messages, with what is around them. */
export function promptLength({ prompt = '', messages = [], tools }: PromptRequest): number {
  const lengthOf = ({ content, tool_calls }: ChatMessage) =>
    (typeof content === 'string' ? content.length : lengthOfJson(content)) + lengthOfJson(tool_calls);
  const before = prompt.length + lengthOfJson(tools);
  return messages.reduce((sum, message) => sum + lengthOf(message) + MESSAGE_CHARACTERS, before);
}

function lengthOfJson(value: unknown): number {
  return value === undefined || value === null ? 0 : JSON.stringify(value).length;
}

/** `tokens`: where they were counted. */
export function tooLong(
  model: string,
  { tokens, contextLength }: { readonly tokens?: number; readonly contextLength: number },
): ArgumentError {
  return new ArgumentError({
    what: `the prompt has ${tokens ?? `more than ${contextLength}`} tokens, the model "${model}" holds ${contextLength} with its answer`,
    fix: 'shorten the prompt',
  });
}
