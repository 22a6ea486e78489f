// The contract of rotated weights: every edit of it that must be refused is, in one sentence that names the key.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { BitnetError } from '../../src/errors.ts';
import { GraphRecorder } from '../../src/model/graph-recorder.ts';
import { openModel, openWeights } from '../../src/model/open-model.ts';
import { recordProgram } from '../../src/model/record.ts';
import { type Entry, editGguf } from './edit-gguf.ts';

const golden = join(import.meta.dirname, '../golden/hybrid');
const root = mkdtempSync(join(tmpdir(), 'rotation-'));
afterAll(() => rmSync(root, { recursive: true }));

type Edit = {
  readonly set?: Record<string, unknown>;
  readonly remove?: readonly string[];
  readonly append?: Record<string, unknown[]>;
  readonly set_index?: Record<string, [number, unknown]>;
  readonly drop_width?: number;
  readonly duplicate_width?: number;
  readonly remove_prefix?: string;
  readonly must?: string;
};
type Refusal = { readonly case: string; readonly edit: Edit; readonly why: string };

const { cases } = JSON.parse(readFileSync(join(golden, 'hadamard_refusals.json'), 'utf8')) as { cases: Refusal[] };

const WIDTHS = 'prism.hadamard.sign_widths';
const SIGNS = 'prism.hadamard.sign_values';

const typeOf = (value: unknown) => (typeof value === 'string' ? 'string' : typeof value === 'boolean' ? 'bool' : 'u32');

function apply(edit: Edit, entries: Map<string, Entry>): void {
  const list = (key: string) => entries.get(key)!.value as unknown[];
  const replace = (key: string, value: unknown) => {
    const probe = Array.isArray(value) ? value[0] : value;
    entries.set(key, { type: entries.get(key)?.type ?? typeOf(probe), value });
  };
  for (const [key, value] of Object.entries(edit.set ?? {})) replace(key, value);
  for (const key of edit.remove ?? []) entries.delete(key);
  for (const [key, values] of Object.entries(edit.append ?? {})) replace(key, [...list(key), ...values]);
  for (const [key, [index, value]] of Object.entries(edit.set_index ?? {})) {
    replace(key, list(key).with(index, value));
  }
  if (edit.remove_prefix !== undefined) {
    for (const key of [...entries.keys()]) if (key.startsWith(edit.remove_prefix)) entries.delete(key);
  }
  const width = edit.drop_width ?? edit.duplicate_width;
  if (width === undefined) return;
  const widths = list(WIDTHS) as number[];
  const at = widths.indexOf(width);
  const start = widths.slice(0, at).reduce((sum, size) => sum + size, 0);
  const signs = list(SIGNS);
  if (edit.drop_width !== undefined) {
    replace(WIDTHS, widths.toSpliced(at, 1));
    replace(SIGNS, signs.toSpliced(start, width));
  } else {
    replace(WIDTHS, [...widths, width]);
    replace(SIGNS, [...signs, ...signs.slice(start, start + width)]);
  }
}

async function edited(name: string, change: (entries: Map<string, Entry>) => void): Promise<string> {
  const path = join(mkdtempSync(join(root, 'model-')), 'model.gguf');
  await editGguf(join(golden, name, 'model.gguf'), path, change);
  return path;
}

const open = (path: string) => openModel({ kind: 'gguf', path }, { name: 'test', head: 'full' });

/** What the refusal says. */
async function refusal(path: string): Promise<string> {
  const error = await open(path).then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(BitnetError);
  return (error as BitnetError).message;
}

/** Keys that an edit touches. */
const touched = (edit: Edit) => {
  const keys = [edit.set, edit.append, edit.set_index].flatMap((part) => Object.keys(part ?? {}));
  if (edit.drop_width !== undefined || edit.duplicate_width !== undefined) keys.push(WIDTHS);
  return [...keys, ...(edit.remove ?? [])];
};

describe('edits that must be refused', () => {
  const refused = cases.filter(({ edit }) => edit.must === undefined);

  test('are as many as the golden file has', () => {
    expect(cases.length).toBe(26);
    expect(refused.length).toBe(25);
  });

  test.each(refused.map((entry) => [entry.why, entry] as const))('%s', async (_, { case: name, edit }) => {
    const path = await edited(name, (entries) => apply(edit, entries));
    const said = await refusal(path);
    expect(said).toMatch(/this is a rotated model/);
    expect(said).toContain('prism.hadamard.');
    const keys = touched(edit).filter((key) => key.startsWith('prism.'));
    if (keys.length > 0)
      expect(
        keys.some((key) => said.includes(key)),
        said,
      ).toBe(true);
  });

  test('a file without any of the keys is run with a warning', async () => {
    const { case: name, edit } = cases.find((entry) => entry.edit.must !== undefined)!;
    const { warnings } = await open(await edited(name, (entries) => apply(edit, entries)));
    expect(warnings).toEqual([expect.stringMatching(/PQ2_0.*no prism\.hadamard keys.*may be a rotated/)]);
  });
});

