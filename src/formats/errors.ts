// What can be wrong with a checkpoint on disk. Every message names the file, the byte or tensor, and what to do.

import { BitnetError, type ErrorText } from '../errors.ts';

/** Facts shared by the errors below. */
export type FileFacts = {
  readonly file: string;
  /** Byte offset in the file, where one can be told. */
  readonly offset?: number;
  readonly tensor?: string;
};

function place(facts: FileFacts): string {
  return facts.offset === undefined ? facts.file : `${facts.file}, byte ${facts.offset}`;
}

const REASONS: Readonly<Record<string, string>> = {
  EACCES: 'no permission',
  EPERM: 'it is not permitted',
  EROFS: 'the disk is read-only',
  ENOSPC: 'the disk is full',
  EDQUOT: 'the quota of the disk is used up',
  ENOTDIR: 'a file is in the way',
  EISDIR: 'a folder is in the way',
  ENOENT: 'there is no such place',
  ENAMETOOLONG: 'the name is too long',
  ELOOP: 'its links lead in a circle',
  EIO: 'the disk fails',
  ENODEV: 'there is no such drive',
};

/** Why the system refused to write, in words, and what helps. `cause` is what Node threw, or its code. */
export function refusalOf(cause: unknown): { readonly reason: string; readonly fix: string } {
  const code = typeof cause === 'string' ? cause : ((cause as NodeJS.ErrnoException).code ?? String(cause));
  const words = REASONS[code];
  const full = code === 'ENOSPC' || code === 'EDQUOT';
  const elsewhere =
    code === 'ENOTDIR' || code === 'EROFS' ? 'give another folder' : 'give a folder that you may write to';
  return { reason: words === undefined ? code : `${words} (${code})`, fix: full ? 'free some space on it' : elsewhere };
}

/** The root of everything that is wrong with a file of weights. */
export abstract class FormatError extends BitnetError {
  readonly fault = 'job';
  readonly file: string;
  readonly offset: number | undefined;
  readonly tensor: string | undefined;

  constructor(facts: FileFacts, text: Omit<ErrorText, 'where'>, options?: { cause?: unknown }) {
    super({ ...text, where: place(facts) }, options);
    this.file = facts.file;
    this.offset = facts.offset;
    this.tensor = facts.tensor;
  }
}

const DOWNLOAD_AGAIN = 'the file is damaged: download or export it again';

/** The path cannot be opened or read at all: absent, no permission, a folder, not a regular file. */
export class FileAccessError extends FormatError {
  readonly code = 'FILE_ACCESS';
  /** errno name such as ENOENT, where the system gave one. */
  readonly errno: string | undefined;

  constructor(file: string, what: string, options: { readonly cause?: unknown; readonly fix?: string } = {}) {
    const { cause, fix = 'check the path and its permissions' } = options;
    super({ file }, { what, fix }, { cause });
    this.errno = (cause as NodeJS.ErrnoException | undefined)?.code;
  }
}

/** The file ends before what its own header promises. */
export class TruncatedFileError extends FormatError {
  readonly code = 'FILE_TRUNCATED';

  constructor(facts: FileFacts & { readonly what: string }) {
    super(facts, { what: facts.what, fix: 'the file is cut off: download or copy it again' });
  }
}

/** The header is larger than we are willing to read. */
export class HeaderLimitError extends FormatError {
  readonly code = 'HEADER_TOO_LARGE';

  constructor(facts: FileFacts & { readonly what: string }) {
    super(facts, { what: facts.what, fix: 'no real checkpoint needs that much: the file is damaged or hostile' });
  }
}

/** The header is not what the format demands (syntax, encoding, types). */
export class HeaderSyntaxError extends FormatError {
  readonly code = 'HEADER_MALFORMED';

  constructor(facts: FileFacts & { readonly what: string; readonly fix?: string }, cause?: unknown) {
    super(facts, { what: facts.what, fix: facts.fix ?? DOWNLOAD_AGAIN }, { cause });
  }
}

