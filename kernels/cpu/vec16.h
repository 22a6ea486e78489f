// 16 float lanes on whatever vector the instruction set has: the one type in which all float arithmetic is written, so
// that every instruction set adds the same numbers in the same order. Included by isa_*.cc only, each of which
// compiles its own copy (everything here has internal linkage).
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__AVX512F__)
#define BITNET_VECTOR_BYTES 64
#elif defined(__AVX__)
#define BITNET_VECTOR_BYTES 32
#else
#define BITNET_VECTOR_BYTES 16
#endif

#if defined(__AVX__)
#include <immintrin.h>
#endif

#define BITNET_INLINE inline __attribute__((always_inline))

namespace {

constexpr int kVecFloats = BITNET_VECTOR_BYTES / 4;
constexpr int kParts = 16 / kVecFloats;

typedef float vf __attribute__((vector_size(BITNET_VECTOR_BYTES)));
typedef int32_t vi __attribute__((vector_size(BITNET_VECTOR_BYTES)));
typedef uint32_t vu __attribute__((vector_size(BITNET_VECTOR_BYTES)));

BITNET_INLINE vf vf_load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
BITNET_INLINE void vf_store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
BITNET_INLINE vf vf_splat(float x) { return x - vf{}; }
BITNET_INLINE vi vi_splat(int32_t x) { return x - vi{}; }
BITNET_INLINE vf vf_select(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

struct V16 {
  vf p[kParts];
};

#define BITNET_PARTS for (int i = 0; i < kParts; i += 1)

BITNET_INLINE V16 v_zero() {
  V16 r;
  BITNET_PARTS r.p[i] = vf{};
  return r;
}
BITNET_INLINE V16 v_splat(float x) {
  V16 r;
  BITNET_PARTS r.p[i] = vf_splat(x);
  return r;
}
BITNET_INLINE V16 v_load(const float* x) {
  V16 r;
  BITNET_PARTS r.p[i] = vf_load(x + i * kVecFloats);
  return r;
}
/** The first n lanes (0 < n < 16) of x, zeros behind them. */
BITNET_INLINE V16 v_load_part(const float* x, int64_t n) {
  float lanes[16] = {};
  for (int64_t i = 0; i < n; i += 1) lanes[i] = x[i];
  return v_load(lanes);
}
BITNET_INLINE void v_store(float* x, V16 a) { BITNET_PARTS vf_store(x + i * kVecFloats, a.p[i]); }
BITNET_INLINE void v_store_part(float* x, V16 a, int64_t n) {
  float lanes[16];
  v_store(lanes, a);
  for (int64_t i = 0; i < n; i += 1) x[i] = lanes[i];
}
BITNET_INLINE V16 operator+(V16 a, V16 b) {
  BITNET_PARTS a.p[i] = a.p[i] + b.p[i];
  return a;
}
BITNET_INLINE V16 operator-(V16 a, V16 b) {
  BITNET_PARTS a.p[i] = a.p[i] - b.p[i];
  return a;
}
BITNET_INLINE V16 operator*(V16 a, V16 b) {
  BITNET_PARTS a.p[i] = a.p[i] * b.p[i];
  return a;
}
BITNET_INLINE V16 operator/(V16 a, V16 b) {
  BITNET_PARTS a.p[i] = a.p[i] / b.p[i];
  return a;
}
BITNET_INLINE V16 v_abs(V16 a) {
  BITNET_PARTS a.p[i] = (vf)((vi)a.p[i] & vi_splat(0x7fffffff));
  return a;
}
/** a where a > b or a is NaN, else b; so a NaN of either side is lost only when b is the NaN. */
BITNET_INLINE V16 v_max(V16 a, V16 b) {
  BITNET_PARTS a.p[i] = vf_select(a.p[i] > b.p[i], a.p[i], b.p[i]);
  return a;
}
/** Half to even, |a| < 2^22; see rintF32 of engine/js/math.ts. */
BITNET_INLINE V16 v_rint(V16 a) {
  BITNET_PARTS a.p[i] = (a.p[i] + vf_splat(12582912.0f)) - vf_splat(12582912.0f);
  return a;
}

/** The fold of 16 lanes: 8..15 onto 0..7, 4..7 onto 0..3, 2..3 onto 0..1, 1 onto 0. */
BITNET_INLINE float v_fold(V16 a) {
#if defined(__AVX__)
#if defined(__AVX512F__)
  const __m512 x = (__m512)a.p[0];
  const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
  const __m256 b = _mm256_add_ps(_mm512_castps512_ps256(x), high);
#else
  const __m256 b = (__m256)(a.p[0] + a.p[1]);
#endif
  const __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  const __m128 d = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
#else
  float x[16];
  v_store(x, a);
  float b[8], c[4];
  for (int i = 0; i < 8; i += 1) b[i] = x[i] + x[i + 8];
  for (int i = 0; i < 4; i += 1) c[i] = b[i] + b[i + 4];
  return (c[0] + c[2]) + (c[1] + c[3]);
#endif
}
/** v_fold of each of N; eight at a time share their steps. */
template <int N>
BITNET_INLINE void v_fold_each(const V16* a, float* out) {
#if defined(__AVX512F__)
  static_assert(N % 8 == 0 || N < 8);
  for (int from = 0; from + 8 <= N; from += 8) {
    const auto v = [&](int i) __attribute__((always_inline)) { return (__m512)a[from + i].p[0]; };
    __m512 half[4], quarter[2];
    for (int i = 0; i < 4; i += 1)
      half[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v(2 * i), v(2 * i + 1), 0x44), _mm512_shuffle_f32x4(v(2 * i), v(2 * i + 1), 0xee));
    for (int i = 0; i < 2; i += 1)
      quarter[i] = _mm512_add_ps(_mm512_shuffle_f32x4(half[2 * i], half[2 * i + 1], 0x88),
                                 _mm512_shuffle_f32x4(half[2 * i], half[2 * i + 1], 0xdd));
    const __m512d x = _mm512_castps_pd(quarter[0]), y = _mm512_castps_pd(quarter[1]);
    const __m512 pair = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    float sums[16];
    _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_moveldup_ps(pair), _mm512_movehdup_ps(pair)));
    for (int i = 0; i < 4; i += 1) out[from + i] = sums[4 * i], out[from + 4 + i] = sums[4 * i + 2];
  }
  for (int i = N / 8 * 8; i < N; i += 1) out[i] = v_fold(a[i]);
