// What can go wrong between us and the Hub.

import { BitnetError } from '../errors.ts';

/** The Hub answered with a status that means this repository, file or caller. */
export class HubResponseError extends BitnetError {
  readonly code = 'HUB_RESPONSE';
  readonly fault = 'job';
  readonly status: number;

  constructor(status: number, url: string, repo: string) {
    const [what, fix] = meaningOf(status, repo);
    super({ what: `${what} (HTTP ${status})`, where: url, fix });
    this.status = status;
  }
}

function meaningOf(status: number, repo: string): [string, string] {
  if (status === 401 || status === 403) {
    return [
      `access to ${repo} was refused`,
      'check the name; for a private or gated model accept its terms on the Hub and set HF_TOKEN to a token that may read it',
    ];
  }
  if (status === 404) return [`the Hub has no ${repo}, or not this revision or file`, 'check the name, ORG/NAME'];
  if (status === 429)
    return ['the Hub asks for fewer requests', 'wait a minute and run it again: the download continues'];
  return ['the Hub could not answer', 'run it again later: the download continues where it stopped'];
}

/** No answer, or the connection ended, after several tries. What was received is kept. */
export class HubConnectionError extends BitnetError {
  readonly code = 'HUB_CONNECTION';
  readonly fault = 'job';
}

/** The bytes are not those the Hub announced. They are removed. */
export class HubContentError extends BitnetError {
  readonly code = 'HUB_CONTENT';
  readonly fault = 'job';
}

/** The repository holds nothing we would download, or more kinds than one. */
export class HubSelectionError extends BitnetError {
  readonly code = 'HUB_SELECTION';
  readonly fault = 'call';
}

/** The disk cannot hold the download. */
export class DiskSpaceError extends BitnetError {
  readonly code = 'DISK_SPACE';
  readonly fault = 'job';
}
