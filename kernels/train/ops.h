// The loops of a training step over V16 (kernels/cpu/vec16.h). Included by every isa_*.cc, which defines
// BITNET_TRAIN_TABLE, the name of its table.
//
// Products are rounded before they are added (no fused multiply-add), except where the product is exact anyway: a float
// times a trit. Blocking changes which element is computed when, never the order inside one element's sum: sums that
// run over rows of the batch or of a weight are carried from block to block.
#pragma once

#include <cmath>
#include <cstring>

#include "../cpu/vec16.h"
#include "kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

using namespace bitnet_train;

// Rows of a register block: as many 16-float accumulators as the register file holds beside their operands.
#if defined(__AVX512F__)
constexpr int kBlockRows = 12;
#elif defined(__AVX__) || defined(__aarch64__)
constexpr int kBlockRows = 6;
#else
constexpr int kBlockRows = 2;
#endif

/** acc + a * b where a * b needs no rounding: fused where that is faster, the same bits either way. */
BITNET_INLINE V16 add_exact_product(V16 acc, V16 a, V16 b) {
#if defined(__AVX512F__)
  acc.p[0] = (vf)_mm512_fmadd_ps((__m512)a.p[0], (__m512)b.p[0], (__m512)acc.p[0]);
  return acc;
#elif defined(__FMA__)
  for (int i = 0; i < kParts; i += 1) acc.p[i] = (vf)_mm256_fmadd_ps((__m256)a.p[i], (__m256)b.p[i], (__m256)acc.p[i]);
  return acc;
#else
  return acc + a * b;
#endif
}

/** Keeps a loaded vector in registers, where the compiler would rather load it again for every use. */
BITNET_INLINE void keep(V16& a) {
#if defined(__x86_64__)
  BITNET_PARTS __asm__("" : "+x"(a.p[i]));
#elif defined(__aarch64__)
  BITNET_PARTS __asm__("" : "+w"(a.p[i]));
#else
  (void)a;
#endif
}

BITNET_INLINE V16 load_up_to(const float* x, int64_t n) { return n >= 16 ? v_load(x) : v_load_part(x, n); }
BITNET_INLINE void store_up_to(float* x, V16 a, int64_t n) {
  if (n >= 16)
    v_store(x, a);
  else
    v_store_part(x, a, n);
}

// ---------------------------------------------------------------------------------------------------------------------
// Quantizers

int64_t quantize_rows(const float* x, int64_t C, int64_t begin, int64_t end, int8_t* codes, float* scale) {
  for (int64_t t = begin; t < end; t += 1) {
    const float* row = x + t * C;
    // As integers, |x| orders like the float and puts infinity and NaN above every finite number.
    int32_t bits = 0;
    for (int64_t i = 0; i < C; i += 1) {
      int32_t b;
      memcpy(&b, row + i, 4);
      b &= 0x7fffffff;
      bits = b > bits ? b : bits;
    }
    if (bits >= 0x7f800000) return t;
    float largest;
    memcpy(&largest, &bits, 4);
    const float floor = (float)1e-5;
    const float s = 127.0f / (largest > floor ? largest : floor);
    scale[t] = s;
    int8_t* to = codes + t * C;
    for (int64_t i = 0; i < C; i += 1) {
      const float rounded = (row[i] * s + 12582912.0f) - 12582912.0f;
      const int32_t code = (int32_t)rounded;
      to[i] = (int8_t)(code > 127 ? 127 : code);
    }
  }
  return -1;
}

void dequantize_rows(const int8_t* codes, const float* scale, int64_t C, int64_t begin, int64_t end, float* out) {
  for (int64_t t = begin; t < end; t += 1) {
    const float s = scale[t];
    for (int64_t i = t * C; i < (t + 1) * C; i += 1) out[i] = (float)codes[i] / s;
  }
}

float quantize_weights(const float* w, int64_t n, int8_t* trits) {
  // In order and in double, as src/quant/absmean.ts.
  double sum = 0;
  for (int64_t i = 0; i < n; i += 1) sum += (double)fabsf(w[i]);
  if (!std::isfinite((float)sum)) return NAN;
  const float mean = n == 0 ? 0.0f : (float)(sum / (double)n);
  const float floor = (float)1e-5;
  const float scale = mean > floor ? mean : floor;
  const float reciprocal = 1.0f / scale;
  for (int64_t i = 0; i < n; i += 1) {
    const float v = w[i] * reciprocal;
    trits[i] = (int8_t)((v > 0.5f) - (v < -0.5f));
  }
  return scale;
}

