import { BitnetError } from '../errors.ts';

/** No world of this id, or not just one. */
export class WorldNotFoundError extends BitnetError {
  readonly code = 'WORLD_NOT_FOUND';
  readonly fault = 'call';
}

/** What was asked of a world cannot be done with it. */
export class WorldError extends BitnetError {
  readonly code = 'BAD_WORLD_OPERATION';
  readonly fault = 'call';
}

/** A stored world cannot be had again: its base model is gone or changed, or a file is damaged. */
export class WorldReplayError extends BitnetError {
  readonly code = 'WORLD_LOST';
  readonly fault = 'job';
}
