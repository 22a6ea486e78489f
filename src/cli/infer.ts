// The command a newcomer runs first. It generates in this process and loads neither the schemas nor the MCP SDK, so
// that the first token comes at once.

import { SCHEMES, type Scheme } from '../color/scheme.ts';
import { ansiSwatch } from '../color/terminal.ts';
import { ArgumentError } from '../errors.ts';
import type { GenerateRequest, GenerateResult, TraceStep } from '../generate/types.ts';
import { generateResultToJson } from '../tools/generate-result.ts';
import { colorMark, conservationLine } from './color-line.ts';
import { type CommandInput, defineCommand } from './command.ts';
import { EXIT } from './exit-status.ts';
import { BACKEND_FLAGS, backendOptions, MODEL_FLAG } from './model-flags.ts';
import type { Output } from './output.ts';
import { SAMPLING_FLAGS, samplingOf, TOP_LOGPROBS_FLAG } from './sampling-flags.ts';
import { visible } from './visible.ts';

const FLAGS = {
  'trace-gf3': { type: 'boolean', description: "One line a token with its color and trit, then the trits' sum" },
  out: {
    type: 'string',
    short: 'o',
    placeholder: 'FILE',
    description: 'Write the trace to share: .html (any script, loads nothing), .png (draws ASCII) or .json',
  },
  model: MODEL_FLAG,
  chat: { type: 'boolean', description: 'PROMPT is what a user says: apply the chat template of the model' },
  thinking: {
    type: 'string',
    placeholder: 'on|off|N',
    description: 'Whether a model that can think first is to; N: tokens of a thought at most',
  },
  'max-tokens': { type: 'integer', min: 1, default: 100, placeholder: 'N', description: 'Stop after so many tokens' },
  ...SAMPLING_FLAGS,
  stop: { type: 'strings', placeholder: 'TEXT', description: 'End before this text (may be repeated)' },
  'response-schema': {
    type: 'string',
    placeholder: 'FILE|JSON',
    description: 'Write JSON that fits this JSON Schema',
  },
  grammar: { type: 'string', placeholder: 'FILE', description: 'Write text that follows this EBNF (root ::= ...)' },
  seed: { type: 'seed', default: 1069n, placeholder: 'S', description: 'Color stream' },
  scheme: { type: 'string', choices: SCHEMES, default: 'trace', placeholder: 'X', description: 'Rule of the colors' },
  'top-logprobs': TOP_LOGPROBS_FLAG,
  activations: { type: 'boolean', description: "With --json: count each layer's trits per token" },
  ...BACKEND_FLAGS,
} as const;

