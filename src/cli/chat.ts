// A conversation in the terminal. The model stays loaded and its cache holds what was said, so that each turn reads only
// what is new. What comes through a pipe is one turn.

import { extname } from 'node:path';
import { SCHEMES, type Scheme } from '../color/scheme.ts';
import { ansiSwatch, type ColorDepth } from '../color/terminal.ts';
import { BitnetError, CancelledError } from '../errors.ts';
import { Engine } from '../generate/engine.ts';
import { generateWith } from '../generate/generate.ts';
import type { GenerateHooks, GenerateRequest, GenerateResult, TraceStep } from '../generate/types.ts';
import { generateResultToJson } from '../tools/generate-result.ts';
import { CHAT_COMMANDS, HELP_NOTES, readChatLine } from './chat-commands.ts';
import { colorMark, conservationLine } from './color-line.ts';
import { type CommandInput, defineCommand } from './command.ts';
import { Conversation, toMarkdown } from './conversation.ts';
import { EXIT } from './exit-status.ts';
import { Flow, harmless } from './flow.ts';
import { footer, sayMemory, thinkingOf } from './infer.ts';
import { LineEditor } from './line-editor.ts';
import { BACKEND_FLAGS, backendOptions, MODEL_FLAG } from './model-flags.ts';
import type { Output } from './output.ts';
import { readStdin } from './read-stdin.ts';
import { SAMPLING_FLAGS, samplingOf } from './sampling-flags.ts';
import { visible } from './visible.ts';
import { table, wrap } from './wrap.ts';
import { writeOutput } from './write-output.ts';

const FLAGS = {
  model: MODEL_FLAG,
  system: { type: 'string', placeholder: 'TEXT', description: 'What the model is told first' },
  thinking: {
    type: 'string',
    placeholder: 'on|off|N',
    description: 'Whether a model that can think first is to; N: tokens of a thought at most',
  },
  'trace-gf3': { type: 'boolean', description: 'Replies token by token, with color, trit and log-probability' },
  'max-tokens': { type: 'integer', min: 1, default: 1024, placeholder: 'N', description: 'Of a reply, at most' },
  ...SAMPLING_FLAGS,
  seed: { type: 'seed', default: 1069n, placeholder: 'S', description: 'Color stream' },
  scheme: { type: 'string', choices: SCHEMES, default: 'trace', placeholder: 'X', description: 'Rule of the colors' },
  ...BACKEND_FLAGS,
} as const;

type Input = CommandInput<typeof FLAGS>;

export const command = defineCommand({
  name: 'chat',
  summary: 'Talk with a model in the terminal',
  positionals: [],
  flags: FLAGS,
  examples: [
    'chat',
    'chat --model NAME --system "Answer in one sentence." --thinking off',
    'chat --max-tokens 40 < prompt.txt',
  ],
  notes:
    `In the chat: ${CHAT_COMMANDS.map(({ name }) => name).join(' ')}; ${HELP_NOTES.charAt(0).toLowerCase()}${HELP_NOTES.slice(1)}\n` +
    'What comes through a pipe is one turn: its reply goes to standard output, everything else to standard error.',
  run: async (input) => {
    using engine = new Engine();
    const chat = new Chat(engine, input);
    return process.stdin.isTTY && !input.json ? await chat.talk() : await chat.answer();
  },
});

/** Of the context, what is left for a reply where the conversation would fill it. */
const LEAST_ROOM = 1 / 4;

class Chat {
  readonly #engine: Engine;
  readonly #input: Input;
  readonly #conversation = new Conversation();
  #model: string;
  #isTracing: boolean;

  constructor(engine: Engine, input: Input) {
    this.#engine = engine;
    this.#input = input;
    const { flags } = input;
    this.#model = flags.model;
    this.#isTracing = flags['trace-gf3'];
    this.#conversation.system = flags.system;
    // Before anything is loaded or typed.
    this.#request('');
  }

  /** One turn, from standard input. */
  async answer(): Promise<number> {
    const { signal, output, json } = this.#input;
    const text = await readStdin({ what: 'chat needs something to answer', explicit: true, signal });
    if (!json) await sayMemory(this.#input);
    const result = await this.#reply(text, signal);
    if (json) output.json(generateResultToJson(result));
    return result.finishReason === 'cancelled' ? EXIT.stopped : EXIT.ok;
  }

  /** Turns until the person leaves. */
  async talk(): Promise<number> {
    const { output, signal } = this.#input;
    const screen = process.stdout.isTTY ? process.stdout : process.stderr;
    const editor = new LineEditor({ input: process.stdin, output: screen });
    const mark = this.#dim('> ', screen === process.stdout);
    output.note(`${this.#model}: say something, or /help; Ctrl-D leaves`);
    let wasInterrupted = false;
    try {
      for (;;) {
        const line = await editor.read(mark, this.#dim('… ', screen === process.stdout), signal);
        if (line === 'ended') {
          if (!signal.aborted) screen.write('\n');
          break;
        }
        if (line === 'interrupted') {
          if (wasInterrupted) break;
          wasInterrupted = true;
          output.note('Ctrl-C again, Ctrl-D or /exit leaves');
          continue;
        }
        wasInterrupted = false;
        const isOver = await this.#interruptibly(editor, (stop) => this.#take(line.text, stop)).catch((error) => {
          if (!(error instanceof BitnetError)) throw error;
          output.note(error instanceof CancelledError ? 'stopped' : `error: ${error.message}`);
          return false;
        });
        if (isOver || signal.aborted) break;
      }
    } finally {
      editor.close();
    }
    return signal.aborted ? EXIT.stopped : EXIT.ok;
  }

