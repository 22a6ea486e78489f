// Ternary and int8 products in plain C++: the fallback of every machine, and what the other instruction sets are
// compared with.
#pragma once

#include "../include/kernels.h"

namespace {

using bitnet::Int8Args;
using bitnet::TernaryArgs;

inline __attribute__((unused)) int64_t ternary_scratch_none(int64_t) { return 0; }

/** Writes the four rows of byte row q for token t; sums are of raw codes. */
inline __attribute__((always_inline)) void store_quad(const TernaryArgs& a, int64_t q, int64_t t, const int32_t* sums) {
  int32_t code_sum;
  __builtin_memcpy(&code_sum, a.x + t * bitnet::code_stride(a.C) + bitnet::code_sum_at(a.C), 4);
  float* out = a.out + t * a.R;
  for (int64_t j = 0, r = q; j < 4 && r < a.R; j += 1, r += a.Q) out[r] = (float)(sums[j] - code_sum) * a.factor[t];
}

inline __attribute__((unused)) void ternary_scalar(const TernaryArgs& a) {
  const int64_t stride = bitnet::code_stride(a.C);
  for (int64_t q = a.begin; q < a.end; q += 1) {
    const uint8_t* w = a.w + q * a.C;
    for (int64_t t = 0; t < a.T; t += 1) {
      const int8_t* x = a.x + t * stride;
      int32_t sums[4] = {};
      for (int64_t c = 0; c < a.C; c += 1) {
        const int32_t b = w[c], v = x[c];
        sums[0] += (b & 3) * v;
        sums[1] += ((b >> 2) & 3) * v;
        sums[2] += ((b >> 4) & 3) * v;
        sums[3] += (b >> 6) * v;
      }
      store_quad(a, q, t, sums);
    }
  }
}

inline __attribute__((unused)) void int8_scalar(const Int8Args& a) {
  const int64_t stride = bitnet::code_stride(a.C);
  for (int64_t r = a.begin; r < a.end; r += 1) {
    const int8_t* w = (const int8_t*)a.w + r * a.C;
    for (int64_t t = 0; t < a.T; t += 1) {
      const int8_t* x = a.x + t * stride;
      int32_t sum = 0;
      for (int64_t c = 0; c < a.C; c += 1) sum += (int32_t)w[c] * x[c];
      a.out[t * a.R + r] = (float)sum * (a.row_scale[r] / a.scale[t]);
    }
  }
}

inline __attribute__((unused)) int64_t peak_macs_scalar(int64_t rounds) {
  int32_t sum[8] = {};
  int32_t v = 3;
  for (int64_t i = 0; i < rounds; i += 1) {
    for (int k = 0; k < 8; k += 1) {
      __asm__ volatile("" : "+r"(v));
      sum[k] += v * (int32_t)i;
    }
  }
  int32_t total = 0;
  for (int k = 0; k < 8; k += 1) total += sum[k];
  __asm__ volatile("" : : "r"(total));
  return rounds * 8;
}

}  // namespace
