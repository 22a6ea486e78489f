// What is asked of a generation and what comes back: the contract's `generate_with_trace` fields in camelCase.

import type { Scheme } from '../color/scheme.ts';
import type { Trit } from '../gf3/trit.ts';
import type { ChatMessage } from '../tokenizer/chat-template.ts';
import type { BackendChoice, SourceName } from './source-names.ts';
import type { ParsedCall } from './tools/tool-calls.ts';
import type { ToolChoice } from './tools/tool-request.ts';

export type { ChatMessage };

/** The output head: the checkpoint's own precision, or int8 with one scale per row. */
export type HeadPrecision = 'full' | 'int8';

export type GenerateRequest = {
  /** Model name, folder or file as the contract defines MODEL; `default` is the embedded one. */
  readonly model: string;
  /** Exactly one of `prompt`, `messages`, `continuation`. */
  readonly prompt?: string;
  readonly messages?: readonly ChatMessage[];
  /** Handle of an earlier result that ended by `time` or `length`. */
  readonly continuation?: string;
  /** Default 100. */
  readonly maxTokens?: number;
  /** Color stream; default 1069. */
  readonly seed?: bigint;
  readonly scheme?: Scheme;
  /** 0 is greedy. Not given, this and the next four are as the model's files have them, else greedy and off. */
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  /** Sample among tokens at least this share as likely as the likeliest. */
  readonly minP?: number;
  /** Divides the logits above 0, and multiplies those below, of tokens that prompt or text have. Above 0; 1 is off. */
  readonly repetitionPenalty?: number;
  /** Taken from the logits of tokens that the text has; 0 (default) is off. */
  readonly presencePenalty?: number;
  /** The same, times how often it has them. */
  readonly frequencyPenalty?: number;
  /** Added to logits; a key is a token's id in digits, or else the text of one or several tokens of the vocabulary. */
  readonly logitBias?: Readonly<Record<string, number>>;
  /** False: they are not told, but with `topLogprobs`. Default true. */
  readonly logprobs?: boolean;
  /** Tell so many of the likeliest tokens at each step, up to 20. */
  readonly topLogprobs?: number;
  /** Seed of the sampler; default 0. The same request gives the same text. */
  readonly sampleSeed?: bigint;
  /** The completion ends before the first of these. */
  readonly stop?: readonly string[];
  /** A JSON Schema: the completion is JSON that fits it. */
  readonly responseSchema?: unknown;
  /** EBNF whose rule `root` the completion follows. */
  readonly grammar?: string;
  /** Functions that the model may call, as chat APIs have them: for `messages` and a template that knows tools. */
  readonly tools?: readonly unknown[];
  /** Default `auto`. */
  readonly toolChoice?: ToolChoice;
  /** Whether one answer may have several calls; default true. */
  readonly parallelToolCalls?: boolean;
  /** Count the trits of every layer's output for each token. */
  readonly activations?: boolean;
  /** Ends with finishReason `time` and a continuation handle. Default: no limit. */
  readonly maxSeconds?: number;
  /**
   * Whether a model that can think before it answers is to: the template's default when not given. A number is the most
   * tokens of a thought, which is then closed, and the model answers.
   */
  readonly thinking?: 'on' | 'off' | number;
  readonly backend?: BackendChoice;
  readonly threads?: number;
  readonly head?: HeadPrecision;
};

/** A token that could have come, with its probability under the untempered distribution. */
export type Alternative = { readonly token: string; readonly tokenId?: number; readonly logprob: number };

export type TritCounts = { readonly minus: number; readonly ergodic: number; readonly plus: number };

export type TraceStep = {
  /** From 0; its color is that of index step + 1 of the stream. */
  readonly step: number;
  /** Text that this token completed; joined over the trace they are the completion, byte for byte. */
  readonly token: string;
  /** Absent, like `logprob`, where an OpenAI-compatible server does not tell. */
  readonly tokenId?: number;
  /** Natural logarithm of the token's probability under the untempered distribution. */
  readonly logprob?: number;
  /** It stands for several tokens that a server sent together; `tokens` says how many, where that can be told. */
  readonly merged?: true;
  readonly tokens?: number;
  /** The structure that was asked for left no other token. */
  readonly forced?: true;
  /** With `topLogprobs`: the likeliest tokens here, the likeliest first. */
  readonly topLogprobs?: readonly Alternative[];
  /** `#RRGGBB`. */
  readonly color: string;
  readonly trit: Trit;
  /** Per layer, with `activations`. */
  readonly activations?: readonly TritCounts[];
};

