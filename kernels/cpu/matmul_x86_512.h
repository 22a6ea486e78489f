// Ternary and int8 products on 512-bit registers with VNNI; with AMX (-mamx-int8) the matrix-matrix part on tiles.
#pragma once

#include "matmul_x86_256.h"

namespace {

BITNET_INLINE __m512i load512(const void* p) { return _mm512_loadu_si512(p); }

/** 64 activations that need not be aligned, as a memory operand. */
struct __attribute__((packed, may_alias)) many_codes {
  int8_t code[64];
};

/** acc += u * s, unsigned times signed, in assembly: compilers copy the sums around the intrinsic, two moves for each. */
BITNET_INLINE void dot512(__m512i& acc, __m512i u, __m512i s) { __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(u), "v"(s)); }

/** 64 activations of one token with the four fields of 64 bytes; one piece, so that sums stay in registers. */
BITNET_INLINE void quad_step(__m512i (&acc)[4], const __m512i (&c)[4], const int8_t* x) {
  __m512i t;
  __asm__(
      "vmovdqu64 %9, %4\n\t"
      "vpdpbusd %4, %5, %0\n\t"
      "vpdpbusd %4, %6, %1\n\t"
      "vpdpbusd %4, %7, %2\n\t"
      "vpdpbusd %4, %8, %3"
      : "+v"(acc[0]), "+v"(acc[1]), "+v"(acc[2]), "+v"(acc[3]), "=&v"(t)
      : "v"(c[0]), "v"(c[1]), "v"(c[2]), "v"(c[3]), "m"(*(const many_codes*)x));
}

/**
 * One column group of four tiles with one token's broadcast activations. In assembly, because compilers hoist the
 * broadcasts of all tokens and then spill the sums.
 */
BITNET_INLINE void panel_step(__m512i (&acc)[4], const __m512i (&c)[4], const int8_t* x) {
  __m512i t;
  __asm__(
      "vpbroadcastd %9, %4\n\t"
      "vpdpbusd %4, %5, %0\n\t"
      "vpdpbusd %4, %6, %1\n\t"
      "vpdpbusd %4, %7, %2\n\t"
      "vpdpbusd %4, %8, %3"
      : "+v"(acc[0]), "+v"(acc[1]), "+v"(acc[2]), "+v"(acc[3]), "=&v"(t)
      : "v"(c[0]), "v"(c[1]), "v"(c[2]), "v"(c[3]), "m"(*(const four_codes*)x));
}

/** Asks for what comes `ahead` bytes behind a line of a stream. */
BITNET_INLINE void ask_ahead(const uint8_t* at, int64_t ahead) {
#if defined(__AMX_INT8__)
  // These Xeons have room for few lines on their way to L1, and a tenth more arrives when far ones go to L2 first. On Zen 5 it
  // is a tenth less.
  _mm_prefetch((const char*)at + ahead, _MM_HINT_T1);
  _mm_prefetch((const char*)at + 768, _MM_HINT_T0);
#else
  _mm_prefetch((const char*)at + ahead, _MM_HINT_T0);
#endif
}

