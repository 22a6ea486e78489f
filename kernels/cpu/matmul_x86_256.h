// Ternary and int8 products on 256-bit registers: AVX2, or AVX-VNNI when the compiler was told so (-mavxvnni).
//
// AVX2: maddubs multiplies codes 0..2 (unsigned) with activations -127..127 (signed) and adds pairs into int16. Fields
// 1 and 3 of a byte are left where they lie, two bits up, which saves their shifts; those sums are 4 times too large
// and are shifted down once at the end. How long int16 sums last, the activations say (cut_blocks).
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

/** Up to so many tokens meet the packed bytes; more meet a decoded tile. */
#if defined(__AVXVNNI__)
constexpr int64_t kRowTokens = 11;
#else
constexpr int64_t kRowTokens = 9;
#endif

/** Sums of four vectors of eight int32. */
BITNET_INLINE __m128i sum_lanes(const __m256i* a) {
  const __m256i x = _mm256_hadd_epi32(_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(a[2], a[3]));
  return _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}

#if !defined(__AVXVNNI__)
/** Adds int16 sums to int32 ones. */
BITNET_INLINE void fold(__m256i& total, __m256i part) {
  total = _mm256_add_epi32(total, _mm256_madd_epi16(part, _mm256_set1_epi16(1)));
}

/**
 * Cuts the columns into blocks in which no int16 sum of any token overflows, whatever the weights: 8 |x| of a lane, added up,
 * stay below 2^15. 512 columns may hold nothing but 127; most rows are fewer blocks. Writes their ends.
 */
__attribute__((noinline)) void cut_blocks(const TernaryArgs& a, int32_t* ends) {
  const int64_t stride = bitnet::code_stride(a.C), end = bitnet::round_up(a.C, 64);
  // A look at the activations costs a third of a byte row.
  if (a.end - a.begin < 16) {
    for (int64_t c = 512; c < end; c += 512) *ends++ = (int32_t)c;
    *ends = (int32_t)end;
    return;
  }
  const __m256i one = _mm256_set1_epi8(1), most = _mm256_set1_epi16(32767 / 8);
  __m256i sum[kRowTokens];
  for (int64_t k = 0; k < a.T; k += 1) sum[k] = _mm256_setzero_si256();
  for (int64_t c = 0; c < end; c += 64) {
    __m256i size[kRowTokens], over = _mm256_setzero_si256();
    for (int64_t k = 0; k < a.T; k += 1) {
      const int8_t* x = a.x + k * stride + c;
      size[k] = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(load256(x)), one),
                                 _mm256_maddubs_epi16(_mm256_abs_epi8(load256(x + 32)), one));
      sum[k] = _mm256_add_epi16(sum[k], size[k]);
      over = _mm256_or_si256(over, _mm256_cmpgt_epi16(sum[k], most));
    }
    if (_mm256_testz_si256(over, over)) continue;
    *ends++ = (int32_t)c;
    for (int64_t k = 0; k < a.T; k += 1) sum[k] = size[k];
  }
  *ends = (int32_t)end;
}
#endif

/** Writes the four rows of byte row q for token t; sums are of raw codes, those of fields 1 and 3 four times too large. */
BITNET_INLINE void store_sums(const TernaryArgs& a, int64_t q, int64_t t, const __m256i* total) {
  int32_t code_sum;
  __builtin_memcpy(&code_sum, a.x + t * bitnet::code_stride(a.C) + bitnet::code_sum_at(a.C), 4);
  const __m128i sums = _mm_srav_epi32(sum_lanes(total), _mm_setr_epi32(0, 2, 0, 2));
  const __m128 v = _mm_mul_ps(_mm_cvtepi32_ps(_mm_sub_epi32(sums, _mm_set1_epi32(code_sum))), _mm_set1_ps(a.factor[t]));
  float* out = a.out + t * a.R + q;
  _mm_store_ss(out, v);
  if (q + a.Q < a.R) _mm_store_ss(out + a.Q, _mm_movehdup_ps(v));
  if (q + 2 * a.Q < a.R) _mm_store_ss(out + 2 * a.Q, _mm_movehl_ps(v, v));
  if (q + 3 * a.Q < a.R) _mm_store_ss(out + 3 * a.Q, _mm_shuffle_ps(v, v, 255));
}

