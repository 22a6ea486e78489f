// The float operations of a step, written once over V16 (vec16.h). Included by every isa_*.cc. C columns, D head
// dimension, T rows. Each comes out with the bits of engine/js/ops.ts; the order of every sum is the one of
// engine/program.ts (EXACTNESS).
#pragma once

#include "../include/kernels.h"
#include "vec16.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace {

using bitnet::AttentionArgs;
using bitnet::Dense;
using bitnet::DenseArgs;
using bitnet::kBlock;
using bitnet::kQueries;

BITNET_INLINE float sqrt_f32(float x) {
#if defined(__SSE2__)
  // __builtin_sqrtf may call libm for negative arguments.
  typedef float v4 __attribute__((vector_size(16)));
  return __builtin_ia32_sqrtss((v4){x, 0, 0, 0})[0];
#else
  return __builtin_sqrtf(x);
#endif
}

/** laneSum of x * x. */
BITNET_INLINE float lane_square_sum(const float* x, int64_t n) {
  V16 sum = v_zero();
  const int64_t whole = n & ~int64_t{15};
  for (int64_t i = 0; i < whole; i += 16) {
    const V16 a = v_load(x + i);
    sum = sum + a * a;
  }
  if (whole < n) {
    const V16 a = v_load_part(x + whole, n - whole);
    sum = sum + a * a;
  }
  return v_fold(sum);
}

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  const float mean = lane_square_sum(x, n) / (float)n;
  const float r = 1.0f / sqrt_f32(mean + eps);
  const V16 rv = v_splat(r);
  const int64_t whole = n & ~int64_t{15};
  for (int64_t i = 0; i < whole; i += 16) v_store(out + i, (v_load(x + i) * rv) * v_load(weight + i));
  for (int64_t i = whole; i < n; i += 1) out[i] = (x[i] * r) * weight[i];
}

/** 16 integers in -128..127 as bytes. */
BITNET_INLINE void store_codes(int8_t* to, const vi* part) {
#if defined(__AVX512F__)
  _mm_storeu_si128((__m128i*)to, _mm512_cvtsepi32_epi8((__m512i)part[0]));
#elif defined(__AVX2__)
  const __m256i pairs = _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)part[0], (__m256i)part[1]), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  _mm_storeu_si128((__m128i*)to, bytes);
#else
  int32_t whole[16];
  __builtin_memcpy(whole, part, sizeof whole);
  for (int k = 0; k < 16; k += 1) to[k] = (int8_t)whole[k];
#endif
}

/** The bits of the largest |x|: as integers they order like the floats, with infinity and NaN on top. */
BITNET_INLINE int32_t largest_bits(const float* x, int64_t n) {
  const int64_t whole = n & ~int64_t{15};
  vi top = vi{};
  for (int64_t i = 0; i < whole; i += 16) {
    const V16 a = v_abs(v_load(x + i));
    for (int k = 0; k < kParts; k += 1) {
      const vi b = (vi)a.p[k];
      const vi greater = b > top;
      top = (b & greater) | (top & ~greater);
    }
  }
  int32_t lanes[kVecFloats];
  __builtin_memcpy(lanes, &top, sizeof top);
  int32_t bits = 0;
  for (int i = 0; i < kVecFloats; i += 1) bits = lanes[i] > bits ? lanes[i] : bits;
  for (int64_t i = whole; i < n; i += 1) {
    int32_t b;
    __builtin_memcpy(&b, x + i, 4);
    b &= 0x7fffffff;
    bits = b > bits ? b : bits;
  }
  return bits;
}

bool quantize(const float* x, int64_t n, int8_t* codes, float* scale) {
  const int64_t whole = n & ~int64_t{15};
  const int32_t bits = largest_bits(x, n);
  if (bits >= 0x7f800000) return false;
  float largest;
  __builtin_memcpy(&largest, &bits, 4);
  const float floor = (float)1e-5;
  const float s = 127.0f / (largest > floor ? largest : floor);
  *scale = s;
  const V16 sv = v_splat(s);
  const vi limit = vi_splat(127);
  vi total = vi{};
  int64_t i = 0;
  for (; i < whole; i += 16) {
    const V16 a = v_rint(v_load(x + i) * sv);
    vi part[kParts];
    for (int k = 0; k < kParts; k += 1) {
      const vi c = __builtin_convertvector(a.p[k], vi);
      const vi big = c > limit;
      part[k] = (limit & big) | (c & ~big);
      total = total + part[k];
    }
    store_codes(codes + i, part);
  }
  int32_t lanes[kVecFloats];
  __builtin_memcpy(lanes, &total, sizeof total);
  int32_t sum = 0;
  for (int k = 0; k < kVecFloats; k += 1) sum += lanes[k];
  for (; i < n; i += 1) {
    const float c = (x[i] * s + 12582912.0f) - 12582912.0f;
    const int32_t code = c > 127.0f ? 127 : (int32_t)c;
    codes[i] = (int8_t)code;
    sum += code;
  }
  const int64_t sum_at = bitnet::code_sum_at(n);
  for (; i < sum_at; i += 1) codes[i] = 0;
  __builtin_memcpy(codes + sum_at, &sum, 4);
  return true;
}