/** One byte row with NT tokens, straight from the packed bytes; two sets of sums hide the latency of dpbusd. */
template <int NT>
BITNET_INLINE void quad_rows_512(const TernaryArgs& a, int64_t q, int64_t t) {
  constexpr int kSets = NT == 1 ? 2 : 1;
  const int64_t stride = bitnet::code_stride(a.C);
  const uint8_t* w = row_at(a, q);
  const int8_t* x = a.x + t * stride;
  const int64_t steps = (a.C + 63) / 64, ahead = a.prefetch;
  const __m512i low = _mm512_set1_epi8(3), next = _mm512_set1_epi8(12);
  __m512i total[kSets][NT][4];
  for (int s = 0; s < kSets; s += 1)
    for (int k = 0; k < NT; k += 1)
      for (int j = 0; j < 4; j += 1) total[s][k][j] = _mm512_setzero_si512();
  const auto step = [&](int64_t s, int set) __attribute__((always_inline)) {
    const __m512i v = load512(w + 64 * s), h = _mm512_srli_epi16(v, 4);
    ask_ahead(w + 64 * s, ahead);
    const __m512i c[4] = {_mm512_and_si512(v, low), _mm512_and_si512(v, next), _mm512_and_si512(h, low),
                          _mm512_and_si512(h, next)};
    for (int k = 0; k < NT; k += 1) quad_step(total[set][k], c, x + k * stride + 64 * s);
  };
  int64_t s = 0;
  for (; s + kSets <= steps; s += kSets)
    for (int set = 0; set < kSets; set += 1) step(s + set, set);
  if (s < steps) step(s, 0);
  // A loop left whole would index the sums, and so keep all of them in memory.
#pragma GCC unroll 8
  for (int k = 0; k < NT; k += 1) {
    __m256i half[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j += 1) {
      __m512i sum = total[0][k][j];
      if (kSets == 2) sum = _mm512_add_epi32(sum, total[kSets - 1][k][j]);
      half[j] = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
    }
    int32_t sums[4];
    _mm_storeu_si128((__m128i*)sums, _mm_srav_epi32(sum_lanes(half), _mm_setr_epi32(0, 2, 0, 2)));
    store_quad(a, q, t + k, sums);
  }
}

/** T tokens in groups of up to four. */
BITNET_INLINE void few_tokens_512(const TernaryArgs& a, int64_t q) {
  int64_t t = 0;
  for (; t + 4 <= a.T; t += 4) quad_rows_512<4>(a, q, t);
  if (a.T - t == 3) quad_rows_512<3>(a, q, t);
  else if (a.T - t == 2) quad_rows_512<2>(a, q, t);
  else if (a.T - t == 1) quad_rows_512<1>(a, q, t);
}

// ---------------------------------------------------------------------------------------------------------------------
// Matrix-matrix: a panel is 16 byte rows, so 64 matrix rows, as four tiles (layouts.h) of one field each: row l of tile f
// is byte row q + l, field f. 16 neighbouring rows of the output are then one whole vector.

constexpr int64_t kPanelRows = 16;

struct Panel {
  const TernaryArgs& a;
  int64_t q, rows, stride;
  const uint8_t* w[kPanelRows];
  __mmask16 kept[4];  // rows of each field that exist

  BITNET_INLINE Panel(const TernaryArgs& args, int64_t first) : a(args), q(first) {
    rows = a.end - q < kPanelRows ? a.end - q : kPanelRows;
    stride = bitnet::code_stride(a.C);
    // Rows that do not exist read row q again and are not stored.
    for (int64_t i = 0; i < kPanelRows; i += 1) w[i] = row_at(a, i < rows ? q + i : q);
    for (int64_t f = 0; f < 4; f += 1) {
      const int64_t left = a.R - (q + f * a.Q), n = left < rows ? left : rows;
      kept[f] = n <= 0 ? (__mmask16)0 : (__mmask16)((1u << n) - 1);
    }
  }
  BITNET_INLINE float* out(int64_t t, int64_t f) const { return a.out + t * a.R + q + f * a.Q; }

  /** Writes 16 sums of raw codes. */
  BITNET_INLINE void store(int64_t t, int64_t f, __m512i sums, __m512i code_sum, __m512 factor) const {
    const __m512 v = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sums, code_sum)), factor);
    _mm512_mask_storeu_ps(out(t, f), kept[f], v);
  }
  BITNET_INLINE __m512i code_sum(int64_t t) const {
    int32_t sum;
    __builtin_memcpy(&sum, a.x + t * stride + bitnet::code_sum_at(a.C), 4);
    return _mm512_set1_epi32(sum);
  }
  /** The line of an output row is asked for while its sums are still being added: rows of the output lie far apart. */
  BITNET_INLINE void expect(int64_t t, int64_t f) const { __asm__ volatile("prefetchw %0" : : "m"(*out(t, f))); }
};

/**
 * Decodes 64 columns of 16 byte rows: a 16 x 16 transpose of dwords, then the four fields. Group g of field f goes to
 * to + f % 2 * field + f / 2 * pair + g * group.
 */
