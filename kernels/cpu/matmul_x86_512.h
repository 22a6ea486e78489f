// Ternary and int8 products on 512-bit registers with VNNI; with AMX (-mamx-int8) the matrix-matrix part on tiles.
#pragma once

#include "matmul_x86_256.h"

namespace {

BITNET_INLINE __m512i load512(const void* p) { return _mm512_loadu_si512(p); }

/** One byte row with NT tokens, straight from the packed bytes; two sets of sums hide the latency of dpbusd. */
template <int NT>
BITNET_INLINE void quad_rows_512(const TernaryArgs& a, int64_t q, int64_t t) {
  constexpr int kSets = NT == 1 ? 2 : 1;
  const int64_t stride = bitnet::code_stride(a.C);
  const uint8_t* w = row_at(a, q);
  const int8_t* x = a.x + t * stride;
  const int64_t steps = (a.C + 63) / 64, ahead = a.prefetch;
  const __m512i low = _mm512_set1_epi8(3), next = _mm512_set1_epi8(12);
  __m512i total[NT][4][kSets];
  for (int k = 0; k < NT; k += 1)
    for (int j = 0; j < 4; j += 1)
      for (int s = 0; s < kSets; s += 1) total[k][j][s] = _mm512_setzero_si512();
  const auto step = [&](int64_t s, int set) __attribute__((always_inline)) {
    const __m512i v = load512(w + 64 * s), h = _mm512_srli_epi16(v, 4);
    _mm_prefetch((const char*)w + 64 * s + ahead, _MM_HINT_T0);
    const __m512i c[4] = {_mm512_and_si512(v, low), _mm512_and_si512(v, next), _mm512_and_si512(h, low),
                          _mm512_and_si512(h, next)};
    for (int k = 0; k < NT; k += 1) {
      const __m512i xv = load512(x + k * stride + 64 * s);
      for (int j = 0; j < 4; j += 1) total[k][j][set] = _mm512_dpbusd_epi32(total[k][j][set], c[j], xv);
    }
  };
  int64_t s = 0;
  for (; s + kSets <= steps; s += kSets)
    for (int set = 0; set < kSets; set += 1) step(s + set, set);
  if (s < steps) step(s, 0);
  for (int k = 0; k < NT; k += 1) {
    __m256i half[4];
    for (int j = 0; j < 4; j += 1) {
      __m512i sum = total[k][j][0];
      if (kSets == 2) sum = _mm512_add_epi32(sum, total[k][j][kSets - 1]);
      half[j] = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
    }
    int32_t sums[4];
    _mm_storeu_si128((__m128i*)sums, _mm_srav_epi32(sum_lanes(half), _mm_setr_epi32(0, 2, 0, 2)));
    store_quad(a, q, t + k, sums);
  }
}

/** sums[k] (16 int32) += tile . x of NT tokens, over `groups` groups of 4 columns. */
template <int NT>
BITNET_INLINE void tile_tokens_512(const uint8_t* tile, const int8_t* x, int64_t stride, int64_t groups, int32_t* sums) {
  __m512i acc[NT];
  for (int k = 0; k < NT; k += 1) acc[k] = load512(sums + 16 * k);
  for (int64_t g = 0; g < groups; g += 1) {
    const __m512i c = _mm512_load_si512(tile + 64 * g);
    for (int k = 0; k < NT; k += 1) {
      // In assembly for the reason given at tile_step.
      __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc[k]) : "v"(c), "m"(*(const four_codes*)(x + k * stride + 4 * g)));
    }
  }
  for (int k = 0; k < NT; k += 1) _mm512_storeu_si512(sums + 16 * k, acc[k]);
}

BITNET_INLINE void tile_rest_512(const uint8_t* tile, const int8_t* x, int64_t stride, int64_t columns, int64_t t, int64_t T,
                                 int32_t* sums) {
  for (; t + 16 <= T; t += 16) tile_tokens_512<16>(tile, x + t * stride, stride, columns / 4, sums + 16 * t);
  for (; t + 4 <= T; t += 4) tile_tokens_512<4>(tile, x + t * stride, stride, columns / 4, sums + 16 * t);
  for (; t < T; t += 1) tile_tokens_512<1>(tile, x + t * stride, stride, columns / 4, sums + 16 * t);
}

BITNET_INLINE void tile_pointers(const TernaryArgs& a, int64_t q, int64_t rows, const uint8_t** w) {
  for (int64_t i = 0; i < 4; i += 1) w[i] = row_at(a, i < rows ? q + i : q);
}