void rope(float* x, const float* cos, const float* sin, int64_t heads, int64_t head_dim, int64_t rotary_dim) {
  const int64_t half = rotary_dim / 2;
  const int64_t whole = half & ~int64_t{15};
  for (int64_t h = 0; h < heads; h += 1) {
    float* a = x + h * head_dim;
    float* b = a + half;
    for (int64_t j = 0; j < whole; j += 16) {
      const V16 c = v_load(cos + j), s = v_load(sin + j), u = v_load(a + j), v = v_load(b + j);
      v_store(a + j, u * c - v * s);
      v_store(b + j, v * c + u * s);
    }
    for (int64_t j = whole; j < half; j += 1) {
      const float u = a[j], v = b[j];
      a[j] = u * cos[j] - v * sin[j];
      b[j] = v * cos[j] + u * sin[j];
    }
  }
}

void kv_append(const float* k, const float* v, int64_t D, int64_t slot, float* k_head, float* v_head) {
  float* kt = k_head + (slot / 16) * D * 16 + slot % 16;
  for (int64_t i = 0; i < 16; i += 1)
    for (int64_t d = bitnet::k_lane(i); d < D; d += 16, kt += 16) *kt = k[d];
  for (int64_t d = 0; d < D; d += 16) {
    float* to = v_head + (d / 16) * kBlock * 16 + slot * 16;
    v_store(to, D - d >= 16 ? v_load(v + d) : v_load_part(v + d, D - d));
  }
}

void relu2(const float* gate, const float* up, int64_t n, float* out) {
  const int64_t whole = n & ~int64_t{15};
  for (int64_t i = 0; i < whole; i += 16) {
    const V16 g = v_load(gate + i), u = v_load(up + i);
    V16 r;
    for (int k = 0; k < kParts; k += 1) {
      // A NaN is not <= 0, so it stays.
      const vf kept = (vf)((vi)g.p[k] & ~(g.p[k] <= vf{}));
      r.p[k] = (kept * kept) * u.p[k];
    }
    v_store(out + i, r);
  }
  for (int64_t i = whole; i < n; i += 1) {
    const float g = gate[i] <= 0 ? 0.0f : gate[i];
    out[i] = (g * g) * up[i];
  }
}

BITNET_INLINE V16 silu_gate(V16 g, V16 u) {
  V16 minus;
  for (int k = 0; k < kParts; k += 1) minus.p[k] = -g.p[k];
  return (g / (v_splat(1.0f) + v_exp(minus))) * u;
}
void silu(const float* gate, const float* up, int64_t n, float* out) {
  const int64_t whole = n & ~int64_t{15};
  for (int64_t i = 0; i < whole; i += 16) v_store(out + i, silu_gate(v_load(gate + i), v_load(up + i)));
  if (whole < n) {
    const int64_t rest = n - whole;
    v_store_part(out + whole, silu_gate(v_load_part(gate + whole, rest), v_load_part(up + whole, rest)), rest);
  }
}

void add(float* x, const float* y, int64_t n) {
  const int64_t whole = n & ~int64_t{15};
  for (int64_t i = 0; i < whole; i += 16) v_store(x + i, v_load(x + i) + v_load(y + i));
  for (int64_t i = whole; i < n; i += 1) x[i] = x[i] + y[i];
}

void count_trits(const float* x, int64_t n, int32_t* counts) {
  V16 sum = v_zero();
  const int64_t whole = n & ~int64_t{15};
  for (int64_t i = 0; i < whole; i += 16) sum = sum + v_abs(v_load(x + i));
  if (whole < n) sum = sum + v_abs(v_load_part(x + whole, n - whole));
  const float mean = v_fold(sum) / (float)n;
  const float floor = (float)1e-5;
  // NaN stays NaN, as Math.max keeps it.
  const float s = 1.0f / (mean <= floor ? floor : mean);
  int32_t minus = 0, plus = 0;
  for (int64_t i = 0; i < n; i += 1) {
    const float scaled = x[i] * s;
    plus += scaled > 0.5f;
    minus += scaled < -0.5f;
  }
  counts[0] = minus;
  counts[1] = (int32_t)n - minus - plus;
  counts[2] = plus;
}

// ---------------------------------------------------------------------------------------------------------------------
// Dense rows

BITNET_INLINE uint16_t read_u16(const uint8_t* p) {
  uint16_t v;
  __builtin_memcpy(&v, p, 2);
  return v;
}
BITNET_INLINE float bits_float(uint32_t bits) {
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}
BITNET_INLINE float half_float(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16;
  const uint32_t exponent = (h >> 10) & 31, fraction = h & 1023;
  if (exponent == 0) {
    const float small = (float)fraction * 5.9604644775390625e-8f;  // 2^-24
    return sign ? -small : small;
  }
  if (exponent == 31) return bits_float(sign | 0x7f800000 | fraction << 13);
  return bits_float(sign | (exponent + 112) << 23 | fraction << 13);
}