// ---------------------------------------------------------------------------------------------------------------------
// BitLinear forward: integer sums, so any order

template <int NR, int NT>
BITNET_INLINE void bit_block(const BitForward& a, const int32_t* code_sums, const float* factors, int64_t t0,
                             int64_t first, int64_t r0) {
  int32_t sums[NR][NT] = {};
  int64_t c = 0;
#if defined(__AVX2__)
  // (trit + 1) in 0..2 as the unsigned operand; a pair of products is at most 2 * 2 * 128, so 60 of them fit int16.
  const __m256i one8 = _mm256_set1_epi8(1), one16 = _mm256_set1_epi16(1);
  __m256i wide[NR][NT];
  for (int i = 0; i < NR; i += 1)
    for (int j = 0; j < NT; j += 1) wide[i][j] = _mm256_setzero_si256();
  while (c + 32 <= a.C) {
    const int64_t stop = a.C - c > 32 * 60 ? c + 32 * 60 : a.C;
    __m256i narrow[NR][NT];
    for (int i = 0; i < NR; i += 1)
      for (int j = 0; j < NT; j += 1) narrow[i][j] = _mm256_setzero_si256();
    for (; c + 32 <= stop; c += 32) {
      __m256i w[NR];
      for (int i = 0; i < NR; i += 1)
        w[i] = _mm256_add_epi8(_mm256_loadu_si256((const __m256i*)(a.trits + (r0 + i) * a.C + c)), one8);
      for (int j = 0; j < NT; j += 1) {
        const __m256i x = _mm256_loadu_si256((const __m256i*)(a.codes + (t0 + j) * a.C + c));
        for (int i = 0; i < NR; i += 1) {
          narrow[i][j] = _mm256_add_epi16(narrow[i][j], _mm256_maddubs_epi16(w[i], x));
          __asm__("" : "+x"(narrow[i][j]));  // or one of the sums goes through memory in every round
        }
      }
    }
    for (int i = 0; i < NR; i += 1)
      for (int j = 0; j < NT; j += 1) wide[i][j] = _mm256_add_epi32(wide[i][j], _mm256_madd_epi16(narrow[i][j], one16));
  }
  if (NT == 4 && c == a.C) {
    // The four tokens' sums of a row in one vector.
    for (int i = 0; i < NR; i += 1) {
      const __m256i both = _mm256_hadd_epi32(_mm256_hadd_epi32(wide[i][0], wide[i][1]),
                                             _mm256_hadd_epi32(wide[i][2 % NT], wide[i][3 % NT]));
      const __m128i codes = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
      const __m128i sum = _mm_sub_epi32(codes, _mm_loadu_si128((const __m128i*)(code_sums + t0 - first)));
      alignas(16) float y[4];
      _mm_store_ps(y, _mm_mul_ps(_mm_cvtepi32_ps(sum), _mm_loadu_ps(factors + t0 - first)));
      for (int j = 0; j < 4; j += 1) a.out[(t0 + j) * a.R + r0 + i] = y[j];
    }
    return;
  }
  for (int i = 0; i < NR; i += 1) {
    for (int j = 0; j < NT; j += 1) {
      const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(wide[i][j]), _mm256_extracti128_si256(wide[i][j], 1));
      const __m128i pair = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
      sums[i][j] = _mm_cvtsi128_si32(_mm_add_epi32(pair, _mm_shuffle_epi32(pair, 0xb1)));
    }
  }
#endif
  for (int i = 0; i < NR; i += 1) {
    const int8_t* w = a.trits + (r0 + i) * a.C;
    for (int j = 0; j < NT; j += 1) {
      const int8_t* x = a.codes + (t0 + j) * a.C;
      int32_t rest = 0;
      for (int64_t k = c; k < a.C; k += 1) rest += (int32_t)x[k] * ((int32_t)w[k] + 1);
      const int32_t sum = sums[i][j] + rest - code_sums[t0 + j - first];
      a.out[(t0 + j) * a.R + r0 + i] = (float)sum * factors[t0 + j - first];
    }
  }
}

