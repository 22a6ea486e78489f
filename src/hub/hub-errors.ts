// What can go wrong between us and the Hub.

import { BitnetError } from '../errors.ts';

export type Refusal = {
  readonly status: number;
  readonly url: string;
  readonly repo: string;
  /** The Hub's own words, already fit for a terminal and without our token. */
  readonly words?: string;
  /** Where the token came from that the Hub did not know. */
  readonly rejectedToken?: string | undefined;
};

/** The Hub answered with a status that means this repository, file or caller. */
export class HubResponseError extends BitnetError {
  readonly code = 'HUB_RESPONSE';
  readonly fault = 'job';
  readonly status: number;

  constructor(refusal: Refusal) {
    const { status, url, words = '' } = refusal;
    const [what, fix] = meaningOf(refusal);
    super({ what: `${what} (HTTP ${status})${words === '' ? '' : `: ${words}`}`, where: url, fix });
    this.status = status;
  }
}

function meaningOf({ status, repo, rejectedToken }: Refusal): [string, string] {
  if ((status === 401 || status === 403) && rejectedToken !== undefined) {
    return [
      `the Hub rejected the token of ${rejectedToken}, and without one refuses access to ${repo}`,
      'make a new token on the Hub, or check the name of the model',
    ];
  }
  if (status === 401 || status === 403) {
    return [
      `access to ${repo} was refused`,
      'check the name; for a private or gated model accept its terms on the Hub and set HF_TOKEN to a token that may read it',
    ];
  }
  if (status === 404) return [`the Hub has no ${repo}, or not this revision or file`, 'check the name, ORG/NAME'];
  if (status === 407) {
    return ['the proxy wants a password', 'write it into HTTPS_PROXY: http://USER:PASSWORD@HOST:PORT'];
  }
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