template <Dense dtype>
BITNET_INLINE V16 dense_load(const uint8_t* p) {
  if constexpr (dtype == Dense::f32) {
    return v_load((const float*)p);
  } else if constexpr (dtype == Dense::bf16) {
    V16 r;
#if defined(__AVX512F__)
    r.p[0] = (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#elif defined(__AVX2__)
    for (int i = 0; i < 2; i += 1) {
      const __m128i half = _mm_loadu_si128((const __m128i*)(p + 16 * i));
      r.p[i] = (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
    }
#elif !defined(__clang__) && __GNUC__ < 12
    // No __builtin_shufflevector yet.
    float lanes[16];
    for (int i = 0; i < 16; i += 1) lanes[i] = bits_float((uint32_t)read_u16(p + 2 * i) << 16);
    r = v_load(lanes);
#else
    typedef uint16_t v8u16 __attribute__((vector_size(16)));
    typedef uint32_t v4u32 __attribute__((vector_size(16)));
    for (int i = 0; i < 2; i += 1) {
      v8u16 h;
      __builtin_memcpy(&h, p + 16 * i, 16);
      const v8u16 z = {};
      const v8u16 low = __builtin_shufflevector(z, h, 0, 8, 1, 9, 2, 10, 3, 11);
      const v8u16 high = __builtin_shufflevector(z, h, 4, 12, 5, 13, 6, 14, 7, 15);
      r.p[2 * i] = (vf)(v4u32)low;
      r.p[2 * i + 1] = (vf)(v4u32)high;
    }
#endif
    return r;
  } else {
    V16 r;
#if defined(__AVX512F__)
    r.p[0] = (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__)
    for (int i = 0; i < 2; i += 1) r.p[i] = (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 16 * i)));
#else
    float lanes[16];
    for (int i = 0; i < 16; i += 1) lanes[i] = half_float(read_u16(p + 2 * i));
    r = v_load(lanes);
#endif
    return r;
  }
}

template <Dense dtype>
BITNET_INLINE float dense_one(const uint8_t* p) {
  if constexpr (dtype == Dense::f32) {
    float f;
    __builtin_memcpy(&f, p, 4);
    return f;
  } else if constexpr (dtype == Dense::bf16) {
    return bits_float((uint32_t)read_u16(p) << 16);
  } else {
    return half_float(read_u16(p));
  }
}

template <Dense dtype>
BITNET_INLINE void embed_row(const uint8_t* row, int64_t n, float* out) {
  constexpr int64_t size = element_bytes(dtype);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) v_store(out + i, dense_load<dtype>(row + i * size));
  for (; i < n; i += 1) out[i] = dense_one<dtype>(row + i * size);
}

void embed(const uint8_t* row, Dense dtype, int64_t n, float* out) {
  if (dtype == Dense::f32) embed_row<Dense::f32>(row, n, out);
  else if (dtype == Dense::bf16) embed_row<Dense::bf16>(row, n, out);
  else embed_row<Dense::f16>(row, n, out);
}

/** Rows r..r+NR-1 of the table with rows t..t+NT-1 of x; NR * NT accumulators of 16 lanes stay in registers. */
template <Dense dtype, int NR, int NT>
BITNET_INLINE void dense_cell(const DenseArgs& a, int64_t r, int64_t t) {
  constexpr int64_t size = element_bytes(dtype);
  const int64_t C = a.C, whole = C & ~int64_t{15};
  V16 sum[NR][NT];
  for (int i = 0; i < NR; i += 1)
    for (int k = 0; k < NT; k += 1) sum[i][k] = v_zero();
  const uint8_t* w = a.w + r * C * size;
  const float* x = a.x + t * C;
  const int64_t ahead = a.prefetch;
  const auto step = [&](int64_t c) __attribute__((always_inline)) {
    V16 xs[NT];
    for (int k = 0; k < NT; k += 1) xs[k] = v_load(x + k * C + c);
    for (int i = 0; i < NR; i += 1) {
      const V16 b = dense_load<dtype>(w + (i * C + c) * size);
      for (int k = 0; k < NT; k += 1) sum[i][k] = sum[i][k] + xs[k] * b;
    }
  };
  int64_t c = 0;
  for (; c + 32 <= whole; c += 32) {
    for (int i = 0; i < NR; i += 1)
      for (int64_t line = 0; line < 32 * size; line += 64) __builtin_prefetch(w + (i * C + c) * size + line + ahead);
    step(c);
    step(c + 16);
  }
  if (c < whole) step(c);
  if (whole < C) {
    for (int i = 0; i < NR; i += 1) {
      float lanes[16] = {};
      for (int64_t c = whole; c < C; c += 1) lanes[c - whole] = dense_one<dtype>(w + (i * C + c) * size);
      const V16 b = v_load(lanes);
      for (int k = 0; k < NT; k += 1) sum[i][k] = sum[i][k] + v_load_part(x + k * C + whole, C - whole) * b;
    }
  }
  float sums[NR][NT];
  v_fold_each<NR * NT>(&sum[0][0], &sums[0][0]);
  for (int k = 0; k < NT; k += 1)
    for (int i = 0; i < NR; i += 1) a.out[(t + k) * a.R + r + i] = sums[i][k];
}