/** One name stands for two tensors or two metadata values. */
export class DuplicateNameError extends FormatError {
  readonly code = 'DUPLICATE_NAME';
  readonly duplicate: string;

  constructor(facts: FileFacts & { readonly name: string; readonly kind: 'tensor' | 'metadata key' | 'field' }) {
    super(facts, {
      what: `the ${facts.kind} ${JSON.stringify(facts.name)} occurs twice`,
      fix: 'readers disagree about which one counts: export the file again with unique names',
    });
    this.duplicate = facts.name;
  }
}

/** The byte range of a tensor leaves a gap, overlaps another, leaves the file, or does not fit its shape. */
export class TensorRangeError extends FormatError {
  readonly code = 'TENSOR_RANGE';

  constructor(facts: FileFacts & { readonly what: string }) {
    super(facts, { what: facts.what, fix: DOWNLOAD_AGAIN });
  }
}

/** Type 42 means blocks of 64 or of 128, and the tensor table of the file fits neither, both, or not one throughout. */
export class Q2GroupError extends FormatError {
  readonly code = 'Q2_GROUP';

  constructor(facts: FileFacts & { readonly what: string; readonly fix: string }) {
    super(facts, { what: facts.what, fix: facts.fix });
  }
}

/** The parts of a split GGUF file are not all there, or do not belong together. */
export class SplitFileError extends FormatError {
  readonly code = 'GGUF_SPLIT';

  constructor(facts: FileFacts & { readonly what: string; readonly fix: string }) {
    super(facts, { what: facts.what, fix: facts.fix });
  }
}

/** An element type that we know the size of but do not compute with. */
export class UnsupportedTypeError extends FormatError {
  readonly code = 'UNSUPPORTED_TYPE';
  readonly type: string;

  constructor(facts: FileFacts & { readonly type: string; readonly supported: readonly string[] }) {
    super(facts, {
      what: `${facts.tensor === undefined ? 'a tensor' : `tensor "${facts.tensor}"`} has the type ${facts.type}, which cannot be read here`,
      fix: `convert it to one of ${facts.supported.join(', ')}`,
    });
    this.type = facts.type;
  }
}

/** The checkpoint has no tensor of this name. */
export class UnknownTensorError extends FormatError {
  readonly code = 'TENSOR_NOT_FOUND';

  constructor(facts: FileFacts & { readonly tensor: string; readonly names: readonly string[] }) {
    const shown = facts.names.slice(0, 3).map((name) => JSON.stringify(name));
    super(facts, {
      what: `there is no tensor ${JSON.stringify(facts.tensor)} among the ${facts.names.length} of this checkpoint`,
      fix: shown.length === 0 ? 'the checkpoint is empty' : `its names look like ${shown.join(', ')}`,
    });
  }
}

/** The index of a sharded checkpoint and its files contradict each other. */
export class ShardIndexError extends FormatError {
  readonly code = 'SHARD_INDEX';

  constructor(facts: FileFacts & { readonly what: string; readonly fix?: string }, cause?: unknown) {
    super(
      facts,
      { what: facts.what, fix: facts.fix ?? 'download the missing or stale files of this model again' },
      { cause },
    );
  }
}

/** A folder or file that holds no weights we can read. */
export class NoCheckpointError extends FormatError {
  readonly code = 'NO_CHECKPOINT';

  constructor(facts: FileFacts & { readonly what: string; readonly fix: string }) {
    super(facts, { what: facts.what, fix: facts.fix });
  }
}

/** What we were asked to write cannot be written. */
export class WriteError extends FormatError {
  readonly code = 'WRITE_FAILED';

  constructor(facts: FileFacts & { readonly what: string; readonly fix: string }, cause?: unknown) {
    super(facts, { what: facts.what, fix: facts.fix }, { cause });
  }
}
