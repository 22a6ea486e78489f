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
    readonly at?: PackedPlace | undefined;
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
    readonly at?: PackedPlace | undefined;
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

/** A matrix is wider than kernels add up exactly. */
export class MatrixWidthError extends BitnetError {
  readonly code = 'MATRIX_TOO_WIDE';
  readonly fault = 'job';
}

/** A matrix of floats is not {-s, 0, s} under any rule for s that we know. */
export class NotTernaryError extends BitnetError {
  readonly code = 'NOT_TERNARY';
  readonly fault = 'job';
}

/** The scale of a group is no number that can be one, or none that the layout holds. */
export class GroupScaleError extends BitnetError {
  readonly code = 'GROUP_SCALE_INVALID';
  readonly fault = 'job';
  readonly row: number;
  /** Of the row's groups of columns, from 0. */
  readonly group: number;

  constructor(facts: {
    readonly at?: PackedPlace | undefined;
    readonly row: number;
    readonly group: number;
    /** Follows "the scale of row R, group G of tensor X ". */
    readonly what: string;
    readonly fix: string;
  }) {
    const at = facts.at ?? {};
    super({
      what: `the scale of row ${facts.row}, group ${facts.group} of ${nameOf(at)} ${facts.what}`,
      ...whereIn(at, undefined),
      fix: facts.fix,
    });
    this.row = facts.row;
    this.group = facts.group;
  }
}

/** A matrix has weights that the layout it should be written in has no code for. */
export class CodeNotHeldError extends BitnetError {
  readonly code = 'CODE_NOT_HELD';
  readonly fault = 'job';
  readonly tensor: string | undefined;
  readonly layout: string;
  /** Weights of 0 that the layout cannot hold. */
  readonly zeros: number;
  /** Weights of +2 scale that the layout cannot hold. */
  readonly twos: number;

  constructor(facts: {
    readonly at?: PackedPlace | undefined;
    readonly layout: string;
    readonly zeros: number;
    readonly twos: number;
  }) {
    const at = facts.at ?? {};
    const { zeros, twos } = facts;
    const weights = [
      ...(zeros > 0 ? [`${zeros} weights of 0`] : []),
      ...(twos > 0 ? [`${twos} of +2 times the scale`] : []),
    ];
    super({
      what: `${nameOf(at)} has ${weights.join(' and ')}, which ${facts.layout} has no code for`,
      ...whereIn(at, undefined),
      fix: 'write a layout with two bits a weight: gguf-q2_0 or gguf-pq2_0',
    });
    this.tensor = at.tensor;
    this.layout = facts.layout;
    this.zeros = zeros;
    this.twos = twos;
  }
}
