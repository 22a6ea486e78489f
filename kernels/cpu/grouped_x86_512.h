// Group-scaled products (layouts.h, panel64) on 512-bit registers with VNNI.
//
// A line of 64 bytes gives four operands of 16 rows x 4 columns, one for each field; each meets four broadcast
// activations of both planes: 8 dpbusd for 256 weights. Fields 1 and 3 stay two bits up, which saves their shifts when
// a line is used only once. Per 128 weights: 4 dpbusd, 2.5 other vector operations, 1.5 loads.
// AMX: the 16 lines of 64 columns of a field are one tile of weights as they lie; a plane of 16 tokens is one of activations.
#pragma once

#include "grouped_common.h"
#include "matmul_x86_512.h"

namespace {

/** Float sums += float(sum of q * (code - 1)) * scale, from sums of raw codes by plane. */
BITNET_INLINE __m512 add_group(__m512 acc, __m512i sum, __m512 scale) {
  return _mm512_add_ps(acc, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale));
}

/** One panel with one token: every line is read once, and all sums stay in registers. */
BITNET_INLINE void grouped_token_512(const GroupedArgs& a, const GroupedShape& s, int64_t p) {
  const uint8_t* w = a.w + p * s.lines * 64;
  const int8_t* hi = (const int8_t*)a.x;
  const int8_t* lo = hi + s.plane;
  const __m512i low = _mm512_set1_epi8(3), next = _mm512_set1_epi8(12);
  const int64_t scale_bytes = a.scale_f16 ? 128 : 256;
  const uint8_t* scales = a.scales + p * s.groups * scale_bytes;
  __m512 acc[4];
#pragma GCC unroll 4
  for (int f = 0; f < 4; f += 1) acc[f] = _mm512_setzero_ps();
  for (int64_t g = 0; g < s.groups; g += 1, scales += scale_bytes) {
    // Two sets of sums hide the latency of dpbusd.
    __m512i h[2][4], l[2][4];
#pragma GCC unroll 4
    for (int f = 0; f < 4; f += 1) h[0][f] = h[1][f] = l[0][f] = l[1][f] = _mm512_setzero_si512();
    const auto step = [&](__m512i(&hs)[4], __m512i(&ls)[4]) __attribute__((always_inline)) {
      const __m512i v = load512(w), u = _mm512_srli_epi16(v, 4);
      expect_codes(w, a.prefetch);
      const __m512i c[4] = {_mm512_and_si512(v, low), _mm512_and_si512(v, next), _mm512_and_si512(u, low),
                            _mm512_and_si512(u, next)};
      panel_step(hs, c, hi);
      panel_step(ls, c, lo);
      w += 64;
      hi += 4;
      lo += 4;
    };
    int64_t j = 0;
    for (; j + 2 <= s.each; j += 2) {
      step(h[0], l[0]);
      step(h[1], l[1]);
    }
    if (j < s.each) step(h[0], l[0]);
    const __m512i off = _mm512_set1_epi32(group_sum(a, s, 0, g));
    _mm_prefetch((const char*)scales + 8 * scale_bytes, _MM_HINT_T0);
    _mm_prefetch((const char*)scales + 8 * scale_bytes + 64, _MM_HINT_T0);
#pragma GCC unroll 4
    for (int f = 0; f < 4; f += 1) {
      // By plane before they are joined: 4 times the whole sum of a long group would not fit.
      const int up = f % 2 * 2;
      const __m512i high = _mm512_slli_epi32(_mm512_add_epi32(h[0][f], h[1][f]), (unsigned)(8 - up));
      const __m512i rest = _mm512_srai_epi32(_mm512_add_epi32(l[0][f], l[1][f]), (unsigned)up);
      acc[f] = add_group(acc[f], _mm512_sub_epi32(_mm512_add_epi32(high, rest), off),
                         (__m512)grouped_scales(scales, a.scale_f16, 16 * f).p[0]);
    }
  }
  const __m512 factor = _mm512_set1_ps(a.scale[0]);
  float* out = a.out + p * 64;
#pragma GCC unroll 4
  for (int f = 0; f < 4; f += 1) {
    const int64_t left = a.R - p * 64 - 16 * f;
    const __mmask16 kept = left >= 16 ? (__mmask16)0xffff : left > 0 ? (__mmask16)((1u << left) - 1) : (__mmask16)0;
    _mm512_mask_storeu_ps(out + 16 * f, kept, _mm512_mul_ps(acc[f], factor));
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Several tokens: up to kGroupedColumns512 of a panel are decoded into a tile, [line][field][64], which stays in L1 and
// meets all tokens. Float sums of all tokens lie in scratch.

constexpr int64_t kGroupedColumns512 = 256;
#if defined(__AMX_INT8__)
constexpr int64_t kGroupedTokens512 = 256;
#else
// 24 KB of float sums, beside the tile in L1.
constexpr int64_t kGroupedTokens512 = 96;
#endif

/** Tile, scales of a group, then of each token 64 float sums and 64 int32 sums of a group longer than the tile. */
int64_t grouped_scratch_512(int64_t, int64_t) { return kGroupedColumns512 * 64 + 256 + kGroupedTokens512 * 512; }

BITNET_INLINE void decode_lines_512(const uint8_t* w, int64_t lines, uint8_t* tile, int64_t ahead) {
  const __m512i low = _mm512_set1_epi8(3);
  for (int64_t j = 0; j < lines; j += 1, w += 64, tile += 256) {
    const __m512i v = load512(w);
    expect_codes(w, ahead);
    _mm512_store_si512(tile, _mm512_and_si512(v, low));
    _mm512_store_si512(tile + 64, _mm512_and_si512(_mm512_srli_epi16(v, 2), low));
    _mm512_store_si512(tile + 128, _mm512_and_si512(_mm512_srli_epi16(v, 4), low));
    _mm512_store_si512(tile + 192, _mm512_and_si512(_mm512_srli_epi16(v, 6), low));
  }
}

/**
 * Sums of raw codes of `lines` lines of a tile with NT tokens, to raw[token][hi, lo][64]. A function of its own: beside
 * other work compilers keep some of the sums in memory all the way.
 */
template <int NT>
__attribute__((noinline)) void grouped_lines_512(const uint8_t* tile, int64_t lines, const int8_t* x, int64_t stride,
                                                 int64_t plane, int32_t* raw) {
  __m512i acc[NT][2][4];
#pragma GCC unroll 4
  for (int k = 0; k < NT; k += 1)
#pragma GCC unroll 4
    for (int f = 0; f < 4; f += 1) acc[k][0][f] = acc[k][1][f] = _mm512_setzero_si512();
  for (int64_t j = 0; j < lines; j += 1, tile += 256, x += 4) {
    const __m512i c[4] = {_mm512_load_si512(tile), _mm512_load_si512(tile + 64), _mm512_load_si512(tile + 128),
                          _mm512_load_si512(tile + 192)};
#pragma GCC unroll 4
    for (int k = 0; k < NT; k += 1) {
      panel_step(acc[k][0], c, x + k * stride);
      panel_step(acc[k][1], c, x + k * stride + plane);
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < NT; k += 1)
#pragma GCC unroll 4
    for (int f = 0; f < 4; f += 1) {
      _mm512_store_si512(raw + 128 * k + 16 * f, acc[k][0][f]);
      _mm512_store_si512(raw + 128 * k + 64 + 16 * f, acc[k][1][f]);
    }
}

/** What becomes of 16 sums of raw codes of one token, by plane; acc and sums are those of the same token and rows. */
BITNET_INLINE void finish_sums_512(const Piece& piece, const int32_t* hi, const int32_t* lo, __m512i off, int64_t row,
                                   float* acc, int32_t* sums) {
  __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(load512(hi), 8), _mm512_sub_epi32(load512(lo), off));
  if (!piece.first) sum = _mm512_add_epi32(sum, load512(sums));
  if (piece.last) _mm512_store_ps(acc, add_group(_mm512_load_ps(acc), sum, _mm512_load_ps(piece.scales + row)));
  else _mm512_store_si512(sums, sum);
}
BITNET_INLINE __m512i piece_sum(const GroupedArgs& a, const GroupedShape& s, const Piece& piece, int64_t t) {
  return _mm512_set1_epi32(piece.last ? group_sum(a, s, t, piece.g) : 0);
}

/** A piece with n <= 3 tokens; acc and sums are those of token t. */
BITNET_INLINE void grouped_cell_512(const GroupedArgs& a, const GroupedShape& s, const Piece& piece, const uint8_t* tile,
                                    int64_t lines, int64_t t, int64_t n, const int8_t* x, float* acc, int32_t* sums) {
  alignas(64) int32_t raw[3 * 128];
  if (n == 3) grouped_lines_512<3>(tile, lines, x, s.stride, s.plane, raw);
  else if (n == 2) grouped_lines_512<2>(tile, lines, x, s.stride, s.plane, raw);
  else grouped_lines_512<1>(tile, lines, x, s.stride, s.plane, raw);
  for (int64_t k = 0; k < n; k += 1) {
    const __m512i off = piece_sum(a, s, piece, t + k);
    for (int64_t row = 0; row < 64; row += 16) {
      const int32_t* at = raw + 128 * k + row;
      finish_sums_512(piece, at, at + 64, off, row, acc + 64 * k + row, sums + 64 * k + row);
    }
  }
}

#if defined(__AMX_INT8__)

/** Fewer tokens leave the tiles too empty. */
constexpr int64_t kGroupedTileTokens = 5;

/**
 * A piece with n <= 16 tokens, the configured rows: two fields at a time, their sums of both planes in tiles 0..3. acc and
 * sums are those of token t.
 */
BITNET_INLINE void grouped_cell_amx(const GroupedArgs& a, const GroupedShape& s, const Piece& piece, const uint8_t* tile,
                                    int64_t lines, int64_t t, int64_t n, const int8_t* x, float* acc, int32_t* sums) {
  alignas(64) int32_t raw[4 * 256];  // [hi, hi, lo, lo][token][16 rows]
  for (int64_t f = 0; f < 64; f += 32) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t j = 0; j < lines; j += 16) {
      const uint8_t* w = tile + 256 * j + 4 * f;
      const int8_t* y = x + 4 * j;
      _tile_loadd(6, y, s.stride);
      _tile_loadd(4, w, 256);
      _tile_dpbsud(0, 6, 4);
      _tile_loadd(5, w + 64, 256);
      _tile_dpbsud(1, 6, 5);
      _tile_loadd(7, y + s.plane, s.stride);
      _tile_dpbsud(2, 7, 4);
      _tile_dpbsud(3, 7, 5);
    }
    _tile_stored(0, raw, 64);
    _tile_stored(1, raw + 256, 64);
    _tile_stored(2, raw + 512, 64);
    _tile_stored(3, raw + 768, 64);
    compiler_barrier(raw);
    for (int64_t k = 0; k < n; k += 1) {
      const __m512i off = piece_sum(a, s, piece, t + k);
      for (int64_t row = f, from = 16 * k; row < f + 32; row += 16, from += 256)
        finish_sums_512(piece, raw + from, raw + 512 + from, off, row, acc + 64 * k + row, sums + 64 * k + row);
    }
  }
}

