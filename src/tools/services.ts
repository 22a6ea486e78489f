// What tools need from the process they run in. The MCP server gives an engine in a child process, so that its event
// loop stays free while a model writes; tests give what they like.

import type { GenerateHooks, GenerateRequest, GenerateResult } from '../generate/types.ts';

export interface Services {
  /** Folders that callers' model paths must lie in; any path when undefined. */
  readonly allowedRoots?: readonly string[] | undefined;
  /** Rejects with CancelledError when the signal fires before there is anything to return. */
  generate(request: GenerateRequest, hooks: GenerateHooks): Promise<GenerateResult>;
}