  /** Runs work with a signal that Ctrl-C fires, or whatever ends the program. */
  async #interruptibly<T>(editor: LineEditor, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, this.#input.signal]);
    return await editor.during(
      () => work(signal),
      () => stop.abort(new CancelledError('stopped by Ctrl-C')),
    );
  }

  /** True when the chat is over. */
  async #take(text: string, signal: AbortSignal): Promise<boolean> {
    const { output } = this.#input;
    const line = readChatLine(text);
    switch (line.kind) {
      case 'nothing':
        return false;
      case 'unknown':
        output.note(line.what);
        return false;
      case 'say':
        await this.#reply(line.text, signal);
        return false;
      case 'command':
        if (line.name === '/exit') return true;
        await this.#obey(line.name, line.argument, signal);
        return false;
    }
  }

  async #obey(name: string, argument: string, signal: AbortSignal): Promise<void> {
    const { output } = this.#input;
    const conversation = this.#conversation;
    switch (name) {
      case '/help': {
        const rows = CHAT_COMMANDS.map((one) => [`${one.name} ${one.argument ?? ''}`.trim(), one.description] as const);
        output.line(table(rows, output.width));
        output.line(wrap(HELP_NOTES, output.width));
        return;
      }
      case '/system':
        if (argument !== '') conversation.system = argument === '-' ? undefined : argument;
        output.note(
          conversation.system === undefined ? 'no system prompt' : `system: ${harmless(conversation.system)}`,
        );
        return;
      case '/model':
        if (argument !== '') await this.#switchTo(argument, signal);
        output.note(`model: ${this.#model}`);
        return;
      case '/trace':
        if (['', 'on', 'off'].includes(argument)) {
          this.#isTracing = argument === '' ? !this.#isTracing : argument === 'on';
          output.note(`trace ${this.#isTracing ? 'on' : 'off'}`);
        } else {
          output.note('/trace takes on or off');
        }
        return;
      case '/thought': {
        const thought = conversation.last?.reply?.reasoning;
        if (thought === undefined) output.note('there was no thought');
        else this.#print(thought);
        return;
      }
      case '/save':
        await this.#save(argument);
        return;
      case '/undo': {
        const taken = conversation.undo();
        if (taken === undefined) output.note('there is nothing to take back');
        else output.note(`taken back: ${harmless(taken.user.split('\n', 1).join('').slice(0, 60))}`);
        return;
      }
      case '/clear':
        conversation.clear();
        output.note('nothing was said');
        return;
    }
  }

  /** Loaded before it counts: a model that is not there leaves the chat with the one it has. */
  async #switchTo(model: string, signal: AbortSignal): Promise<void> {
    const { flags, output } = this.#input;
    await sayMemory({ flags: { ...flags, model }, output });
    const wanted = { ...backendOptions(flags), model, signal };
    await this.#engine.useSource(wanted, async () => {});
    this.#model = model;
  }

  async #save(path: string): Promise<void> {
    const { output } = this.#input;
    const conversation = this.#conversation;
    if (path === '') {
      output.note('/save needs a FILE: .md or .json for all that was said, .html or .png for the last reply');
      return;
    }
    const suffix = extname(path).toLowerCase();
    const reply = conversation.exchanges.findLast((one) => one.reply !== undefined)?.reply;
    if (['.html', '.htm', '.png'].includes(suffix)) {
      if (reply === undefined) {
        output.note('there is no reply to draw yet');
        return;
      }
      const { writeTrace } = await import('./trace-output.ts');
      await writeTrace(path, reply);
    } else if (suffix === '.json') {
      const exchanges = conversation.exchanges.map((one) => ({
        user: one.user,
        ...(one.reply && { reply: generateResultToJson(one.reply) }),
      }));
      const document = { ...(conversation.system !== undefined && { system: conversation.system }), exchanges };
      await writeOutput(path, `${JSON.stringify(document, null, 2)}\n`);
    } else {
      await writeOutput(path, toMarkdown(conversation));
    }
    output.note(`wrote ${path}`);
  }

  /** Asks, prints what comes, and remembers both. */
  async #reply(text: string, signal: AbortSignal): Promise<GenerateResult> {
    const { output, json } = this.#input;
    const request = await this.#fitting(text, signal);
    const flow = new Flow(
      (part) => output.write(part),
      () => output.width,
    );
    const fold = new Fold(this.#input);
    const traced = this.#isTracing ? (step: TraceStep) => output.line(traceLine(step, output.colorDepth)) : undefined;
    let printed = 0;
    const hooks: GenerateHooks = {
      signal,
      continuable: json,
      ...(!json && {
        onThought: () => fold.push(),
        onStep: (step) => {
          fold.end();
          printed += step.token.length;
          if (traced === undefined) flow.push(step.token);
          else traced(step);
        },
      }),
    };
    const result = await generateWith(this.#engine, request, hooks).finally(() => fold.end());
    if (!json) {
      if (traced === undefined) {
        // What became certain only at the end: the bytes of a cut character.
        flow.push(result.completion.slice(printed));
        if (flow.end() || result.trace.length === 0) output.line();
      } else {
        output.line(wrap(conservationLine(result.tritSum, result.gf3Residue), output.width, '  '));
      }
      this.#tell(result);
    }
    const isEmpty = result.finishReason === 'cancelled' && result.trace.length === 0;
    if (!isEmpty) this.#conversation.add({ user: text, reply: result });
    return result;
  }

  #tell(result: GenerateResult): void {
    const { output } = this.#input;
    for (const warning of result.warnings ?? []) output.note(`warning: ${warning}`);
    aside(output, footer(result));
  }

  #print(text: string): void {
    const { output } = this.#input;
    const flow = new Flow(
      (part) => output.write(part),
      () => output.width,
    );
    flow.push(text);
    if (flow.end()) output.line();
  }

  #request(text: string, skipped = 0): GenerateRequest {
    const { flags } = this.#input;
    return {
      model: this.#model,
      messages: this.#conversation.messages(text, skipped),
      maxTokens: flags['max-tokens'],
      seed: flags.seed,
      scheme: flags.scheme as Scheme,
      ...samplingOf(flags),
      ...(flags.thinking !== undefined && { thinking: thinkingOf(flags.thinking) }),
      ...backendOptions(flags),
    };
  }

  /** Without the oldest exchanges where the model could not hold all of them and a reply. */
  async #fitting(text: string, signal: AbortSignal): Promise<GenerateRequest> {
    const { flags, output } = this.#input;
    const whole = this.#request(text);
    const count = this.#conversation.exchanges.length;
    // Only our own engines tell how much that is.
    if (count === 0 || flags.backend === 'openai') return whole;
    const wanted = { ...backendOptions(flags), model: this.#model, signal };
    return await this.#engine.use(wanted, async ({ tokenizer, contextLength }) => {
      const room = Math.min(flags['max-tokens'], Math.floor(contextLength * LEAST_ROOM));
      for (let skipped = 0; skipped <= count; skipped += 1) {
        const request = this.#request(text, skipped);
        if (tokenizer.encodeChat(request.messages!).length + room > contextLength && skipped < count) continue;
        if (skipped > 0) {
          const those =
            skipped === 1 ? 'the oldest question and its reply' : `the oldest ${skipped} questions and replies`;
          output.note(`${those} no longer fit and are left out`);
        }
        return request;
      }
      return whole;
    });
  }

  #dim(text: string, isStdout: boolean): string {
    return isStdout && this.#input.output.colorDepth !== 'none' ? `\x1b[1;36m${text}\x1b[0m` : text;
  }
}