#endif

/**
 * Asks for what the next n <= 3 tokens of a piece are multiplied with: rows lie too far apart for the
 * CPU to foresee (C = 6144, 256 tokens: 160 to 180 GMAC/s).
 */
BITNET_INLINE void expect_activations(const GroupedShape& s, const int8_t* x, int64_t n, int64_t lines) {
  for (int64_t k = 0; k < (n < 3 ? n : 3); k += 1, x += s.stride)
    for (int64_t c = 0; c < 4 * lines; c += 64) {
      _mm_prefetch((const char*)x + c, _MM_HINT_T0);
      _mm_prefetch((const char*)x + s.plane + c, _MM_HINT_T0);
    }
}

/** Panels with tokens t..t+n-1, n <= kGroupedTokens512. */
BITNET_INLINE void grouped_tokens_512(const GroupedArgs& a, const GroupedShape& s, int64_t t, int64_t n) {
  uint8_t* tile = a.scratch;
  float* scales = (float*)(a.scratch + kGroupedColumns512 * 64);
  float* acc = scales + 64;
  int32_t* sums = (int32_t*)(acc + 64 * kGroupedTokens512);
#if defined(__AMX_INT8__)
  // A tile is 64 columns of a group.
  const bool tiles = n >= kGroupedTileTokens && a.G % 64 == 0;
  if (tiles) tiles_begin(n < 16 ? n : 16);
#endif
  for (int64_t p = a.begin; p < a.end; p += 1) {
    const uint8_t* w = a.w + p * s.lines * 64;
    __builtin_memset(acc, 0, (size_t)(n * 256));
    for (int64_t g = 0; g < s.groups; g += 1) {
      for (int64_t r = 0; r < 64; r += 16)
        v_store(scales + r, grouped_scales(a.scales, a.scale_f16, (p * s.groups + g) * 64 + r));
      for (int64_t from = 0; from < s.each; from += kGroupedColumns512 / 4) {
        const int64_t left = s.each - from, lines = left < kGroupedColumns512 / 4 ? left : kGroupedColumns512 / 4;
        const Piece piece{scales, g, from == 0, lines == left};
        decode_lines_512(w, lines, tile, a.prefetch);
        w += lines * 64;
        const int8_t* x = (const int8_t*)a.x + t * s.stride + (g * s.each + from) * 4;
        int64_t k = 0;
#if defined(__AMX_INT8__)
        compiler_barrier(tile);
        for (; tiles && k < n; k += 16) {
          const int64_t m = n - k < 16 ? n - k : 16;
          if (m < 16 && n > 16) tiles_begin(m);
          grouped_cell_amx(a, s, piece, tile, lines, t + k, m, x + k * s.stride, acc + 64 * k, sums + 64 * k);
          if (m < 16 && n > 16) tiles_begin(16);
        }
#endif
        for (; k < n; k += 3) {
          expect_activations(s, x + (k + 3) * s.stride, n - k - 3, lines);
          grouped_cell_512(a, s, piece, tile, lines, t + k, n - k < 3 ? n - k : 3, x + k * s.stride, acc + 64 * k, sums + 64 * k);
        }
      }
    }
    for (int64_t k = 0; k < n; k += 1) store_panel(a, p, t + k, acc + 64 * k);
  }
#if defined(__AMX_INT8__)
  if (tiles) _tile_release();
#endif
}

void grouped_512(const GroupedArgs& a) {
  const GroupedShape s(a);
  if (a.T == 1) {
    for (int64_t p = a.begin; p < a.end; p += 1) grouped_token_512(a, s, p);
    return;
  }
  for (int64_t t = 0; t < a.T; t += kGroupedTokens512)
    grouped_tokens_512(a, s, t, a.T - t < kGroupedTokens512 ? a.T - t : kGroupedTokens512);
}

}  // namespace
