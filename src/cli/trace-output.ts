// A generation's trace as a file to share, in the form that the file's name asks for.

import { extname } from 'node:path';
import type { Trace } from '../app/trace.ts';
import { ArgumentError } from '../errors.ts';
import type { GenerateResult } from '../generate/types.ts';
import { generateResultToJson } from '../tools/generate-result.ts';
import { conservationLine } from './color-line.ts';
import { writeOutput } from './write-output.ts';

const FORMS = ['.png', '.html', '.json'] as const;
type Form = (typeof FORMS)[number];

/** By the suffix. Throws ArgumentError for another, before anything is generated. */
export function traceForm(path: string): Form {
  const suffix = extname(path).toLowerCase();
  const form = suffix === '.htm' ? '.html' : FORMS.find((one) => one === suffix);
  if (form !== undefined) return form;
  throw new ArgumentError({
    what: suffix === '' ? 'the name has no suffix that says what to write' : `cannot write a trace as ${suffix}`,
    where: path,
    fix: `end the name in ${FORMS.join(', ')}`,
  });
}

export async function writeTrace(path: string, result: GenerateResult): Promise<void> {
  await writeOutput(path, await contentOf(traceForm(path), result));
}

async function contentOf(form: Form, result: GenerateResult): Promise<string | Uint8Array> {
  const json = generateResultToJson(result);
  if (form === '.json') return `${JSON.stringify(json, null, 2)}\n`;
  // As a reader of the JSON sees it: a number that is not finite is null there.
  const trace = JSON.parse(JSON.stringify(json)) as Trace;
  if (form === '.html') {
    const { tracePage } = await import('../app/trace-page.ts');
    return tracePage(trace);
  }
  const { tracePicturePng } = await import('../image/trace-picture.ts');
  const { promptOf, toldLogprob } = await import('../app/trace.ts');
  const { model, seed, scheme, finishReason } = result;
  return tracePicturePng({
    title: `${trace.trace.length} tokens by ${model}   seed ${seed} ${scheme}   ended by ${finishReason}`,
    prompt: promptOf(trace),
    steps: trace.trace.map((step) => ({
      token: step.token,
      color: step.color,
      trit: step.trit,
      logprob: toldLogprob(step),
    })),
    summary: conservationLine(result.tritSum, result.gf3Residue).replace(/[✓✗]/gu, '').replace('  ', ' '),
  });
}
