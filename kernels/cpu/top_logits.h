// What a sampler needs of a row of logits; see engine/top-logits.ts. Included by isa_*.cc, each of which compiles its own copy.
#pragma once

#include "float_ops.h"

namespace bitnet {
namespace {

/**
 * Adding it to a double in [0, 1] rounds that to a multiple of 2^-32, half to even; the sum's bits less the bits of kOne are
 * that multiple.
 */
constexpr double kOne = 1048576.0;  // 2^20

BITNET_INLINE uint64_t bits_of_double(double x) {
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

/** Sums of 16 lanes' multiples of 2^-32, each with the bits of kOne on top; they wrap around. */
struct Units {
#if defined(__AVX512F__)
  __m512i sum[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  BITNET_INLINE void add(V16 a) {
    const __m512 x = (__m512)a.p[0];
    const __m512d one = _mm512_set1_pd(kOne);
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
    const __m512d high = _mm512_cvtps_pd(_mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)));
    sum[0] = _mm512_add_epi64(sum[0], _mm512_castpd_si512(_mm512_add_pd(low, one)));
    sum[1] = _mm512_add_epi64(sum[1], _mm512_castpd_si512(_mm512_add_pd(high, one)));
  }
  BITNET_INLINE uint64_t all() const {
    uint64_t lanes[8], total = 0;
    _mm512_storeu_si512(lanes, _mm512_add_epi64(sum[0], sum[1]));
    for (const uint64_t lane : lanes) total += lane;
    return total;
  }
#elif defined(__AVX2__)
  __m256i sum[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
  BITNET_INLINE void add(V16 a) {
    const __m256d one = _mm256_set1_pd(kOne);
    for (int i = 0; i < 4; i += 1) {
      const __m256 x = (__m256)a.p[i / 2];
      const __m256d d = _mm256_cvtps_pd(i % 2 ? _mm256_extractf128_ps(x, 1) : _mm256_castps256_ps128(x));
      sum[i] = _mm256_add_epi64(sum[i], _mm256_castpd_si256(_mm256_add_pd(d, one)));
    }
  }
  BITNET_INLINE uint64_t all() const {
    uint64_t lanes[4];
    _mm256_storeu_si256((__m256i*)lanes, _mm256_add_epi64(_mm256_add_epi64(sum[0], sum[1]), _mm256_add_epi64(sum[2], sum[3])));
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  }
#else
  uint64_t sum[16] = {};
  BITNET_INLINE void add(V16 a) {
    float x[16];
    v_store(x, a);
    for (int i = 0; i < 16; i += 1) sum[i] += bits_of_double((double)x[i] + kOne);
  }
  BITNET_INLINE uint64_t all() const {
    uint64_t total = 0;
    for (int i = 0; i < 16; i += 1) total += sum[i];
    return total;
  }
#endif
};

/** Sum of e^(x - largest), in multiples of 2^-32; NaN where one is. */
double mass_of(const float* x, int64_t n, float largest) {
  const V16 top = v_splat(largest);
  Units units;
  V16 seen = v_zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const V16 e = v_exp_not_above_0(v_load(x + i) - top);
    units.add(e);
    seen = seen + e;
  }
  int64_t lanes = i;
  if (i < n) {
    // Lanes past the end count nothing.
    float rest[16];
    for (int64_t j = 0; j < 16; j += 1) rest[j] = i + j < n ? x[i + j] : -__builtin_inff();
    const V16 e = v_exp_not_above_0(v_load(rest) - top);
    units.add(e);
    seen = seen + e;
    lanes += 16;
  }
  const float sum = v_fold(seen);
  if (sum != sum) return __builtin_nan("");
  const uint64_t count = units.all() - (uint64_t)lanes * bits_of_double(kOne);
  return (double)(int64_t)count * 0x1p-32;
}

/** Numbers that are looked through at once for one that is among the largest. */
constexpr int64_t kLookedAt = 64;

double top_logits(const float* x, int64_t n, int32_t k, int32_t* ids, float* values) {
  int32_t held = 0;
  const auto take = [&](int64_t id) {
    const float v = x[id];
    if (held == k && !(v > values[k - 1])) return;
    // Behind its equals, whose ids are lower.
    int32_t at = held < k ? held++ : k - 1;
    for (; at > 0 && v > values[at - 1]; at -= 1) values[at] = values[at - 1], ids[at] = ids[at - 1];
    values[at] = v;
    ids[at] = (int32_t)id;
  };
  int64_t i = 0;
  for (; i < n && held < k; i += 1) take(i);
  for (; i + kLookedAt <= n; i += kLookedAt) {
    const V16 a = v_max(v_load(x + i), v_load(x + i + 16)), b = v_max(v_load(x + i + 32), v_load(x + i + 48));
    if (!(v_max_lane(v_max(a, b)) > values[k - 1])) continue;
    for (int64_t j = 0; j < kLookedAt; j += 1) take(i + j);
  }
  for (; i < n; i += 1) take(i);
  return mass_of(x, n, values[0]);
}

}  // namespace
}  // namespace bitnet
