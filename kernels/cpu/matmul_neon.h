// Ternary and int8 products on Arm's 128-bit vectors, in three steps: plain NEON (vmull_s8 and pairwise sums), sdot
// (-march=...+dotprod), and smmla for several tokens (+i8mm). Codes 0..12 and activations are both signed here.
#pragma once

#include <arm_neon.h>

#include "matmul_scalar.h"
#include "vec16.h"

namespace {

using bitnet::row_at;

BITNET_INLINE int32x4_t dot4(int32x4_t acc, int8x16_t a, int8x16_t b) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(acc, a, b);
#else
  // Two products of at most 128 * 127 fit int16 (w of the int8 head; codes are far smaller).
  const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
  return vpadalq_s16(vpadalq_s16(acc, low), vmull_s8(vget_high_s8(a), vget_high_s8(b)));
#endif
}

/** Fields 0..3 of 16 bytes; 1 and 3 stay two bits up, so their sums are 4 times too large. */
BITNET_INLINE void fields(const uint8_t* w, int8x16_t* c) {
  const uint8x16_t v = vld1q_u8(w), h = vshrq_n_u8(v, 4), low = vdupq_n_u8(3), next = vdupq_n_u8(12);
  c[0] = vreinterpretq_s8_u8(vandq_u8(v, low));
  c[1] = vreinterpretq_s8_u8(vandq_u8(v, next));
  c[2] = vreinterpretq_s8_u8(vandq_u8(h, low));
  c[3] = vreinterpretq_s8_u8(vandq_u8(h, next));
}

/** One byte row with NT tokens. */
template <int NT>
BITNET_INLINE void quad_rows(const TernaryArgs& a, int64_t q, int64_t t) {
  const int64_t stride = bitnet::code_stride(a.C), steps = (a.C + 15) / 16;
  const uint8_t* w = row_at(a, q);
  const int8_t* x = a.x + t * stride;
  int32x4_t total[NT][4];
  for (int k = 0; k < NT; k += 1)
    for (int j = 0; j < 4; j += 1) total[k][j] = vdupq_n_s32(0);
  for (int64_t s = 0; s < steps; s += 1) {
    if (s % 4 == 0) __builtin_prefetch(w + 16 * s + a.prefetch);
    int8x16_t c[4];
    fields(w + 16 * s, c);
    for (int k = 0; k < NT; k += 1) {
      const int8x16_t xv = vld1q_s8(x + k * stride + 16 * s);
      for (int j = 0; j < 4; j += 1) total[k][j] = dot4(total[k][j], c[j], xv);
    }
  }
  for (int k = 0; k < NT; k += 1) {
    const int32_t sums[4] = {vaddvq_s32(total[k][0]), vaddvq_s32(total[k][1]) >> 2, vaddvq_s32(total[k][2]),
                             vaddvq_s32(total[k][3]) >> 2};
    store_quad(a, q, t + k, sums);
  }
}

#if defined(__ARM_FEATURE_MATMUL_INT8)

