// Which of a repository's files are downloaded.

import { HubSelectionError } from './hub-errors.ts';

export type RemoteFile = {
  readonly name: string;
  readonly size: number;
  /** Name of its blob: the SHA-256 of a large file, the git SHA-1 of another. */
  readonly etag: string;
};

export type Selection = {
  readonly files: readonly RemoteFile[];
  /** What was chosen among several, and what else there is; for people. */
  readonly choice?: string;
};

/** Names in one message. */
const MAX_NAMES = 12;

const COMPANIONS =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|preprocessor_config|chat_template|hadamard)\.(json|txt)$|^(tokenizer\.model|merges\.txt|chat_template\.jinja|README\.md|LICENSE.*|NOTICE.*)$/i;
/** Named templates (for tools, for a search) that transformers keeps in a folder of their own. */
const NAMED_TEMPLATE = /^additional_chat_templates\/[^/]+\.jinja$/;

/**
 * What is downloaded unless names are given: the safetensors with their index (or else one GGUF model, or else the ONNX
 * graph), the configs, the tokenizer, the licence. Pickles, other frameworks' weights and copies in subfolders stay
 * where they are. A graph or a part of a model that is named brings what it cannot run without.
 */
export function selectFiles(repo: string, all: readonly RemoteFile[], names?: readonly string[]): Selection {
  const companions = all.filter(
    ({ name }) => (!name.includes('/') && COMPANIONS.test(name)) || NAMED_TEMPLATE.test(name),
  );
  if (names !== undefined) {
    const chosen = names.map((name) => {
      const file = all.find((candidate) => candidate.name === name);
      if (file !== undefined) return file;
      throw new HubSelectionError({
        what: `${repo} has no file ${JSON.stringify(name)}`,
        fix: `it has ${listOf(all.map((candidate) => candidate.name))}`,
      });
    });
    const needed = chosen.flatMap((file) => {
      if (file.name.endsWith('.onnx')) return [...companions, ...externalData(all, file.name)];
      const model = modelsIn(all).find(({ parts }) => parts.includes(file));
      if (model !== undefined) checkComplete(repo, model);
      return model?.parts ?? [];
    });
    return { files: [...new Set([...needed, ...chosen])] };
  }
  const top = all.filter(({ name }) => !name.includes('/'));
  let weights: readonly RemoteFile[] = top.filter(
    ({ name }) => /\.safetensors$/.test(name) && !name.startsWith('consolidated'),
  );
  let choice: string | undefined;
  if (weights.length === 0) {
    const models = modelsIn(top).length > 0 ? modelsIn(top) : modelsIn(all);
    if (models.length > 0) {
      const { model, why } = chooseModel(repo, models);
      weights = model.parts;
      const others = models.filter((other) => other !== model).map(({ parts }) => parts[0]!.name);
      if (others.length > 0) {
        choice = `chose ${model.parts[0]!.name} of ${models.length} GGUF models (${why}); --file takes another: ${listOf(others)}`;
      }
    }
  }
  if (weights.length === 0) weights = onnxGraph(repo, all);
  if (weights.length === 0) {
    const fix = all.some(({ name }) => name.endsWith('.bin'))
      ? 'its weights are pickles, which can hold code and are not read here: look for a safetensors version'
      : 'look for a repository that holds the weights';
    throw new HubSelectionError({ what: `${repo} has no .safetensors, .gguf or .onnx file`, fix });
  }
  const index = top.filter(({ name }) => name === 'model.safetensors.index.json');
  // Small files first, so that a mistake shows before the long wait.
  return { files: [...companions, ...index, ...weights], ...(choice === undefined ? {} : { choice }) };
}

function listOf(names: readonly string[]): string {
  const more = names.length > MAX_NAMES ? `, ... (${names.length} in all)` : '';
  return `${names.slice(0, MAX_NAMES).join(', ')}${more}`;
}

// --- GGUF ------------------------------------------------------------------------------------------------------------

/** A model of one file, or of parts in their order. */
export type GgufModel<File extends { readonly name: string } = RemoteFile> = {
  readonly parts: readonly File[];
  /** Parts that its names announce. */
  readonly count: number;
};

/** No language model of its own: a vision tower, statistics for a quantizer, a small model that guesses for a large one. */
const BESIDE = /(^|[-_.])(mmproj|imatrix|vocab|draft)([-_.]|$)/i;