/** One byte row with NT tokens, straight from the packed bytes; 64 columns a step, all rows are padded to that. */
template <int NT>
BITNET_INLINE void quad_row(const TernaryArgs& a, int64_t q, int64_t t, [[maybe_unused]] const int32_t* ends) {
  const int64_t stride = bitnet::code_stride(a.C), end = bitnet::round_up(a.C, 64), ahead = a.prefetch;
  const uint8_t* w = row_at(a, q);
  const int8_t* x = a.x + t * stride;
  const __m256i low = _mm256_set1_epi8(3), next = _mm256_set1_epi8(12);
  __m256i total[NT][4];
#pragma GCC unroll 2
  for (int k = 0; k < NT; k += 1)
#pragma GCC unroll 4
    for (int j = 0; j < 4; j += 1) total[k][j] = _mm256_setzero_si256();
  const auto half_step = [&](__m256i(&sum)[NT][4], int64_t c) __attribute__((always_inline)) {
    const __m256i v = load256(w + c), h = _mm256_srli_epi16(v, 4);
    const __m256i c0 = _mm256_and_si256(v, low), c1 = _mm256_and_si256(v, next);
    const __m256i c2 = _mm256_and_si256(h, low), c3 = _mm256_and_si256(h, next);
#pragma GCC unroll 2
    for (int k = 0; k < NT; k += 1) {
      const __m256i xv = load256(x + k * stride + c);
      multiply_add(sum[k][0], c0, xv);
      multiply_add(sum[k][1], c1, xv);
      multiply_add(sum[k][2], c2, xv);
      multiply_add(sum[k][3], c3, xv);
    }
  };
#if defined(__AVXVNNI__)
  // A dot product takes four or five cycles and two begin in each: four sums, one token's, would wait for themselves.
  __m256i odd[NT][4];
#pragma GCC unroll 2
  for (int k = 0; k < NT; k += 1)
#pragma GCC unroll 4
    for (int j = 0; j < 4; j += 1) odd[k][j] = _mm256_setzero_si256();
  for (int64_t c = 0; c < end; c += 64) {
    _mm_prefetch((const char*)w + c + ahead, _MM_HINT_T0);
    half_step(total, c);
    half_step(NT == 1 ? odd : total, c + 32);
  }
  if (NT == 1)
#pragma GCC unroll 4
    for (int j = 0; j < 4; j += 1) total[0][j] = _mm256_add_epi32(total[0][j], odd[0][j]);
#else
  for (int64_t c = 0; c < end; ends += 1) {
    __m256i part[NT][4];
#pragma GCC unroll 2
    for (int k = 0; k < NT; k += 1)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j += 1) part[k][j] = _mm256_setzero_si256();
    for (; c < *ends; c += 64) {
      _mm_prefetch((const char*)w + c + ahead, _MM_HINT_T0);
      half_step(part, c);
      half_step(part, c + 32);
    }
#pragma GCC unroll 2
    for (int k = 0; k < NT; k += 1)
#pragma GCC unroll 4
      for (int j = 0; j < 4; j += 1) fold(total[k][j], part[k][j]);
  }
#endif
#pragma GCC unroll 2
  for (int k = 0; k < NT; k += 1) store_sums(a, q, t + k, total[k]);
}

/** Byte rows [begin, end). A function of its own: beside other work compilers keep some of the sums in memory all the way. */
template <int NT>
__attribute__((noinline)) void quad_rows(const TernaryArgs& a, int64_t begin, int64_t end, int64_t t, const int32_t* ends) {
  for (int64_t q = begin; q < end; q += 1) quad_row<NT>(a, q, t, ends);
}

