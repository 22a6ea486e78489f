// Group-scaled products (layouts.h, panel64) on 256-bit registers: AVX2, or AVX-VNNI when the compiler was told so.
//
// Half a line is 8 rows x 4 columns of each field. AVX2: maddubs multiplies codes 0..3 with four broadcast activations of
// a plane and adds pairs into int16; 32 lines of |2 * 3 * 128| stay below 2^15, so a group of 128 needs nothing wider.
// Per 128 weights (half a line, one token): 8 maddubs, 8 additions, 3 shifts, 4 masks, 3 loads; AVX-VNNI: 8 dpbusd,
// 1 shift, 4 masks, 3 loads.
#pragma once

#include "grouped_common.h"
#include "matmul_x86_256.h"

namespace {

#if defined(__AVXVNNI__)
constexpr int64_t kGroupedColumns256 = 256;
#else
constexpr int64_t kGroupedColumns256 = 128;
#endif
constexpr int64_t kGroupedTokens256 = 96;

/** int32 sums of q * code of 8 rows from those of both planes. */
BITNET_INLINE __m256i join_planes(__m256i hi, __m256i lo) {
#if defined(__AVXVNNI__)
  return _mm256_add_epi32(_mm256_slli_epi32(hi, 8), lo);
#else
  return _mm256_add_epi32(_mm256_madd_epi16(hi, _mm256_set1_epi16(256)), _mm256_madd_epi16(lo, _mm256_set1_epi16(1)));
#endif
}

BITNET_INLINE __m256i four_broadcast(const int8_t* x) {
  int32_t v;
  __builtin_memcpy(&v, x, 4);
  return _mm256_set1_epi32(v);
}

/** acc[0..7] += float(sum - off) * scale. */
BITNET_INLINE void add_group_256(float* acc, __m256i sum, __m256i off, const float* scales) {
  const __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(sum, off)), _mm256_loadu_ps(scales));
  _mm256_storeu_ps(acc, _mm256_add_ps(_mm256_loadu_ps(acc), v));
}

/**
 * Half of each of `lines` lines with one token: sums of raw codes to raw[hi, lo][field][8 rows], as the registers hold
 * them. The lines `ahead` are asked for at half the pace: the other half asks for the rest. A function of its own: beside other work compilers keep some of the sums in memory all the way.
 */
__attribute__((noinline)) void grouped_half_lines(const uint8_t* w, int64_t lines, const int8_t* x, int64_t plane,
                                                  int64_t ahead, int32_t* raw) {
  const __m256i low = _mm256_set1_epi8(3);
  __m256i h[4], l[4];
#pragma GCC unroll 4
  for (int f = 0; f < 4; f += 1) h[f] = l[f] = _mm256_setzero_si256();
  for (int64_t j = 0; j < lines; j += 1, w += 64, x += 4, ahead -= 32) {
    const __m256i v = load256(w);
    expect_codes(w, ahead);
    const __m256i xh = four_broadcast(x), xl = four_broadcast(x + plane);
#if defined(__AVXVNNI__)
    const __m256i next = _mm256_set1_epi8(12), u = _mm256_srli_epi16(v, 4);
    const __m256i c[4] = {_mm256_and_si256(v, low), _mm256_and_si256(v, next), _mm256_and_si256(u, low),
                          _mm256_and_si256(u, next)};
#else
    const __m256i c[4] = {_mm256_and_si256(v, low), _mm256_and_si256(_mm256_srli_epi16(v, 2), low),
                          _mm256_and_si256(_mm256_srli_epi16(v, 4), low), _mm256_and_si256(_mm256_srli_epi16(v, 6), low)};
#endif
#pragma GCC unroll 4
    for (int f = 0; f < 4; f += 1) {
      multiply_add(h[f], c[f], xh);
      multiply_add(l[f], c[f], xl);
    }
  }
#pragma GCC unroll 4
  for (int f = 0; f < 4; f += 1) {
#if defined(__AVXVNNI__)
    // Fields 1 and 3 lay two bits up.
    if (f % 2) h[f] = _mm256_srai_epi32(h[f], 2), l[f] = _mm256_srai_epi32(l[f], 2);
#endif
    _mm256_store_si256((__m256i*)(raw + 8 * f), h[f]);
    _mm256_store_si256((__m256i*)(raw + 32 + 8 * f), l[f]);
  }
}

