import { expect, test } from 'vitest';
import { type Command, defineCommand } from '../../src/cli/command.ts';
import { parseFlags } from '../../src/cli/parse-flags.ts';
import { ArgumentError } from '../../src/errors.ts';

const command = defineCommand({
  name: 'demo',
  summary: 'A command to test with',
  positionals: [
    { name: 'ONE', description: 'the first' },
    { name: 'TWO', description: 'the second', optional: true },
  ],
  flags: {
    count: { type: 'integer', min: 1, max: 9, default: 3, description: '' },
    share: { type: 'number', min: 0, description: '' },
    seed: { type: 'seed', default: 1069n, description: '' },
    kind: { type: 'string', choices: ['red', 'green'], description: '' },
    ids: { type: 'integers', description: '' },
    stop: { type: 'strings', description: '' },
    'out-file': { type: 'string', short: 'o', description: '' },
    loud: { type: 'boolean', description: '' },
  },
  examples: ['demo x'],
  run: async () => 0,
}) as unknown as Command;

const parse = (...argv: string[]) => parseFlags(command, argv);

test('defaults, booleans and absent values', () => {
  expect(parse('x')).toEqual({
    positionals: ['x'],
    flags: {
      count: 3,
      share: undefined,
      seed: 1069n,
      kind: undefined,
      ids: undefined,
      stop: undefined,
      'out-file': undefined,
      loud: false,
      json: false,
      help: false,
    },
    json: false,
    help: false,
  });
});

test('values in all their forms', () => {
  const { positionals, flags, json } = parse(
    ...['x', '--count=7', '--share', '1e-3', '--seed', '0xFFFFFFFFFFFFFFFF', '--kind', 'green', '--ids', '1,2, 3'],
    ...['--stop', 'a', '--stop', 'b', '-o', 'f.png', '--loud', '--json', '--', '--y'],
  );
  expect(positionals).toEqual(['x', '--y']);
  expect(flags).toMatchObject({ count: 7, share: 0.001, seed: 18446744073709551615n, kind: 'green', ids: [1, 2, 3] });
  expect(flags).toMatchObject({ stop: ['a', 'b'], 'out-file': 'f.png', loud: true });
  expect(json).toBe(true);
});

test.each([
  [['x', '--cuont', '2'], 'unknown flag --cuont; did you mean --count?'],
  [['x', '-z'], 'unknown flag -z'],
  [['x', '--count', 'many'], '--count must be an integer >= 1 and <= 9, got "many"'],
  [['x', '--count', '10'], '--count must be an integer >= 1 and <= 9, got "10"'],
  [['x', '--count', '1.5'], 'got "1.5"'],
  [['x', '--count', ''], '--count needs a value'],
  [['x', '--count'], '--count needs a value'],
  [['x', '--share', 'NaN'], '--share must be a number >= 0'],
  [['x', '--share', '-0.5'], '--share must be a number >= 0, got "-0.5"'],
  [['x', '--share', 'Infinity'], '--share must be a number'],
  [['x', '--seed', '-1'], '--seed must be an unsigned 64-bit integer, got "-1"'],
  [['x', '--seed', '18446744073709551616'], '--seed must'],
  [['x', '--kind', 'gren'], '--kind must be one of red, green, got "gren"; did you mean green?'],
  [['x', '--ids', '1,-2'], '--ids must be integers >= 0 separated by commas'],
  [['x', '--loud=yes'], '--loud takes no value'],
  [[], 'demo needs ONE (the first); for example: bitnet-gf3 demo x'],
  [['x', 'y', 'z'], 'demo takes ONE TWO, got one more: "z"'],
])('%j is refused', (argv, message) => {
  expect(() => parse(...argv)).toThrow(ArgumentError);
  expect(() => parse(...argv)).toThrow(message);
});

test('--help asks for nothing else', () => {
  expect(parse('--help').help).toBe(true);
  expect(parse('-h').help).toBe(true);
});

test.each(['constructor', 'toString', '__proto__', 'hasOwnProperty'])('--%s is no flag', (name) => {
  expect(() => parse('x', `--${name}=5`)).toThrow(`unknown flag --${name}`);
  expect(() => parse('x', `--${name}`, '-5')).toThrow(`unknown flag --${name}`);
});

test('a negative number that no flag takes is a positional', () => {
  expect(parse('-12', '--count', '2', '-1.5').positionals).toEqual(['-12', '-1.5']);
  expect(() => parse('x', '-1z')).toThrow('unknown flag -1');
});
