// Arguments of earlier calls, for the template. Apart from what reads calls: every prompt comes by here.

import { jsonObjectIn } from '../json-in.ts';

/** Messages with the arguments of calls as objects, which templates write out in their own way. */
export function withParsedArguments<M extends { readonly tool_calls?: unknown }>(messages: readonly M[]): readonly M[] {
  if (!messages.some(({ tool_calls }) => Array.isArray(tool_calls) && tool_calls.length > 0)) return messages;
  return messages.map((message) => {
    if (!Array.isArray(message.tool_calls)) return message;
    const calls = message.tool_calls.map((call: { readonly function?: { readonly arguments?: unknown } }) => {
      const given = call.function?.arguments;
      const parsed = typeof given === 'string' ? jsonObjectIn(given) : undefined;
      return parsed !== undefined ? { ...call, function: { ...call.function, arguments: parsed } } : call;
    });
    return { ...message, tool_calls: calls };
  });
}
