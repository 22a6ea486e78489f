// The only row of a step, which every block makes for itself before its product: normed and rounded, its codes in shared
// memory. All blocks wait for this, and each instruction of it is fetched anew a layer later: short loops, no straight code.
//
// Shared memory from `pool()`: the row, the norm's weights, the codes; behind them what the product needs. Four elements a
// thread and turn, so the width is a multiple of 4 (encode.ts sees to it).
#pragma once

#include "rows.cuh"

/** Floats of a row with zeros behind it, so that its sum goes in whole rounds of 16 lanes. */
DEVICE u32 one_floats(u32 width) { return (width + 255) / 256 * 256; }
DEVICE float* one_place() { return (float*)pool(); }
DEVICE float* norm_place(const Instruction& I) { return one_place() + one_floats(I.width); }
DEVICE char* codes_place(const Instruction& I) { return pool() + 4 * (I.norm ? 2 : 1) * one_floats(I.width); }
DEVICE u32 codes_bytes(const Instruction& I) { return I.quantize == 16 ? 2 * I.code_stride + 4 * (I.width / I.group) : I.code_stride; }
DEVICE char* after_codes(const Instruction& I) { return codes_place(I) + (codes_bytes(I) + 127) / 128 * 128; }

/** Before the barrier: the norm's weights, as a group of copies of their own. */
DEVICE void one_ahead(const Instruction& I) {
  if (I.norm) {
    ROLLED for (u32 v = thread(); v < I.width / 4; v += THREADS) copy_ahead(norm_place(I) + 4 * v, (const float*)I.weight + 4 * v);
  }
  copies_asked();
}

/** laneSum of the squares of the row, by one warp, both halves alike; in its first thread. */
DEVICE float sum_of_one(const float* xs, u32 width) {
  const float* p = xs + (thread() & 15);
  const float* const end = xs + one_floats(width);
  float s = 0.0f, v[16];
  UNROLL for (u32 k = 0; k < 16; k++) v[k] = p[16 * k];
  // The next sixteen are loaded while these are added: 4 clocks an addition.
  UNROLL2 for (p += 256; p < end; p += 256) {
    UNROLL for (u32 k = 0; k < 16; k++) {
      const float x = v[k] * v[k];
      v[k] = p[16 * k];
      s = s + x;
    }
  }
  UNROLL for (u32 k = 0; k < 16; k++) s = s + v[k] * v[k];
  return fold(s);
}

DEVICE i32 clamped(float x, i32 low, i32 high) {
  const i32 code = nearest(x);
  return code > high ? high : code < low ? low : code;
}
DEVICE u32 packed(i32 a, i32 b, i32 c, i32 d) { return (u32)(a & 255) | (u32)(b & 255) << 8 | (u32)(c & 255) << 16 | (u32)d << 24; }

/** Codes of the row in shared memory, its scale and the sum of its codes in `shared()`. `newer`: groups of copies after the norm's. */
template <u32 BITS> DEVICE void make_one(const Instruction& I, char* codes, u32 newer) {
  Shared& s = shared();
  const u32 tid = thread(), vectors = I.width / 4, norm = I.norm, words = I.code_stride / 4;
  Floats* const row = (Floats*)one_place();
  const Floats* const weight = (const Floats*)norm_place(I);
  {
    const Words* const x = (const Words*)I.x;
    // All loads of a thread before the first use.
    ROLLED for (u32 base = tid; base < vectors; base += 4 * THREADS) {
      Words v[4];
      UNROLL for (u32 k = 0; k < 4; k++) {
        if (base + k * THREADS < vectors) v[k] = load(x + base + k * THREADS);
      }
      UNROLL for (u32 k = 0; k < 4; k++) {
        if (base + k * THREADS < vectors) ((Words*)row)[base + k * THREADS] = v[k];
      }
    }
  }
  const u32 all = one_floats(I.width) / 4;
  if (vectors + tid < all) row[vectors + tid] = {0.0f, 0.0f, 0.0f, 0.0f};
  if (tid == 0) s.code_sum = 0;
  copies_there_but(newer);
  sync();
  float r = 1.0f;
  if (norm) {
    if (tid < 32) {
      const float sum = sum_of_one((const float*)row, I.width);
      if (tid == 0) s.inverse = divide(1.0f, root(divide(sum, (float)I.width) + I.eps));
    }
    sync();
    r = s.inverse;
  }
  u32 most = 0;
  ROLLED for (u32 v = tid; v < vectors; v += THREADS) {
    Floats y = row[v];
    if (norm) {
      const Floats w = weight[v];
      y = {(y.x * r) * w.x, (y.y * r) * w.y, (y.z * r) * w.z, (y.w * r) * w.w};
      row[v] = y;
    }
    const u32 a = bits(y.x) & 0x7fffffff, b = bits(y.y) & 0x7fffffff, c = bits(y.z) & 0x7fffffff, d = bits(y.w) & 0x7fffffff;
    const u32 ab = a > b ? a : b, cd = c > d ? c : d, m = ab > cd ? ab : cd;
    most = m > most ? m : most;
  }
  const float largest = largest_of(I, most, block() == 0);
  if (BITS == 8) {
    const float scale = scale8(largest);
    i32 sum = 0;
    ROLLED for (u32 v = tid; v < words; v += THREADS) {
      u32 word = 0;
      if (v < vectors) {
        const Floats y = row[v];
        const i32 a = clamped(y.x * scale, -128, 127), b = clamped(y.y * scale, -128, 127);
        const i32 c = clamped(y.z * scale, -128, 127), d = clamped(y.w * scale, -128, 127);
        sum += (a + b) + (c + d);
        word = packed(a, b, c, d);
      }
      ((u32*)codes)[v] = word;
    }
    keep8(sum, scale);
    return;
  }
  const float wanted = divide(32639.0f, largest);
  const bool usable = wanted < from_bits(0x7f800000);
  const float scale = usable ? wanted : 0.0f;
  if (tid == 0) s.scale = usable ? divide(largest, 32639.0f) : 0.0f;
  i32* const sums = (i32*)(codes + 2 * I.code_stride);
  ROLLED for (u32 g = tid; g < I.width / I.group; g += THREADS) sums[g] = 0;
  sync();
  // Whole warps take part: eight neighbours have 32 elements of one group.
  ROLLED for (u32 base = 0; base < words; base += THREADS) {
    const u32 v = base + tid;
    u32 hi = 0, lo = 0;
    i32 sum = 0;
    if (v < vectors && usable) {
      const Floats y = row[v];
      const i32 a = clamped(y.x * scale, -32639, 32639), b = clamped(y.y * scale, -32639, 32639);
      const i32 c = clamped(y.z * scale, -32639, 32639), d = clamped(y.w * scale, -32639, 32639);
      sum = (a + b) + (c + d);
      // A code is 256 hi + lo, lo from -128 to 127: its low byte as it is.
      hi = packed((a + 128) >> 8, (b + 128) >> 8, (c + 128) >> 8, (d + 128) >> 8);
      lo = packed(a, b, c, d);
    }
    if (v < words) {
      ((u32*)codes)[v] = hi;
      ((u32*)(codes + I.code_stride))[v] = lo;
    }
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    sum += shuffle_xor(sum, 4);
    if ((tid & 7) == 0 && v < vectors) add_shared(sums + 4 * v / I.group, sum);
  }
  sync();
}