BITNET_INLINE void decode_64(const uint8_t* const* w, int64_t c, uint8_t* to, int64_t field, int64_t pair, int64_t group) {
  const __m512i low = _mm512_set1_epi8(3);
  __m512i u[4][4];  // [rows 4i..4i+3][k], 128-bit lane l: column group 4 l + k
  for (int i = 0; i < 4; i += 1) {
    const __m512i r0 = load512(w[4 * i] + c), r1 = load512(w[4 * i + 1] + c);
    const __m512i r2 = load512(w[4 * i + 2] + c), r3 = load512(w[4 * i + 3] + c);
    const __m512i a0 = _mm512_unpacklo_epi32(r0, r1), a1 = _mm512_unpackhi_epi32(r0, r1);
    const __m512i b0 = _mm512_unpacklo_epi32(r2, r3), b1 = _mm512_unpackhi_epi32(r2, r3);
    u[i][0] = _mm512_unpacklo_epi64(a0, b0);
    u[i][1] = _mm512_unpackhi_epi64(a0, b0);
    u[i][2] = _mm512_unpacklo_epi64(a1, b1);
    u[i][3] = _mm512_unpackhi_epi64(a1, b1);
  }
  for (int k = 0; k < 4; k += 1) {
    const __m512i v0 = _mm512_shuffle_i32x4(u[0][k], u[1][k], 0x44), v1 = _mm512_shuffle_i32x4(u[0][k], u[1][k], 0xee);
    const __m512i v2 = _mm512_shuffle_i32x4(u[2][k], u[3][k], 0x44), v3 = _mm512_shuffle_i32x4(u[2][k], u[3][k], 0xee);
    const __m512i d[4] = {_mm512_shuffle_i32x4(v0, v2, 0x88), _mm512_shuffle_i32x4(v0, v2, 0xdd),
                          _mm512_shuffle_i32x4(v1, v3, 0x88), _mm512_shuffle_i32x4(v1, v3, 0xdd)};
    for (int l = 0; l < 4; l += 1) {
      uint8_t* at = to + (4 * l + k) * group;
      _mm512_store_si512(at, _mm512_and_si512(d[l], low));
      _mm512_store_si512(at + field, _mm512_and_si512(_mm512_srli_epi16(d[l], 2), low));
      _mm512_store_si512(at + pair, _mm512_and_si512(_mm512_srli_epi16(d[l], 4), low));
      _mm512_store_si512(at + pair + field, _mm512_and_si512(_mm512_srli_epi16(d[l], 6), low));
    }
  }
}

/** Asks for the same 64 columns of 16 byte rows `ahead` bytes further on. */
BITNET_INLINE void expect_rows(const uint8_t* const* w, int64_t ahead) {
  for (int64_t i = 0; i < kPanelRows; i += 1) _mm_prefetch((const char*)w[i] + ahead, _MM_HINT_T1);
}

#if defined(__AMX_INT8__)

constexpr int64_t kTokenBlock512 = 256;
// Below, the packed bytes are decoded for each group of four tokens anew.
constexpr int64_t kFewTokens = 4;
// One step of columns of a panel: tiles 0..3 of 1 KB.
constexpr int64_t kStepBytes = 4096;
constexpr int64_t kRingSteps = 4;

// Activations of a block, beside a decoded panel in 2 MB of L2.
constexpr int64_t kTokenBytes = 1 << 20;

// Sums stay in tile registers over all of C, so the whole panel is decoded: 64 C bytes, which stay in L2. Behind it
// the sums of 32 tokens x 32 rows, of two blocks.
int64_t ternary_scratch_512(int64_t C) { return bitnet::round_up(C, 64) * 64 + 8192; }

