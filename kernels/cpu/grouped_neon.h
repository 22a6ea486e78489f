// Group-scaled products (layouts.h, panel64) on Arm's 128-bit vectors, in the three steps of matmul_neon.h. A quarter of
// a line is 4 rows x 4 columns of each field: one operand of sdot, whose other is four activations by lane. smmla takes 2
// rows x 8 columns, so neighbouring lines are zipped when they are decoded, and its two columns are the two planes.
// Plain NEON multiplies into int16: 64 lines of |3 * 128| stay below 2^15.
// Per 128 weights with one token: 16 sdot (32 smlal), 10 masks and shifts, 2.5 (6) loads; smmla: 8 with many tokens.
#pragma once

#include "grouped_common.h"
#include "matmul_neon.h"

namespace {

constexpr int64_t kGroupedColumnsNeon = 256;
constexpr int64_t kGroupedTokensNeon = 64;

/** Tile, scales of a group, then of each token 64 float sums and 64 int32 sums of a group longer than the tile. */
int64_t grouped_scratch_neon(int64_t, int64_t) { return kGroupedColumnsNeon * 64 + 256 + kGroupedTokensNeon * 512; }

BITNET_INLINE int8x16_t signed_and(uint8x16_t v, uint8x16_t mask) { return vreinterpretq_s8_u8(vandq_u8(v, mask)); }

/** Compilers load the codes of several lines early and then have no registers left for the sums. */
BITNET_INLINE void loads_stay() { __asm__ volatile("" : : : "memory"); }

#if defined(__ARM_FEATURE_DOTPROD)

/** One line's 32 bytes of a half with four activations of each plane, lane L of xh and xl. */
template <int L>
BITNET_INLINE void half_line(const uint8_t* w, int8x16_t xh, int8x16_t xl, int32x4_t (&h)[2][4], int32x4_t (&l)[2][4]) {
#pragma GCC unroll 2
  for (int i = 0; i < 2; i += 1) {
    loads_stay();
    int8x16_t c[4];
    fields(w + 16 * i, c);
#pragma GCC unroll 4
    for (int f = 0; f < 4; f += 1) {
      h[i][f] = vdotq_laneq_s32(h[i][f], c[f], xh, L);
      l[i][f] = vdotq_laneq_s32(l[i][f], c[f], xl, L);
    }
  }
}

/** Sums of raw codes of one half of `lines` lines with one token: rows 16 f + 8 side + 0..7 of raw[hi, lo][64]. */
__attribute__((noinline)) void grouped_direct_lines(const uint8_t* w, int64_t lines, const int8_t* x, int64_t plane,
                                                    int64_t ahead, int32_t* raw) {
  int32x4_t h[2][4], l[2][4];
#pragma GCC unroll 2
  for (int i = 0; i < 2; i += 1)
#pragma GCC unroll 4
    for (int f = 0; f < 4; f += 1) h[i][f] = l[i][f] = vdupq_n_s32(0);
  int64_t j = 0;
  for (; j + 4 <= lines; j += 4, w += 256, x += 16) {
    const int8x16_t xh = vld1q_s8(x), xl = vld1q_s8(x + plane);
    // The other half asks for the other two.
    __builtin_prefetch(w + ahead);
    __builtin_prefetch(w + ahead + 64);
    half_line<0>(w, xh, xl, h, l);
    half_line<1>(w + 64, xh, xl, h, l);
    half_line<2>(w + 128, xh, xl, h, l);
    half_line<3>(w + 192, xh, xl, h, l);
  }
  for (; j < lines; j += 1, w += 64, x += 4) {
    const int8x16_t xh = vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t*)x));
    const int8x16_t xl = vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t*)(x + plane)));
    half_line<0>(w, xh, xl, h, l);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; i += 1)
#pragma GCC unroll 4
    for (int f = 0; f < 4; f += 1) {
      // Fields 1 and 3 lay two bits up.
      vst1q_s32(raw + 16 * f + 4 * i, f % 2 ? vshrq_n_s32(h[i][f], 2) : h[i][f]);
      vst1q_s32(raw + 64 + 16 * f + 4 * i, f % 2 ? vshrq_n_s32(l[i][f], 2) : l[i][f]);
    }
}
BITNET_INLINE void grouped_direct(const uint8_t* w, int64_t lines, const int8_t* x, int64_t plane, int64_t ahead, int32_t* raw) {
  grouped_direct_lines(w, lines, x, plane, ahead, raw);
  grouped_direct_lines(w + 32, lines, x, plane, ahead + 96, raw + 8);
}

