// Ternary and int8 products on 256-bit registers: AVX2, or AVX-VNNI when the compiler was told so (-mavxvnni).
//
// AVX2: maddubs multiplies codes 0..2 (unsigned) with activations -127..127 (signed) and adds pairs into int16. Fields
// 1 and 3 of a byte are left where they lie, two bits up, which saves their shifts; those sums are 4 times too large
// and are shifted down once at the end. 16 steps of |8 * 127 * 2| stay below 2^15.
// AVX-VNNI: dpbusd adds quadruples into int32, so nothing can overflow on the way.
#pragma once

#include <immintrin.h>

#include "matmul_scalar.h"
#include "vec16.h"

namespace {

using bitnet::row_at;

BITNET_INLINE __m256i load256(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }

#if defined(__AVXVNNI__)
BITNET_INLINE __m256i dot4(__m256i acc, __m256i u8, __m256i s8) { return _mm256_dpbusd_avx_epi32(acc, u8, s8); }
#endif

/** acc += c * x, as int16 pairs (AVX2) or int32 quadruples; in assembly for the reason given at tile_step. */
BITNET_INLINE void multiply_add(__m256i& acc, __m256i c, __m256i x) {
#if defined(__AVXVNNI__)
  __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(c), "x"(x));
#else
  __m256i t;
  __asm__(
      "vpmaddubsw %3, %2, %1\n\t"
      "vpaddw %1, %0, %0"
      : "+x"(acc), "=&x"(t)
      : "x"(c), "x"(x));
#endif
}

/** Sums of four vectors of eight int32. */
BITNET_INLINE __m128i sum_lanes(const __m256i* a) {
  const __m256i x = _mm256_hadd_epi32(_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(a[2], a[3]));
  return _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}