BITNET_INLINE int8x16_t low_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}
BITNET_INLINE int8x16_t high_halves(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_s64(vzip2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

/** One byte row with 2 NP tokens: smmla multiplies two rows of codes with two tokens, eight columns at a time. */
template <int NP>
BITNET_INLINE void quad_pairs(const TernaryArgs& a, int64_t q, int64_t t) {
  const int64_t stride = bitnet::code_stride(a.C), steps = (a.C + 15) / 16;
  const uint8_t* w = row_at(a, q);
  const int8_t* x = a.x + t * stride;
  int32x4_t total[NP][2];  // {field 0 or 2, field 1 or 3} x {token, next token}
  for (int p = 0; p < NP; p += 1) total[p][0] = total[p][1] = vdupq_n_s32(0);
  for (int64_t s = 0; s < steps; s += 1) {
    if (s % 4 == 0) __builtin_prefetch(w + 16 * s + a.prefetch);
    int8x16_t c[4];
    fields(w + 16 * s, c);
    const int8x16_t first[2] = {low_halves(c[0], c[1]), high_halves(c[0], c[1])};
    const int8x16_t second[2] = {low_halves(c[2], c[3]), high_halves(c[2], c[3])};
    for (int p = 0; p < NP; p += 1) {
      const int8x16_t x0 = vld1q_s8(x + 2 * p * stride + 16 * s), x1 = vld1q_s8(x + (2 * p + 1) * stride + 16 * s);
      const int8x16_t low = low_halves(x0, x1), high = high_halves(x0, x1);
      total[p][0] = vmmlaq_s32(vmmlaq_s32(total[p][0], first[0], low), first[1], high);
      total[p][1] = vmmlaq_s32(vmmlaq_s32(total[p][1], second[0], low), second[1], high);
    }
  }
  for (int p = 0; p < NP; p += 1) {
    int32_t m[8];
    vst1q_s32(m, total[p][0]);
    vst1q_s32(m + 4, total[p][1]);
    for (int k = 0; k < 2; k += 1) {
      const int32_t sums[4] = {m[k], m[2 + k] >> 2, m[4 + k], m[6 + k] >> 2};
      store_quad(a, q, t + 2 * p + k, sums);
    }
  }
}

#endif

void ternary_neon(const TernaryArgs& a) {
  for (int64_t q = a.begin; q < a.end; q += 1) {
    int64_t t = 0;
#if defined(__ARM_FEATURE_MATMUL_INT8)
    for (; t + 8 <= a.T; t += 8) quad_pairs<4>(a, q, t);
    for (; t + 2 <= a.T; t += 2) quad_pairs<1>(a, q, t);
#else
    for (; t + 4 <= a.T; t += 4) quad_rows<4>(a, q, t);
    for (; t + 2 <= a.T; t += 2) quad_rows<2>(a, q, t);
#endif
    if (t < a.T) quad_rows<1>(a, q, t);
  }
}

template <int NT>
BITNET_INLINE void int8_row(const Int8Args& a, int64_t r, int64_t t) {
  const int64_t stride = bitnet::code_stride(a.C), steps = (a.C + 15) / 16;
  const uint8_t* w = row_at(a, r);
  const int8_t* x = a.x + t * stride;
  int32x4_t acc[NT];
  for (int k = 0; k < NT; k += 1) acc[k] = vdupq_n_s32(0);
  for (int64_t s = 0; s < steps; s += 1) {
    if (s % 4 == 0) __builtin_prefetch(w + 16 * s + a.prefetch);
    const int8x16_t v = vreinterpretq_s8_u8(vld1q_u8(w + 16 * s));
    for (int k = 0; k < NT; k += 1) acc[k] = dot4(acc[k], v, vld1q_s8(x + k * stride + 16 * s));
  }
  for (int k = 0; k < NT; k += 1)
    a.out[(t + k) * a.R + r] = (float)vaddvq_s32(acc[k]) * (a.row_scale[r] / a.scale[t + k]);
}

void int8_neon(const Int8Args& a) {
  for (int64_t r = a.begin; r < a.end; r += 1) {
    int64_t t = 0;
    for (; t + 4 <= a.T; t += 4) int8_row<4>(a, r, t);
    for (; t < a.T; t += 1) int8_row<1>(a, r, t);
  }
}

int64_t peak_macs_neon(int64_t rounds) {
  int32x4_t acc[12];
  for (int k = 0; k < 12; k += 1) acc[k] = vdupq_n_s32(0);
  int8x16_t u = vdupq_n_s8(2);
  const int8x16_t v = vdupq_n_s8(3);
  for (int64_t i = 0; i < rounds; i += 1) {
    for (int k = 0; k < 12; k += 1) {
      __asm__ volatile("" : "+w"(u));
#if defined(__ARM_FEATURE_MATMUL_INT8)
      acc[k] = vmmlaq_s32(acc[k], u, v);
#else
      acc[k] = dot4(acc[k], u, v);
#endif
    }
  }
  int32x4_t total = acc[0];
  for (int k = 1; k < 12; k += 1) total = vaddq_s32(total, acc[k]);
  __asm__ volatile("" : : "w"(total));
#if defined(__ARM_FEATURE_MATMUL_INT8)
  return rounds * 12 * 32;
#else
  return rounds * 12 * 16;
#endif
}

}  // namespace
