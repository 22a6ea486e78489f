// Ternary and int8 products on WebAssembly's 128-bit vectors. With relaxed SIMD one instruction multiplies int8 pairs;
// it is exact on every machine while one operand has 7 bits, and codes have 2 (4 where a field is left in place).
// Without it the codes are widened to 16 bits, where i32x4.dot_i16x8_s is exact by definition.
#pragma once

#include <wasm_simd128.h>

#include "matmul_scalar.h"
#include "vec16.h"

namespace {

using bitnet::row_at;

BITNET_INLINE int32_t sum_lanes(v128_t v) {
  return wasm_i32x4_extract_lane(v, 0) + wasm_i32x4_extract_lane(v, 1) + wasm_i32x4_extract_lane(v, 2) +
         wasm_i32x4_extract_lane(v, 3);
}

template <int NT>
BITNET_INLINE void quad_rows(const TernaryArgs& a, int64_t q, int64_t t) {
  const int64_t stride = bitnet::code_stride(a.C);
  const uint8_t* w = row_at(a, q);
  const int8_t* x = a.x + t * stride;
  v128_t total[NT][4];
  for (int k = 0; k < NT; k += 1)
    for (int j = 0; j < 4; j += 1) total[k][j] = wasm_i32x4_splat(0);
#if defined(__wasm_relaxed_simd__)
  const v128_t low = wasm_i8x16_splat(3), next = wasm_i8x16_splat(12);
  const int64_t steps = (a.C + 15) / 16;
  for (int64_t s = 0; s < steps;) {
    // 8 steps of |12 * 127 * 2| stay below 2^15.
    const int64_t stop = s + 8 < steps ? s + 8 : steps;
    v128_t part[NT][4];
    for (int k = 0; k < NT; k += 1)
      for (int j = 0; j < 4; j += 1) part[k][j] = wasm_i16x8_splat(0);
    for (; s < stop; s += 1) {
      const v128_t v = wasm_v128_load(w + 16 * s), h = wasm_u16x8_shr(v, 4);
      const v128_t c[4] = {wasm_v128_and(v, low), wasm_v128_and(v, next), wasm_v128_and(h, low), wasm_v128_and(h, next)};
      for (int k = 0; k < NT; k += 1) {
        const v128_t xv = wasm_v128_load(x + k * stride + 16 * s);
        for (int j = 0; j < 4; j += 1)
          part[k][j] = wasm_i16x8_add(part[k][j], wasm_i16x8_relaxed_dot_i8x16_i7x16(xv, c[j]));
      }
    }
    for (int k = 0; k < NT; k += 1)
      for (int j = 0; j < 4; j += 1)
        total[k][j] = wasm_i32x4_add(total[k][j], wasm_i32x4_extadd_pairwise_i16x8(part[k][j]));
  }
#else
  const v128_t low = wasm_i16x8_splat(3), next = wasm_i16x8_splat(12);
  const int64_t steps = (a.C + 7) / 8;
  for (int64_t s = 0; s < steps; s += 1) {
    const v128_t v = wasm_u16x8_load8x8(w + 8 * s), h = wasm_u16x8_shr(v, 4);
    const v128_t c[4] = {wasm_v128_and(v, low), wasm_v128_and(v, next), wasm_v128_and(h, low), wasm_v128_and(h, next)};
    for (int k = 0; k < NT; k += 1) {
      const v128_t xv = wasm_i16x8_load8x8(x + k * stride + 8 * s);
      for (int j = 0; j < 4; j += 1) total[k][j] = wasm_i32x4_add(total[k][j], wasm_i32x4_dot_i16x8(c[j], xv));
    }
  }
#endif
  for (int k = 0; k < NT; k += 1) {
    const int32_t sums[4] = {sum_lanes(total[k][0]), sum_lanes(total[k][1]) >> 2, sum_lanes(total[k][2]),
                             sum_lanes(total[k][3]) >> 2};
    store_quad(a, q, t + k, sums);
  }
}

void ternary_wasm(const TernaryArgs& a) {
  for (int64_t q = a.begin; q < a.end; q += 1) {
    int64_t t = 0;
    for (; t + 2 <= a.T; t += 2) quad_rows<2>(a, q, t);
    if (t < a.T) quad_rows<1>(a, q, t);
  }
}

void int8_wasm(const Int8Args& a) {
  const int64_t stride = bitnet::code_stride(a.C), steps = (a.C + 15) / 16;
  for (int64_t r = a.begin; r < a.end; r += 1) {
    const uint8_t* w = row_at(a, r);
    for (int64_t t = 0; t < a.T; t += 1) {
      const int8_t* x = a.x + t * stride;
      v128_t acc0 = wasm_i32x4_splat(0), acc1 = acc0;
      for (int64_t s = 0; s < steps; s += 1) {
        const v128_t v = wasm_v128_load(w + 16 * s), xv = wasm_v128_load(x + 16 * s);
        acc0 = wasm_i32x4_add(acc0, wasm_i32x4_dot_i16x8(wasm_i16x8_extend_low_i8x16(v), wasm_i16x8_extend_low_i8x16(xv)));
        acc1 = wasm_i32x4_add(acc1, wasm_i32x4_dot_i16x8(wasm_i16x8_extend_high_i8x16(v), wasm_i16x8_extend_high_i8x16(xv)));
      }
      const int32_t sum = sum_lanes(wasm_i32x4_add(acc0, acc1));
      a.out[t * a.R + r] = (float)sum * (a.row_scale[r] / a.scale[t]);
    }
  }
}

}  // namespace
