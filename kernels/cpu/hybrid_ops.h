// The operations of hybrid and mixture models, written once over V16 as float_ops.h is: rotations, gates, convolution, the
// gated delta rule, the router. Each comes out with the bits of engine/js/hybrid-ops.ts.
#pragma once

#include "float_ops.h"

namespace {

using bitnet::ConvArgs;
using bitnet::DeltaArgs;
using bitnet::HybridKernels;

// ---------------------------------------------------------------------------------------------------------------------
// Walsh-Hadamard. A butterfly is the same two roundings whenever it is done, so only each element's own order of strides
// counts: 1 to 8 inside 16 lanes, then two strides at a time with four of them in registers.

/** Lanes i and i ^ S change places. */
template <int S>
BITNET_INLINE vf swap_lanes(vf a) {
#if defined(__AVX512F__)
  const __m512 x = (__m512)a;
  if constexpr (S == 1) return (vf)_mm512_permute_ps(x, 0xb1);
  else if constexpr (S == 2) return (vf)_mm512_permute_ps(x, 0x4e);
  else if constexpr (S == 4) return (vf)_mm512_shuffle_f32x4(x, x, 0xb1);
  else return (vf)_mm512_shuffle_f32x4(x, x, 0x4e);
#elif defined(__AVX__)
  const __m256 x = (__m256)a;
  if constexpr (S == 1) return (vf)_mm256_permute_ps(x, 0xb1);
  else if constexpr (S == 2) return (vf)_mm256_permute_ps(x, 0x4e);
  else return (vf)_mm256_permute2f128_ps(x, x, 1);
#elif !defined(__clang__) && __GNUC__ < 12
  if constexpr (S == 1) return __builtin_shuffle(a, vi{1, 0, 3, 2});
  else return __builtin_shuffle(a, vi{2, 3, 0, 1});
#else
  if constexpr (S == 1) return __builtin_shufflevector(a, a, 1, 0, 3, 2);
  else return __builtin_shufflevector(a, a, 2, 3, 0, 1);
#endif
}

/** Stride S < 16 of 16 lanes. */
template <int S>
BITNET_INLINE V16 butterflies(V16 a) {
  if constexpr (S < kVecFloats) {
    vi upper;
    for (int i = 0; i < kVecFloats; i += 1) upper[i] = i & S ? INT32_MIN : 0;
    // a + b in the lower lanes, a - b, which is a + (-b), in the upper ones.
    for (int k = 0; k < kParts; k += 1) a.p[k] = swap_lanes<S>(a.p[k]) + (vf)((vi)a.p[k] ^ upper);
  } else {
    constexpr int d = S / kVecFloats;
    for (int k = 0; k < kParts; k += 1) {
      if (k & d) continue;
      const vf x = a.p[k], y = a.p[k + d];
      a.p[k] = x + y;
      a.p[k + d] = x - y;
    }
  }
  return a;
}

/** Strides 1, 2, 4 and 8, as far as they are below `block`. */
BITNET_INLINE V16 inner_butterflies(V16 a, int64_t block) {
  a = butterflies<1>(a);
  if (block > 2) a = butterflies<2>(a);
  if (block > 4) a = butterflies<4>(a);
  if (block > 8) a = butterflies<8>(a);
  return a;
}

/** R vectors, `stride` apart, from x to out: first the strides inside each when `inner`, then stride and 2 * stride. */
template <int R, bool inner>
BITNET_INLINE void outer_butterflies(const float* x, const float* before, const float* after, int64_t stride, bool last,
                                     float norm, float* out) {
  V16 v[R];
  for (int i = 0; i < R; i += 1) {
    v[i] = v_load(x + i * stride);
    if (inner) {
      if (before) v[i] = v[i] * v_load(before + i * stride);
      v[i] = inner_butterflies(v[i], 16);
    }
  }
  for (int d = 1; d < R; d *= 2)
    for (int i = 0; i < R; i += 1) {
      if (i & d) continue;
      const V16 a = v[i], b = v[i + d];
      v[i] = a + b;
      v[i + d] = a - b;
    }
  for (int i = 0; i < R; i += 1) {
    if (last) v[i] = v[i] * v_splat(norm);
    if (last && after) v[i] = v[i] * v_load(after + i * stride);
    v_store(out + i * stride, v[i]);
  }
}

template <int R, bool inner>
void stride_pass(const float* x, const float* before, const float* after, int64_t block, int64_t stride, float norm, float* out) {
  const bool last = stride * R == block;
  for (int64_t i = 0; i < block; i += R * stride)
    for (int64_t j = i; j < i + stride; j += 16)
      outer_butterflies<R, inner>(x + j, before ? before + j : nullptr, after ? after + j : nullptr, stride, last, norm, out + j);
}

void hadamard(const float* x, const float* before, const float* after, int64_t n, int64_t block, float* out) {
  // 1 / sqrt(block): a power of two, times that of 2 where the exponent is odd.
  float norm = 1;
  int64_t left = block;
  for (; left >= 4; left /= 4) norm = norm * 0.5f;
  if (left == 2) norm = norm * (float)0.70710678118654752440;
  if (block < 16) {
    for (int64_t i = 0; i < n; i += 16) {
      const int64_t rest = n - i;
      const auto load = [&](const float* p) __attribute__((always_inline)) { return rest >= 16 ? v_load(p + i) : v_load_part(p + i, rest); };
      V16 v = load(x);
      if (before) v = v * load(before);
      v = inner_butterflies(v, block) * v_splat(norm);
      if (after) v = v * load(after);
      if (rest >= 16) v_store(out + i, v);
      else v_store_part(out + i, v, rest);
    }
    return;
  }
  for (int64_t at = 0; at < n; at += block) {
    const float* first = before ? before + at : nullptr;
    const float* last = after ? after + at : nullptr;
    float* to = out + at;
    int64_t stride = 64;
    if (block == 16) stride_pass<1, true>(x + at, first, last, block, 16, norm, to);
    else if (block == 32) stride_pass<2, true>(x + at, first, last, block, 16, norm, to);
    else stride_pass<4, true>(x + at, first, last, block, 16, norm, to);
    for (; 4 * stride <= block; stride *= 4) stride_pass<4, false>(to, nullptr, last, block, stride, norm, to);
    if (2 * stride == block) stride_pass<2, false>(to, nullptr, last, block, stride, norm, to);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Elementwise

BITNET_INLINE V16 v_minus(V16 a) {
  for (int k = 0; k < kParts; k += 1) a.p[k] = -a.p[k];
  return a;
}
/** The lesser or greater of a and a limit; a NaN stays. */
BITNET_INLINE V16 at_most(V16 a, float limit) {
  for (int k = 0; k < kParts; k += 1) a.p[k] = vf_select(a.p[k] > vf_splat(limit), vf_splat(limit), a.p[k]);
  return a;
}
BITNET_INLINE V16 at_least(V16 a, float limit) {
  for (int k = 0; k < kParts; k += 1) a.p[k] = vf_select(a.p[k] < vf_splat(limit), vf_splat(limit), a.p[k]);
  return a;
}
BITNET_INLINE V16 v_sigmoid(V16 a) { return v_splat(1.0f) / (v_splat(1.0f) + v_exp(v_minus(a))); }
/** silu(x) = x / (1 + exp(-x)). */
BITNET_INLINE V16 v_silu(V16 a) { return a / (v_splat(1.0f) + v_exp(v_minus(a))); }

/** softplusF32 of engine/js/math.ts, lane by lane. */
BITNET_INLINE V16 v_softplus(V16 a) {
  const V16 u = v_exp(v_minus(v_abs(a)));
  const V16 s = u / (v_splat(2.0f) + u);
  const V16 z = s * s;
  V16 p = v_splat((float)(1.0 / 17));
  p = p * z + v_splat((float)(1.0 / 15));
  p = p * z + v_splat((float)(1.0 / 13));
  p = p * z + v_splat((float)(1.0 / 11));
  p = p * z + v_splat((float)(1.0 / 9));
  p = p * z + v_splat((float)(1.0 / 7));
  p = p * z + v_splat((float)(1.0 / 5));
  p = p * z + v_splat((float)(1.0 / 3));
  p = p * z + v_splat(1.0f);
  return at_least(a, 0.0f) + (s + s) * p;
}

template <class F>
BITNET_INLINE void gate_rows(const float* gate, const float* up, int64_t n, float* out, F f) {
  const int64_t whole = n & ~int64_t{15}, rest = n - whole;
  for (int64_t i = 0; i < whole; i += 16) v_store(out + i, f(v_load(gate + i), v_load(up + i)));
  if (rest) v_store_part(out + whole, f(v_load_part(gate + whole, rest), v_load_part(up + whole, rest)), rest);
}
void sigmoid(const float* gate, const float* up, int64_t n, float* out) {
  gate_rows(gate, up, n, out, [](V16 g, V16 u) __attribute__((always_inline)) { return v_sigmoid(g) * u; });
}
void clamped_silu(const float* gate, const float* up, float limit, int64_t n, float* out) {
  gate_rows(gate, up, n, out, [limit](V16 g, V16 u) __attribute__((always_inline)) {
    return v_silu(at_most(g, limit)) * at_most(at_least(u, -limit), limit);
  });
}

void l2_norm(float* x, int64_t D, float eps, float scale) {
  const float r = 1.0f / sqrt_f32(lane_square_sum(x, D) + eps);
  const V16 rv = v_splat(r), sv = v_splat(scale);
  const int64_t whole = D & ~int64_t{15};
  for (int64_t i = 0; i < whole; i += 16) v_store(x + i, (v_load(x + i) * rv) * sv);
  for (int64_t i = whole; i < D; i += 1) x[i] = (x[i] * r) * scale;
}

void add_experts(float* x, const float* y, const float* weights, int64_t K, int64_t n) {
  const int64_t whole = n & ~int64_t{15};
  for (int64_t c = 0; c < whole; c += 16) {
    V16 sum = v_zero();
    for (int64_t i = 0; i < K; i += 1) sum = sum + v_splat(weights[i]) * v_load(y + i * n + c);
    v_store(x + c, v_load(x + c) + sum);
  }
  for (int64_t c = whole; c < n; c += 1) {
    float sum = 0;
    for (int64_t i = 0; i < K; i += 1) sum = sum + weights[i] * y[i * n + c];
    x[c] = x[c] + sum;
  }
}

bool route(const float* x, int64_t E, int64_t K, float least, float* e, int32_t* experts, float* weights) {
  if (largest_bits(x, E) >= 0x7f800000) return false;
  // The K largest so far, in falling order; an equal one that comes later stays behind.
  int64_t n = 0;
  for (int64_t i = 0; i < E; i += 1) {
    if (n == K && !(x[i] > x[experts[K - 1]])) continue;
    int64_t at = n < K ? n : K - 1;
    for (; at > 0 && x[i] > x[experts[at - 1]]; at -= 1) experts[at] = experts[at - 1];
    experts[at] = (int32_t)i;
    n += n < K;
  }
  const V16 largest = v_splat(x[experts[0]]);
  V16 total = v_zero();
  const int64_t whole = E & ~int64_t{15}, rest = E - whole;
  for (int64_t i = 0; i < whole; i += 16) {
    const V16 v = v_exp(v_load(x + i) - largest);
    v_store(e + i, v);
    total = total + v;
  }
  if (rest) {
    v_store_part(e + whole, v_exp(v_load_part(x + whole, rest) - largest), rest);
    total = total + v_load_part(e + whole, rest);
  }
  const float all = v_fold(total);
  float sum = 0;
  for (int64_t i = 0; i < K; i += 1) {
    weights[i] = e[experts[i]] / all;
    sum = sum + weights[i];
  }
  const float divisor = sum > least ? sum : least;
  for (int64_t i = 0; i < K; i += 1) weights[i] = weights[i] / divisor;
  return true;
}

// ---------------------------------------------------------------------------------------------------------------------
// Operations along a sequence

void conv(const ConvArgs& a) {
  const int64_t past = a.taps - 1;
  const float* in[bitnet::kMaxTaps];
  for (int64_t t = 0; t < a.rows; t += 1) {
    for (int64_t j = 0; j < a.taps; j += 1) in[j] = t + j >= past ? a.x + (t + j - past) * a.C : a.state + (t + j) * a.C;
    float* out = a.out + t * a.C;
    int64_t c = 0;
    for (; c + 16 <= a.n; c += 16) {
      V16 sum = v_zero();
      for (int64_t j = 0; j < a.taps; j += 1) sum = sum + v_load(a.weight + j * a.C + c) * v_load(in[j] + c);
      v_store(out + c, v_silu(sum));
    }
    if (c < a.n) {
      const int64_t rest = a.n - c;
      V16 sum = v_zero();
      for (int64_t j = 0; j < a.taps; j += 1) sum = sum + v_load_part(a.weight + j * a.C + c, rest) * v_load_part(in[j] + c, rest);
      v_store_part(out + c, v_silu(sum), rest);
    }
  }
  // Row i of the state is read before it is written: what moves in comes from behind it.
  for (int64_t i = 0; i < past; i += 1) {
    const float* from = i + a.rows >= past ? a.x + (i + a.rows - past) * a.C : a.state + (i + a.rows) * a.C;
    float* to = a.state + i * a.C;
    for (int64_t c = 0; c < a.n; c += 1) to[c] = from[c];
  }
}

/** Rows whose gates are computed together. */
constexpr int64_t kGateRows = 16;

/** b and g of n rows. */
BITNET_INLINE void delta_gates(const DeltaArgs& a, int64_t row, int64_t n, float* b, float* g) {
  float beta[kGateRows] = {}, alpha[kGateRows] = {};
  for (int64_t i = 0; i < n; i += 1) {
    beta[i] = a.beta[(row + i) * a.gate_stride];
    alpha[i] = a.alpha[(row + i) * a.gate_stride];
  }
  v_store(b, v_sigmoid(v_load(beta)));
  v_store(g, v_exp(v_splat(a.decay) * v_softplus(v_load(alpha) + v_splat(a.bias))));
}

/**
 * W blocks of 16 value dimensions from dimension `at` on. Their state stays in the nearest cache for all rows; the first
 * pass over it only reads, so that a state which comes from memory is written once.
 */
template <int W>
void delta_columns(const DeltaArgs& a, int64_t at) {
  float b[kGateRows], g[kGateRows];
  float* const state = a.state + at * a.D;
  const int64_t apart = a.D * 16;
  const auto part = [&](int i) { return a.columns - at - 16 * i; };
  for (int64_t row = 0; row < a.rows; row += 1) {
    if (row % kGateRows == 0) delta_gates(a, row, a.rows - row < kGateRows ? a.rows - row : kGateRows, b, g);
    const float* q = a.q + row * a.stride;
    const float* k = a.k + row * a.stride;
    const float* v = a.v + row * a.stride + at;
    const V16 decay = v_splat(g[row % kGateRows]), rate = v_splat(b[row % kGateRows]);
    V16 d[W], o[W];
    for (int i = 0; i < W; i += 1) d[i] = o[i] = v_zero();
    const float* s = state;
    for (int64_t j = 0; j < a.D; j += 1, s += 16) {
      const V16 key = v_splat(k[j]);
      for (int i = 0; i < W; i += 1) d[i] = d[i] + (decay * v_load(s + i * apart)) * key;
    }
    for (int i = 0; i < W; i += 1) d[i] = rate * ((part(i) >= 16 ? v_load(v + 16 * i) : v_load_part(v + 16 * i, part(i))) - d[i]);
    float* to = state;
    for (int64_t j = 0; j < a.D; j += 1, to += 16) {
      const V16 key = v_splat(k[j]), query = v_splat(q[j]);
      for (int i = 0; i < W; i += 1) {
        const V16 updated = decay * v_load(to + i * apart) + key * d[i];
        v_store(to + i * apart, updated);
        o[i] = o[i] + updated * query;
      }
    }
    float* out = a.out + row * a.out_stride + at;
    for (int i = 0; i < W; i += 1) {
      if (part(i) >= 16) v_store(out + 16 * i, o[i]);
      else v_store_part(out + 16 * i, o[i], part(i));
    }
  }
}

void delta(const DeltaArgs& a) {
  // Enough sums to hide the latency of an addition: four vectors.
  constexpr int kWide = kParts == 1 ? 4 : kParts == 2 ? 2 : 1;
  int64_t at = 0;
  for (; at + 16 * (kWide - 1) < a.columns; at += 16 * kWide) delta_columns<kWide>(a, at);
  for (; at < a.columns; at += 16) delta_columns<1>(a, at);
}

constexpr HybridKernels kHybrid = {hadamard, sigmoid, clamped_silu, l2_norm, conv, delta, route, add_experts};

}  // namespace
