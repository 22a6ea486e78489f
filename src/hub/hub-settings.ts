// What the environment says of the Hub: its address, the token, whether downloads are forbidden. The variables and their
// meaning are those of huggingface_hub.

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ArgumentError } from '../errors.ts';
import { type Environment, folderOf, hubHome, isTrue } from './hub-cache.ts';

/** Where the Hub is, unless HF_ENDPOINT names a mirror. */
export const DEFAULT_ENDPOINT = 'https://huggingface.co';

/** Without a byte for this long a connection is given up, unless HF_HUB_DOWNLOAD_TIMEOUT says another time. */
const SILENCE_MS = 30_000;
/** Longest delay of a timer. */
const MAX_DELAY_MS = 2 ** 31 - 1;

/** The variable that forbids downloads, if one does. */
export function offlineVariable(env: Environment): string | undefined {
  const name = env.HF_HUB_OFFLINE ? 'HF_HUB_OFFLINE' : 'TRANSFORMERS_OFFLINE';
  return isTrue(env[name]) ? name : undefined;
}

/** Base of the Hub's addresses, without a slash at the end. Throws ArgumentError, which does not show what may be secret. */
export function hubEndpoint(env: Environment): string {
  const named = env.HF_ENDPOINT?.trim() || DEFAULT_ENDPOINT;
  const url = URL.canParse(named) ? new URL(named) : undefined;
  const isWeb = url !== undefined && /^https?:$/.test(url.protocol);
  if (isWeb && url.username === '' && url.password === '' && url.search === '' && url.hash === '') {
    return `${url.origin}${url.pathname}`.replace(/\/+$/, '');
  }
  const isHost = /^[a-z0-9.-]+(:\d+)?(\/[\w./-]*)?$/i.test(named);
  throw new ArgumentError({
    what: isWeb
      ? 'HF_ENDPOINT holds more than an address: a user, a password, or something behind ? or #'
      : 'HF_ENDPOINT is not a URL that begins with https://',
    fix: `write it as ${isHost ? `https://${named}` : 'https://hf-mirror.example'}${isWeb ? '; a token goes into HF_TOKEN' : ''}`,
  });
}

/** Milliseconds after which a silent connection is given up. */
export function silenceMs(env: Environment): number {
  const seconds = Number(env.HF_HUB_DOWNLOAD_TIMEOUT);
  return seconds > 0 ? Math.min(1000 * seconds, MAX_DELAY_MS) : SILENCE_MS;
}

export type Token = {
  /** Never to be shown. */
  readonly value: string;
  /** Where it was found, for messages. */
  readonly source: string;
};

/**
 * HF_TOKEN, its old name, or the file that `hf auth login` writes; none where HF_HUB_DISABLE_IMPLICIT_TOKEN says so.
 * Throws ArgumentError for what cannot be sent as a token, without showing it.
 */
export async function hubToken(env: Environment): Promise<Token | undefined> {
  if (isTrue(env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return undefined;
  for (const name of ['HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN']) {
    const token = tokenIn(env[name], name);
    if (token !== undefined) return token;
  }
  const path = env.HF_TOKEN_PATH ? folderOf(env.HF_TOKEN_PATH, env) : join(hubHome(env), 'token');
  return tokenIn(await readFile(path, 'utf8').catch(() => undefined), path);
}

function tokenIn(text: string | undefined, source: string): Token | undefined {
  const value = text?.trim() ?? '';
  if (value === '') return undefined;
  if (/^[\x21-\x7e]{1,4096}$/.test(value)) return { value, source };
  throw new ArgumentError({
    what: 'the token for the Hub holds characters that no token has (spaces, line breaks, typographic quotes)',
    where: source,
    fix: 'copy it again from the settings of your account, or remove it: public models need none',
  });
}