describe('the same kind in other places', () => {
  const name = 'hadamard_pq2_explicit_a_s2611';
  const set = (key: string, value: unknown, type: string) => (entries: Map<string, Entry>) =>
    void entries.set(`prism.hadamard.${key}`, { type, value });

  test.each<[string, (entries: Map<string, Entry>) => void, RegExp]>([
    ['a version as text', set('version', '1', 'string'), /version is "1"/],
    ['a block that is no number', set('block_size', '128', 'string'), /block_size is "128"/],
    ['a block of one', set('block_size', 1, 'u32'), /block_size is 1/],
    ['signs as text', set('sign_values', ['1'], 'string'), /sign_values is no list of whole numbers/],
    ['a sign of two', set('sign_values', new Array(1152).fill(2), 'i32'), /sign_values has 2 at 0/],
    [
      'identity with signs',
      set('sign_mode', 'identity', 'string'),
      /sign_mode is "identity", and .*sign_values has -1/,
    ],
    ['names that are one text', set('weight_names', 'output.weight', 'string'), /weight_names is no list of names/],
    ['a norm', set('weight_names', ['blk.0.attn_norm.weight'], 'string'), /whose input is never rotated/],
    ['a convolution', set('weight_names', ['blk.0.ssm_conv1d.weight'], 'string'), /whose input is never rotated/],
    ['a flag that is a number', set('gdn_v_grouped', 1, 'u32'), /gdn_v_grouped is 1, expected true or false/],
    ['tied in version 1', set('tied_output', true, 'bool'), /version is 1 and .*tied_output is true/],
    ['the embedding twice', set('inverse_weight_names', ['token_embd.weight', 'token_embd.weight'], 'string'), /twice/],
    [
      'a key that nobody knows',
      (entries) => void entries.set('x.hadamard.y', { type: 'u32', value: 1 }),
      /x\.hadamard\.y/,
    ],
  ])('%s', async (_, change, wanted) => {
    expect(await refusal(await edited(name, change))).toMatch(wanted);
  });

  test('signs of any integer type are read', async () => {
    for (const type of ['i8', 'i16', 'i64']) {
      const path = await edited(name, (entries) => {
        entries.set(SIGNS, {
          type,
          value: (entries.get(SIGNS)!.value as number[]).map((sign) => (type === 'i64' ? BigInt(sign) : sign)),
        });
      });
      expect((await open(path)).config.rotation?.signs(256)).toEqual(
        (await open(join(golden, name, 'model.gguf'))).config.rotation?.signs(256),
      );
    }
  });
});

describe('recording', () => {
  const path = join(golden, 'hadamard_pq2_explicit_a_s2611', 'model.gguf');

  test('one rotation serves all matrices that read the same activation, and names decide', async () => {
    const { program } = await open(path);
    const rotations = program.ops.filter(({ op }) => op === 'hadamard').length;
    // The embedding, four in each of four layers, the head.
    expect(rotations).toBe(1 + 4 * 4 + 1);
    const some = await edited('hadamard_pq2_explicit_a_s2611', (entries) => {
      const key = 'prism.hadamard.weight_names';
      const names = (entries.get(key)!.value as string[]).filter((name) => name !== 'blk.1.ffn_up.weight');
      entries.set(key, { type: 'string', value: names });
    });
    const { program: mixed } = await open(some);
    const up = mixed.weights.findIndex(({ name }) => name === 'blk.1.ffn_up.weight');
    const gate = mixed.weights.findIndex(({ name }) => name === 'blk.1.ffn_gate.weight');
    const codesOf = (weight: number) => {
      const op = mixed.ops.find((candidate) => candidate.op === 'groupedMatmul' && candidate.weight === weight);
      return op?.op === 'groupedMatmul' ? mixed.buffers[op.codes]!.name : '';
    };
    expect(codesOf(gate)).toMatch(/rotated/);
    expect(codesOf(up)).not.toMatch(/rotated/);
    expect(mixed.ops.filter(({ op }) => op === 'hadamard').length).toBe(rotations);
  });

  test('matrices of blocks that only draft tokens are listed, and left alone with them', async () => {
    const drafts = await edited('hadamard_ptq1_identity_b_s2612', (entries) => {
      entries.set('qwen35.nextn_predict_layers', { type: 'u32', value: 1 });
    });
    const { config, warnings } = await open(drafts);
    expect(config.numHiddenLayers).toBe(3);
    expect([...config.rotation!.matrices].some((name) => name.startsWith('blk.3.'))).toBe(false);
    expect(config.rotation!.matrices.has('blk.2.ffn_up.weight')).toBe(true);
    expect(warnings).toEqual([expect.stringMatching(/MTP/)]);
  });

  test('a listed matrix that is never reached is a fault', async () => {
    const { config, weights } = await openWeights({ kind: 'gguf', path }, { head: 'full' });
    const matrices = new Set([...config.rotation!.matrices, 'blk.0.made_up.weight']);
    const wrong = { ...config, rotation: { ...config.rotation!, matrices } };
    expect(() => recordProgram(wrong, weights, { name: 'test', contextLength: 8 })).toThrow(
      /"blk\.0\.made_up\.weight" is to be rotated, and its input never was/,
    );
    expect(new GraphRecorder(config).x).toBe(0);
  });
});