/** How tokens were chosen; what is off is absent. */
export type Sampling = {
  readonly temperature: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  /** Which of these the caller left to the model's files. */
  readonly fromModel?: readonly (keyof SamplingDefaults)[];
};

/** What a model's files may say where a request does not. */
export type SamplingDefaults = Pick<GenerateRequest, 'temperature' | 'topK' | 'topP' | 'minP' | 'repetitionPenalty'>;

export type FinishReason = 'stop' | 'length' | 'time' | 'cancelled';

export type GenerateResult = {
  /** As it was asked for, or what a server says it ran. */
  readonly model: string;
  /** Prompt + completion. */
  readonly output: string;
  readonly completion: string;
  /** What the model thought before its answer; in no step of the trace. A thought that the token limit cut is here, too. */
  readonly reasoning?: string;
  /** Calls of tools that the completion has, and the text beside them. */
  readonly toolCalls?: readonly ParsedCall[];
  readonly content?: string;
  readonly finishReason: FinishReason;
  readonly continuation?: string;
  readonly trace: readonly TraceStep[];
  readonly tritSum: number;
  readonly gf3Residue: 0 | 1 | 2;
  readonly conserved: boolean;
  readonly seed: bigint;
  readonly scheme: Scheme;
  /** Absent where every token was the likeliest. */
  readonly sampling?: Sampling;
  /** `promptTokens` is absent where an OpenAI-compatible server does not tell. */
  readonly usage: {
    readonly promptTokens?: number;
    readonly completionTokens: number;
    /** Tokens of `reasoning`, where they are told. */
    readonly reasoningTokens?: number;
  };
  readonly timings: {
    readonly promptMs: number;
    readonly firstTokenMs: number;
    readonly tokensPerSecond: number;
    /** That generation came to, of those of `engine`: a measurement, too. Absent where another program computes. */
    readonly threads?: number;
  };
  readonly engine: EngineInfo;
  /** Sentences that a user should read, about the model's files or the answer: there if there are any. */
  readonly warnings?: readonly string[];
};

/** Several texts of one model, written together. */
export type ManyRequest = Omit<GenerateRequest, 'prompt' | 'continuation'> & {
  /** A text for each; beside `messages`, each is what the user says after them. Without: `messages` alone. */
  readonly prompts?: readonly string[];
  /** Texts for each prompt, default 1: the first with `sampleSeed`, the others with those that follow it. */
  readonly n?: number;
};

export type ManyResult = Pick<GenerateResult, 'model' | 'seed' | 'scheme' | 'usage' | 'engine' | 'warnings'> & {
  /** Those of the first prompt, then those of the second, and so on. */
  readonly results: readonly GenerateResult[];
  /** From the call's begin: until the last prompt was read, until the first token; and all tokens by the whole time. */
  readonly timings: GenerateResult['timings'];
};

export type ManyHooks = {
  readonly signal?: AbortSignal;
  /** Called after each token of any text. */
  readonly onToken?: () => void;
  readonly continuable?: boolean;
};

/** How it was computed, for logs and `--json`. */
export type EngineInfo = {
  readonly backend: SourceName;
  readonly isa?: string;
  /** At most; absent where another program computes. */
  readonly threads?: number;
  readonly head?: HeadPrecision;
  /** Base URL of the server. */
  readonly endpoint?: string;
};

export type GenerateHooks = {
  readonly signal?: AbortSignal;
  /** Called after each token, before the next is computed. */
  readonly onStep?: (step: TraceStep) => void;
  /** Called after each token of a thought. */
  readonly onThought?: (text: string) => void;
  /** Called during prefill: prompt tokens processed of all. */
  readonly onPrompt?: (done: number, total: number) => void;
  /** False: nobody goes on from the result, which then needs no continuation handle. */
  readonly continuable?: boolean;
};