#else

/** 4 rows of int32 from the products of rows 0, 1 and of rows 2, 3, four columns each. */
BITNET_INLINE int32x4_t four_rows(int16x8_t a, int16x8_t b) { return vpaddq_s32(vpaddlq_s16(a), vpaddlq_s16(b)); }

/** Sums of raw codes of one quarter of `lines` lines with one token: rows 16 f + 4 quarter + 0..3 of raw[hi, lo][64]. */
__attribute__((noinline)) void grouped_direct_lines(const uint8_t* w, int64_t lines, const int8_t* x, int64_t plane,
                                                    int64_t ahead, int32_t* raw) {
  int16x8_t h[4][2], l[4][2];
#pragma GCC unroll 4
  for (int f = 0; f < 4; f += 1) h[f][0] = h[f][1] = l[f][0] = l[f][1] = vdupq_n_s16(0);
  const uint8x16_t low = vdupq_n_u8(3);
  for (int64_t j = 0; j < lines; j += 1, w += 64, x += 4) {
    if (j % 4 == 0) __builtin_prefetch(w + ahead);
    const int8x8_t xh = vreinterpret_s8_s32(vld1_dup_s32((const int32_t*)x));
    const int8x8_t xl = vreinterpret_s8_s32(vld1_dup_s32((const int32_t*)(x + plane)));
    const uint8x16_t v = vld1q_u8(w);
    const int8x16_t c[4] = {signed_and(v, low), signed_and(vshrq_n_u8(v, 2), low), signed_and(vshrq_n_u8(v, 4), low),
                            vreinterpretq_s8_u8(vshrq_n_u8(v, 6))};
#pragma GCC unroll 4
    for (int f = 0; f < 4; f += 1) {
      h[f][0] = vmlal_s8(h[f][0], vget_low_s8(c[f]), xh);
      h[f][1] = vmlal_s8(h[f][1], vget_high_s8(c[f]), xh);
      l[f][0] = vmlal_s8(l[f][0], vget_low_s8(c[f]), xl);
      l[f][1] = vmlal_s8(l[f][1], vget_high_s8(c[f]), xl);
    }
  }
#pragma GCC unroll 4
  for (int f = 0; f < 4; f += 1) {
    vst1q_s32(raw + 16 * f, four_rows(h[f][0], h[f][1]));
    vst1q_s32(raw + 64 + 16 * f, four_rows(l[f][0], l[f][1]));
  }
}
BITNET_INLINE void grouped_direct(const uint8_t* w, int64_t lines, const int8_t* x, int64_t plane, int64_t ahead, int32_t* raw) {
  for (int64_t i = 0; i < 4; i += 1) grouped_direct_lines(w + 16 * i, lines, x, plane, ahead + 64 * i, raw + 4 * i);
}

#endif

/** What becomes of the sums of raw codes of one token, raw[hi, lo][64]; acc and sums are those of the token. */
BITNET_INLINE void finish_rows(const Piece& piece, const int32_t* raw, int32_t group_sum, float* acc, int32_t* sums) {
  const int32x4_t off = vdupq_n_s32(piece.last ? group_sum : 0);
  for (int64_t r = 0; r < 64; r += 4) {
    int32x4_t sum = vsubq_s32(vaddq_s32(vshlq_n_s32(vld1q_s32(raw + r), 8), vld1q_s32(raw + 64 + r)), off);
    if (!piece.first) sum = vaddq_s32(sum, vld1q_s32(sums + r));
    if (piece.last) vst1q_f32(acc + r, vaddq_f32(vld1q_f32(acc + r), vmulq_f32(vcvtq_f32_s32(sum), vld1q_f32(piece.scales + r))));
    else vst1q_s32(sums + r, sum);
  }
}

/** The 64 scales of a group as floats. */
BITNET_INLINE void scales_of_group(const GroupedArgs& a, int64_t at, float* scales) {
  for (int64_t r = 0; r < 64; r += 4) {
    if (a.scale_f16) vst1q_f32(scales + r, vcvt_f32_f16(vld1_f16((const float16_t*)a.scales + at + r)));
    else vst1q_f32(scales + r, vld1q_f32((const float*)a.scales + at + r));
  }
}

