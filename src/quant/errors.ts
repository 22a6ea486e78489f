// What can be wrong with numbers or packed bytes. `PackedPlace` names the tensor and where its bytes lie, when known.

import { BitnetError } from '../errors.ts';

/** Where packed bytes came from; every part is optional because a caller may hold bytes that no file has. */
export type PackedPlace = {
  readonly tensor?: string;
  readonly file?: string;
  /** Byte offset of the tensor's first byte in the file. */
  readonly offset?: number;
};

function nameOf(at: PackedPlace): string {
  return at.tensor === undefined ? 'packed bytes' : `tensor "${at.tensor}"`;
}

function whereIn(at: PackedPlace, byte: number | undefined): { where?: string } {
  const parts: string[] = [];
  if (at.file !== undefined) parts.push(at.file);
  if (byte !== undefined) {
    parts.push(at.offset === undefined ? `byte ${byte} of the tensor` : `byte ${at.offset + byte}`);
  } else if (at.offset !== undefined) parts.push(`byte ${at.offset}`);
  return parts.length === 0 ? {} : { where: parts.join(', ') };
}

/** The bytes of a packed tensor do not cover its declared shape. */
export class PackedSizeError extends BitnetError {
  readonly code = 'PACKED_SIZE_MISMATCH';
  readonly fault = 'job';
  readonly layout: string;
  readonly expectedBytes: number;
  readonly actualBytes: number;

  constructor(facts: {
    readonly at?: PackedPlace;
    readonly layout: string;
    readonly shape: readonly number[];
    readonly expectedBytes: number;
    readonly actualBytes: number;
  }) {
    const at = facts.at ?? {};
    super({
      what: `${nameOf(at)} needs ${facts.expectedBytes} bytes as ${facts.layout} [${facts.shape.join(', ')}], ${facts.actualBytes} were given`,
      ...whereIn(at, undefined),
      fix: 'compare the file with its published size and the shape with the model config',
    });
    this.layout = facts.layout;
    this.expectedBytes = facts.expectedBytes;
    this.actualBytes = facts.actualBytes;
  }
}

/** A packed byte holds the code 3, which no trit has: the bytes are damaged or lie in another layout. */
export class TernaryCodeError extends BitnetError {
  readonly code = 'TERNARY_CODE_INVALID';
  readonly fault = 'job';
  readonly layout: string;
  /** Index of the byte inside the tensor. */
  readonly byteIndex: number;

  constructor(facts: {
    readonly at?: PackedPlace;
    readonly layout: string;
    readonly byteIndex: number;
    readonly byte: number;
    /** Absent where only a flat element index is known, which `column` then is. */
    readonly row?: number;
    readonly column: number;
  }) {
    const at = facts.at ?? {};
    super({
      what:
        `${nameOf(at)} holds code 3 at ${facts.row === undefined ? 'element' : `row ${facts.row}, column`} ${facts.column} ` +
        `(byte 0x${facts.byte.toString(16).padStart(2, '0')} as ${facts.layout}); a trit has the codes 0, 1, 2`,
      ...whereIn(at, facts.byteIndex),
      fix: 'the file is damaged or packed in another layout: download it again, or name its layout',
    });
    this.layout = facts.layout;
    this.byteIndex = facts.byteIndex;
  }
}

/** NaN or infinity where a finite number is needed. */
export class NonFiniteValueError extends BitnetError {
  readonly code = 'NON_FINITE_VALUE';
  readonly fault = 'job';
  readonly index: number;

  constructor(facts: { readonly name: string; readonly index: number; readonly value: number }) {
    super({
      what: `${facts.name} holds ${facts.value} at element ${facts.index}; only finite numbers can be quantized`,
      fix: 'the checkpoint is damaged or its training diverged: use an earlier one',
    });
    this.index = facts.index;
  }
}

/** A matrix of floats is not {-s, 0, s} under any rule for s that we know. */
export class NotTernaryError extends BitnetError {
  readonly code = 'NOT_TERNARY';
  readonly fault = 'job';
}