/** Rows and tokens of a cell: as many sums as there are registers for. */
constexpr int kCell = kParts == 1 ? 4 : 2;

template <Dense dtype, int NR>
BITNET_INLINE void dense_strip(const DenseArgs& a, int64_t r) {
  int64_t t = 0;
  for (; t + kCell <= a.T; t += kCell) dense_cell<dtype, NR, kCell>(a, r, t);
  if (kCell > 2 && t + 2 <= a.T) dense_cell<dtype, NR, 2>(a, r, t), t += 2;
  if (t < a.T) dense_cell<dtype, NR, 1>(a, r, t);
}

template <Dense dtype>
void dense_rows(const DenseArgs& a) {
  int64_t r = a.begin;
  if (a.T == 1) {
    // One row after the other: one sequential stream.
    for (; r < a.end; r += 1) dense_strip<dtype, 1>(a, r);
  }
  for (; r + kCell <= a.end; r += kCell) dense_strip<dtype, kCell>(a, r);
  for (; r < a.end; r += 1) dense_strip<dtype, 1>(a, r);
}

void dense(const DenseArgs& a) {
  if (a.dtype == Dense::f32) dense_rows<Dense::f32>(a);
  else if (a.dtype == Dense::bf16) dense_rows<Dense::bf16>(a);
  else dense_rows<Dense::f16>(a);
}

// ---------------------------------------------------------------------------------------------------------------------
// Attention. Scores run across keys: the K block is transposed, so the 16 lanes of a sum are 16 separate vectors over
// keys and folding them is plain addition, without a shuffle. Lanes of js start at +0; here a lane starts with its
// first product. The two differ only in the sign of a zero score, which exp(score - max) does not see.

/**
 * Keys that are scored together, as two vectors: one load of a query's element then serves both, and 2 N sums are
 * enough to hide the latency of an addition.
 */
constexpr int kPairKeys = 2 * kVecFloats;

/** The keys of a pair: each points at the next dimension's 16 positions; `ahead` at those of the pair to come. */
struct PairKeys {
  const float* k[2];
  const float* ahead[2];
};

/**
 * Whether N queries ask for keys and values ahead of their use. One alone keeps up with the CPU's own prefetcher, which
 * reads faster undisturbed.
 */
template <int N>
constexpr bool kAskAhead = N > 1;

/** How far ahead of a key its cache line is asked for: the next 16 positions, or the next pair. */
constexpr int64_t kKeysAhead = kPairKeys > 16 ? kPairKeys : 16;

/**
 * One lane of q . k for kPairKeys keys and N queries, added to `out` when `add`. A plain loop: unrolled, it is slower on
 * Zen 3 and compilers spill the sums.
 */
template <int N, bool add>
BITNET_INLINE void score_lane(const AttentionArgs& a, int first_query, PairKeys& keys, int64_t lane, vf (*out)[2]) {
  vf sum[N][2];
  const auto step = [&](int64_t d, bool first) __attribute__((always_inline)) {
    const vf k0 = vf_load(keys.k[0]), k1 = vf_load(keys.k[1]);
    if (kAskAhead<N>) __builtin_prefetch(keys.ahead[0]);
    if (kAskAhead<N> && kPairKeys > 16) __builtin_prefetch(keys.ahead[1]);
    for (int g = 0; g < N; g += 1) {
      const vf x = vf_splat(a.q[first_query + g][d]);
      sum[g][0] = first ? x * k0 : sum[g][0] + x * k0;
      sum[g][1] = first ? x * k1 : sum[g][1] + x * k1;
    }
    for (int i = 0; i < 2; i += 1) {
      keys.k[i] += 16;
      keys.ahead[i] += 16;
    }
  };
  if (lane < a.D) {
    step(lane, true);
    for (int64_t d = lane + 16; d < a.D; d += 16) step(d, false);
  } else {
    for (int g = 0; g < N; g += 1) sum[g][0] = sum[g][1] = vf{};
  }
  for (int g = 0; g < N; g += 1)
    for (int i = 0; i < 2; i += 1) out[g][i] = add ? out[g][i] + sum[g][i] : sum[g][i];
}

#if defined(__AVX512F__)
/** One dimension of four queries with 32 keys, as a memory operand each. */
typedef float key_vector __attribute__((vector_size(64), aligned(4), may_alias));
typedef float one_element __attribute__((may_alias));

/**
 * sum += x * k, or sum = x * k at first, for one dimension of four queries and two vectors of keys. In assembly: compilers
 * load the keys of all dimensions first and then have no registers for the sums.
 */
