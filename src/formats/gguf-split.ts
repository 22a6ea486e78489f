// A GGUF file in parts, as llama-gguf-split writes them: NAME-00001-of-00003.gguf and so on. The first holds all metadata,
// each has split.no (from 0), split.count and split.tensors.count (of all parts together).

import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { SplitFileError } from './errors.ts';
import { type GgufHeader, readGgufHeader } from './gguf-header.ts';
import { partOfName } from './model-files.ts';
import { type OpenOptions, RandomAccessFile } from './random-access-file.ts';

/** More than any published model has (a few dozen); each costs a descriptor while open. */
const MAX_PARTS = 2048;

export type GgufPart = { readonly file: RandomAccessFile; readonly header: GgufHeader };

const nameOfPart = (stem: string, part: number, of: number): string =>
  `${stem}-${String(part).padStart(5, '0')}-of-${String(of).padStart(5, '0')}.gguf`;

function integer(header: GgufHeader, key: string): number | undefined {
  const value = header.entries.get(key)?.value;
  return typeof value === 'number' && Number.isInteger(value) ? value : undefined;
}

/**
 * All parts of the model that `file`, opened with `header`, is or belongs to, the first part first; the given one alone
 * when it is not split. Takes over `file`: on an error all are closed. Throws SplitFileError.
 */
export async function openParts(
  file: RandomAccessFile,
  header: GgufHeader,
  options: OpenOptions = {},
): Promise<readonly GgufPart[]> {
  // 0 is what joining parts leaves.
  const count = integer(header, 'split.count') ?? 1;
  if (count === 0 || count === 1) return [{ file, header }];
  const parts: GgufPart[] = [];
  try {
    const { stem, own } = placeOf(file, header, count);
    const folder = dirname(file.path);
    const names = Array.from({ length: count }, (_, i) => nameOfPart(stem, i + 1, count));
    const missing = names.filter((name, i) => i !== own && !existsSync(join(folder, name)));
    if (missing.length > 0) {
      const listed = missing.slice(0, 3).join(', ') + (missing.length > 3 ? ', ...' : '');
      throw new SplitFileError({
        file: file.path,
        what: `this is part ${own + 1} of ${count} of one model, and ${listed} ${missing.length === 1 ? 'is' : 'are'} not beside it`,
        fix: 'download all parts into one folder; any of them can then be named',
      });
    }
    for (const [i, name] of names.entries()) {
      const opened = i === own ? file : new RandomAccessFile(join(folder, name), options);
      // Noted before it is read, so that it is closed when that fails.
      const first = parts[0]?.header.entries.get('general.architecture')?.value;
      const architecture = typeof first === 'string' ? first : undefined;
      try {
        const read = i === own && i === 0 ? header : await readGgufHeader(opened, architecture);
        parts.push({ file: opened, header: read });
      } catch (error) {
        if (opened !== file) opened[Symbol.dispose]();
        throw error;
      }
      checkPart(parts, i, count);
    }
    checkTotal(parts);
    return parts;
  } catch (error) {
    file[Symbol.dispose]();
    for (const part of parts) part.file[Symbol.dispose]();
    throw error;
  }
}

/** Where a part stands by its keys and by its name, which must agree. */
function placeOf(file: RandomAccessFile, header: GgufHeader, count: number): { stem: string; own: number } {
  const own = integer(header, 'split.no');
  if (own === undefined || own < 0 || own >= count || count > MAX_PARTS) {
    throw new SplitFileError({
      file: file.path,
      what: `split.no is ${own ?? 'missing'} of split.count ${count}; parts are numbered from 0, and at most ${MAX_PARTS} are read`,
      fix: 'split the model again, or join its parts with `llama-gguf-split --merge`',
    });
  }
  const name = basename(file.path);
  const named = partOfName(name);
  if (named !== undefined && named.part === own + 1 && named.of === count) return { stem: named.stem, own };
  throw new SplitFileError({
    file: file.path,
    what: `this is part ${own + 1} of ${count} of one model, but its name does not say so: the others cannot be found`,
    fix: `name the parts NAME-00001-of-${String(count).padStart(5, '0')}.gguf and so on, in one folder, or join them with \`llama-gguf-split --merge\``,
  });
}

function checkPart(parts: readonly GgufPart[], index: number, count: number): void {
  const { file, header } = parts[index]!;
  const [first] = parts as [GgufPart];
  const no = integer(header, 'split.no');
  const of = integer(header, 'split.count');
  const total = integer(header, 'split.tensors.count');
  const wanted = integer(first.header, 'split.tensors.count');
  const architecture = header.entries.get('general.architecture')?.value;
  const expected = first.header.entries.get('general.architecture')?.value;
  const wrong =
    no !== index || of !== count
      ? `it says that it is part ${no === undefined ? 'unknown' : no + 1} of ${of ?? 'unknown'}, its name that it is ${index + 1} of ${count}`
      : total !== wanted
        ? `it counts ${total ?? 'no'} tensors in all parts, the first part ${wanted ?? 'none'}`
        : architecture !== undefined && architecture !== expected
          ? `its architecture is "${String(architecture)}", that of the first part "${String(expected)}"`
          : undefined;
  if (wrong === undefined) return;
  throw new SplitFileError({
    file: file.path,
    what: `this part does not belong to ${basename(first.file.path)}: ${wrong}`,
    fix: 'download all parts of the model again',
  });
}

function checkTotal(parts: readonly GgufPart[]): void {
  const [first] = parts as [GgufPart];
  const wanted = integer(first.header, 'split.tensors.count');
  const found = parts.reduce((sum, { header }) => sum + header.records.length, 0);
  if (wanted === undefined || found === wanted) return;
  throw new SplitFileError({
    file: first.file.path,
    what: `the ${parts.length} parts hold ${found} tensors, split.tensors.count says ${wanted}`,
    fix: 'download all parts of the model again',
  });
}
