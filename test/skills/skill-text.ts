// What the text of a skill or prompt shows: calls, and names of tools.

export type ShownCall = {
  readonly tool: string;
  readonly arguments: Record<string, unknown>;
  /** A part of the result. */
  readonly gives: Record<string, unknown>;
};

/** The calls in ```json blocks. Throws for a block that is not one whole call, so that none goes untested. */
export function callsIn(markdown: string): ShownCall[] {
  return [...markdown.matchAll(/```json\n([\s\S]*?)```/g)].map(([, json]) => {
    const call = JSON.parse(json!) as ShownCall;
    if (Object.keys(call).sort().join() !== 'arguments,gives,tool') throw new Error(`no call with a result: ${json}`);
    return call;
  });
}

/** Every `snake_case` word in code marks that could be a tool: those that a call shows, and those in tables and prose. */
export function toolsNamedIn(markdown: string): string[] {
  const verbs = /^(?:palette|(?:generate|color|analyze|balance|morphism)(?:_[a-z]+)+)$/;
  const words = [...markdown.matchAll(/`([a-z_]+)`/g)].map(([, word]) => word!);
  return [...new Set([...words.filter((word) => verbs.test(word)), ...callsIn(markdown).map(({ tool }) => tool)])];
}