template <bool first>
BITNET_INLINE void score_step(vf (&sum)[4][2], const float* k0, const float* k1, const float* const* q, int64_t d) {
#define BITNET_MEMORY(p, type) "m"(*(const type*)(p))
  __m512 x, y, t;
  if (first) {
    __asm__(
        "vmovups %11, %8\n\tvmovups %12, %9\n\t"
        "vbroadcastss %13, %10\n\tvmulps %8, %10, %0\n\tvmulps %9, %10, %1\n\t"
        "vbroadcastss %14, %10\n\tvmulps %8, %10, %2\n\tvmulps %9, %10, %3\n\t"
        "vbroadcastss %15, %10\n\tvmulps %8, %10, %4\n\tvmulps %9, %10, %5\n\t"
        "vbroadcastss %16, %10\n\tvmulps %8, %10, %6\n\tvmulps %9, %10, %7"
        : "=&v"(sum[0][0]), "=&v"(sum[0][1]), "=&v"(sum[1][0]), "=&v"(sum[1][1]), "=&v"(sum[2][0]), "=&v"(sum[2][1]),
          "=&v"(sum[3][0]), "=&v"(sum[3][1]), "=&v"(x), "=&v"(y), "=&v"(t)
        : BITNET_MEMORY(k0, key_vector), BITNET_MEMORY(k1, key_vector), BITNET_MEMORY(q[0] + d, one_element),
          BITNET_MEMORY(q[1] + d, one_element), BITNET_MEMORY(q[2] + d, one_element), BITNET_MEMORY(q[3] + d, one_element));
  } else {
    __m512 u;
    __asm__(
        "vmovups %12, %8\n\tvmovups %13, %9\n\t"
        "vbroadcastss %14, %10\n\tvmulps %8, %10, %11\n\tvmulps %9, %10, %10\n\tvaddps %11, %0, %0\n\tvaddps %10, %1, %1\n\t"
        "vbroadcastss %15, %10\n\tvmulps %8, %10, %11\n\tvmulps %9, %10, %10\n\tvaddps %11, %2, %2\n\tvaddps %10, %3, %3\n\t"
        "vbroadcastss %16, %10\n\tvmulps %8, %10, %11\n\tvmulps %9, %10, %10\n\tvaddps %11, %4, %4\n\tvaddps %10, %5, %5\n\t"
        "vbroadcastss %17, %10\n\tvmulps %8, %10, %11\n\tvmulps %9, %10, %10\n\tvaddps %11, %6, %6\n\tvaddps %10, %7, %7"
        : "+v"(sum[0][0]), "+v"(sum[0][1]), "+v"(sum[1][0]), "+v"(sum[1][1]), "+v"(sum[2][0]), "+v"(sum[2][1]),
          "+v"(sum[3][0]), "+v"(sum[3][1]), "=&v"(x), "=&v"(y), "=&v"(t), "=&v"(u)
        : BITNET_MEMORY(k0, key_vector), BITNET_MEMORY(k1, key_vector), BITNET_MEMORY(q[0] + d, one_element),
          BITNET_MEMORY(q[1] + d, one_element), BITNET_MEMORY(q[2] + d, one_element), BITNET_MEMORY(q[3] + d, one_element));
  }
#undef BITNET_MEMORY
}

/** score_pair of four queries and a head of 16 S dimensions: lanes without inner loops, which cost more than their work. */
template <int S>
void score_pair_of(const AttentionArgs& a, int query, const PairKeys& keys, float* scores) {
  const float* const* q = a.q + query;
  const float *k0 = keys.k[0], *k1 = keys.k[1], *ahead0 = keys.ahead[0], *ahead1 = keys.ahead[1];
  const auto lane_sum = [&](int64_t lane, vf (&sum)[4][2]) __attribute__((always_inline)) {
    for (int s = 0; s < S; s += 1) {
      __builtin_prefetch(ahead0 + 16 * s);
      __builtin_prefetch(ahead1 + 16 * s);
    }
    score_step<true>(sum, k0, k1, q, lane);
#pragma GCC unroll 16
    for (int s = 1; s < S; s += 1) score_step<false>(sum, k0 + 16 * s, k1 + 16 * s, q, lane + 16 * s);
    k0 += 16 * S;
    k1 += 16 * S;
    ahead0 += 16 * S;
    ahead1 += 16 * S;
  };
  const auto add = [](vf (&to)[4][2], const vf (&more)[4][2]) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int g = 0; g < 4; g += 1) to[g][0] = to[g][0] + more[g][0], to[g][1] = to[g][1] + more[g][1];
  };
  vf half[2][4][2];
  for (int64_t h = 0; h < 2; h += 1) {
    vf quad[2][4][2];
    for (int64_t i = 0; i < 2; i += 1) {
      const int64_t lane = h + 2 * i;
      vf low[4][2], high[4][2], more[4][2];
      lane_sum(lane, low);
      lane_sum(lane + 8, more);
      add(low, more);
      lane_sum(lane + 4, high);
      lane_sum(lane + 12, more);
      add(high, more);
      add(low, high);
      __builtin_memcpy(quad[i], low, sizeof low);
    }
    add(quad[0], quad[1]);
    __builtin_memcpy(half[h], quad[0], sizeof half[h]);
  }
  add(half[0], half[1]);
  const vf scale = vf_splat(a.scale);
  for (int g = 0; g < 4; g += 1)
    for (int k = 0; k < 2; k += 1) vf_store(scores + (query + g) * a.score_stride + k * kVecFloats, half[0][g][k] * scale);
}
#endif