/** One panel with one token, half a panel's width at a time: the second half finds its lines in L1. */
BITNET_INLINE void grouped_token_256(const GroupedArgs& a, const GroupedShape& s, int64_t p) {
  const uint8_t* w = a.w + p * s.lines * 64;
  const int8_t* hi = (const int8_t*)a.x;
  alignas(64) float acc[64], scales[64];
  alignas(64) int32_t sums[64];
  for (int64_t r = 0; r < 64; r += 16) v_store(acc + r, v_zero());
  for (int64_t g = 0; g < s.groups; g += 1) {
    const int64_t scale_at = (p * s.groups + g) * 64;
    for (int64_t r = 0; r < 64; r += 16) v_store(scales + r, grouped_scales(a.scales, a.scale_f16, scale_at + r));
    const char* next_scales = (const char*)a.scales + (scale_at + 512) * (a.scale_f16 ? 2 : 4);
    _mm_prefetch(next_scales, _MM_HINT_T0);
    _mm_prefetch(next_scales + 64, _MM_HINT_T0);
    const __m256i off = _mm256_set1_epi32(group_sum(a, s, 0, g));
    for (int64_t from = 0; from < s.each; from += kGroupedColumns256 / 4) {
      const int64_t left = s.each - from, lines = left < kGroupedColumns256 / 4 ? left : kGroupedColumns256 / 4;
      const bool first = from == 0, last = lines == left;
      const auto half = [&](int64_t side) __attribute__((always_inline)) {
        alignas(32) int32_t raw[64];
        grouped_half_lines(w + 32 * side, lines, hi, s.plane, a.prefetch + 32 * lines * side, raw);
        for (int64_t f = 0; f < 4; f += 1) {
          const int64_t row = 16 * f + 8 * side;
          __m256i sum = join_planes(load256(raw + 8 * f), load256(raw + 32 + 8 * f));
          if (!first) sum = _mm256_add_epi32(sum, load256(sums + row));
          if (last) add_group_256(acc + row, sum, off, scales + row);
          else _mm256_store_si256((__m256i*)(sums + row), sum);
        }
      };
      half(0);
      half(1);
      w += 64 * lines;
      hi += 4 * lines;
    }
  }
  store_panel(a, p, 0, acc);
}

// ---------------------------------------------------------------------------------------------------------------------
// Several tokens: up to kGroupedColumns256 of a panel are decoded into a tile, [field][line][64], which stays in L1 and
// meets all tokens. Float sums of all tokens lie in scratch.

/** Tile, scales of a group, then of each token 64 float sums and 64 int32 sums of a group longer than the tile. */
int64_t grouped_scratch_256(int64_t, int64_t) { return kGroupedColumns256 * 64 + 256 + kGroupedTokens256 * 512; }