struct __attribute__((packed)) TileConfig {
  uint8_t palette, start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

/** The compiler's tile loads do not say that they read memory: what p points to is written before them. */
BITNET_INLINE void compiler_barrier(const void* p) { __asm__ volatile("" : : "r"(p) : "memory"); }

/** Tiles 0..3 sums and 6, 7 activations of `tokens` rows; 4, 5 weights. */
BITNET_INLINE void tiles_begin(int64_t tokens) {
  TileConfig config = {};
  config.palette = 1;
  for (int i = 0; i < 8; i += 1) {
    config.row_bytes[i] = 64;
    config.rows[i] = (uint8_t)(i == 4 || i == 5 ? 16 : tokens);
  }
  compiler_barrier(&config);
  _tile_loadconfig(&config);
}

/** What to ask for while the tiles multiply: the next panel's bytes, some lines a step. */
struct Stream {
  const char* at;
  int64_t lines;
  BITNET_INLINE void step() {
    for (int64_t i = 0; i < lines; i += 1) _mm_prefetch(at + 64 * i, _MM_HINT_T1);
    at += 64 * lines;
  }
};

/** 32 tokens that meet the tiles of fields f and f + 1. */
struct Block {
  const int8_t* x;
  const uint8_t* tiles;
  int64_t t, f;
};

/** Sums of a block that are still to be scaled and written: two lines for each of 32 tokens. */
struct Pending {
  const int32_t* sums = nullptr;
  int64_t t = 0, f = 0, next = 32;

  BITNET_INLINE void store(const Panel& p, int64_t lines) {
    for (const int64_t stop = next + lines < 32 ? next + lines : 32; next < stop; next += 1) {
      const int32_t* at = sums + (next / 16) * 512 + (next % 16) * 16;
      const __m512i off = p.code_sum(t + next);
      const __m512 factor = _mm512_set1_ps(p.a.factor[t + next]);
      p.store(t + next, f, load512(at), off, factor);
      p.store(t + next, f + 1, load512(at + 256), off, factor);
    }
  }
};

/**
 * Two tiles of activations meet two of weights in four accumulators. Beside the multiplications, some of it in each step, the
 * sums of the block before are written and before(c) has its share; and the activations of the next step (`then`: of the
 * next block) are brought to the nearest cache. Their rows lie too far apart for the CPU to follow; it does so with the
 * weights. Loads come first: where the core's other thread is busy, they and the products wait for one another.
 */
template <class Before>
BITNET_INLINE void amx_32_tokens(const Panel& p, const Block& b, const int8_t* then, int64_t columns, int32_t* sums, Pending& pending,
                                 Before before) {
  const int64_t stride = p.stride, lines = (32 * 64 + columns - 1) / columns;
  const uint8_t* tiles = b.tiles;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  int64_t line = 0;
  for (int64_t c = 0; c < columns; c += 64, tiles += kStepBytes / 2) {
    before(c);
    const int8_t* x = b.x + c;
    _tile_loadd(4, tiles, 64);
    _tile_loadd(6, x, stride);
    _tile_loadd(5, tiles + 1024, 64);
    _tile_loadd(7, x + 16 * stride, stride);
    _tile_dpbsud(0, 6, 4);
    const char* next = (const char*)(c + 64 < columns ? x + 64 : then);
    for (int k = 0; k < 32; k += 1) _mm_prefetch(next + k * stride, _MM_HINT_T0);
    _tile_dpbsud(1, 6, 5);
    pending.store(p, lines);
    _tile_dpbsud(2, 7, 4);
    _tile_dpbsud(3, 7, 5);
    for (const int64_t stop = line + lines < 32 ? line + lines : 32; line < stop; line += 1) {
      p.expect(b.t + line, b.f);
      p.expect(b.t + line, b.f + 1);
    }
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + 256, 64);
  _tile_stored(2, sums + 512, 64);
  _tile_stored(3, sums + 768, 64);
  compiler_barrier(sums);
  pending = Pending{sums, b.t, b.f, 0};
}

/** Up to 16 tokens (the configured rows) with all four fields; step(c) tells where fields 0 and 2 of column c lie. */
template <class Step>
BITNET_INLINE void amx_16_tokens(const Panel& p, int64_t t, int64_t n, int64_t columns, int32_t* sums, Step step) {
  const int8_t* x = p.a.x + t * p.stride;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t c = 0; c < columns; c += 64) {
    const uint8_t* const* tile = step(c);
    _tile_loadd(6, x + c, p.stride);
    _tile_loadd(4, tile[0], 64);
    _tile_dpbsud(0, 6, 4);
    _tile_loadd(5, tile[0] + 1024, 64);
    _tile_dpbsud(1, 6, 5);
    _tile_loadd(4, tile[1], 64);
    _tile_dpbsud(2, 6, 4);
    _tile_loadd(5, tile[1] + 1024, 64);
    _tile_dpbsud(3, 6, 5);
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + 256, 64);
  _tile_stored(2, sums + 512, 64);
  _tile_stored(3, sums + 768, 64);
  for (int64_t k = 0; k < n; k += 1) {
    const __m512i off = p.code_sum(t + k);
    const __m512 factor = _mm512_set1_ps(p.a.factor[t + k]);
    for (int64_t f = 0; f < 4; f += 1) p.store(t + k, f, load512(sums + f * 256 + k * 16), off, factor);
  }
}