/** Scores of kPairKeys keys; lanes are added in the order of the fold, which is the order of k_lane. */
template <int N>
void score_pair(const AttentionArgs& a, int query, PairKeys keys, float* scores) {
  vf half[2][N][2];
  for (int64_t h = 0; h < 2; h += 1) {
    vf quad[2][N][2];
    for (int64_t i = 0; i < 2; i += 1) {
      const int64_t lane = h + 2 * i;
      vf other[N][2];
      score_lane<N, false>(a, query, keys, lane, quad[i]);
      score_lane<N, true>(a, query, keys, lane + 8, quad[i]);
      score_lane<N, false>(a, query, keys, lane + 4, other);
      score_lane<N, true>(a, query, keys, lane + 12, other);
      for (int g = 0; g < N; g += 1)
        for (int k = 0; k < 2; k += 1) quad[i][g][k] = quad[i][g][k] + other[g][k];
    }
    for (int g = 0; g < N; g += 1)
      for (int k = 0; k < 2; k += 1) half[h][g][k] = quad[0][g][k] + quad[1][g][k];
  }
  const vf scale = vf_splat(a.scale);
  for (int g = 0; g < N; g += 1)
    for (int k = 0; k < 2; k += 1)
      vf_store(scores + (query + g) * a.score_stride + k * kVecFloats, (half[0][g][k] + half[1][g][k]) * scale);
}

/** The positions that queries which are worked on together see, first to last. */
struct Span {
  int64_t first, end;
};
BITNET_INLINE Span join(Span a, Span b) { return {a.first < b.first ? a.first : b.first, a.end > b.end ? a.end : b.end}; }

/**
 * W blocks of 16 output dimensions from block d on: weight * V of the keys of one KV block (the one of position j), added
 * up from +0. The first block of a span begins `out` with that sum, the others add theirs, the last one then divides by
 * the sum of the weights; without `total`, `out` is the sum of this block. `weights`: of position j. `ahead`: the values
 * that come next.
 */
template <int N, int W>
void weighted_values(const AttentionArgs& a, int query, int64_t d, int64_t j, const Span& span, const float* weights,
                     const float* ahead, const float* total) {
  const auto out_at = [&](int g, int i) { return a.out[query + g] + (d + i) * 16; };
  const int64_t rest = a.D - d * 16;
  V16 sum[N][W];
  for (int g = 0; g < N; g += 1)
    for (int i = 0; i < W; i += 1) sum[g][i] = v_zero();
  const float* v = a.blocks[j / kBlock] + a.v_at + d * kBlock * 16;
  const int64_t n = span.end - j < kBlock ? span.end - j : kBlock;
  for (int64_t k = span.first > j ? span.first - j : 0; k < n; k += 1) {
    V16 value[W];
    for (int i = 0; i < W; i += 1) {
      value[i] = v_load(v + (k + i * kBlock) * 16);
      if (kAskAhead<N>) __builtin_prefetch(ahead + (k + i * kBlock) * 16);
    }
    for (int g = 0; g < N; g += 1) {
      const V16 weight = v_splat(weights[g * a.score_stride + k]);
      for (int i = 0; i < W; i += 1) sum[g][i] = sum[g][i] + weight * value[i];
    }
  }
  // No sum that began with +0 is -0: adding the first one to +0 would change nothing.
  const bool begins = !total || j <= span.first, ends = total && j + kBlock >= span.end;
  if (rest < 16 * W) {
    for (int g = 0; g < N; g += 1)
      for (int i = 0; i < W; i += 1) {
        const int64_t left = rest - i * 16;
        V16 out = sum[g][i];
        if (!begins) out = (left >= 16 ? v_load(out_at(g, i)) : v_load_part(out_at(g, i), left)) + out;
        if (ends) out = out / v_splat(total[query + g]);
        if (left >= 16) v_store(out_at(g, i), out);
        else v_store_part(out_at(g, i), out, left);
      }
    return;
  }
  if (!begins)
    for (int g = 0; g < N; g += 1)
      for (int i = 0; i < W; i += 1) sum[g][i] = v_load(out_at(g, i)) + sum[g][i];
  if (ends)
    for (int g = 0; g < N; g += 1)
      for (int i = 0; i < W; i += 1) sum[g][i] = sum[g][i] / v_splat(total[query + g]);
  for (int g = 0; g < N; g += 1)
    for (int i = 0; i < W; i += 1) v_store(out_at(g, i), sum[g][i]);
}

/** Scores before the first and from the end on become -infinity, which becomes the weight 0, which adds nothing. */
BITNET_INLINE void hide_unseen(float* s, int64_t low, int64_t first, int64_t end, int64_t padded) {
  for (int64_t j = low; j < first; j += 1) s[j] = -__builtin_inff();
  for (int64_t j = end; j < padded; j += 1) s[j] = -__builtin_inff();
}

BITNET_INLINE float largest_score(const float* s, int64_t from, int64_t end) {
  V16 top = v_load(s + from);
  for (int64_t j = from + 16; j < end; j += 16) top = v_max(v_load(s + j), top);
  return v_max_lane(top);
}

