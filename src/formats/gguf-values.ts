// Metadata values of GGUF. Arrays stay as bytes until asked for: the header of a Llama 3 model holds 128,000 token
// strings and 280,000 merges, and most readers want none of them.

export const GGUF_VALUE_TYPES = {
  u8: 0,
  i8: 1,
  u16: 2,
  i16: 3,
  u32: 4,
  i32: 5,
  f32: 6,
  bool: 7,
  string: 8,
  array: 9,
  u64: 10,
  i64: 11,
  f64: 12,
} as const;

export type GgufValueType = keyof typeof GGUF_VALUE_TYPES;
export type GgufElementType = Exclude<GgufValueType, 'array'>;
/** 64-bit integers beyond 2^53 come as bigint. */
export type GgufScalar = number | bigint | boolean | string;
export type GgufValue = GgufScalar | GgufArray;

const NAMES = Object.keys(GGUF_VALUE_TYPES) as GgufValueType[];

export function ggufTypeOfId(id: number): GgufValueType | undefined {
  return NAMES.find((name) => GGUF_VALUE_TYPES[name] === id);
}

/** Bytes of a fixed-size element; strings take at least the 8 of their length. */
export function minimalBytes(type: GgufElementType): number {
  switch (type) {
    case 'u8':
    case 'i8':
    case 'bool':
      return 1;
    case 'u16':
    case 'i16':
      return 2;
    case 'u32':
    case 'i32':
    case 'f32':
      return 4;
    default:
      return 8;
  }
}

/** An array of the header, decoded when it is read. */
export class GgufArray {
  readonly elementType: GgufElementType;
  readonly length: number;
  readonly #bytes: Buffer;

  /** `bytes` holds exactly the elements as they lie in the file, already checked. */
  constructor(elementType: GgufElementType, length: number, bytes: Uint8Array) {
    this.elementType = elementType;
    this.length = length;
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** All elements; bytes of a string that are not UTF-8 come as U+FFFD. */
  values(): GgufScalar[] {
    const type = this.elementType;
    if (type === 'string') return this.strings();
    const size = minimalBytes(type);
    return Array.from({ length: this.length }, (_, i) => readFixed(this.#bytes, i * size, type));
  }

  /** The elements of a string array; throws a TypeError for another. */
  strings(): string[] {
    if (this.elementType !== 'string') throw new TypeError(`array of ${this.elementType}, not of strings`);
    const values: string[] = new Array(this.length);
    const bytes = this.#bytes;
    for (let i = 0, at = 0; i < this.length; i++) {
      // Lengths were checked against the file, so the low half is all there is.
      const end = at + 8 + bytes.readUInt32LE(at);
      values[i] = bytes.toString('utf8', at + 8, end);
      at = end;
    }
    return values;
  }
}

/** One value of fixed size. */
export function readFixed(bytes: Buffer, at: number, type: Exclude<GgufElementType, 'string'>): GgufScalar {
  switch (type) {
    case 'u8':
      return bytes.readUInt8(at);
    case 'i8':
      return bytes.readInt8(at);
    case 'u16':
      return bytes.readUInt16LE(at);
    case 'i16':
      return bytes.readInt16LE(at);
    case 'u32':
      return bytes.readUInt32LE(at);
    case 'i32':
      return bytes.readInt32LE(at);
    case 'f32':
      return bytes.readFloatLE(at);
    case 'f64':
      return bytes.readDoubleLE(at);
    case 'bool':
      return bytes.readUInt8(at) !== 0;
    case 'u64':
      return narrow(bytes.readBigUInt64LE(at));
    case 'i64':
      return narrow(bytes.readBigInt64LE(at));
  }
}

function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
