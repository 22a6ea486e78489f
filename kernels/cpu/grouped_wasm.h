// Group-scaled products (layouts.h, panel64) on WebAssembly's 128-bit vectors. A quarter of a line is 4 rows x 4 columns
// of each field.
//
// 16-bit lanes of a quarter hold two columns of a row, the even one in the low byte. Masked where they lie, they are
// operands of i32x4.dot_i16x8_s with q itself, (q0, q2) or (q1, q3) in every lane, and a row's sum stays in its lane. Field
// f lies 2 f bits up: 256 columns of |192 * 32639| stay below 2^31. Per 128 weights: 16 dots, 16 additions, 16 masks, 2
// shifts, 6 loads.
// Relaxed SIMD does not pay: two planes of i16x8.relaxed_dot need as many instructions, and i32x4.relaxed_dot_..._add ran
// at 16 GMAC/s against 25 on V8 11.3 and 12.4 (x86-64 with AVX-VNNI); the former's baseline compiler gets it wrong besides.
#pragma once

#include <wasm_simd128.h>

#include "grouped_common.h"

namespace {

constexpr int64_t kGroupedColumnsWasm = 256;
constexpr int64_t kGroupedTokensWasm = 64;

/** Scales of a group, then of each token 64 float sums and 64 int32 sums of a longer group. */
int64_t grouped_scratch_wasm(int64_t, int64_t) { return 256 + kGroupedTokensWasm * 512; }

/** What becomes of 4 sums of raw codes of a token; acc and sums are those of its rows. */
BITNET_INLINE void finish_four(const Piece& piece, v128_t sum, int32_t group_sum, int64_t row, float* acc, int32_t* sums) {
  if (!piece.first) sum = wasm_i32x4_add(sum, wasm_v128_load(sums + row));
  if (!piece.last) {
    wasm_v128_store(sums + row, sum);
    return;
  }
  sum = wasm_i32x4_sub(sum, wasm_i32x4_splat(group_sum));
  const v128_t v = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(sum), wasm_v128_load(piece.scales + row));
  wasm_v128_store(acc + row, wasm_f32x4_add(wasm_v128_load(acc + row), v));
}

/** q of `lines` lines, (q0, q2, q1, q3) each. */
BITNET_INLINE void join_q(const int8_t* hi, const int8_t* lo, int64_t lines, int16_t* q) {
  for (int64_t c = 0; c < 4 * lines; c += 8) {
    const v128_t v = wasm_i16x8_add(wasm_i16x8_shl(wasm_i16x8_load8x8(hi + c), 8), wasm_i16x8_load8x8(lo + c));
    wasm_v128_store(q + c, wasm_i16x8_shuffle(v, v, 0, 2, 1, 3, 4, 6, 5, 7));
  }
}

/** `lines` lines with NT tokens; acc and sums are those of token t. */
template <int NT>
BITNET_INLINE void grouped_cell_wasm(const GroupedArgs& a, const GroupedShape& s, const Piece& piece, const uint8_t* w,
                                     int64_t lines, int64_t t, const int8_t* x, float* acc, int32_t* sums) {
  int16_t q[NT][kGroupedColumnsWasm];
  for (int k = 0; k < NT; k += 1) join_q(x + k * s.stride, x + k * s.stride + s.plane, lines, q[k]);
  const v128_t mask[4] = {wasm_i16x8_splat(3), wasm_i16x8_splat(12), wasm_i16x8_splat(48), wasm_i16x8_splat(192)};
  for (int64_t quarter = 0; quarter < 4; quarter += 1) {
    v128_t sum[NT][4];
    for (int k = 0; k < NT; k += 1)
      for (int f = 0; f < 4; f += 1) sum[k][f] = wasm_i32x4_splat(0);
    const uint8_t* at = w + 16 * quarter;
    for (int64_t j = 0; j < lines; j += 1, at += 64) {
      const v128_t even = wasm_v128_load(at), odd = wasm_u16x8_shr(even, 8);
      v128_t x0[NT], x1[NT];
      for (int k = 0; k < NT; k += 1) {
        x0[k] = wasm_v128_load32_splat(q[k] + 4 * j);
        x1[k] = wasm_v128_load32_splat(q[k] + 4 * j + 2);
      }
      for (int f = 0; f < 4; f += 1) {
        const v128_t c0 = wasm_v128_and(even, mask[f]), c1 = wasm_v128_and(odd, mask[f]);
        for (int k = 0; k < NT; k += 1)
          sum[k][f] = wasm_i32x4_add(sum[k][f], wasm_i32x4_add(wasm_i32x4_dot_i16x8(c0, x0[k]), wasm_i32x4_dot_i16x8(c1, x1[k])));
      }
    }
    for (int k = 0; k < NT; k += 1)
      for (int f = 0; f < 4; f += 1)
        finish_four(piece, wasm_i32x4_shr(sum[k][f], (uint32_t)(2 * f)), group_sum(a, s, t + k, piece.g), 16 * f + 4 * quarter,
                    acc + 64 * k, sums + 64 * k);
  }
}

/** Panels with tokens t..t+n-1, n <= kGroupedTokensWasm. */
BITNET_INLINE void grouped_tokens_wasm(const GroupedArgs& a, const GroupedShape& s, int64_t t, int64_t n) {
  float* scales = (float*)a.scratch;
  float* acc = scales + 64;
  int32_t* sums = (int32_t*)(acc + 64 * kGroupedTokensWasm);
  for (int64_t p = a.begin; p < a.end; p += 1) {
    const uint8_t* w = a.w + p * s.lines * 64;
    __builtin_memset(acc, 0, (size_t)(n * 256));
    for (int64_t g = 0; g < s.groups; g += 1) {
      for (int64_t r = 0; r < 64; r += 16)
        v_store(scales + r, grouped_scales(a.scales, a.scale_f16, (p * s.groups + g) * 64 + r));
      for (int64_t from = 0; from < s.each; from += kGroupedColumnsWasm / 4) {
        const int64_t left = s.each - from, lines = left < kGroupedColumnsWasm / 4 ? left : kGroupedColumnsWasm / 4;
        const Piece piece{scales, g, from == 0, lines == left};
        const int8_t* x = (const int8_t*)a.x + t * s.stride + (g * s.each + from) * 4;
        int64_t k = 0;
        for (; k + 2 <= n; k += 2)
          grouped_cell_wasm<2>(a, s, piece, w, lines, t + k, x + k * s.stride, acc + 64 * k, sums + 64 * k);
        if (k < n) grouped_cell_wasm<1>(a, s, piece, w, lines, t + k, x + k * s.stride, acc + 64 * k, sums + 64 * k);
        w += lines * 64;
      }
    }
    for (int64_t k = 0; k < n; k += 1) store_panel(a, p, t + k, acc + 64 * k);
  }
}

void grouped_wasm(const GroupedArgs& a) {
  const GroupedShape s(a);
  for (int64_t t = 0; t < a.T; t += kGroupedTokensWasm)
    grouped_tokens_wasm(a, s, t, a.T - t < kGroupedTokensWasm ? a.T - t : kGroupedTokensWasm);
}

}  // namespace