template <int NR>
BITNET_INLINE void bit_rows(const BitForward& a, const int32_t* code_sums, const float* factors, int64_t first,
                            int64_t last, int64_t r) {
  int64_t t = first;
  for (; t + 4 <= last; t += 4) bit_block<NR, 4>(a, code_sums, factors, t, first, r);
  for (; t < last; t += 1) bit_block<NR, 1>(a, code_sums, factors, t, first, r);
}

void bit_forward(const BitForward& a, int64_t item) {
  const int64_t t0 = item % a.token_blocks() * a.kTokens, r0 = item / a.token_blocks() * a.kRows;
  const int64_t t1 = t0 + a.kTokens < a.T ? t0 + a.kTokens : a.T, r1 = r0 + a.kRows < a.R ? r0 + a.kRows : a.R;
  int32_t code_sums[BitForward::kTokens];
  float factors[BitForward::kTokens];
  for (int64_t t = t0; t < t1; t += 1) {
    int32_t sum = 0;
    for (int64_t c = 0; c < a.C; c += 1) sum += a.codes[t * a.C + c];
    code_sums[t - t0] = sum;
    factors[t - t0] = a.weight_scale / a.scale[t];
  }
  int64_t r = r0;
  for (; r + 2 <= r1; r += 2) bit_rows<2>(a, code_sums, factors, t0, t1, r);
  for (; r < r1; r += 1) bit_rows<1>(a, code_sums, factors, t0, t1, r);
}

// ---------------------------------------------------------------------------------------------------------------------
// dx = dy . w: each element one sum over the rows of w, from the first to the last

template <int N, bool exact>
BITNET_INLINE void input_block(const float* dy, int64_t R, const float* panel, int64_t n, float* sums) {
  V16 acc[N];
  for (int i = 0; i < N; i += 1) acc[i] = v_load(sums + 16 * i);
  for (int64_t r = 0; r < n; r += 1) {
    const V16 w = v_load(panel + 16 * r);
    for (int i = 0; i < N; i += 1) {
      const V16 d = v_splat(dy[i * R + r]);
      acc[i] = exact ? add_exact_product(acc[i], d, w) : acc[i] + d * w;
    }
  }
  for (int i = 0; i < N; i += 1) v_store(sums + 16 * i, acc[i]);
}

