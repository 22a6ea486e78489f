// A mutable 64-bit register for bulk work. BigInt arithmetic allocates on every operation; two int32 halves stay in
// machine registers, which makes a splitmix64 about fifteen times faster. Signed, because V8 keeps those unboxed.
//
// Legend: hi = bits 32..63, lo = bits 0..31, both int32. All arithmetic is modulo 2^64.

/** Bits 32..63 of the product of two 32-bit words taken as unsigned, as int32. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  // Each of these sums is below 2^32, so an int32 wrap loses nothing: `>>>` and `&` read it back as unsigned.
  const first = (Math.imul(aHigh, bLow) + (Math.imul(aLow, bLow) >>> 16)) | 0;
  const second = (Math.imul(aLow, bHigh) + (first & 0xffff)) | 0;
  return (Math.imul(aHigh, bHigh) + (first >>> 16) + (second >>> 16)) | 0;
}

/** Number of one bits of a 32-bit word. */
function popcount32(word: number): number {
  const pairs = word - ((word >>> 1) & 0x55555555);
  const nibbles = (pairs & 0x33333333) + ((pairs >>> 2) & 0x33333333);
  return Math.imul((nibbles + (nibbles >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

export class Uint64 {
  hi = 0;
  lo = 0;

  /** The low 64 bits of a bigint. */
  static from(value: bigint): Uint64 {
    const register = new Uint64();
    register.hi = Number(BigInt.asIntN(32, value >> 32n));
    register.lo = Number(BigInt.asIntN(32, value));
    return register;
  }

  /** A safe integer >= 0 (not checked). */
  static fromNumber(value: number): Uint64 {
    const register = new Uint64();
    register.hi = Math.floor(value / 0x1_0000_0000) | 0;
    register.lo = value | 0;
    return register;
  }

  toBigInt(): bigint {
    return (BigInt(this.hi >>> 0) << 32n) | BigInt(this.lo >>> 0);
  }

  assign(other: Uint64): this {
    this.hi = other.hi;
    this.lo = other.lo;
    return this;
  }

  add(hi: number, lo: number): this {
    const low = (this.lo >>> 0) + (lo >>> 0);
    this.hi = (this.hi + hi + (low > 0xffff_ffff ? 1 : 0)) | 0;
    this.lo = low | 0;
    return this;
  }

  xor(hi: number, lo: number): this {
    this.hi ^= hi;
    this.lo ^= lo;
    return this;
  }

  multiply(hi: number, lo: number): this {
    this.hi = (multiplyHigh(this.lo, lo) + Math.imul(this.hi, lo) + Math.imul(this.lo, hi)) | 0;
    this.lo = Math.imul(this.lo, lo);
    return this;
  }

  /** x ^= x >> bits, for 1 <= bits <= 63. */
  xorShiftRight(bits: number): this {
    if (bits >= 32) {
      this.lo ^= this.hi >>> (bits - 32);
    } else {
      this.lo ^= (this.lo >>> bits) | (this.hi << (32 - bits));
      this.hi ^= this.hi >>> bits;
    }
    return this;
  }

  /** Number of places where neighbouring bits differ, the top bit compared with 0: popcount(x ^ x >> 1). */
  countBitChanges(): number {
    return popcount32(this.hi ^ (this.hi >>> 1)) + popcount32(this.lo ^ ((this.lo >>> 1) | (this.hi << 31)));
  }
}