BITNET_INLINE void grouped_token_neon(const GroupedArgs& a, const GroupedShape& s, int64_t p) {
  const uint8_t* w = a.w + p * s.lines * 64;
  const int8_t* x = (const int8_t*)a.x;
  alignas(64) float acc[64] = {}, scales[64];
  alignas(64) int32_t raw[128], sums[64];
  for (int64_t g = 0; g < s.groups; g += 1) {
    scales_of_group(a, (p * s.groups + g) * 64, scales);
    for (int64_t from = 0; from < s.each; from += kGroupedColumnsNeon / 4) {
      const int64_t left = s.each - from, lines = left < kGroupedColumnsNeon / 4 ? left : kGroupedColumnsNeon / 4;
      grouped_direct(w, lines, x, s.plane, a.prefetch, raw);
      finish_rows({scales, g, from == 0, lines == left}, raw, group_sum(a, s, 0, g), acc, sums);
      w += 64 * lines;
      x += 4 * lines;
    }
  }
  store_panel(a, p, 0, acc);
}

// ---------------------------------------------------------------------------------------------------------------------
// Several tokens: up to kGroupedColumnsNeon of a panel are decoded into a tile, which meets all tokens.

#if defined(__ARM_FEATURE_MATMUL_INT8)

constexpr int kGroupedStepNeon = 2;

/** [field][pair of lines][8 pairs of rows][8 columns]; a last single line is paired with zeros. */
BITNET_INLINE void decode_lines_neon(const uint8_t* w, int64_t lines, uint8_t* tile, int64_t ahead) {
  const int64_t field = (lines + 1) / 2 * 128;
  const uint8x16_t low = vdupq_n_u8(3), none = vdupq_n_u8(0);
  for (int64_t j = 0; j < lines; j += 2, w += 128, tile += 128) {
    __builtin_prefetch(w + ahead);
    __builtin_prefetch(w + ahead + 64);
    for (int i = 0; i < 4; i += 1) {
      // A code that meets no activation may be anything: its product is left out by zeros here.
      const uint8x16_t u = vld1q_u8(w + 16 * i), v = j + 1 < lines ? vld1q_u8(w + 64 + 16 * i) : none;
      const auto put = [&](int f, uint8x16_t a, uint8x16_t b) __attribute__((always_inline)) {
        const uint32x4_t x = vreinterpretq_u32_u8(vandq_u8(a, low)), y = vreinterpretq_u32_u8(vandq_u8(b, low));
        vst1q_u8(tile + f * field + 32 * i, vreinterpretq_u8_u32(vzip1q_u32(x, y)));
        vst1q_u8(tile + f * field + 32 * i + 16, vreinterpretq_u8_u32(vzip2q_u32(x, y)));
      };
      put(0, u, v);
      put(1, vshrq_n_u8(u, 2), vshrq_n_u8(v, 2));
      put(2, vshrq_n_u8(u, 4), vshrq_n_u8(v, 4));
      put(3, vshrq_n_u8(u, 6), vshrq_n_u8(v, 6));
    }
  }
}

/** Sums of raw codes of one field with NT tokens, to rows 0..15 of raw[token][hi, lo][64]. */
template <int NT>
__attribute__((noinline)) void grouped_lines_neon(const uint8_t* tile, int64_t lines, const int8_t* x, int64_t stride,
                                                  int64_t plane, int32_t* raw) {
  int32x4_t acc[NT][8];  // {row hi, row lo, next row hi, next row lo}
#pragma GCC unroll 4
  for (int k = 0; k < NT; k += 1)
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 1) acc[k][i] = vdupq_n_s32(0);
  for (int64_t j = 0; j < lines; j += 2, tile += 128, x += 8) {
    int8x16_t v[NT];
#pragma GCC unroll 4
    for (int k = 0; k < NT; k += 1) v[k] = vcombine_s8(vld1_s8(x + k * stride), vld1_s8(x + k * stride + plane));
#pragma GCC unroll 8
    for (int i = 0; i < 8; i += 1) {
      const int8x16_t c = vreinterpretq_s8_u8(vld1q_u8(tile + 16 * i));
#pragma GCC unroll 4
      for (int k = 0; k < NT; k += 1) acc[k][i] = vmmlaq_s32(acc[k][i], c, v[k]);
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < NT; k += 1)
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      vst1q_s32(raw + 128 * k + 2 * i, vuzp1q_s32(acc[k][i], acc[k][i + 1]));
      vst1q_s32(raw + 128 * k + 64 + 2 * i, vuzp2q_s32(acc[k][i], acc[k][i + 1]));
    }
}
/** Bytes of a field in the tile. */
BITNET_INLINE int64_t field_bytes(int64_t lines) { return (lines + 1) / 2 * 128; }