/** One byte row with NT tokens, straight from the packed bytes; 64 columns a step, all rows are padded to that. */
template <int NT>
BITNET_INLINE void quad_rows(const TernaryArgs& a, int64_t q, int64_t t) {
  const int64_t stride = bitnet::code_stride(a.C), end = bitnet::round_up(a.C, 64), ahead = a.prefetch;
  const uint8_t* w = row_at(a, q);
  const int8_t* x = a.x + t * stride;
  const __m256i low = _mm256_set1_epi8(3), next = _mm256_set1_epi8(12);
  __m256i total[NT][4];
  for (int k = 0; k < NT; k += 1)
    for (int j = 0; j < 4; j += 1) total[k][j] = _mm256_setzero_si256();
  const auto half_step = [&](__m256i(&sum)[NT][4], int64_t c) __attribute__((always_inline)) {
    const __m256i v = load256(w + c), h = _mm256_srli_epi16(v, 4);
    const __m256i c0 = _mm256_and_si256(v, low), c1 = _mm256_and_si256(v, next);
    const __m256i c2 = _mm256_and_si256(h, low), c3 = _mm256_and_si256(h, next);
    for (int k = 0; k < NT; k += 1) {
      const __m256i xv = load256(x + k * stride + c);
      multiply_add(sum[k][0], c0, xv);
      multiply_add(sum[k][1], c1, xv);
      multiply_add(sum[k][2], c2, xv);
      multiply_add(sum[k][3], c3, xv);
    }
  };
#if defined(__AVXVNNI__)
  for (int64_t c = 0; c < end; c += 64) {
    _mm_prefetch((const char*)w + c + ahead, _MM_HINT_T0);
    half_step(total, c);
    half_step(total, c + 32);
  }
#else
  const __m256i one = _mm256_set1_epi16(1);
  for (int64_t c = 0; c < end;) {
    const int64_t stop = c + 16 * 32 < end ? c + 16 * 32 : end;
    __m256i part[NT][4];
    for (int k = 0; k < NT; k += 1)
      for (int j = 0; j < 4; j += 1) part[k][j] = _mm256_setzero_si256();
    for (; c < stop; c += 64) {
      _mm_prefetch((const char*)w + c + ahead, _MM_HINT_T0);
      half_step(part, c);
      half_step(part, c + 32);
    }
    for (int k = 0; k < NT; k += 1)
      for (int j = 0; j < 4; j += 1)
        total[k][j] = _mm256_add_epi32(total[k][j], _mm256_madd_epi16(part[k][j], one));
  }
#endif
  for (int k = 0; k < NT; k += 1) {
    int32_t sums[4];
    const __m128i exact = _mm_srav_epi32(sum_lanes(total[k]), _mm_setr_epi32(0, 2, 0, 2));
    _mm_storeu_si128((__m128i*)sums, exact);
    store_quad(a, q, t + k, sums);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Matrix-matrix: 16 rows are decoded once into a tile (layouts.h) that stays in L1, then meet every token.

constexpr int64_t kTileColumns = 960;

/** Decodes byte rows q..q+3, columns [from, from + columns), columns a multiple of 32. */
BITNET_INLINE void decode_tile(const uint8_t* const* rows, int64_t from, int64_t columns, uint8_t* tile) {
  const __m256i low = _mm256_set1_epi8(3);
  for (int64_t c = 0; c < columns; c += 32, tile += 512) {
    const __m256i r0 = load256(rows[0] + from + c), r1 = load256(rows[1] + from + c);
    const __m256i r2 = load256(rows[2] + from + c), r3 = load256(rows[3] + from + c);
    // 4 x 4 transpose of dwords in both halves: t[g] holds column groups g and g + 4 of the four rows.
    const __m256i a0 = _mm256_unpacklo_epi32(r0, r1), a1 = _mm256_unpackhi_epi32(r0, r1);
    const __m256i b0 = _mm256_unpacklo_epi32(r2, r3), b1 = _mm256_unpackhi_epi32(r2, r3);
    const __m256i t[4] = {_mm256_unpacklo_epi64(a0, b0), _mm256_unpackhi_epi64(a0, b0),
                          _mm256_unpacklo_epi64(a1, b1), _mm256_unpackhi_epi64(a1, b1)};
    for (int g = 0; g < 4; g += 1) {
      const __m256i f0 = _mm256_and_si256(t[g], low), f1 = _mm256_and_si256(_mm256_srli_epi16(t[g], 2), low);
      const __m256i f2 = _mm256_and_si256(_mm256_srli_epi16(t[g], 4), low);
      const __m256i f3 = _mm256_and_si256(_mm256_srli_epi16(t[g], 6), low);
      _mm256_store_si256((__m256i*)(tile + g * 64), _mm256_permute2x128_si256(f0, f1, 0x20));
      _mm256_store_si256((__m256i*)(tile + g * 64 + 32), _mm256_permute2x128_si256(f2, f3, 0x20));
      _mm256_store_si256((__m256i*)(tile + g * 64 + 256), _mm256_permute2x128_si256(f0, f1, 0x31));
      _mm256_store_si256((__m256i*)(tile + g * 64 + 288), _mm256_permute2x128_si256(f2, f3, 0x31));
    }
  }
}

/** Four activations that need not be aligned, as a memory operand. */
typedef int32_t four_codes __attribute__((aligned(1), may_alias));

/**
 * Both halves of a tile step with one token's broadcast activations. In assembly, because compilers hoist the
 * broadcasts and products of all tokens and then spill the sums: half the speed.
 */
BITNET_INLINE void tile_step(__m256i& acc0, __m256i& acc1, __m256i c0, __m256i c1, const int8_t* x) {
#if defined(__AVXVNNI__)
  __m256i t;
  __asm__(
      "vpbroadcastd %5, %2\n\t"
      "%{vex%} vpdpbusd %2, %3, %0\n\t"
      "%{vex%} vpdpbusd %2, %4, %1"
      : "+x"(acc0), "+x"(acc1), "=&x"(t)
      : "x"(c0), "x"(c1), "m"(*(const four_codes*)x));
#else
  __m256i t, u;
  __asm__(
      "vpbroadcastd %6, %2\n\t"
      "vpmaddubsw %2, %4, %3\n\t"
      "vpmaddubsw %2, %5, %2\n\t"
      "vpaddw %3, %0, %0\n\t"
      "vpaddw %2, %1, %1"
      : "+x"(acc0), "+x"(acc1), "=&x"(t), "=&x"(u)
      : "x"(c0), "x"(c1), "m"(*(const four_codes*)x));
#endif
}

/** sums[k] (16 int32) += tile . x of NT tokens, over `groups` groups of 4 columns. */
template <int NT>
BITNET_INLINE void tile_tokens(const uint8_t* tile, const int8_t* x, int64_t stride, int64_t groups, int32_t* sums) {
#if defined(__AVXVNNI__)
  __m256i acc[NT][2];
  for (int k = 0; k < NT; k += 1) {
    acc[k][0] = load256(sums + 16 * k);
    acc[k][1] = load256(sums + 16 * k + 8);
  }
  for (int64_t g = 0; g < groups; g += 1) {
    const __m256i c0 = _mm256_load_si256((const __m256i*)(tile + 64 * g));
    const __m256i c1 = _mm256_load_si256((const __m256i*)(tile + 64 * g + 32));
    for (int k = 0; k < NT; k += 1) tile_step(acc[k][0], acc[k][1], c0, c1, x + k * stride + 4 * g);
  }
  for (int k = 0; k < NT; k += 1) {
    _mm256_storeu_si256((__m256i*)(sums + 16 * k), acc[k][0]);
    _mm256_storeu_si256((__m256i*)(sums + 16 * k + 8), acc[k][1]);
  }
#else
  // 60 steps of |2 * 127 * 2| stay below 2^15.
  const __m256i one = _mm256_set1_epi16(1);
  for (int64_t g = 0; g < groups;) {
    const int64_t stop = g + 60 < groups ? g + 60 : groups;
    __m256i acc[NT][2];
    for (int k = 0; k < NT; k += 1) acc[k][0] = acc[k][1] = _mm256_setzero_si256();
    for (; g < stop; g += 1) {
      const __m256i c0 = _mm256_load_si256((const __m256i*)(tile + 64 * g));
      const __m256i c1 = _mm256_load_si256((const __m256i*)(tile + 64 * g + 32));
      for (int k = 0; k < NT; k += 1) tile_step(acc[k][0], acc[k][1], c0, c1, x + k * stride + 4 * g);
    }
    for (int k = 0; k < NT; k += 1) {
      __m256i* to = (__m256i*)(sums + 16 * k);
      _mm256_storeu_si256(to, _mm256_add_epi32(load256(to), _mm256_madd_epi16(acc[k][0], one)));
      _mm256_storeu_si256(to + 1, _mm256_add_epi32(load256(to + 1), _mm256_madd_epi16(acc[k][1], one)));
    }
  }
#endif
}

constexpr int kTileTokens = 6;
constexpr int64_t kTokenBlock256 = 96;

/** Scratch: the tile, then 16 int32 sums for each token of a block. */
int64_t ternary_scratch_256(int64_t) { return kTileColumns * 16 + kTokenBlock256 * 64; }

/** Writes the sums of one tile: rows q + i + j Q, i < rows. */
BITNET_INLINE void store_tile(const TernaryArgs& a, int64_t q, int64_t rows, int64_t t, const int32_t* sums) {
  int32_t code_sum;
  __builtin_memcpy(&code_sum, a.x + t * bitnet::code_stride(a.C) + bitnet::code_sum_at(a.C), 4);
  const __m128i off = _mm_set1_epi32(code_sum);
  const __m128 factor = _mm_set1_ps(a.factor[t]);
  float* out = a.out + t * a.R;
  for (int64_t j = 0; j < 4; j += 1) {
    const __m128i exact = _mm_sub_epi32(_mm_loadu_si128((const __m128i*)(sums + 4 * j)), off);
    const __m128 v = _mm_mul_ps(_mm_cvtepi32_ps(exact), factor);
    const int64_t r = q + j * a.Q;
    if (rows == 4 && r + 4 <= a.R) {
      _mm_storeu_ps(out + r, v);
    } else {
      float lanes[4];
      _mm_storeu_ps(lanes, v);
      for (int64_t i = 0; i < rows && r + i < a.R; i += 1) out[r + i] = lanes[i];
    }
  }
}

BITNET_INLINE void tile_block(const TernaryArgs& a, int64_t q) {
  const int64_t stride = bitnet::code_stride(a.C), columns = bitnet::round_up(a.C, 32);
  const int64_t rows = a.end - q < 4 ? a.end - q : 4;
  const uint8_t* w[4];
  for (int64_t i = 0; i < 4; i += 1) w[i] = row_at(a, i < rows ? q + i : q);
  uint8_t* tile = a.scratch;
  int32_t* sums = (int32_t*)(a.scratch + kTileColumns * 16);
  __builtin_memset(sums, 0, (size_t)(a.T * 64));
  for (int64_t from = 0; from < columns; from += kTileColumns) {
    const int64_t n = columns - from < kTileColumns ? columns - from : kTileColumns;
    decode_tile(w, from, n, tile);
    const int8_t* x = a.x + from;
    int64_t t = 0;
    for (; t + kTileTokens <= a.T; t += kTileTokens)
      tile_tokens<kTileTokens>(tile, x + t * stride, stride, n / 4, sums + 16 * t);
    if (t + 4 <= a.T) {
      tile_tokens<4>(tile, x + t * stride, stride, n / 4, sums + 16 * t);
      t += 4;
    }
    if (t + 2 <= a.T) {
      tile_tokens<2>(tile, x + t * stride, stride, n / 4, sums + 16 * t);
      t += 2;
    }
    if (t < a.T) tile_tokens<1>(tile, x + t * stride, stride, n / 4, sums + 16 * t);
  }
  for (int64_t t = 0; t < a.T; t += 1) store_tile(a, q, rows, t, sums + 16 * t);
}

inline __attribute__((unused)) void ternary_256(const TernaryArgs& a) {
  if (a.T == 1) {
    for (int64_t q = a.begin; q < a.end; q += 1) quad_rows<1>(a, q, 0);
  } else if (a.T < 8) {
    // Decoding a tile pays from eight tokens on.
    for (int64_t q = a.begin; q < a.end; q += 1) {
      int64_t t = 0;
      for (; t + 2 <= a.T; t += 2) quad_rows<2>(a, q, t);
      if (t < a.T) quad_rows<1>(a, q, t);
    }
  } else {
    for (int64_t q = a.begin; q < a.end; q += 4) tile_block(a, q);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// int8: |w| and the sign of w moved to x, so that the unsigned operand is at most 128 and a pair at most 2 * 128 * 127.

template <int NT>
BITNET_INLINE void int8_row(const Int8Args& a, int64_t r, int64_t t) {
  const int64_t stride = bitnet::code_stride(a.C), end = bitnet::round_up(a.C, 64), ahead = a.prefetch;
  const uint8_t* w = row_at(a, r);
  const int8_t* x = a.x + t * stride;
  __m256i acc[NT];
  for (int k = 0; k < NT; k += 1) acc[k] = _mm256_setzero_si256();
  const auto half_step = [&](int64_t c) __attribute__((always_inline)) {
    const __m256i v = load256(w + c), size = _mm256_abs_epi8(v);
    for (int k = 0; k < NT; k += 1) {
      const __m256i xv = _mm256_sign_epi8(load256(x + k * stride + c), v);
#if defined(__AVXVNNI__)
      acc[k] = dot4(acc[k], size, xv);
#else
      acc[k] = _mm256_add_epi32(acc[k], _mm256_madd_epi16(_mm256_maddubs_epi16(size, xv), _mm256_set1_epi16(1)));
#endif
    }
  };
  for (int64_t c = 0; c < end; c += 64) {
    _mm_prefetch((const char*)w + c + ahead, _MM_HINT_T0);
    half_step(c);
    half_step(c + 32);
  }
  for (int k = 0; k < NT; k += 1) {
    const __m256i z[4] = {acc[k], acc[k], acc[k], acc[k]};
    const int32_t sum = _mm_cvtsi128_si32(sum_lanes(z));
    a.out[(t + k) * a.R + r] = (float)sum * (a.row_scale[r] / a.scale[t + k]);
  }
}

inline __attribute__((unused)) void int8_256(const Int8Args& a) {
  for (int64_t r = a.begin; r < a.end; r += 1) {
    int64_t t = 0;
    for (; t + 4 <= a.T; t += 4) int8_row<4>(a, r, t);
    if (t + 2 <= a.T) {
      int8_row<2>(a, r, t);
      t += 2;
    }
    if (t < a.T) int8_row<1>(a, r, t);
  }
}

inline __attribute__((unused)) int64_t peak_macs_256(int64_t rounds) {
  __m256i acc[8];
  for (int k = 0; k < 8; k += 1) acc[k] = _mm256_setzero_si256();
  __m256i u = _mm256_set1_epi8(2), v = _mm256_set1_epi8(3);
  for (int64_t i = 0; i < rounds; i += 1) {
    for (int k = 0; k < 8; k += 1) {
      __asm__ volatile("" : "+x"(u));
#if defined(__AVXVNNI__)
      acc[k] = dot4(acc[k], u, v);
#else
      acc[k] = _mm256_add_epi16(acc[k], _mm256_maddubs_epi16(u, v));
#endif
    }
  }
  __m256i total = acc[0];
  for (int k = 1; k < 8; k += 1) total = _mm256_add_epi32(total, acc[k]);
  __asm__ volatile("" : : "x"(total));
  return rounds * 8 * 32;
}

}  // namespace
