// Where the tokens of a generation come from. A `Backend` swaps vector operations under our own engine; a `TokenSource`
// swaps the whole model: ours (local), one in an ONNX graph, or one behind an OpenAI-compatible server. The loop above
// (`generate.ts`) is the same for all: limits, stop strings, colors, trits, the result.

import { BACKEND_NAMES, type BackendName } from '../engine/backend.ts';
import { ArgumentError } from '../errors.ts';
import type { ContinuationState } from './continuation.ts';
import type { BackendChoice } from './source-names.ts';
import type { ParsedCall } from './tools/tool-calls.ts';
import type { ToolChoice, ToolStyle } from './tools/tool-request.ts';
import type {
  Alternative,
  ChatMessage,
  EngineInfo,
  FinishReason,
  GenerateRequest,
  SamplingDefaults,
  TritCounts,
} from './types.ts';

export { type BackendChoice, SOURCE_NAMES, type SourceName } from './source-names.ts';

/** For work that only our own engine can do (`what` names it). Throws ArgumentError for the other backends. */
export function ownBackend(choice: BackendChoice, what: string): 'auto' | BackendName {
  if (choice !== 'onnx' && choice !== 'openai') return choice;
  throw new ArgumentError({
    what: `the backend "${choice}" cannot ${what}: it ${choice === 'onnx' ? 'runs graphs of another runtime and serves infer and eval' : 'asks a server for text and serves infer'}`,
    fix: `use auto, ${BACKEND_NAMES.join(', ')}`,
  });
}

/** One token, or one piece of text of a server that does not show where its tokens end. */
export type Piece = {
  readonly text: string;
  /** Absent where a server does not tell. */
  readonly tokenId?: number;
  readonly logprob?: number;
  /** It stands for several tokens of a server that sent them together; `tokens` says how many, where that can be told. */
  readonly merged?: true;
  readonly tokens?: number;
  readonly forced?: true;
  readonly topLogprobs?: readonly Alternative[];
  readonly activations?: readonly TritCounts[];
};

/** What a generation starts from; `tokens` grows while it runs. */
export type Start = Omit<ContinuationState, 'tokens'> & { readonly tokens: number[] };

/** Text and tokens of a new request, as the source reads it. */
export type Prompt = {
  readonly text: string;
  /** Empty where only a server knows them. */
  readonly tokens: number[];
};

/** What the loop gives a source to write with. */
export type Task = {
  /** Pieces wanted at most. */
  readonly maxTokens: number;
  readonly signal?: AbortSignal | undefined;
  /** On the clock of `now()`; Infinity for none. */
  readonly deadline: number;
  /** Why writing must not go on, if so. To be asked before each piece. */
  readonly interrupted: () => 'cancelled' | 'time' | undefined;
  /** Takes the next piece; answers why it was the last one, if so. */
  readonly write: (piece: Piece) => 'stop' | 'length' | undefined;
  /** Takes the text of a token that belongs to a thought and to no step; answers why it was the last one, if so. */
  readonly think: (text: string) => 'length' | undefined;
  /** Whether log-probabilities are wanted; a source may tell them all the same. */
  readonly logprobs: boolean;
  /** Whether the model is to think before it answers, or with how many tokens at most. */
  readonly thinking: GenerateRequest['thinking'];
  /** To be called when the prompt has been read; later calls do nothing. */
  readonly promptRead: () => void;
  readonly onPrompt?: ((done: number, total: number) => void) | undefined;
  /** The turns of a chat, for a source that leaves the template to a server. */
  readonly messages?: readonly ChatMessage[] | undefined;
  /** Tools and what is to be done with them, for such a source. */
  readonly tools?:
    | { readonly list: readonly unknown[]; readonly choice: ToolChoice; readonly parallel: boolean }
    | undefined;
};

export type Ending = {
  readonly finishReason: FinishReason;
  /** Text that became certain when it ended: the bytes of a cut character. */
  readonly rest: string;
  /** Whether a handle can be given to go on from here. */
  readonly continuable: boolean;
  /** Absent where a server does not tell. */
  readonly promptTokens?: number | undefined;
  /** What a server tells of its answer when it is over. */
  readonly answer?: Answer | undefined;
};

export type Answer = {
  /** Tokens of the answer as the server counts them. */
  readonly completionTokens?: number;
  /** Tokens that the model thought before, in no step of the trace. */
  readonly reasoningTokens?: number;
  readonly reasoning?: string;
  /** Calls that a server told apart from its text. */
  readonly toolCalls?: readonly ParsedCall[];
  /** The model that answered. */
  readonly model?: string;
  /** Steps that stand for several tokens, counted from the first one written here; with how many, where that can be told. */
  readonly merged?: ReadonlyMap<number, number | undefined>;
  /** Steps whose id and log-probability may be another token's. */
  readonly unsure?: ReadonlySet<number>;
  /** Sentences that a user should read. */
  readonly warnings?: readonly string[];
};

export interface TokenSource {
  /** How the model's template has tools called; undefined where it knows none, 'server' where a server sees to it. */
  readonly toolStyle: ToolStyle | 'server' | undefined;
  /** The model as it was asked for. */
  readonly model: string;
  readonly info: EngineInfo;
  /** How many threads generation runs on now, where it has any here. */
  readonly threadsUsed?: () => number | undefined;
  /** What a person should know about the model's files. */
  readonly warnings?: readonly string[];
  /** What may be written at once: so many texts, of so many positions together (prompts and the longest answers). */
  readonly room: { readonly texts: number; readonly positions: number };
  /** What the model's files say where a request does not. */
  readonly sampling: SamplingDefaults;
  /** `logitBias` by ids, each once. Throws ArgumentError for a key that is neither an id nor the text of a token. */
  biasOf(bias: Readonly<Record<string, number>>): readonly (readonly [id: number, bias: number])[];
  /** Throws ArgumentError for a prompt this source cannot read. */
  prompt(request: GenerateRequest, signal?: AbortSignal): Prompt | Promise<Prompt>;
  /** Throws ArgumentError for a state that is not this source's. */
  checkContinuation(state: ContinuationState): void;
  /** Writes until `task` says stop or the text ends. */
  write(start: Start, task: Task): Promise<Ending>;
}