void backward_input(const BackwardInput& a, int64_t item) {
  const int64_t c0 = item % a.panels() * 16, t0 = item / a.panels() * a.kTokens;
  const int64_t tokens = t0 + a.kTokens < a.T ? a.kTokens : a.T - t0;
  const int64_t width = c0 + 16 <= a.C ? 16 : a.C - c0;
  alignas(64) float panel[BackwardInput::kChunk * 16];
  alignas(64) float sums[BackwardInput::kTokens * 16];
  memset(sums, 0, sizeof sums);
  for (int64_t r0 = 0; r0 < a.R; r0 += a.kChunk) {
    const int64_t n = r0 + a.kChunk < a.R ? a.kChunk : a.R - r0;
    if (a.trits) {
      for (int64_t r = 0; r < n; r += 1) {
        const int8_t* from = a.trits + (r0 + r) * a.C + c0;
        if (width == 16)
          for (int i = 0; i < 16; i += 1) panel[16 * r + i] = (float)from[i];
        else
          for (int64_t i = 0; i < 16; i += 1) panel[16 * r + i] = i < width ? (float)from[i] : 0.0f;
      }
    } else {
      for (int64_t r = 0; r < n; r += 1) v_store(panel + 16 * r, load_up_to(a.w + (r0 + r) * a.C + c0, width));
    }
    const float* dy = a.dy + t0 * a.R + r0;
    int64_t t = 0;
    if (a.trits) {
      for (; t + kBlockRows <= tokens; t += kBlockRows)
        input_block<kBlockRows, true>(dy + t * a.R, a.R, panel, n, sums + 16 * t);
      for (; t < tokens; t += 1) input_block<1, true>(dy + t * a.R, a.R, panel, n, sums + 16 * t);
    } else {
      for (; t + kBlockRows <= tokens; t += kBlockRows)
        input_block<kBlockRows, false>(dy + t * a.R, a.R, panel, n, sums + 16 * t);
      for (; t < tokens; t += 1) input_block<1, false>(dy + t * a.R, a.R, panel, n, sums + 16 * t);
    }
  }
  const V16 scale = v_splat(a.weight_scale);
  for (int64_t t = 0; t < tokens; t += 1) {
    float* to = a.dx + (t0 + t) * a.C + c0;
    const V16 sum = v_load(sums + 16 * t);
    store_up_to(to, a.trits ? load_up_to(to, width) + sum * scale : sum, width);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// dw += dy^T . x: each element one sum over the rows of the batch

template <int N>
BITNET_INLINE void weight_block(const float* dy, const float* panel, int64_t n, float* dw, int64_t C, int64_t width) {
  V16 acc[N];
  for (int i = 0; i < N; i += 1) acc[i] = load_up_to(dw + i * C, width);
  for (int64_t t = 0; t < n; t += 1) {
    const V16 x = v_load(panel + 16 * t);
    for (int i = 0; i < N; i += 1) acc[i] = acc[i] + v_splat(dy[t * kBlockRows + i]) * x;
  }
  for (int i = 0; i < N; i += 1) store_up_to(dw + i * C, acc[i], width);
}

void backward_weight(const BackwardWeight& a, int64_t item) {
  const int64_t c0 = item % a.column_blocks() * a.columns, r0 = item / a.column_blocks() * a.kRows;
  const int64_t c1 = c0 + a.columns < a.C ? c0 + a.columns : a.C, rows = r0 + a.kRows < a.R ? a.kRows : a.R - r0;
  alignas(64) float panel[BackwardWeight::kChunk * 16];
  // dy of this block, kBlockRows columns at a time: [group][t][i]. Rows past the end stay unused.
  alignas(64) static thread_local float packed[(BackwardWeight::kRows + kBlockRows) * BackwardWeight::kChunk];
  for (int64_t t0 = 0; t0 < a.T; t0 += a.kChunk) {
    const int64_t n = t0 + a.kChunk < a.T ? a.kChunk : a.T - t0;
    for (int64_t r = 0; r < rows; r += kBlockRows) {
      const int64_t group = r + kBlockRows <= rows ? kBlockRows : rows - r;
      float* to = packed + r * a.kChunk;
      for (int64_t t = 0; t < n; t += 1) {
        const float* from = a.dy + (t0 + t) * a.R + r0 + r;
        if (group == kBlockRows)
          memcpy(to + t * kBlockRows, from, kBlockRows * sizeof(float));
        else
          for (int64_t i = 0; i < group; i += 1) to[t * kBlockRows + i] = from[i];
      }
    }
    for (int64_t c = c0; c < c1; c += 16) {
      const int64_t width = c + 16 <= c1 ? 16 : c1 - c;
      for (int64_t t = 0; t < n; t += 1) v_store(panel + 16 * t, load_up_to(a.x + (t0 + t) * a.C + c, width));
      float* dw = a.dw + r0 * a.C + c;
      int64_t r = 0;
      for (; r + kBlockRows <= rows; r += kBlockRows)
        weight_block<kBlockRows>(packed + r * a.kChunk, panel, n, dw + r * a.C, a.C, width);
      for (int64_t i = 0; r + i < rows; i += 1)
        weight_block<1>(packed + r * a.kChunk + i, panel, n, dw + (r + i) * a.C, a.C, width);
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Lane sums

/** v_fold in registers: the same additions. */
BITNET_INLINE float fold(V16 a) {
#if defined(__AVX__)
#if defined(__AVX512F__)
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)a.p[0]),
                                     _mm256_castpd_ps(_mm512_extractf64x4_pd((__m512d)a.p[0], 1)));
#else
  const __m256 eight = (__m256)(a.p[0] + a.p[1]);
#endif
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  return v_fold(a);
#endif
}

BITNET_INLINE float lane_dot(const float* x, const float* y, int64_t n) {
  V16 sum = v_zero();
  const int64_t whole = n & ~int64_t{15};
  for (int64_t i = 0; i < whole; i += 16) sum = sum + v_load(x + i) * v_load(y + i);
  if (whole < n) sum = sum + v_load_part(x + whole, n - whole) * v_load_part(y + whole, n - whole);
  return fold(sum);
}

template <int NT, int NR>
BITNET_INLINE void dot_block(const float* x, int64_t x_stride, const float* w, int64_t w_stride, int64_t n, float* out,
                             int64_t out_stride) {
  V16 acc[NT][NR];
  for (int t = 0; t < NT; t += 1)
    for (int r = 0; r < NR; r += 1) acc[t][r] = v_zero();
  const int64_t whole = n & ~int64_t{15};
  for (int64_t c = 0; c < whole; c += 16) {
    V16 xs[NT];
    for (int t = 0; t < NT; t += 1) {
      xs[t] = v_load(x + t * x_stride + c);
      keep(xs[t]);
    }
    for (int r = 0; r < NR; r += 1) {
      V16 ws = v_load(w + r * w_stride + c);
      if (NT > 1) keep(ws);
      for (int t = 0; t < NT; t += 1) acc[t][r] = acc[t][r] + xs[t] * ws;
    }
  }
  if (whole < n) {
    for (int r = 0; r < NR; r += 1) {
      const V16 ws = v_load_part(w + r * w_stride + whole, n - whole);
      for (int t = 0; t < NT; t += 1) acc[t][r] = acc[t][r] + v_load_part(x + t * x_stride + whole, n - whole) * ws;
    }
  }
  for (int t = 0; t < NT; t += 1)
    for (int r = 0; r < NR; r += 1) out[t * out_stride + r] = fold(acc[t][r]);
}

/** out[j] = lane_dot(x, w + j * stride), j < count. */
BITNET_INLINE void dots(const float* x, const float* w, int64_t stride, int64_t count, int64_t n, float* out) {
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) dot_block<1, 4>(x, 0, w + j * stride, stride, n, out + j, 0);
  for (; j < count; j += 1) out[j] = lane_dot(x, w + j * stride, n);
}

void dense_forward(const DenseForward& a, int64_t item) {
  const int64_t t0 = item % a.token_blocks() * a.kTokens, r0 = item / a.token_blocks() * a.kRows;
  const int64_t t1 = t0 + a.kTokens < a.T ? t0 + a.kTokens : a.T, r1 = r0 + a.kRows < a.R ? r0 + a.kRows : a.R;
  // Blocks of the output whose sums fit the registers beside one row of x and one of w.
#if defined(__AVX512F__)
  constexpr int kT = 4, kR = 4;
#else
  constexpr int kT = 2, kR = 2;
#endif
  int64_t r = r0;
  for (; r + kR <= r1; r += kR) {
    int64_t t = t0;
    for (; t + kT <= t1; t += kT)
      dot_block<kT, kR>(a.x + t * a.C, a.C, a.w + r * a.C, a.C, a.C, a.out + t * a.R + r, a.R);
    for (; t < t1; t += 1) dot_block<1, kR>(a.x + t * a.C, a.C, a.w + r * a.C, a.C, a.C, a.out + t * a.R + r, a.R);
  }
  for (; r < r1; r += 1)
    for (int64_t t = t0; t < t1; t += 1) a.out[t * a.R + r] = lane_dot(a.x + t * a.C, a.w + r * a.C, a.C);
}

BITNET_INLINE float lane_sum(const float* x, int64_t n) {
  V16 sum = v_zero();
  const int64_t whole = n & ~int64_t{15};
  for (int64_t i = 0; i < whole; i += 16) sum = sum + v_load(x + i);
  if (whole < n) sum = sum + v_load_part(x + whole, n - whole);
  return fold(sum);
}

// ---------------------------------------------------------------------------------------------------------------------
// RMSNorm, RoPE

void norm_forward(const Norm& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; t += 1) {
    const float* x = a.x + t * a.C;
    const float mean = lane_dot(x, x, a.C) / (float)a.C;
    const float r = 1.0f / sqrtf(mean + a.eps);
    a.r[t] = r;
    float* out = a.out + t * a.C;
    for (int64_t i = 0; i < a.C; i += 1) out[i] = (x[i] * r) * a.weight[i];
  }
}