/** A remark that stands back behind the text, where colors can say so. */
function aside(output: Output, text: string): void {
  const terminal = output.progressTerminal;
  if (terminal === undefined || output.colorDepth === 'none') output.note(text);
  else terminal.write(`\x1b[2m${wrap(text, terminal.columns || 80, '  ')}\x1b[0m\n`);
}

/** `  [-] #6404C3  -0.52 token`. */
function traceLine({ token, color, trit, logprob }: TraceStep, depth: ColorDepth): string {
  const text = visible(token);
  const shown = depth === 'none' || text.trim() === '' ? text : ansiSwatch(color, depth, text);
  const said = logprob === undefined ? '' : logprob.toFixed(2).replace('-0.00', '0.00');
  return `${colorMark({ hex: color, trit }, depth)} ${said.padStart(6)} ${shown}`;
}

/** A thought, folded: on a terminal it counts while it goes on, and one line is left of it. */
class Fold {
  readonly #input: Input;
  #tokens = 0;
  #since = 0;
  #shownAt = 0;

  constructor(input: Input) {
    this.#input = input;
  }

  push(): void {
    if (this.#tokens === 0) this.#since = performance.now();
    this.#tokens += 1;
    const terminal = this.#input.output.progressTerminal;
    if (terminal === undefined || performance.now() - this.#shownAt < 100) return;
    this.#shownAt = performance.now();
    terminal.write(`\r\x1b[K[thinking: ${this.#tokens} tokens]`);
  }

  end(): void {
    if (this.#tokens === 0) return;
    const { output } = this.#input;
    output.progressTerminal?.write('\r\x1b[K');
    const seconds = (performance.now() - this.#since) / 1000;
    const hint = process.stdin.isTTY ? '; /thought shows it' : '';
    aside(
      output,
      `[thought] ${this.#tokens} ${this.#tokens === 1 ? 'token' : 'tokens'}, ${seconds.toFixed(1)} s${hint}`,
    );
    this.#tokens = 0;
  }
}
