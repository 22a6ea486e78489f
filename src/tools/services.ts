// What tools need from the process they run in. The MCP server gives an engine in a child process, so that its event
// loop stays free while a model writes; tests give what they like.

import { BitnetError } from '../errors.ts';
import type { GenerateHooks, GenerateRequest, GenerateResult, ManyRequest, ManyResult } from '../generate/types.ts';
import type { WorldService } from '../world/world-host.ts';
import type { TraceColorsRequest, TritWindowRequest } from './desk-requests.ts';

/**
 * What a piece of heavy work keeps busy: `engine`, the process that generates, several texts at once; `worlds`, the one
 * that trains, a step after the other; `server`, this process's own thread and memory. Apart, since a picture that takes
 * 50 ms must not wait for generations that take a minute, nor these for steps that wait for each other.
 */
export type TurnOf = 'engine' | 'worlds' | 'server';

export type TurnHooks = {
  readonly signal?: AbortSignal | undefined;
  /** Called while the work waits for its turn, with how many are before it, at first and whenever that changes. */
  readonly onQueue?: ((position: number) => void) | undefined;
};

/** A tool's result, its structured part as JSON: that is what it is sent as. */
export type AsideResult = { readonly json: string; readonly text: string; readonly images: readonly ToolImage[] };

/** Work that would hold up a server's event loop, done in another process. Its errors are the same as here. */
export interface Desk {
  /** A call of the tool of this name. */
  call(tool: string, args: unknown, context: AsideContext): Promise<AsideResult>;
  tritWindow(request: TritWindowRequest, signal?: AbortSignal): Promise<string>;
  traceColors(request: TraceColorsRequest): Promise<Uint8Array>;
}

export type AsideContext = Pick<ToolContext, 'signal' | 'progress' | 'resultBudget'>;

export type ManyServiceHooks = {
  readonly signal?: AbortSignal;
  /** Called from time to time, with the tokens of all texts so far. */
  readonly onTokens?: (done: number) => void;
};

export interface Services {
  /** Folders that callers' model paths must lie in; any path when undefined. */
  readonly allowedRoots?: readonly string[] | undefined;
  /** Rejects with CancelledError when the signal fires before there is anything to return. */
  generate(request: GenerateRequest, hooks: GenerateHooks): Promise<GenerateResult>;
  /** Several texts in one call; absent where nobody generates. */
  readonly generateMany?: (request: ManyRequest, hooks: ManyServiceHooks) => Promise<ManyResult>;
  /** Where training steps are taken; absent where nobody takes any. */
  readonly worlds?: WorldService;
  /** Where calls that compute for more than a moment are computed; absent: here. */
  readonly desk?: Desk;
  /**
   * Runs work when its turn has come; absent where calls do not compete. Tools take their turns through `inTurn`.
   * Throws BusyError when too many wait, and CancelledError when the signal fires before the turn.
   */
  readonly takeTurn?: <T>(of: TurnOf, work: () => Promise<T>, hooks: TurnHooks) => Promise<T>;
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

/** A PNG that a tool shows beside its structured result. */
export type ToolImage = {
  readonly png: Uint8Array;
  /** One line for whoever cannot see it. */
  readonly caption: string;
};

export type ToolContext = {
  readonly services: Services;
  /** Fires when the caller no longer wants the result. */
  readonly signal?: AbortSignal;
  /** Present only when the caller listens. `done` never falls from call to call; no `total`: it is not known yet. */
  readonly progress?: (done: number, total: number | undefined, message: string) => void;
  /** Characters of JSON that the caller takes in one result; any number when undefined. See result-budget.ts. */
  readonly resultBudget?: number | undefined;
  /** Adds an image to the result. */
  readonly addImage: (image: ToolImage) => void;
};