#if defined(__AMX_INT8__)

constexpr int64_t kTokenBlock512 = 256;

// AMX keeps its sums in tile registers over all of C, so the whole of 16 rows is decoded: 16 C bytes, in L2 at worst.
int64_t ternary_scratch_512(int64_t C) { return bitnet::round_up(C, 64) * 16 + kTokenBlock512 * 64; }

struct __attribute__((packed)) TileConfig {
  uint8_t palette, start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

/** 64 tokens in four accumulators (16 tokens x 16 rows each) from one pass over the decoded tile. */
BITNET_INLINE void amx_tokens_64(const uint8_t* tile, const int8_t* x, int64_t stride, int64_t columns, int32_t* sums) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t c = 0; c < columns; c += 64) {
    _tile_loadd(4, tile + 16 * c, 64);
    _tile_loadd(5, x + c, stride);
    _tile_dpbsud(0, 5, 4);
    _tile_loadd(6, x + c + 16 * stride, stride);
    _tile_dpbsud(1, 6, 4);
    _tile_loadd(5, x + c + 32 * stride, stride);
    _tile_dpbsud(2, 5, 4);
    _tile_loadd(6, x + c + 48 * stride, stride);
    _tile_dpbsud(3, 6, 4);
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + 256, 64);
  _tile_stored(2, sums + 512, 64);
  _tile_stored(3, sums + 768, 64);
}

BITNET_INLINE void amx_tokens_16(const uint8_t* tile, const int8_t* x, int64_t stride, int64_t columns, int32_t* sums) {
  _tile_zero(0);
  for (int64_t c = 0; c < columns; c += 64) {
    _tile_loadd(4, tile + 16 * c, 64);
    _tile_loadd(5, x + c, stride);
    _tile_dpbsud(0, 5, 4);
  }
  _tile_stored(0, sums, 64);
}

BITNET_INLINE void tile_block_512(const TernaryArgs& a, int64_t q) {
  const int64_t stride = bitnet::code_stride(a.C), columns = bitnet::round_up(a.C, 64);
  const int64_t rows = a.end - q < 4 ? a.end - q : 4;
  const uint8_t* w[4];
  tile_pointers(a, q, rows, w);
  uint8_t* tile = a.scratch;
  int32_t* sums = (int32_t*)(a.scratch + columns * 16);
  decode_tile(w, 0, columns, tile);
  int64_t t = 0;
  for (; t + 64 <= a.T; t += 64) amx_tokens_64(tile, a.x + t * stride, stride, columns, sums + 16 * t);
  for (; t + 16 <= a.T; t += 16) amx_tokens_16(tile, a.x + t * stride, stride, columns, sums + 16 * t);
  if (t < a.T) {
    __builtin_memset(sums + 16 * t, 0, (size_t)((a.T - t) * 64));
    tile_rest_512(tile, a.x, stride, columns, t, a.T, sums);
  }
  for (t = 0; t < a.T; t += 1) store_tile(a, q, rows, t, sums + 16 * t);
}

BITNET_INLINE void tiles_begin() {
  TileConfig config = {};
  config.palette = 1;
  for (int i = 0; i < 8; i += 1) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
  _tile_loadconfig(&config);
}
BITNET_INLINE void tiles_end() { _tile_release(); }

#else

constexpr int64_t kTokenBlock512 = 192;

int64_t ternary_scratch_512(int64_t) { return kTileColumns * 16 + kTokenBlock512 * 64; }

BITNET_INLINE void tile_block_512(const TernaryArgs& a, int64_t q) {
  const int64_t stride = bitnet::code_stride(a.C), columns = bitnet::round_up(a.C, 32);
  const int64_t rows = a.end - q < 4 ? a.end - q : 4;
  const uint8_t* w[4];
  tile_pointers(a, q, rows, w);
  uint8_t* tile = a.scratch;
  int32_t* sums = (int32_t*)(a.scratch + kTileColumns * 16);
  __builtin_memset(sums, 0, (size_t)(a.T * 64));
  for (int64_t from = 0; from < columns; from += kTileColumns) {
    const int64_t n = columns - from < kTileColumns ? columns - from : kTileColumns;
    decode_tile(w, from, n, tile);
    tile_rest_512(tile, a.x + from, stride, n, 0, a.T, sums);
  }
  for (int64_t t = 0; t < a.T; t += 1) store_tile(a, q, rows, t, sums + 16 * t);
}

BITNET_INLINE void tiles_begin() {}
BITNET_INLINE void tiles_end() {}

#endif