#if !defined(__AVXVNNI__)
/** total[4 k + j] += fields j = 0, 1 of the bytes >> SHIFT times token k; one block. */
template <int NT, int SHIFT>
__attribute__((noinline)) void two_fields(const uint8_t* w, const int8_t* x, int64_t stride, int64_t columns,
                                          int64_t ahead, __m256i* total) {
  const __m256i low = _mm256_set1_epi8(3), next = _mm256_set1_epi8(12);
  __m256i part[NT][2];
#pragma GCC unroll 8
  for (int k = 0; k < NT; k += 1) part[k][0] = part[k][1] = _mm256_setzero_si256();
  const auto half_step = [&](int64_t c) __attribute__((always_inline)) {
    __m256i v = load256(w + c);
    __asm__("" : "+x"(v));  // one load for both masks
    if (SHIFT) v = _mm256_srli_epi16(v, SHIFT);
    const __m256i c0 = _mm256_and_si256(v, low), c1 = _mm256_and_si256(v, next);
#pragma GCC unroll 8
    for (int k = 0; k < NT; k += 1) {
      const __m256i xv = load256(x + k * stride + c);
      multiply_add(part[k][0], c0, xv);
      multiply_add(part[k][1], c1, xv);
    }
  };
  for (int64_t c = 0; c < columns; c += 64) {
    if (!SHIFT) _mm_prefetch((const char*)w + c + ahead, _MM_HINT_T0);
    half_step(c);
    half_step(c + 32);
  }
#pragma GCC unroll 8
  for (int k = 0; k < NT; k += 1)
#pragma GCC unroll 2
    for (int j = 0; j < 2; j += 1) fold(total[4 * k + j], part[k][j]);
}

/** As quad_rows, two fields at a time, so that the sums of more tokens stay in registers. */
template <int NT>
BITNET_INLINE void quad_rows_halved(const TernaryArgs& a, int64_t begin, int64_t end, int64_t t, const int32_t* ends) {
  const int64_t stride = bitnet::code_stride(a.C), columns = bitnet::round_up(a.C, 64);
  const int8_t* x = a.x + t * stride;
  for (int64_t q = begin; q < end; q += 1) {
    const uint8_t* w = row_at(a, q);
    __m256i total[NT][4];
    for (int k = 0; k < NT; k += 1)
      for (int j = 0; j < 4; j += 1) total[k][j] = _mm256_setzero_si256();
    int64_t c = 0;
    for (const int32_t* stop = ends; c < columns; c = *stop, stop += 1) {
      two_fields<NT, 0>(w + c, x + c, stride, *stop - c, a.prefetch, &total[0][0]);
      two_fields<NT, 4>(w + c, x + c, stride, *stop - c, a.prefetch, &total[0][2]);
    }
    for (int k = 0; k < NT; k += 1) store_sums(a, q, t + k, total[k]);
  }
}
#endif

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

