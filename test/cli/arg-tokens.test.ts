import { parseArgs } from 'node:util';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type ArgToken, argTokens, type OptionKinds } from '../../src/cli/arg-tokens.ts';

const OPTIONS: OptionKinds = {
  json: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
  quiet: { type: 'boolean', short: 'q' },
  model: { type: 'string', short: 'm' },
  'max-tokens': { type: 'string' },
};

/** Node's own, without what we do not ask for. */
function expected(args: string[]) {
  const { tokens } = parseArgs({ args, options: OPTIONS, strict: false, allowPositionals: true, tokens: true });
  return tokens.flatMap((token): ArgToken[] => {
    if (token.kind === 'option-terminator') return [];
    if (token.kind === 'positional') return [token];
    const { kind, name, rawName, index, value } = token;
    return [{ kind, name, rawName, index, value }];
  });
}

test('an argument list has the tokens that Node gives it', () => {
  const likely = fc.constantFrom(
    ...[
      '--json',
      '--help',
      '--model',
      '--model=',
      '--model=a=b',
      '--max-tokens',
      '--max-tokens=3',
      '--unknown',
      '--json=1',
    ],
    ...['-h', '-q', '-m', '-hq', '-mx', '-qmx', '-qm', '-hmq', '-z', '-zm', '-m=', '-1', '-12', '-1.5'],
    ...['--', '-', '', 'a', 'a b', '---', '--=', '--=a', '---a=b', 'é', '-é', '--constructor', '--__proto__', '-💡'],
  );
  // Node takes the hyphen in -a-b for the end of the options; here it is a flag that nobody knows.
  const any = fc.string().map((text) => `-${text[0] ?? ''}${text.slice(1).replaceAll('-', '')}`);
  const plain = fc.string().filter((text) => !/^-[^-].*-/.test(text));
  fc.assert(
    fc.property(fc.array(fc.oneof({ weight: 5, arbitrary: likely }, any, plain), { maxLength: 6 }), (args) => {
      expect(argTokens(args, OPTIONS)).toEqual(expected(args));
    }),
    { numRuns: 5000 },
  );
});