export const command = defineCommand({
  name: 'infer',
  summary: 'Write text with a model, with a GF(3) trace if asked',
  positionals: [
    { name: 'PROMPT', description: 'text to continue; - or nothing reads it from standard input', optional: true },
  ],
  flags: FLAGS,
  examples: [
    'infer "Once upon a time" --trace-gf3',
    'infer - --max-tokens 20 < prompt.txt',
    'infer "Lily found" --temperature 0.8 --sample-seed 7 --max-tokens 200',
    'infer "Once upon a time" --backend openai --model NAME --trace-gf3',
    'infer "Once upon a time" --trace-gf3 --top-logprobs 5 -o trace.html',
    'infer "Lily had a " --response-schema \'{"type": "object", "properties": {"pet": {"enum": ["cat", "dog"]}}, "required": ["pet"]}\'',
  ],
  notes:
    'A text from standard input is taken without its last line break.\n' +
    'The backend onnx runs a folder with model.onnx, config.json and tokenizer.json through onnxruntime-node, which is ' +
    'installed on request. The backend openai asks a server (exo, mlx_lm.server, llama-server, vLLM) at BITNET_OPENAI_BASE_URL ' +
    '(default http://127.0.0.1:8080/v1) with the key in BITNET_OPENAI_API_KEY, if any. It waits as long as you do; ' +
    'BITNET_OPENAI_IDLE_SECONDS sets how long the server may be silent. HTTPS_PROXY and NO_PROXY are obeyed.',
  run: async (input) => {
    const { json, output, flags, signal } = input;
    const prompt = await promptOf(input);
    if (!json) await sayMemory(input);
    const { generate } = await import('../generate/generate.ts');
    const out = flags.out;
    // Loaded only when asked for: it draws.
    const drawing = out === undefined ? undefined : await import('./trace-output.ts');
    if (out !== undefined) drawing!.traceForm(out);
    let printed = 0;
    const printText = ({ token }: TraceStep) => {
      output.write(token);
      printed += token.length;
    };
    const print = json ? undefined : flags['trace-gf3'] ? tracePrinter(output) : printText;
    const thoughts = new ThoughtLine(output);
    const structure = await structureOf(input);
    const result = await generate(
      { ...requestOf(input, prompt), ...structure },
      {
        signal,
        continuable: json,
        ...(!json && { onThought: () => thoughts.push() }),
        ...(print && {
          onStep: (step) => {
            thoughts.end();
            print(step);
          },
        }),
      },
    );
    thoughts.end();
    if (json) output.json(generateResultToJson(result));
    else if (flags['trace-gf3']) output.line(conservationLine(result.tritSum, result.gf3Residue));
    // What became certain only at the end: the bytes of a cut character.
    else output.line(result.completion.slice(printed));
    if (out !== undefined) await drawing!.writeTrace(out, result);
    for (const warning of result.warnings ?? []) output.note(`warning: ${warning}`);
    if (!json) output.note(footer(result));
    if (out !== undefined && !json) output.note(`wrote ${out}`);
    return result.finishReason === 'cancelled' ? EXIT.stopped : EXIT.ok;
  },
});

/** Loading less is over before anyone has read how much it takes. */
const WORTH_SAYING_BYTES = 300e6;

type MemoryInput = { readonly flags: { readonly model: string; readonly backend: string }; readonly output: Output };

/** What a large model takes, before it is loaded. */
export async function sayMemory({ flags, output }: MemoryInput): Promise<void> {
  if (flags.model === 'default' || flags.backend === 'openai' || flags.backend === 'onnx') return;
  const { resolveModel } = await import('../hub/resolve-model.ts');
  const { memoryLine, memoryOf } = await import('../model/memory.ts');
  const { INT8_HEAD_BYTES } = await import('../generate/engine.ts');
  try {
    const memory = await memoryOf(await resolveModel(flags.model, {}), { int8Above: INT8_HEAD_BYTES });
    if (memory.totalBytes >= WORTH_SAYING_BYTES) output.note(`${flags.model}: ${memoryLine(memory)}`);
  } catch {
    // Loading will say what is wrong.
  }
}

async function promptOf({ positionals, signal }: CommandInput<typeof FLAGS>): Promise<string> {
  const [given] = positionals;
  if (given !== undefined && given !== '-') return given;
  const { readStdin } = await import('./read-stdin.ts');
  return readStdin({ what: 'infer needs PROMPT (text to continue)', explicit: given === '-', signal });
}

function requestOf({ flags }: CommandInput<typeof FLAGS>, prompt: string): GenerateRequest {
  return {
    model: flags.model,
    ...(flags.chat ? { messages: [{ role: 'user', content: prompt }] } : { prompt }),
    maxTokens: flags['max-tokens'],
    seed: flags.seed,
    scheme: flags.scheme as Scheme,
    ...samplingOf(flags),
    ...(flags['top-logprobs'] !== undefined && { topLogprobs: flags['top-logprobs'] }),
    ...(flags.stop !== undefined && { stop: flags.stop }),
    ...(flags.thinking !== undefined && { thinking: thinkingOf(flags.thinking) }),
    activations: flags.activations,
    ...backendOptions(flags),
  };
}

