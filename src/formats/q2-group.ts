// GGUF type 42, Q2_0, was written with blocks of 64 (18 bytes; llama.cpp) and, by PrismML until mid 2026, of 128 (34 bytes).
// Nothing in the header says which, general.file_type neither; the distances between the tensors do.

import { Q2GroupError, TruncatedFileError } from './errors.ts';

export type Q2Record = {
  readonly name: string;
  /** Outermost first. */
  readonly shape: readonly number[];
  /** From the start of the data section. */
  readonly offset: number;
  readonly isQ2: boolean;
};

/** The tensor table of one file. */
export type Q2Table = {
  readonly file: string;
  readonly records: readonly Q2Record[];
  /** Bytes of the file from the start of the data section on. */
  readonly dataBytes: number;
  readonly alignment: number;
};

/** What a tensor of type 42 says about its blocks. */
type Vote = {
  readonly table: Q2Table;
  readonly record: Q2Record;
  readonly span: number;
  /** Nothing follows it in its file. */
  readonly last: boolean;
  readonly bytes64: number;
  /** Undefined where rows are no multiple of 128. */
  readonly bytes128: number | undefined;
  readonly fits64: boolean;
  readonly fits128: boolean;
};

/**
 * The block of all tensors of type 42 in the files of one model; undefined where there are none. Throws Q2GroupError when
 * the table cannot tell or contradicts itself, TruncatedFileError when the last tensor alone is too short.
 */
export function q2Group(tables: readonly Q2Table[]): 64 | 128 | undefined {
  const votes = tables.flatMap(votesOf);
  if (votes.length === 0) return undefined;
  const odd = votes.find((vote) => !vote.fits64 && !vote.fits128);
  if (odd !== undefined) return refuse(odd, votes);
  const only64 = votes.find((vote) => !vote.fits128);
  const only128 = votes.find((vote) => !vote.fits64);
  if (only64 !== undefined && only128 !== undefined) {
    const { table, record } = only128;
    throw new Q2GroupError({
      file: table.file,
      tensor: record.name,
      what:
        `the tensors of type 42 disagree: ${describe(only64)}, which are blocks of 64, ` +
        `${describe(only128)}, which are blocks of 128`,
      fix: 'the file was put together from two kinds: convert the model again',
    });
  }
  if (only64 !== undefined) return 64;
  if (only128 !== undefined) return 128;
  const [first] = votes as [Vote];
  throw new Q2GroupError({
    file: first.table.file,
    tensor: first.record.name,
    what:
      `nothing tells whether type 42 means blocks of 64 or of 128 here: ${describe(first)}, ` +
      `and both ${sizes(first)} fit that`,
    fix: 'the matrices are too small to tell: convert the model to PQ2_0, F16 or TQ2_0',
  });
}

function votesOf(table: Q2Table): Vote[] {
  const { records, alignment, dataBytes } = table;
  const pad = (size: number): number => Math.ceil(size / alignment) * alignment;
  const sorted = [...records].sort((a, b) => a.offset - b.offset);
  return sorted.flatMap((record, i): Vote[] => {
    const elements = record.shape.reduce((product, size) => product * size, 1);
    if (!record.isQ2 || elements === 0) return [];
    const next = sorted[i + 1]?.offset;
    const span = (next ?? dataBytes) - record.offset;
    const bytes64 = (elements / 64) * 18;
    const bytes128 = (record.shape.at(-1) ?? 1) % 128 === 0 ? (elements / 128) * 34 : undefined;
    // Writers differ in whether they pad behind the last tensor.
    const fits = (bytes: number) => span === pad(bytes) || (next === undefined && span === bytes);
    const fits128 = bytes128 !== undefined && fits(bytes128);
    return [{ table, record, span, last: next === undefined, bytes64, bytes128, fits64: fits(bytes64), fits128 }];
  });
}

function describe({ record, span }: Vote): string {
  return `"${record.name}" [${record.shape.join(', ')}] takes ${span} bytes`;
}

function sizes({ bytes64, bytes128 }: Vote): string {
  const other = bytes128 === undefined ? 'its rows are no multiple of 128' : `${bytes128} as blocks of 128`;
  return `${bytes64} as blocks of 64, ${other}`;
}

function refuse(odd: Vote, votes: readonly Vote[]): never {
  const others = votes.filter((vote) => vote.fits64 !== vote.fits128);
  const { table, record } = odd;
  const facts = { file: table.file, tensor: record.name };
  const what = `${describe(odd)} as type 42, it needs ${sizes(odd)} (Q2_0, padded to ${table.alignment})`;
  const agreed = others[0]?.fits64 ? odd.bytes64 : others.length > 0 ? odd.bytes128 : undefined;
  const short = odd.last && odd.span < (agreed ?? Math.min(odd.bytes64, odd.bytes128 ?? odd.bytes64));
  if (short) throw new TruncatedFileError({ ...facts, what });
  throw new Q2GroupError({
    ...facts,
    what,
    fix: 'the file is damaged, or type 42 means something else there: download it again or convert the model again',
  });
}