void ternary_512(const TernaryArgs& a) {
  if (a.T == 1) {
    for (int64_t q = a.begin; q < a.end; q += 1) quad_rows_512<1>(a, q, 0);
  } else if (a.T <= 8) {
    for (int64_t q = a.begin; q < a.end; q += 1) {
      int64_t t = 0;
      for (; t + 4 <= a.T; t += 4) quad_rows_512<4>(a, q, t);
      for (; t + 2 <= a.T; t += 2) quad_rows_512<2>(a, q, t);
      if (t < a.T) quad_rows_512<1>(a, q, t);
    }
  } else {
    tiles_begin();
    for (int64_t q = a.begin; q < a.end; q += 4) tile_block_512(a, q);
    tiles_end();
  }
}

/** dpbusd wants an unsigned factor: x + 128, whose surplus 128 * (sum of the row) comes off at the end. */
template <int NT>
BITNET_INLINE void int8_row_512(const Int8Args& a, int64_t r, int64_t t) {
  const int64_t stride = bitnet::code_stride(a.C);
  const uint8_t* w = row_at(a, r);
  const int8_t* x = a.x + t * stride;
  const int64_t whole = a.C / 64, rest = a.C % 64, ahead = a.prefetch;
  const __m512i flip = _mm512_set1_epi8((char)0x80), one = _mm512_set1_epi8(1);
  __m512i acc[NT], surplus = _mm512_setzero_si512();
  for (int k = 0; k < NT; k += 1) acc[k] = _mm512_setzero_si512();
  const auto step = [&](__m512i v, int64_t s) __attribute__((always_inline)) {
    surplus = _mm512_dpbusd_epi32(surplus, one, v);
    for (int k = 0; k < NT; k += 1)
      acc[k] = _mm512_dpbusd_epi32(acc[k], _mm512_xor_si512(load512(x + k * stride + 64 * s), flip), v);
  };
  for (int64_t s = 0; s < whole; s += 1) {
    _mm_prefetch((const char*)w + 64 * s + ahead, _MM_HINT_T0);
    step(load512(w + 64 * s), s);
  }
  // Behind the row come the next row's codes, and x + 128 is not 0 there.
  if (rest) step(_mm512_maskz_loadu_epi8(((__mmask64)1 << rest) - 1, w + 64 * whole), whole);
  const int32_t off = 128 * _mm512_reduce_add_epi32(surplus);
  for (int k = 0; k < NT; k += 1) {
    const int32_t sum = _mm512_reduce_add_epi32(acc[k]) - off;
    a.out[(t + k) * a.R + r] = (float)sum * (a.row_scale[r] / a.scale[t + k]);
  }
}

void int8_512(const Int8Args& a) {
  for (int64_t r = a.begin; r < a.end; r += 1) {
    int64_t t = 0;
    for (; t + 8 <= a.T; t += 8) int8_row_512<8>(a, r, t);
    for (; t + 4 <= a.T; t += 4) int8_row_512<4>(a, r, t);
    for (; t < a.T; t += 1) int8_row_512<1>(a, r, t);
  }
}

int64_t peak_macs_512(int64_t rounds) {
  constexpr int kChains = 12;
  __m512i acc[kChains];
  for (int k = 0; k < kChains; k += 1) acc[k] = _mm512_setzero_si512();
  __m512i u = _mm512_set1_epi8(2), v = _mm512_set1_epi8(3);
  for (int64_t i = 0; i < rounds; i += 1) {
    for (int k = 0; k < kChains; k += 1) {
      __asm__ volatile("" : "+v"(u));
      acc[k] = _mm512_dpbusd_epi32(acc[k], u, v);
    }
  }
  __m512i total = acc[0];
  for (int k = 1; k < kChains; k += 1) total = _mm512_add_epi32(total, acc[k]);
  __asm__ volatile("" : : "v"(total));
  return rounds * kChains * 64;
}

#if defined(__AMX_INT8__)
int64_t peak_macs_amx(int64_t rounds) {
  tiles_begin();
  alignas(64) static const int8_t ones[1024] = {};
  _tile_loadd(4, ones, 64);
  _tile_loadd(5, ones, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const int64_t n = rounds / 16;
  for (int64_t i = 0; i < n; i += 1) {
    _tile_dpbsud(0, 5, 4);
    _tile_dpbsud(1, 5, 4);
    _tile_dpbsud(2, 5, 4);
    _tile_dpbsud(3, 5, 4);
  }
  tiles_end();
  return n * 4 * 16 * 16 * 64;
}
#endif

}  // namespace