#else

/** [field][line][64]. */
BITNET_INLINE void decode_lines_neon(const uint8_t* w, int64_t lines, uint8_t* tile, int64_t ahead) {
  const int64_t field = 64 * lines;
  const uint8x16_t low = vdupq_n_u8(3);
  for (int64_t j = 0; j < lines; j += 1, w += 64, tile += 64) {
    __builtin_prefetch(w + ahead);
    for (int i = 0; i < 64; i += 16) {
      const uint8x16_t v = vld1q_u8(w + i);
      vst1q_u8(tile + i, vandq_u8(v, low));
      vst1q_u8(tile + field + i, vandq_u8(vshrq_n_u8(v, 2), low));
      vst1q_u8(tile + 2 * field + i, vandq_u8(vshrq_n_u8(v, 4), low));
      vst1q_u8(tile + 3 * field + i, vshrq_n_u8(v, 6));
    }
  }
}
BITNET_INLINE int64_t field_bytes(int64_t lines) { return 64 * lines; }

#if defined(__ARM_FEATURE_DOTPROD)

constexpr int kGroupedStepNeon = 2;

template <int L, int NT>
BITNET_INLINE void tile_line(const uint8_t* tile, const int8x16_t (&xh)[NT], const int8x16_t (&xl)[NT],
                             int32x4_t (&acc)[NT][2][4]) {
  loads_stay();
#pragma GCC unroll 4
  for (int i = 0; i < 4; i += 1) {
    const int8x16_t c = vreinterpretq_s8_u8(vld1q_u8(tile + 16 * i));
#pragma GCC unroll 2
    for (int k = 0; k < NT; k += 1) {
      acc[k][0][i] = vdotq_laneq_s32(acc[k][0][i], c, xh[k], L);
      acc[k][1][i] = vdotq_laneq_s32(acc[k][1][i], c, xl[k], L);
    }
  }
}

template <int NT>
__attribute__((noinline)) void grouped_lines_neon(const uint8_t* tile, int64_t lines, const int8_t* x, int64_t stride,
                                                  int64_t plane, int32_t* raw) {
  int32x4_t acc[NT][2][4];
  int8x16_t xh[NT], xl[NT];
#pragma GCC unroll 2
  for (int k = 0; k < NT; k += 1)
#pragma GCC unroll 4
    for (int i = 0; i < 4; i += 1) acc[k][0][i] = acc[k][1][i] = vdupq_n_s32(0);
  int64_t j = 0;
  for (; j + 4 <= lines; j += 4, tile += 256, x += 16) {
#pragma GCC unroll 2
    for (int k = 0; k < NT; k += 1) {
      xh[k] = vld1q_s8(x + k * stride);
      xl[k] = vld1q_s8(x + k * stride + plane);
    }
    tile_line<0, NT>(tile, xh, xl, acc);
    tile_line<1, NT>(tile + 64, xh, xl, acc);
    tile_line<2, NT>(tile + 128, xh, xl, acc);
    tile_line<3, NT>(tile + 192, xh, xl, acc);
  }
  for (; j < lines; j += 1, tile += 64, x += 4) {
#pragma GCC unroll 2
    for (int k = 0; k < NT; k += 1) {
      xh[k] = vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t*)(x + k * stride)));
      xl[k] = vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t*)(x + k * stride + plane)));
    }
    tile_line<0, NT>(tile, xh, xl, acc);
  }
#pragma GCC unroll 2
  for (int k = 0; k < NT; k += 1)
#pragma GCC unroll 4
    for (int i = 0; i < 4; i += 1) {
      vst1q_s32(raw + 128 * k + 4 * i, acc[k][0][i]);
      vst1q_s32(raw + 128 * k + 64 + 4 * i, acc[k][1][i]);
    }
}

#else

constexpr int kGroupedStepNeon = 1;