/** Longest schema or grammar that is read; more is refused when it is taken apart as well. */
const MAX_STRUCTURE_BYTES = 1 << 20;

async function structureOf({ flags }: CommandInput<typeof FLAGS>): Promise<Partial<GenerateRequest>> {
  const { 'response-schema': schema, grammar } = flags;
  const { readTextFile } = await import('../formats/read-small-file.ts');
  const read = async (flag: string, path: string) => {
    const text = await readTextFile(path, MAX_STRUCTURE_BYTES);
    if (text !== undefined) return text;
    throw new ArgumentError({ what: `--${flag} ${path}: there is no such file`, fix: 'give the path of a file' });
  };
  const text =
    schema === undefined || /^\s*(\{|true$|false$)/.test(schema) ? schema : await read('response-schema', schema);
  return {
    ...(text !== undefined && { responseSchema: schemaIn(text) }),
    ...(grammar !== undefined && { grammar: await read('grammar', grammar) }),
  };
}

function schemaIn(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const fix = 'give a JSON Schema, or the path of a file that holds one';
    throw new ArgumentError({ what: `--response-schema is not JSON: ${(cause as Error).message}`, fix }, { cause });
  }
}

export function thinkingOf(text: string): 'on' | 'off' | number {
  if (text === 'on' || text === 'off') return text;
  if (/^\d+$/.test(text)) return Number(text);
  throw new ArgumentError({ what: `--thinking ${text}`, fix: 'give on, off, or the tokens of a thought at most' });
}

/** A thought, folded: how long it was, on stderr, before the answer begins. --json has its text. */
class ThoughtLine {
  readonly #output: Output;
  #tokens = 0;
  #since = 0;

  constructor(output: Output) {
    this.#output = output;
  }

  push(): void {
    if (this.#tokens === 0) this.#since = performance.now();
    this.#tokens += 1;
  }

  end(): void {
    if (this.#tokens === 0) return;
    const seconds = (performance.now() - this.#since) / 1000;
    this.#output.note(`[think] ${this.#tokens} ${this.#tokens === 1 ? 'token' : 'tokens'}, ${seconds.toFixed(1)} s`);
    this.#tokens = 0;
  }
}

/** `  [-] #6404C3 token`; on a terminal with colors the token stands on its color. */
function tracePrinter(output: Output): (step: TraceStep) => void {
  return ({ token, color, trit, forced }) => {
    const text = visible(token);
    const shown =
      output.colorDepth === 'none' || text.trim() === '' ? text : ansiSwatch(color, output.colorDepth, text);
    output.line(`${colorMark({ hex: color, trit }, output.colorDepth)} ${shown}${forced ? '  (forced)' : ''}`);
  };
}

/** One line on what a generation took and why it ended. */
export function footer({ model, usage, timings, engine, finishReason }: GenerateResult): string {
  const { backend, isa, head, endpoint } = engine;
  const threads = timings.threads ?? engine.threads;
  const ended = { stop: 'end of text', length: 'token limit', time: 'time limit', cancelled: 'stopped' }[finishReason];
  const { completionTokens: tokens } = usage;
  const rate = timings.tokensPerSecond > 0 ? ` at ${timings.tokensPerSecond.toFixed(0)}/s` : '';
  const how = [
    isa === undefined ? backend : `${backend} ${isa}`,
    ...(endpoint === undefined ? [] : [`${model} at ${endpoint}`]),
    ...(threads === undefined ? [] : [`${threads} ${threads === 1 ? 'thread' : 'threads'}`]),
    ...(head === undefined ? [] : [`${head} head`]),
  ];
  return [
    `${tokens} ${tokens === 1 ? 'token' : 'tokens'}${rate} (${how.join(', ')})`,
    `first after ${timings.firstTokenMs.toFixed(0)} ms`,
    ended,
  ].join(', ');
}
