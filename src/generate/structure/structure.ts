// What a text is to follow: a JSON Schema or a grammar, and what is made of them. An automaton is the same for every model;
// which tokens fit depends on the vocabulary. Both are kept, since a tool is called with the same schema again and again.

import type { Tokenizer } from '../../tokenizer/tokenizer.ts';
import type { Automaton } from './automaton.ts';
import { automatonOfGrammar } from './ebnf.ts';
import { automatonOfSchema } from './json-schema.ts';
import { Matcher } from './matcher.ts';
import type { Schema } from './schema-keywords.ts';
import { overLimit, StructureError } from './structure-error.ts';
import { readVocabulary } from './token-tree.ts';
import { TokenTrie } from './token-trie.ts';
import { automatonOfTools, type ToolsStructure } from './tool-automaton.ts';

/** As JSON text or as EBNF: what crosses to other processes and into continuation handles. */
export type Structure = { readonly kind: 'schema' | 'grammar' | 'tools'; readonly text: string };

/** Characters of a schema. The tools of a large server have 100,000 together. */
const MAX_SCHEMA = 1 << 18;
/** Of all tools of a request, of which there may be 128. */
const MAX_TOOLS = 1 << 20;
const MAX_KEPT = 16;

const automata = new Map<string, Automaton>();

/** The structure that a request asks for. Throws StructureError for what contradicts it. */
export function structureOf(request: StructureRequest): Structure | undefined {
  const { responseSchema, grammar, stop } = request;
  if (responseSchema === undefined && grammar === undefined) return undefined;
  const asked = responseSchema === undefined ? 'grammar' : 'response_schema';
  const other =
    responseSchema !== undefined && grammar !== undefined
      ? 'grammar'
      : request.continuation !== undefined
        ? 'continuation'
        : stop !== undefined && stop.length > 0
          ? 'stop'
          : request.tools !== undefined && request.tools.length > 0 && request.toolChoice !== 'none'
            ? 'tools'
            : undefined;
  if (other !== undefined) {
    const why =
      other === 'continuation' ? 'a text goes on with the structure it began with' : 'each says where the text ends';
    throw new StructureError({ what: `${asked} and ${other} together: ${why}`, fix: 'leave one of them out' });
  }
  const structure: Structure =
    grammar === undefined
      ? { kind: 'schema', text: JSON.stringify(responseSchema) }
      : { kind: 'grammar', text: grammar };
  automatonOf(structure);
  return structure;
}

/** Throws StructureError for schemas that cannot be followed. */
export function structureOfTools(tools: ToolsStructure, stop: readonly string[]): Structure {
  if (stop.length > 0) {
    throw new StructureError({
      what: 'stop and a call of a tool together: each says where the text ends',
      fix: 'leave stop out',
    });
  }
  const structure: Structure = { kind: 'tools', text: JSON.stringify(tools) };
  automatonOf(structure);
  return structure;
}

export type StructureRequest = {
  readonly responseSchema?: unknown;
  readonly grammar?: string;
  readonly stop?: readonly string[];
  readonly continuation?: string;
  readonly tools?: readonly unknown[];
  readonly toolChoice?: unknown;
};

/** Throws StructureError for what cannot be followed. */
export function automatonOf({ kind, text }: Structure): Automaton {
  const key = `${kind} ${text}`;
  let automaton = automata.get(key);
  if (automaton === undefined) {
    automaton =
      kind === 'grammar'
        ? automatonOfGrammar(text)
        : kind === 'tools'
          ? automatonOfTools(toolsIn(text))
          : automatonOfSchema(schemaIn(text));
    if (automata.size >= MAX_KEPT) automata.delete(automata.keys().next().value!);
    automata.set(key, automaton);
  }
  return automaton;
}

function toolsIn(text: string): ToolsStructure {
  if (text.length > MAX_TOOLS) throw overLimit('characters of tools', MAX_TOOLS);
  return JSON.parse(text) as ToolsStructure;
}

function schemaIn(text: string): Schema {
  if (text.length > MAX_SCHEMA) throw overLimit('characters of a schema', MAX_SCHEMA);
  const fix = 'give a JSON Schema: {"type": "object", "properties": {...}, "required": [...]}';
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new StructureError({ what: 'response_schema is not JSON', fix }, { cause });
  }
  if (typeof value === 'boolean' || (typeof value === 'object' && value !== null && !Array.isArray(value))) {
    return value as Schema;
  }
  throw new StructureError({ what: 'response_schema is no schema', fix });
}

/** Of one model; made when a structure is first asked for. */
export class StructureReader {
  readonly #trie: TokenTrie;
  readonly #matchers = new Map<Automaton, Matcher>();

  constructor(trie: TokenTrie) {
    this.#trie = trie;
  }

  /**
   * In steps of a millisecond or two: with 150,000 tokens it takes a hundred. `stops`: ids that end a text and are in none.
   * Throws StructureError for a tokenizer whose tokens cannot be looked at one by one.
   */
  static *reading(
    tokenizer: Pick<Tokenizer, 'bytes' | 'tokenId'>,
    vocabSize: number,
    stops: ReadonlySet<number> = new Set(),
  ): Generator<void, StructureReader> {
    const { bytes } = tokenizer;
    if (bytes === undefined) {
      throw new StructureError({
        what: 'this model’s decoder makes text of several tokens at once, so that it cannot be held to a structure',
        fix: 'leave response_schema and grammar out, or use another model',
      });
    }
    // They begin and end thoughts, whatever text they stand in.
    const thought = new Set([tokenizer.tokenId('<think>'), tokenizer.tokenId('</think>')]);
    const vocabulary = yield* readVocabulary(bytes, vocabSize, (id) => thought.has(id) || stops.has(id));
    return new StructureReader(new TokenTrie(vocabulary, bytes.stripsStart));
  }

  get trie(): TokenTrie {
    return this.#trie;
  }

  matcher(structure: Structure): Matcher {
    const automaton = automatonOf(structure);
    let matcher = this.#matchers.get(automaton);
    if (matcher === undefined) {
      matcher = new Matcher(automaton);
      if (this.#matchers.size >= MAX_KEPT) this.#matchers.delete(this.#matchers.keys().next().value!);
      this.#matchers.set(automaton, matcher);
    }
    return matcher;
  }
}