template <int NT>
__attribute__((noinline)) void grouped_lines_neon(const uint8_t* tile, int64_t lines, const int8_t* x, int64_t, int64_t plane,
                                                  int32_t* raw) {
  int16x8_t h[4][2], l[4][2];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i += 1) h[i][0] = h[i][1] = l[i][0] = l[i][1] = vdupq_n_s16(0);
  for (int64_t j = 0; j < lines; j += 1, tile += 64, x += 4) {
    const int8x8_t xh = vreinterpret_s8_s32(vld1_dup_s32((const int32_t*)x));
    const int8x8_t xl = vreinterpret_s8_s32(vld1_dup_s32((const int32_t*)(x + plane)));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i += 1) {
      const int8x16_t c = vreinterpretq_s8_u8(vld1q_u8(tile + 16 * i));
      h[i][0] = vmlal_s8(h[i][0], vget_low_s8(c), xh);
      h[i][1] = vmlal_s8(h[i][1], vget_high_s8(c), xh);
      l[i][0] = vmlal_s8(l[i][0], vget_low_s8(c), xl);
      l[i][1] = vmlal_s8(l[i][1], vget_high_s8(c), xl);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i += 1) {
    vst1q_s32(raw + 4 * i, four_rows(h[i][0], h[i][1]));
    vst1q_s32(raw + 64 + 4 * i, four_rows(l[i][0], l[i][1]));
  }
}

#endif
#endif

/** Panels with tokens t..t+n-1, n <= kGroupedTokensNeon. */
BITNET_INLINE void grouped_tokens_neon(const GroupedArgs& a, const GroupedShape& s, int64_t t, int64_t n) {
  uint8_t* tile = a.scratch;
  float* scales = (float*)(a.scratch + kGroupedColumnsNeon * 64);
  float* acc = scales + 64;
  int32_t* sums = (int32_t*)(acc + 64 * kGroupedTokensNeon);
  alignas(64) int32_t raw[kGroupedStepNeon * 128];
  for (int64_t p = a.begin; p < a.end; p += 1) {
    const uint8_t* w = a.w + p * s.lines * 64;
    __builtin_memset(acc, 0, (size_t)(n * 256));
    for (int64_t g = 0; g < s.groups; g += 1) {
      scales_of_group(a, (p * s.groups + g) * 64, scales);
      for (int64_t from = 0; from < s.each; from += kGroupedColumnsNeon / 4) {
        const int64_t left = s.each - from, lines = left < kGroupedColumnsNeon / 4 ? left : kGroupedColumnsNeon / 4;
        const Piece piece{scales, g, from == 0, lines == left};
        decode_lines_neon(w, lines, tile, a.prefetch);
        w += lines * 64;
        const int8_t* x = (const int8_t*)a.x + t * s.stride + (g * s.each + from) * 4;
        for (int64_t k = 0; k < n; k += kGroupedStepNeon, x += kGroupedStepNeon * s.stride) {
          const int64_t m = n - k < kGroupedStepNeon ? n - k : kGroupedStepNeon;
          for (int64_t f = 0; f < 4; f += 1) {
            const uint8_t* field = tile + f * field_bytes(lines);
            if (m == kGroupedStepNeon) grouped_lines_neon<kGroupedStepNeon>(field, lines, x, s.stride, s.plane, raw + 16 * f);
            else if (m == 2) grouped_lines_neon<2>(field, lines, x, s.stride, s.plane, raw + 16 * f);
            else grouped_lines_neon<1>(field, lines, x, s.stride, s.plane, raw + 16 * f);
          }
          for (int64_t i = 0; i < m; i += 1)
            finish_rows(piece, raw + 128 * i, group_sum(a, s, t + k + i, g), acc + 64 * (k + i), sums + 64 * (k + i));
        }
      }
    }
    for (int64_t k = 0; k < n; k += 1) store_panel(a, p, t + k, acc + 64 * k);
  }
}

void grouped_neon(const GroupedArgs& a) {
  const GroupedShape s(a);
  if (a.T == 1) {
    for (int64_t p = a.begin; p < a.end; p += 1) grouped_token_neon(a, s, p);
    return;
  }
  for (int64_t t = 0; t < a.T; t += kGroupedTokensNeon)
    grouped_tokens_neon(a, s, t, a.T - t < kGroupedTokensNeon ? a.T - t : kGroupedTokensNeon);
}

}  // namespace