/** Scores [from, stop) of one KV block to weights, in place. Returns their sum; lanes count from `first` where it is later. */
BITNET_INLINE float weigh_block(float* s, int64_t from, int64_t stop, int64_t first, V16 largest) {
  const bool late = first % kBlock != 0 && first > from / kBlock * kBlock;
  V16 sum = v_zero();
  for (int64_t j = from; j < stop; j += 16) {
    const V16 e = v_exp_not_above_0(v_load(s + j) - largest);
    v_store(s + j, e);
    if (!late) sum = sum + e;
  }
  if (late)
    for (int64_t i = first; i < stop; i += 16) sum = sum + (stop - i >= 16 ? v_load(s + i) : v_load_part(s + i, stop - i));
  return v_fold(sum);
}

/**
 * Scores of one query to weights, in place; s[0] is that of the first position of a block. Keys of the span (all relative
 * to s, as first and end) that the query does not see get the weight 0. Returns the sum of the weights, added block by
 * block; lanes count from the first key that is seen.
 */
float softmax(float* s, int64_t first, int64_t end, const Span& span) {
  const int64_t low = span.first & ~int64_t{15}, padded = bitnet::round_up(span.end, 16);
  hide_unseen(s, low, first, end, padded);
  const V16 largest = v_splat(largest_score(s, first & ~int64_t{15}, end));
  float total = 0;
  for (int64_t j = low; j < padded;) {
    // What lies before the block of the first key that is seen has the weight 0.
    const int64_t next = j / kBlock * kBlock + kBlock, stop = next < padded ? next : padded;
    total = total + weigh_block(s, j, stop, first, largest);
    j = stop;
  }
  return total;
}

/** Four queries at a time meet what was loaded of K or V; all of them meet it while it is in the nearest cache. */
constexpr int kTogether = 4;

/** Where the first dimension of a key lies; a pair lies in one block. */
BITNET_INLINE const float* key_at(const AttentionArgs& a, int64_t j) {
  const int64_t slot = j % kBlock;
  return a.blocks[j / kBlock] + a.k_at + slot / 16 * 16 * a.D + slot % 16;
}

template <int N>
BITNET_INLINE void scores_of(const AttentionArgs& a, int query, int64_t j, int64_t ahead, float* scores, int n) {
  if constexpr (N > 0) {
    if (n < N) return scores_of<N - 1>(a, query, j, ahead, scores, n);
    const PairKeys keys{{key_at(a, j), key_at(a, j + kVecFloats)}, {key_at(a, ahead), key_at(a, ahead + kVecFloats)}};
#if defined(__AVX512F__)
    if (N == 4 && a.D == 128) return score_pair_of<8>(a, query, keys, scores);
    if (N == 4 && a.D == 64) return score_pair_of<4>(a, query, keys, scores);
#endif
    score_pair<N>(a, query, keys, scores);
  }
}
template <int N, int W>
BITNET_INLINE void values_of(const AttentionArgs& a, int query, int64_t d, int64_t j, const Span& span, const float* weights,
                             const float* ahead, const float* total, int n) {
  if constexpr (N > 0) {
    if (n < N) return values_of<N - 1, W>(a, query, d, j, span, weights, ahead, total, n);
    weighted_values<N, W>(a, query, d, j, span, weights, ahead, total);
  }
}

/** Enough sums to hide the latency of an addition: 16 lanes are four, two or one vector of each query. */
constexpr int kWide = kParts == 1 ? 2 : 1;

/** Values of the KV block of position j, weighted, for all queries whose spans meet it; see weighted_values. */
BITNET_INLINE void block_values(const AttentionArgs& a, int64_t j, const Span* spans, int64_t base, int64_t end, const float* total) {
  const int64_t blocks = bitnet::round_up(a.D, 16) / 16;
  for (int64_t d = 0; d < blocks; d += kWide) {
    const float* v = a.blocks[j / kBlock] + a.v_at + d * kBlock * 16;
    const float* ahead = d + 2 * kWide <= blocks ? v + kWide * kBlock * 16
                         : j + kBlock < end      ? a.blocks[j / kBlock + 1] + a.v_at
                                                 : v;
    for (int g = 0; g < a.queries; g += kTogether) {
      const Span& span = spans[g / kTogether];
      if (j >= span.end || j + kBlock <= span.first) continue;
      const float* weights = a.scores + g * a.score_stride + (j - base);
      const float* next = g == 0 ? ahead : v;
      if (d + kWide <= blocks) values_of<kTogether, kWide>(a, g, d, j, span, weights, next, total, a.queries - g);
      else values_of<kTogether, 1>(a, g, d, j, span, weights, next, total, a.queries - g);
    }
  }
}

constexpr int kGroups = (kQueries + kTogether - 1) / kTogether;