/** At most 16 tokens: each step is decoded just before it is multiplied, while the next panel's bytes arrive. */
BITNET_INLINE void small_panel(const Panel& p, int64_t columns) {
  const TernaryArgs& a = p.a;
  uint8_t* ring = a.scratch;
  int32_t* sums = (int32_t*)(a.scratch + columns * 64);
  const int64_t ahead = a.prefetch ? kPanelRows * a.C : 0;
  const uint8_t* tile[2];
  const auto decode = [&](int64_t c) __attribute__((always_inline)) {
    uint8_t* to = ring + c / 64 % kRingSteps * kStepBytes;
    expect_rows(p.w, c + ahead);
    decode_64(p.w, c, to, 1024, 2048, 64);
    compiler_barrier(to);
  };
  // One step early, so that the stores have left for the cache when the tiles are loaded.
  decode(0);
  amx_16_tokens(p, 0, a.T, columns, sums, [&](int64_t c) __attribute__((always_inline)) {
    if (c + 64 < columns) decode(c + 64);
    tile[0] = ring + c / 64 % kRingSteps * kStepBytes;
    tile[1] = tile[0] + 2048;
    return tile;
  });
}

/**
 * More than 16 tokens: the panel is decoded once, beside the first 32 tokens; its fields 0 and 1 interleaved by step,
 * then 2 and 3.
 */
BITNET_INLINE void large_panel(const Panel& p, int64_t columns) {
  const TernaryArgs& a = p.a;
  const int64_t pair = columns * 32;
  int32_t* sums = (int32_t*)(a.scratch + columns * 64);
  const auto decode = [&](int64_t c) __attribute__((always_inline)) {
    decode_64(p.w, c, a.scratch + c * 32, 1024, pair, 64);
    compiler_barrier(a.scratch);
  };
  const int64_t whole = a.T / 32 * 2, steps = whole * (columns / 64), lines = kPanelRows * a.C / 64;
  Stream stream{(const char*)p.w[0] + kPanelRows * a.C, a.prefetch && steps ? (lines + steps - 1) / steps : 0};
  const auto block = [&](int64_t i) __attribute__((always_inline)) {
    const int64_t t = i / 2 * 32;
    return Block{a.x + t * p.stride, a.scratch + i % 2 * pair, t, i % 2 * 2};
  };
  Pending pending;
  for (int64_t c = 0; c < (whole ? 64 : columns); c += 64) decode(c);
  for (int64_t i = 0; i < whole; i += 1) {
    int32_t* to = sums + i % 2 * 1024;
    const int8_t* then = block(i + 1 < whole ? i + 1 : 0).x;
    if (i == 0) {
      amx_32_tokens(p, block(i), then, columns, to, pending, [&](int64_t c) __attribute__((always_inline)) {
        if (c + 64 < columns) decode(c + 64);
      });
    } else {
      amx_32_tokens(p, block(i), then, columns, to, pending, [&](int64_t) __attribute__((always_inline)) { stream.step(); });
    }
  }
  pending.store(p, 32);
  int64_t t = whole * 16;
  const uint8_t* tile[2];
  const auto step = [&](int64_t c) __attribute__((always_inline)) {
    tile[0] = a.scratch + c * 32;
    tile[1] = tile[0] + pair;
    return tile;
  };
  if (t + 16 <= a.T) {
    amx_16_tokens(p, t, 16, columns, sums, step);
    t += 16;
  }
  if (t < a.T) {
    tiles_begin(a.T - t);
    amx_16_tokens(p, t, a.T - t, columns, sums, step);
    tiles_begin(16);
  }
}