BITNET_INLINE void decode_lines_256(const uint8_t* w, int64_t lines, uint8_t* tile, int64_t ahead) {
  const __m256i low = _mm256_set1_epi8(3);
  for (int64_t j = 0; j < 2 * lines; j += 1, w += 32, tile += 32) {
    const __m256i v = load256(w);
    expect_codes(w, ahead);
    __m256i* to = (__m256i*)tile;
    const int64_t field = 2 * lines;
    _mm256_store_si256(to, _mm256_and_si256(v, low));
    _mm256_store_si256(to + field, _mm256_and_si256(_mm256_srli_epi16(v, 2), low));
    _mm256_store_si256(to + 2 * field, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
    _mm256_store_si256(to + 3 * field, _mm256_and_si256(_mm256_srli_epi16(v, 6), low));
  }
}

/** Sums of raw codes of one field of `lines` lines of a tile with NT tokens, to raw[token][hi, lo][16 rows]. */
template <int NT>
__attribute__((noinline)) void grouped_lines_256(const uint8_t* tile, int64_t lines, const int8_t* x, int64_t stride,
                                                 int64_t plane, int32_t* raw) {
  __m256i acc[NT][2][2];
#pragma GCC unroll 4
  for (int k = 0; k < NT; k += 1) acc[k][0][0] = acc[k][0][1] = acc[k][1][0] = acc[k][1][1] = _mm256_setzero_si256();
  for (int64_t j = 0; j < lines; j += 1, tile += 64, x += 4) {
    const __m256i c0 = _mm256_load_si256((const __m256i*)tile), c1 = _mm256_load_si256((const __m256i*)(tile + 32));
#pragma GCC unroll 4
    for (int k = 0; k < NT; k += 1) {
      tile_step(acc[k][0][0], acc[k][0][1], c0, c1, x + k * stride);
      tile_step(acc[k][1][0], acc[k][1][1], c0, c1, x + k * stride + plane);
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < NT; k += 1)
#pragma GCC unroll 4
    for (int i = 0; i < 2; i += 1)
#pragma GCC unroll 4
      for (int side = 0; side < 2; side += 1)
        _mm256_store_si256((__m256i*)(raw + 32 * k + 16 * i + 8 * side), acc[k][i][side]);
}

/** One field with n <= 3 tokens, and what becomes of the sums; acc and sums are those of token t. */
BITNET_INLINE void grouped_cell_256(const GroupedArgs& a, const GroupedShape& s, const Piece& piece, const uint8_t* tile,
                                    int64_t lines, int64_t t, int64_t n, const int8_t* x, float* acc, int32_t* sums) {
  for (int64_t f = 0; f < 64; f += 16, tile += 64 * lines) {
    alignas(32) int32_t raw[3 * 32];
    if (n == 3) grouped_lines_256<3>(tile, lines, x, s.stride, s.plane, raw);
    else if (n == 2) grouped_lines_256<2>(tile, lines, x, s.stride, s.plane, raw);
    else grouped_lines_256<1>(tile, lines, x, s.stride, s.plane, raw);
    for (int64_t k = 0; k < n; k += 1) {
      const __m256i off = _mm256_set1_epi32(group_sum(a, s, t + k, piece.g));
      for (int64_t row = f; row < f + 16; row += 8) {
        const int32_t* from = raw + 32 * k + (row - f);
        const int64_t at = 64 * k + row;
        __m256i sum = join_planes(load256(from), load256(from + 16));
        if (!piece.first) sum = _mm256_add_epi32(sum, load256(sums + at));
        if (piece.last) add_group_256(acc + at, sum, off, piece.scales + row);
        else _mm256_store_si256((__m256i*)(sums + at), sum);
      }
    }
  }
}

/** Panels with tokens t..t+n-1, n <= kGroupedTokens256. */
BITNET_INLINE void grouped_tokens_256(const GroupedArgs& a, const GroupedShape& s, int64_t t, int64_t n) {
  uint8_t* tile = a.scratch;
  float* scales = (float*)(a.scratch + kGroupedColumns256 * 64);
  float* acc = scales + 64;
  int32_t* sums = (int32_t*)(acc + 64 * kGroupedTokens256);
  for (int64_t p = a.begin; p < a.end; p += 1) {
    const uint8_t* w = a.w + p * s.lines * 64;
    __builtin_memset(acc, 0, (size_t)(n * 256));
    for (int64_t g = 0; g < s.groups; g += 1) {
      for (int64_t r = 0; r < 64; r += 16)
        v_store(scales + r, grouped_scales(a.scales, a.scale_f16, (p * s.groups + g) * 64 + r));
      for (int64_t from = 0; from < s.each; from += kGroupedColumns256 / 4) {
        const int64_t left = s.each - from, lines = left < kGroupedColumns256 / 4 ? left : kGroupedColumns256 / 4;
        const Piece piece{scales, g, from == 0, lines == left};
        decode_lines_256(w, lines, tile, a.prefetch);
        w += lines * 64;
        const int8_t* x = (const int8_t*)a.x + t * s.stride + (g * s.each + from) * 4;
        for (int64_t k = 0; k < n; k += 3)
          grouped_cell_256(a, s, piece, tile, lines, t + k, n - k < 3 ? n - k : 3, x + k * s.stride, acc + 64 * k, sums + 64 * k);
      }
    }
    for (int64_t k = 0; k < n; k += 1) store_panel(a, p, t + k, acc + 64 * k);
  }
}

void grouped_256(const GroupedArgs& a) {
  const GroupedShape s(a);
  if (a.T == 1) {
    for (int64_t p = a.begin; p < a.end; p += 1) grouped_token_256(a, s, p);
    return;
  }
  for (int64_t t = 0; t < a.T; t += kGroupedTokens256)
    grouped_tokens_256(a, s, t, a.T - t < kGroupedTokens256 ? a.T - t : kGroupedTokens256);
}

}  // namespace
