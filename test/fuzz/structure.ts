// Any bytes as a JSON Schema or, behind a "g", as a grammar: it is refused, or its shortest text fits it.

import { Matcher } from '../../src/generate/structure/matcher.ts';
import { automatonOf } from '../../src/generate/structure/structure.ts';
import { StructureError, StructureLimitError } from '../../src/generate/structure/structure-error.ts';

export function fuzz(bytes: Uint8Array): void {
  const text = Buffer.from(bytes).toString('utf8');
  const isGrammar = text.startsWith('g');
  try {
    const automaton = automatonOf(isGrammar ? { kind: 'grammar', text: text.slice(1) } : { kind: 'schema', text });
    const matcher = new Matcher(automaton);
    const ending = matcher.shortestEnding(matcher.start);
    if (ending.length !== matcher.start.least) throw new Error('the shortest text has another length');
    if (matcher.walk(matcher.start, ending)?.accepts !== true) throw new Error('the shortest text does not fit');
    if (!isGrammar) JSON.parse(Buffer.from(ending).toString('utf8'));
  } catch (error) {
    if (!(error instanceof StructureError) && !(error instanceof StructureLimitError)) throw error;
    if (error.message.length > 10_000) throw new Error('a message without end', { cause: error });
  }
}

export const SEEDS: readonly Uint8Array[] = [
  '{"type":"object","properties":{"a":{"enum":["x",1]},"b":{"$ref":"#/$defs/t"}},"required":["b"],"$defs":{"t":{"type":"array","items":{"$ref":"#/$defs/t"},"minItems":0}}}',
  '{"type":"string","pattern":"^(a|[^b-d]{2,3})+\\\\d$","minLength":2,"maxLength":9}',
  '{"anyOf":[{"type":"number","minimum":-1.5,"exclusiveMaximum":2e3},{"type":["integer","null"],"multipleOf":7}]}',
  '{"oneOf":[{"properties":{"k":{"const":"a"}},"required":["k"]},{"properties":{"k":{"const":"b"}},"required":["k"]}]}',
  '{"allOf":[{"additionalProperties":{"type":"boolean"},"minProperties":1},{"propertyNames":{"maxLength":3}}],"not":{"type":"null"}}',
  'groot ::= "a" ( [b-d]+ | x{2,3} )? # c\nx ::= "\\u00e9" root | \'\' ',
].map((text) => Buffer.from(text));