BITNET_INLINE void many_tokens_512(const TernaryArgs& a) {
  const int64_t columns = bitnet::round_up(a.C, 64);
  tiles_begin(a.T < 16 ? a.T : 16);
  for (int64_t q = a.begin; q < a.end; q += kPanelRows) {
    const Panel p(a, q);
    if (a.T <= 16) small_panel(p, columns);
    else large_panel(p, columns);
  }
  _tile_release();
}

#else

constexpr int64_t kTokenBlock512 = 192;
constexpr int64_t kTokenBytes = 0;
constexpr int64_t kFewTokens = 8;
// 24 KB decoded, which stay in L1 beside the activations.
constexpr int64_t kPanelColumns = 384;

/** The decoded columns, then 64 int32 sums for each token of a block. */
int64_t ternary_scratch_512(int64_t) { return kPanelColumns * 64 + kTokenBlock512 * 256; }

/** sums[k][field] (16 int32 each) += panel . x of NT tokens, over `groups` groups of 4 columns. */
template <int NT>
BITNET_INLINE void panel_tokens(const uint8_t* panel, const int8_t* x, int64_t stride, int64_t groups, int32_t* sums) {
  __m512i acc[NT][4];
  for (int k = 0; k < NT; k += 1)
    for (int f = 0; f < 4; f += 1) acc[k][f] = load512(sums + 64 * k + 16 * f);
  for (int64_t g = 0; g < groups; g += 1, x += 4) {
    const uint8_t* at = panel + 256 * g;
    const __m512i c[4] = {_mm512_load_si512(at), _mm512_load_si512(at + 64), _mm512_load_si512(at + 128),
                          _mm512_load_si512(at + 192)};
    for (int k = 0; k < NT; k += 1) panel_step(acc[k], c, x + k * stride);
  }
  for (int k = 0; k < NT; k += 1)
    for (int f = 0; f < 4; f += 1) _mm512_storeu_si512(sums + 64 * k + 16 * f, acc[k][f]);
}

BITNET_INLINE void many_tokens_512(const TernaryArgs& a) {
  const int64_t columns = bitnet::round_up(a.C, 64);
  uint8_t* tiles = a.scratch;
  int32_t* sums = (int32_t*)(a.scratch + kPanelColumns * 64);
  for (int64_t q = a.begin; q < a.end; q += kPanelRows) {
    const Panel p(a, q);
    __builtin_memset(sums, 0, (size_t)(a.T * 256));
    for (int64_t from = 0; from < columns; from += kPanelColumns) {
      const int64_t n = columns - from < kPanelColumns ? columns - from : kPanelColumns;
      const bool last = from + n == columns;
      // The next columns, or the first ones of the next panel, come while these are multiplied.
      const int64_t ahead = !a.prefetch ? 0 : last ? kPanelRows * a.C - from : kPanelColumns;
      for (int64_t c = 0; c < n; c += 64) {
        expect_rows(p.w, from + c + ahead);
        decode_64(p.w, from + c, tiles + c * 64, 64, 128, 256);
      }
      const int8_t* x = a.x + from;
      int64_t t = 0;
      for (; t + 6 <= a.T; t += 6) {
        if (last)
          for (int64_t k = 0; k < 6; k += 1)
            for (int64_t f = 0; f < 4; f += 1) p.expect(t + k, f);
        panel_tokens<6>(tiles, x + t * p.stride, p.stride, n / 4, sums + 64 * t);
      }
      x += t * p.stride;
      if (a.T - t == 5) panel_tokens<5>(tiles, x, p.stride, n / 4, sums + 64 * t);
      else if (a.T - t == 4) panel_tokens<4>(tiles, x, p.stride, n / 4, sums + 64 * t);
      else if (a.T - t == 3) panel_tokens<3>(tiles, x, p.stride, n / 4, sums + 64 * t);
      else if (a.T - t == 2) panel_tokens<2>(tiles, x, p.stride, n / 4, sums + 64 * t);
      else if (a.T - t == 1) panel_tokens<1>(tiles, x, p.stride, n / 4, sums + 64 * t);
    }
    for (int64_t t = 0; t < a.T; t += 1) {
      const __m512i off = p.code_sum(t);
      const __m512 factor = _mm512_set1_ps(a.factor[t]);
      for (int64_t f = 0; f < 4; f += 1) p.store(t, f, load512(sums + 64 * t + 16 * f), off, factor);
    }
  }
}