void attention(const AttentionArgs& a) {
  Span spans[kGroups], all{a.first[0], a.end[0]};
  float total[kQueries];
  for (int g = 0; g < a.queries; g += 1) {
    Span& span = spans[g / kTogether];
    if (g % kTogether == 0) span = Span{a.first[g], a.end[g]};
    span = join(span, Span{a.first[g], a.end[g]});
    all = join(all, span);
  }
  const int64_t base = all.first / kBlock * kBlock;
  for (int64_t j = all.first / kPairKeys * kPairKeys; j < all.end; j += kPairKeys) {
    const int64_t ahead = j + kKeysAhead < all.end ? j + kKeysAhead : j;
    for (int g = 0; g < a.queries; g += kTogether) {
      const Span& span = spans[g / kTogether];
      if (j < span.end && j + kPairKeys > span.first) scores_of<kTogether>(a, g, j, g == 0 ? ahead : j, a.scores + (j - base), a.queries - g);
    }
  }
  for (int g = 0; g < a.queries; g += 1) {
    const Span& span = spans[g / kTogether];
    total[g] = softmax(a.scores + g * a.score_stride, a.first[g] - base, a.end[g] - base, Span{span.first - base, span.end - base});
  }
  for (int64_t j = base; j < all.end; j += kBlock) block_values(a, j, spans, base, all.end, total);
}

// The same in three steps (kernels.h). All queries see the keys of one span.

BITNET_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
BITNET_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

void attention_scores(const AttentionArgs& a, int64_t from, int64_t to, float* largest) {
  const int64_t first = a.first[0], stop = least(to, a.end[0]), base = first / kBlock * kBlock;
  for (int64_t j = most(from, first / kPairKeys * kPairKeys); j < stop; j += kPairKeys) {
    // Also of the part that follows: often this thread takes it next.
    const int64_t ahead = j + kKeysAhead < a.end[0] ? j + kKeysAhead : j;
    for (int g = 0; g < a.queries; g += kTogether) scores_of<kTogether>(a, g, j, g == 0 ? ahead : j, a.scores + (j - base), a.queries - g);
  }
  const int64_t low = most(from, first & ~int64_t{15}) - base, seen = most(from, first) - base;
  const int64_t end = stop - base, padded = bitnet::round_up(end, 16);
  for (int g = 0; g < a.queries; g += 1) {
    float* s = a.scores + g * a.score_stride;
    largest[g] = -__builtin_inff();
    if (low >= end) continue;
    hide_unseen(s, low, seen, end, padded);
    largest[g] = largest_score(s, low, end);
  }
}

void attention_values(const AttentionArgs& a, int64_t from, int64_t to, const float* largest, float* totals, float* sums) {
  const int64_t first = a.first[0], end = a.end[0], base = first / kBlock * kBlock;
  Span spans[kGroups];
  for (Span& span : spans) span = Span{first, end};
  AttentionArgs part = a;
  for (int64_t j = from; j < least(to, end); j += kBlock) {
    const int64_t at = (j - base) / kBlock * a.queries;
    const int64_t low = most(j, first & ~int64_t{15}) - base, stop = least(j + kBlock, bitnet::round_up(end, 16)) - base;
    for (int g = 0; g < a.queries; g += 1) {
      totals[at + g] = weigh_block(a.scores + g * a.score_stride, low, stop, first - base, v_splat(largest[g]));
      part.out[g] = sums + (at + g) * a.D;
    }
    block_values(part, j, spans, base, end, nullptr);
  }
}

void attention_join(const AttentionArgs& a, const float* totals, const float* sums) {
  const int64_t blocks = (a.end[0] + kBlock - 1) / kBlock - a.first[0] / kBlock;
  for (int g = 0; g < a.queries; g += 1) {
    float total = 0;
    for (int64_t b = 0; b < blocks; b += 1) total = total + totals[b * a.queries + g];
    for (int64_t d = 0; d < a.D; d += 16) {
      const int64_t rest = a.D - d;
      const auto sum_of = [&](int64_t b) __attribute__((always_inline)) {
        const float* at = sums + (b * a.queries + g) * a.D + d;
        return rest >= 16 ? v_load(at) : v_load_part(at, rest);
      };
      V16 out = sum_of(0);
      for (int64_t b = 1; b < blocks; b += 1) out = out + sum_of(b);
      out = out / v_splat(total);
      if (rest >= 16) v_store(a.out[g] + d, out);
      else v_store_part(a.out[g] + d, out, rest);
    }
  }
}

constexpr bitnet::AttentionKernels kAttention = {attention, attention_scores, attention_values, attention_join};

uint64_t read_bytes(const uint8_t* p, int64_t n, int64_t prefetch) {
  typedef uint64_t vq __attribute__((vector_size(BITNET_VECTOR_BYTES)));
  vq sum[8] = {};
  for (int64_t i = 0; i + 8 * BITNET_VECTOR_BYTES <= n; i += 8 * BITNET_VECTOR_BYTES) {
    if (prefetch > 0)
      for (int k = 0; k < 8 * BITNET_VECTOR_BYTES; k += 64) __builtin_prefetch(p + i + k + prefetch);
    for (int k = 0; k < 8; k += 1) {
      vq v;
      __builtin_memcpy(&v, p + i + k * BITNET_VECTOR_BYTES, sizeof v);
      sum[k] = sum[k] + v;
    }
  }
  uint64_t total = 0;
  for (int k = 0; k < 8; k += 1)
    for (int i = 0; i < BITNET_VECTOR_BYTES / 8; i += 1) total += sum[k][i];
  return total;
}

}  // namespace
