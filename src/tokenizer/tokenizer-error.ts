// What can go wrong between text and ids, one class per situation a caller would treat differently.

import { BitnetError } from '../errors.ts';

/** The files of a tokenizer exist but cannot be used: broken JSON, wrong types, contradictions, limits. */
export class TokenizerFileError extends BitnetError {
  readonly code = 'BAD_TOKENIZER_FILE';
  readonly fault = 'job';
}

/** The model has no tokenizer at all. */
export class TokenizerMissingError extends BitnetError {
  readonly code = 'NO_TOKENIZER';
  readonly fault = 'job';
}

/** Chat was asked of a model that has no chat template. */
export class ChatTemplateMissingError extends BitnetError {
  readonly code = 'NO_CHAT_TEMPLATE';
  readonly fault = 'call';
}

/** The chat template does not parse, or refused the messages it was given. */
export class ChatTemplateError extends BitnetError {
  readonly code = 'BAD_CHAT_TEMPLATE';
  readonly fault = 'job';
}
