// What stops a template, before the tokenizer says whose template it is.

/**
 * `syntax`: the source does not parse. `raised`: the template called raise_exception. `runtime`: Jinja itself would stop
 * here. `unsupported`: Jinja has it, this interpreter does not. `limit`: a budget is used up.
 * `input`: what was given to the template is no JSON.
 */
export type JinjaStop = 'syntax' | 'raised' | 'runtime' | 'unsupported' | 'limit' | 'input';

/** Internal to the tokenizer, which turns it into a ChatTemplateError that names the file. */
export class JinjaError extends Error {
  readonly stop: JinjaStop;
  /** Line of the template, from 1; the statement's when the expression's is not known. */
  line: number | undefined;

  constructor(stop: JinjaStop, message: string, line?: number) {
    super(message);
    this.stop = stop;
    this.line = line;
  }
}

/** Python has it and its result is not reproduced here: another prompt would be worse than none. */
export function unsupported(what: string): JinjaError {
  return new JinjaError('unsupported', `${what} is not supported here`);
}

export function typeError(message: string): JinjaError {
  return new JinjaError('runtime', message);
}

/** A text from a template in a message: quoted, and cut when it is long. */
export function quoted(text: string): string {
  return `'${text.length > 40 ? `${text.slice(0, 40)}…` : text}'`;
}