/** Scratch: the tile, then 16 int32 sums for each token of a block; or, of few tokens, the ends of cut_blocks. */
int64_t ternary_scratch_256(int64_t C) {
  const int64_t tile = kTileColumns * 16 + kTokenBlock256 * 64, ends = (C / 512 + 2) * 4;
  return tile > ends ? tile : ends;
}

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
  if (a.T <= kRowTokens) {
    int32_t* ends = nullptr;
#if !defined(__AVXVNNI__)
    ends = (int32_t*)a.scratch;
    cut_blocks(a, ends);
#endif
    if (a.T == 1) return quad_rows<1>(a, a.begin, a.end, 0, ends);
    if (a.T == 2) return quad_rows<2>(a, a.begin, a.end, 0, ends);
#if defined(__AVXVNNI__)
    for (int64_t q = a.begin; q < a.end; q += 1) {
      int64_t t = 0;
      for (; a.T - t >= 2; t += 2) quad_row<2>(a, q, t, ends);
      if (t < a.T) quad_row<1>(a, q, t, ends);
    }
#else
    // Later tokens find these two rows in cache.
    for (int64_t q = a.begin; q < a.end; q += 2) {
      const int64_t stop = q + 2 < a.end ? q + 2 : a.end;
      int64_t t = 0;
      for (; a.T - t >= 4; t += 4) quad_rows_halved<4>(a, q, stop, t, ends);
      if (a.T - t == 3) quad_rows_halved<3>(a, q, stop, t, ends);
      if (a.T - t == 2) quad_rows<2>(a, q, stop, t, ends);
      if (a.T - t == 1) quad_rows<1>(a, q, stop, t, ends);
    }
#endif
  } else {
    for (int64_t q = a.begin; q < a.end; q += 4) tile_block(a, q);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// int8: |w| and the sign of w moved to x, so that the unsigned operand is at most 128 and a pair at most 2 * 128 * 127.

template <int NT>
__attribute__((noinline)) void int8_rows(const Int8Args& a, int64_t begin, int64_t stop, int64_t t) {
  const int64_t stride = bitnet::code_stride(a.C), end = bitnet::round_up(a.C, 64), ahead = a.prefetch;
  const int8_t* x = a.x + t * stride;
  float scales[4] = {1, 1, 1, 1};
  for (int k = 0; k < NT; k += 1) scales[k] = a.scale[t + k];
  const __m128 scale = _mm_loadu_ps(scales);
  for (int64_t r = begin; r < stop; r += 1) {
    const uint8_t* w = row_at(a, r);
    // Few tokens have two sums each, which do not wait for each other.
    __m256i even[NT], odd[NT];
#pragma GCC unroll 4
    for (int k = 0; k < NT; k += 1) even[k] = odd[k] = _mm256_setzero_si256();
    const auto half_step = [&](__m256i(&sum)[NT], int64_t c) __attribute__((always_inline)) {
      const __m256i v = load256(w + c), size = _mm256_abs_epi8(v);
#pragma GCC unroll 4
      for (int k = 0; k < NT; k += 1) {
        const __m256i xv = _mm256_sign_epi8(load256(x + k * stride + c), v);
#if defined(__AVXVNNI__)
        sum[k] = dot4(sum[k], size, xv);
#else
        sum[k] = _mm256_add_epi32(sum[k], _mm256_madd_epi16(_mm256_maddubs_epi16(size, xv), _mm256_set1_epi16(1)));
#endif
      }
    };
    for (int64_t c = 0; c < end; c += 64) {
      _mm_prefetch((const char*)w + c + ahead, _MM_HINT_T0);
      half_step(even, c);
      half_step(NT < 4 ? odd : even, c + 32);
    }
    __m256i total[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; k += 1) total[k] = k < NT ? _mm256_add_epi32(even[k], odd[k]) : _mm256_setzero_si256();
    const __m128 factor = _mm_div_ps(_mm_set1_ps(a.row_scale[r]), scale);
    float lanes[4];
    _mm_storeu_ps(lanes, _mm_mul_ps(_mm_cvtepi32_ps(sum_lanes(total)), factor));
    for (int k = 0; k < NT; k += 1) a.out[(t + k) * a.R + r] = lanes[k];
  }
}

inline __attribute__((unused)) void int8_256(const Int8Args& a) {
  if (a.T == 1) return int8_rows<1>(a, a.begin, a.end, 0);
  // Rows that later tokens meet again are few enough to stay in cache.
  for (int64_t r = a.begin; r < a.end; r += 4) {
    const int64_t stop = r + 4 < a.end ? r + 4 : a.end;
    int64_t t = 0;
    for (; t + 4 <= a.T; t += 4) int8_rows<4>(a, r, stop, t);
    if (a.T - t == 3) int8_rows<3>(a, r, stop, t);
    if (a.T - t == 2) int8_rows<2>(a, r, stop, t);
    if (a.T - t == 1) int8_rows<1>(a, r, stop, t);
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