#endif

void ternary_512(const TernaryArgs& a) {
  if (a.T == 1) {
    for (int64_t q = a.begin; q < a.end; q += 1) quad_rows_512<1>(a, q, 0);
  } else if (a.T <= kFewTokens) {
    for (int64_t q = a.begin; q < a.end; q += 1) few_tokens_512(a, q);
  } else {
    many_tokens_512(a);
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
    dot512(surplus, one, v);
    for (int k = 0; k < NT; k += 1)
      dot512(acc[k], _mm512_xor_si512(load512(x + k * stride + 64 * s), flip), v);
  };
  for (int64_t s = 0; s < whole; s += 1) {
    ask_ahead(w + 64 * s, ahead);
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

/** Rows [begin, end). A function of its own, so that one number of tokens does not take registers from another. */
template <int NT>
__attribute__((noinline)) void int8_rows_512(const Int8Args& a, int64_t begin, int64_t end, int64_t t) {
  for (int64_t r = begin; r < end; r += 1) int8_row_512<NT>(a, r, t);
}

void int8_512(const Int8Args& a) {
  // Rows that later tokens meet again are few enough to stay in cache. One by one tokens would wait for their own sums.
  const int64_t rows = a.T <= 4 ? a.end - a.begin : 4;
  for (int64_t r = a.begin; r < a.end; r += rows) {
    const int64_t stop = r + rows < a.end ? r + rows : a.end;
    int64_t t = 0;
    for (; t + 8 <= a.T; t += 8) int8_rows_512<8>(a, r, stop, t);
    for (; t + 4 <= a.T; t += 4) int8_rows_512<4>(a, r, stop, t);
    if (a.T - t == 3) int8_rows_512<3>(a, r, stop, t);
    if (a.T - t == 2) int8_rows_512<2>(a, r, stop, t);
    if (a.T - t == 1) int8_rows_512<1>(a, r, stop, t);
  }
}

int64_t peak_macs_512(int64_t rounds) {
  constexpr int kChains = 12;
  __m512i acc[3][4], c[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; k += 1) {
    c[k] = _mm512_set1_epi8(2);
    acc[0][k] = acc[1][k] = acc[2][k] = _mm512_setzero_si512();
  }
  alignas(64) static const int8_t ones[64] = {1};
  for (int64_t i = 0; i < rounds; i += 1) {
    quad_step(acc[0], c, ones);
    quad_step(acc[1], c, ones);
    quad_step(acc[2], c, ones);
  }
  __m512i total = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int k = 0; k < 4; k += 1)
    total = _mm512_add_epi32(total, _mm512_add_epi32(acc[0][k], _mm512_add_epi32(acc[1][k], acc[2][k])));
  __asm__ volatile("" : : "v"(total));
  return rounds * kChains * 64;
}

#if defined(__AMX_INT8__)
int64_t peak_macs_amx(int64_t rounds) {
  tiles_begin(16);
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
  _tile_release();
  return n * 4 * 16 * 16 * 64;
}
#endif

}  // namespace