void norm_backward_rows(const Norm& a, int64_t begin, int64_t end, float* g) {
  for (int64_t t = begin; t < end; t += 1) {
    const float *x = a.x + t * a.C, *dy = a.dy + t * a.C;
    float* dx = a.dx + t * a.C;
    const float r = a.r[t];
    for (int64_t i = 0; i < a.C; i += 1) g[i] = dy[i] * a.weight[i];
    const float cubed = (r * r) * r;
    const float pull = (cubed * lane_dot(g, x, a.C)) / (float)a.C;
    for (int64_t i = 0; i < a.C; i += 1) dx[i] = dx[i] + (r * g[i] - x[i] * pull);
  }
}

void norm_backward_weight(const Norm& a, int64_t begin, int64_t end) {
  for (int64_t t = 0; t < a.T; t += 1) {
    const float *x = a.x + t * a.C, *dy = a.dy + t * a.C;
    const float r = a.r[t];
    for (int64_t i = begin; i < end; i += 1) a.dweight[i] = a.dweight[i] + dy[i] * (x[i] * r);
  }
}

void rope(float* x, const int32_t* positions, const float* cos, const float* sin, int64_t heads, int64_t D,
          float direction, int64_t begin, int64_t end) {
  const int64_t half = D / 2;
  for (int64_t t = begin; t < end; t += 1) {
    const float *c = cos + positions[t] * half, *s = sin + positions[t] * half;
    for (int64_t h = 0; h < heads; h += 1) {
      float* a = x + (t * heads + h) * D;
      float* b = a + half;
      // Multiplying by 1 or -1 is exact, so u c - v s and u c + v s come out as written apart.
      for (int64_t j = 0; j < half; j += 1) {
        const float u = a[j], v = b[j], sj = s[j] * direction;
        a[j] = u * c[j] - v * sj;
        b[j] = v * c[j] + u * sj;
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Attention

/** out (N, 16): out[n] += sum over j < count of weight[j * ws] * rows[j * stride], in order. */
template <int N>
BITNET_INLINE void weighted_part(const float* weight, int64_t ws, const float* rows, int64_t stride, int64_t count,
                                 float* out) {
  V16 acc[N];
  for (int i = 0; i < N; i += 1) acc[i] = v_load(out + 16 * i);
  for (int64_t j = 0; j < count; j += 1) {
    const V16 w = v_splat(weight[j * ws]);
    for (int i = 0; i < N; i += 1) acc[i] = acc[i] + w * v_load(rows + j * stride + 16 * i);
  }
  for (int i = 0; i < N; i += 1) v_store(out + 16 * i, acc[i]);
}

BITNET_INLINE void weighted_rows(const float* weight, int64_t ws, const float* rows, int64_t stride, int64_t count,
                                 int64_t D, float* out) {
  int64_t d = 0;
  for (; d + 64 <= D; d += 64) weighted_part<4>(weight, ws, rows + d, stride, count, out + d);
  for (; d + 16 <= D; d += 16) weighted_part<1>(weight, ws, rows + d, stride, count, out + d);
  if (d < D) {
    V16 acc = v_load_part(out + d, D - d);
    for (int64_t j = 0; j < count; j += 1)
      acc = acc + v_splat(weight[j * ws]) * v_load_part(rows + j * stride + d, D - d);
    v_store_part(out + d, acc, D - d);
  }
}

/** e_j of one row, j < count; returns their sum. */
BITNET_INLINE float attention_weights(const float* q, const float* k, int64_t stride, int64_t count, int64_t D,
                                      float scale, float* e) {
  dots(q, k, stride, count, D, e);
  float largest = -__builtin_inff();
  for (int64_t j = 0; j < count; j += 1) {
    e[j] = e[j] * scale;
    // A NaN of a broken model must not be lost: the next quantization reports it.
    largest = e[j] > largest || e[j] != e[j] ? e[j] : largest;
  }
  const V16 top = v_splat(largest);
  for (int64_t j = 0; j < count; j += 16) {
    const int64_t n = count - j;
    store_up_to(e + j, v_exp(load_up_to(e + j, n) - top), n);
  }
  return lane_sum(e, count);
}

int64_t attention_scratch(int64_t longest) { return longest * (2 * Attention::kBlock + 1); }

void attention_forward(const Attention& a, const AttentionItem& item, float* e) {
  const int64_t width = a.heads * a.D, kv_width = a.kv_heads * a.D, group = a.heads / a.kv_heads;
  const int64_t at = item.start * kv_width + item.head / group * a.D;
  for (int64_t t = item.begin; t < item.end; t += 1) {
    const int64_t count = t - item.start + 1, row = t * width + item.head * a.D;
    const float total = attention_weights(a.q + row, a.k + at, kv_width, count, a.D, a.scale, e);
    float* out = a.out + row;
    for (int64_t d = 0; d < a.D; d += 1) out[d] = 0;
    weighted_rows(e, 1, a.v + at, kv_width, count, a.D, out);
    for (int64_t d = 0; d < a.D; d += 1) out[d] = out[d] / total;
  }
}

/**
 * One kv head of one sequence. Rows are taken in blocks of kBlock: first the weights p and score gradients ds of the
 * block, then for each key its sums over the block's rows, with the key's sums in registers.
 */
void attention_backward(const Attention& a, const AttentionItem& item, float* scratch) {
  const int64_t width = a.heads * a.D, kv_width = a.kv_heads * a.D, group = a.heads / a.kv_heads, D = a.D;
  const int64_t length = item.end - item.start, at = item.start * kv_width + item.head * D;
  const float *k = a.k + at, *v = a.v + at;
  float *dk = a.dk + at, *dv = a.dv + at;
  for (int64_t j = 0; j < length; j += 1) {
    memset(dk + j * kv_width, 0, (size_t)D * 4);
    memset(dv + j * kv_width, 0, (size_t)D * 4);
  }
  constexpr int64_t B = Attention::kBlock;
  float *p = scratch, *ds = scratch + B * length, *dp = scratch + 2 * B * length;
  for (int64_t h = item.head * group; h < (item.head + 1) * group; h += 1) {
    for (int64_t t0 = 0; t0 < length; t0 += B) {
      const int64_t n = t0 + B < length ? B : length - t0;
      const int64_t first = (item.start + t0) * width + h * D;
      for (int64_t i = 0; i < n; i += 1) {
        const int64_t row = first + i * width, count = t0 + i + 1;
        float *pi = p + i * length, *dsi = ds + i * length;
        const float total = attention_weights(a.q + row, k, kv_width, count, D, a.scale, pi);
        dots(a.dout + row, v, kv_width, count, D, dp);
        const float mean = lane_dot(a.dout + row, a.out + row, D);
        for (int64_t j = 0; j < count; j += 1) {
          pi[j] = pi[j] / total;
          dsi[j] = (pi[j] * (dp[j] - mean)) * a.scale;
        }
        float* dq = a.dq + row;
        for (int64_t d = 0; d < D; d += 1) dq[d] = 0;
        weighted_rows(dsi, 1, k, kv_width, count, D, dq);
      }
      for (int64_t j = 0; j < t0 + n; j += 1) {
        const int64_t i = j > t0 ? j - t0 : 0;  // the first row of the block that sees key j
        weighted_rows(p + i * length + j, length, a.dout + first + i * width, width, n - i, D, dv + j * kv_width);
        weighted_rows(ds + i * length + j, length, a.q + first + i * width, width, n - i, D, dk + j * kv_width);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Elementwise

BITNET_INLINE V16 sigmoid_denominator(V16 g) {
  V16 minus;
  for (int i = 0; i < kParts; i += 1) minus.p[i] = -g.p[i];
  return v_splat(1.0f) + v_exp(minus);
}

void gate_forward(Gate fn, const float* gate, const float* up, int64_t n, float* out) {
  if (fn == Gate::relu2) {
    for (int64_t i = 0; i < n; i += 1) {
      const float g = gate[i] <= 0 ? 0.0f : gate[i];
      out[i] = (g * g) * up[i];
    }
    return;
  }
  for (int64_t i = 0; i < n; i += 16) {
    const V16 g = load_up_to(gate + i, n - i);
    store_up_to(out + i, (g / sigmoid_denominator(g)) * load_up_to(up + i, n - i), n - i);
  }
}

void gate_backward(Gate fn, const float* gate, const float* up, const float* dout, int64_t n, float* dgate, float* dup) {
  if (fn == Gate::relu2) {
    for (int64_t i = 0; i < n; i += 1) {
      const float g = gate[i] <= 0 ? 0.0f : gate[i];
      const float d = dout[i], u = up[i];
      dup[i] = d * (g * g);
      dgate[i] = (d * u) * (2.0f * g);
    }
    return;
  }
  const V16 one = v_splat(1.0f);
  for (int64_t i = 0; i < n; i += 16) {
    const V16 g = load_up_to(gate + i, n - i), u = load_up_to(up + i, n - i), d = load_up_to(dout + i, n - i);
    const V16 denominator = sigmoid_denominator(g);
    const V16 s = one / denominator;
    const V16 slope = s * (one + g * (one - s));
    store_up_to(dup + i, d * (g / denominator), n - i);
    store_up_to(dgate + i, (d * u) * slope, n - i);
  }
}

void cross_entropy(float* logits, const int32_t* targets, float grad_scale, int64_t V, int64_t begin, int64_t end,
                   float* sums, float* margins) {
  for (int64_t t = begin; t < end; t += 1) {
    float* row = logits + t * V;
    const int32_t target = targets[t];
    if (target < 0) {
      memset(row, 0, (size_t)V * 4);
      sums[t] = 0;
      margins[t] = 0;
      continue;
    }
    V16 lanes = v_splat(-__builtin_inff());
    bool broken = false;
    for (int64_t j = 0; j + 16 <= V; j += 16) lanes = v_max(v_load(row + j), lanes);
    float largest = v_max_lane(lanes);
    for (int64_t j = V & ~int64_t{15}; j < V; j += 1) largest = row[j] > largest ? row[j] : largest;
    for (int64_t j = 0; j < V; j += 1) broken |= row[j] != row[j];
    if (broken) largest = NAN;
    margins[t] = row[target] - largest;
    const V16 top = v_splat(largest);
    for (int64_t j = 0; j < V; j += 16) store_up_to(row + j, v_exp(load_up_to(row + j, V - j) - top), V - j);
    const float sum = lane_sum(row, V);
    sums[t] = sum;
    if (grad_scale == 0) continue;
    const float p = row[target] / sum;
    for (int64_t j = 0; j < V; j += 1) row[j] = (row[j] / sum) * grad_scale;
    row[target] = (p - 1.0f) * grad_scale;
  }
}

void add(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += 1) x[i] = x[i] + y[i];
}

void sgd(const Sgd& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += 1) a.p[i] = a.p[i] * a.keep - a.lr * (a.g[i] * a.grad_scale);
}

void adamw(const AdamW& a, int64_t begin, int64_t end) {
  float *__restrict p = a.p, *__restrict m = a.m, *__restrict v = a.v;
  const float* __restrict g = a.g;
  for (int64_t i = begin; i < end; i += 1) {
    const float grad = g[i] * a.grad_scale;
    const float first = m[i] * a.beta1 + grad * a.rest1;
    const float second = v[i] * a.beta2 + (grad * grad) * a.rest2;
    m[i] = first;
    v[i] = second;
    const float root = sqrtf(second) * a.second_scale + a.eps;
    p[i] = p[i] * a.keep - a.step_size * (first / root);
  }
}

double sum_squares(const float* x, int64_t n) {
  double lanes[16] = {};
  const int64_t whole = n & ~int64_t{15};
  for (int64_t i = 0; i < whole; i += 16)
    for (int k = 0; k < 16; k += 1) lanes[k] += (double)x[i + k] * (double)x[i + k];
  for (int64_t i = whole; i < n; i += 1) lanes[i - whole] += (double)x[i] * (double)x[i];
  for (int half = 8; half >= 1; half /= 2)
    for (int i = 0; i < half; i += 1) lanes[i] += lanes[i + half];
  return lanes[0];
}

}  // namespace

namespace bitnet_train {

extern const Kernels BITNET_TRAIN_TABLE;
const Kernels BITNET_TRAIN_TABLE = {
    BITNET_TRAIN_ISA,
    quantize_rows,
    dequantize_rows,
    quantize_weights,
    bit_forward,
    backward_input,
    backward_weight,
    dense_forward,
    norm_forward,
    norm_backward_rows,
    norm_backward_weight,
    rope,
    attention_scratch,
    attention_forward,
    attention_backward,
    gate_forward,
    gate_backward,
    cross_entropy,
    add,
    sgd,
    adamw,
    sum_squares,
};

}  // namespace bitnet_train