#else
  for (int i = 0; i < N; i += 1) out[i] = v_fold(a[i]);
#endif
}
BITNET_INLINE float v_max_lane(V16 a) {
  float x[16];
  v_store(x, a);
  float m = x[0];
  for (int i = 1; i < 16; i += 1) m = x[i] > m ? x[i] : m;
  return m;
}

/**
 * exp(a) = 2^n times what is returned, n whole; see expF32 of engine/js/math.ts. Literals go from decimal to double to
 * float, as Math.fround makes them.
 */
BITNET_INLINE vf vf_exp_fraction(vf a, vf& n) {
  const vf magic = vf_splat(12582912.0f);
  n = (a * vf_splat((float)1.4426950408889634) + magic) - magic;
  const vf r = (a - n * vf_splat(0.693359375f)) - n * vf_splat((float)(0.6931471805599453 - 0.693359375));
  vf p = vf_splat((float)(1.0 / 5040));
  p = p * r + vf_splat((float)(1.0 / 720));
  p = p * r + vf_splat((float)(1.0 / 120));
  p = p * r + vf_splat((float)(1.0 / 24));
  p = p * r + vf_splat((float)(1.0 / 6));
  p = p * r + vf_splat(0.5f);
  p = p * r + vf_splat(1.0f);
  return p * r + vf_splat(1.0f);
}
/** expF32, lane by lane. */
BITNET_INLINE vf vf_exp(vf x) {
  const float top = (float)88.72283, bottom = (float)-87.33654;
  const vi over = x > vf_splat(top), under = x < vf_splat(bottom), number = x == x;
  // Clamped so that the integers below stay in range; the clamped lanes are replaced at the end.
  vf a = vf_select(over | ~number, vf_splat(0.0f), x);
  a = vf_select(under, vf_splat(0.0f), a);
  vf n;
  vf p = vf_exp_fraction(a, n);
  const vi whole = __builtin_convertvector(n, vi);
  const vi half = whole >> 1;
  p = p * (vf)((half + vi_splat(127)) << 23);
  p = p * (vf)((whole - half + vi_splat(127)) << 23);
  p = vf_select(under, vf_splat(0.0f), p);
  p = vf_select(over, vf_splat(__builtin_inff()), p);
  return vf_select(number, p, x);
}
/** The same for x that is not above 0 (or NaN): no lane overflows, and one power of two is enough. */
BITNET_INLINE vf vf_exp_not_above_0(vf x) {
  const vi under = x < vf_splat((float)-87.33654);
  const vf a = (vf)((vi)x & ~under);
  vf n;
  const vf p = vf_exp_fraction(a, n);
  const vi power = (__builtin_convertvector(n, vi) + vi_splat(127)) << 23;
  return (vf)((vi)(p * (vf)power) & ~under);
}
BITNET_INLINE V16 v_exp_not_above_0(V16 a) {
  BITNET_PARTS a.p[i] = vf_exp_not_above_0(a.p[i]);
  return a;
}
BITNET_INLINE V16 v_exp(V16 a) {
  BITNET_PARTS a.p[i] = vf_exp(a.p[i]);
  return a;
}

}  // namespace
