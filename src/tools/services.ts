// What tools need from the process they run in. The MCP server gives an engine in a child process, so that its event
// loop stays free while a model writes; tests give what they like.

import { BitnetError } from '../errors.ts';
import type { GenerateHooks, GenerateRequest, GenerateResult } from '../generate/types.ts';
import type { WorldService } from '../world/world-host.ts';

export type ServiceHooks = GenerateHooks & {
  /** Called while the request waits for its turn, with how many are before it. */
  readonly onQueue?: (position: number) => void;
};

export interface Services {
  /** Folders that callers' model paths must lie in; any path when undefined. */
  readonly allowedRoots?: readonly string[] | undefined;
  /** Rejects with CancelledError when the signal fires before there is anything to return. */
  generate(request: GenerateRequest, hooks: ServiceHooks): Promise<GenerateResult>;
  /** Where training steps are taken; absent where nobody takes any. */
  readonly worlds?: WorldService;
}

/** The process has no worlds. */
export class NoWorldsError extends BitnetError {
  readonly code = 'NO_WORLDS';
  readonly fault = 'job';
}

/** Throws NoWorldsError where there are none. */
export function worldService({ worlds }: Services): WorldService {
  if (worlds !== undefined) return worlds;
  throw new NoWorldsError({ what: 'this process keeps no worlds', fix: 'call the tool of a running server' });
}