const PART = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/** The language models among the files. */
export function modelsIn<File extends { readonly name: string }>(all: readonly File[]): GgufModel<File>[] {
  const models = new Map<string, File[]>();
  for (const file of all) {
    if (!file.name.endsWith('.gguf') || BESIDE.test(baseOf(file.name))) continue;
    const [, stem, , count] = PART.exec(file.name) ?? [];
    const key = stem === undefined ? file.name : `${stem} of ${count}`;
    const parts = models.get(key);
    if (parts === undefined) models.set(key, [file]);
    else parts.push(file);
  }
  return [...models.values()].map((files) => ({
    parts: files.sort((a, b) => (a.name < b.name ? -1 : 1)),
    count: Number(PART.exec(files[0]!.name)?.[3] ?? 1),
  }));
}

const baseOf = (name: string) => name.slice(name.lastIndexOf('/') + 1);

function checkComplete(repo: string, { parts, count }: GgufModel): void {
  if (parts.length === count) return;
  throw new HubSelectionError({
    what: `${repo} holds ${parts.length} of the ${count} parts of ${parts[0]!.name}`,
    fix: 'name another file, or look for a complete copy',
  });
}

/**
 * Kinds of files by the type in their names, the best first. Group-scaled and packed trits hold a ternary model exactly;
 * TQ1_0 and TQ2_0, with one scale for 256 weights, only some. Floats are the same model in eight times the size.
 */
const KINDS: readonly { readonly pattern: RegExp; readonly why: string }[] = [
  { pattern: typed('PTQ1_0|PQ2_0|Q2_0(?:_g(?:64|128))?|Q2_g(?:64|128)|I2_S'), why: 'exact trits' },
  { pattern: typed('TQ1_0|TQ2_0|Q1_0(?:_g128)?'), why: 'trits or bits' },
  { pattern: typed('B?F16|F32'), why: 'the trits as floats; it has no smaller file that runs here' },
];

/** A model whose name says that it only runs elsewhere. */
const ELSEWHERE = /fork-required/i;

function typed(types: string): RegExp {
  return new RegExp(`(?:^|[-_.])(?:${types})(?=[-.]|$)`, 'i');
}

function chooseModel(repo: string, models: readonly GgufModel[]): { readonly model: GgufModel; readonly why: string } {
  if (models.length === 1) {
    checkComplete(repo, models[0]!);
    return { model: models[0]!, why: 'the only one' };
  }
  const complete = models.filter(({ parts, count }) => parts.length === count);
  for (const { pattern, why } of KINDS) {
    const fitting = complete.filter(({ parts }) => {
      const name = baseOf(parts[0]!.name).replace(/(-\d{5}-of-\d{5})?\.gguf$/, '');
      return pattern.test(name) && !ELSEWHERE.test(name);
    });
    fitting.sort((a, b) => sizeOf(a) - sizeOf(b) || (a.parts[0]!.name < b.parts[0]!.name ? -1 : 1));
    const [model] = fitting;
    if (model !== undefined) return { model, why: fitting.length > 1 ? `${why}, the smallest download` : why };
  }
  throw new HubSelectionError({
    what: `${repo} has several .gguf files, and no name tells that it holds a ternary model`,
    fix: `name the one you want with --file: ${listOf(models.map(({ parts }) => parts[0]!.name))}`,
  });
}

function sizeOf({ parts }: GgufModel): number {
  return parts.reduce((sum, { size }) => sum + size, 0);
}

// --- ONNX ------------------------------------------------------------------------------------------------------------

/** The graph in the repository's top folder (optimum) or in onnx/ (transformers.js), with its weights; none without one. */
function onnxGraph(repo: string, all: readonly RemoteFile[]): RemoteFile[] {
  for (const pattern of [/^[^/]+\.onnx$/, /^onnx\/[^/]+\.onnx$/]) {
    const graphs = all.filter(({ name }) => pattern.test(name));
    const graph = graphs.length === 1 ? graphs[0] : graphs.find(({ name }) => /(^|\/)model\.onnx$/.test(name));
    if (graph !== undefined) return [graph, ...externalData(all, graph.name)];
    if (graphs.length > 1) {
      const list = listOf(graphs.map(({ name }) => name));
      throw new HubSelectionError({ what: `${repo} has several ONNX graphs`, fix: `name the one you want: ${list}` });
    }
  }
  return [];
}

/** Where exporters put the weights of a graph beyond the 2 GB of its format: model.onnx_data, model.onnx_data_1, model.onnx.data. */
function externalData(all: readonly RemoteFile[], graph: string): RemoteFile[] {
  return all.filter(({ name }) => name.startsWith(graph) && /^[._]data(_\d+)?$/.test(name.slice(graph.length)));
}
