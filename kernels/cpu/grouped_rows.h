// What group-scaled weights need beside their product (layouts.h, panel64 and planes): int16 activations, rows of an
// embedding table, scales as floats. Written once over V16, as float_ops.h is.
#pragma once

#include "float_ops.h"

namespace {

BITNET_INLINE float grouped_scale(const uint8_t* scales, bool f16, int64_t at) {
  return f16 ? dense_one<Dense::f16>(scales + 2 * at) : dense_one<Dense::f32>(scales + 4 * at);
}
/** 16 scales from element `at` on. */
BITNET_INLINE V16 grouped_scales(const uint8_t* scales, bool f16, int64_t at) {
  return f16 ? dense_load<Dense::f16>(scales + 2 * at) : dense_load<Dense::f32>(scales + 4 * at);
}

/** q of 16 activations; -0x1p22 < x * inv < 0x1p22. */
BITNET_INLINE void q_of_16(V16 x, V16 inv, vi* q) {
  const V16 a = v_rint(x * inv);
  const vi limit = vi_splat(bitnet::kGroupedLimit);
  for (int k = 0; k < kParts; k += 1) {
    const vi c = __builtin_convertvector(a.p[k], vi);
    const vi big = c > limit, small = c < -limit;
    q[k] = (limit & big) | (-limit & small) | (c & ~(big | small));
  }
}

bool quantize16(const float* x, int64_t n, int64_t group, uint8_t* planes, float* scale) {
  const int64_t plane = bitnet::plane_bytes(n), groups = n / group;
  const int32_t bits = largest_bits(x, n);
  if (bits >= 0x7f800000) return false;
  float m;
  __builtin_memcpy(&m, &bits, 4);
  const float limit = (float)bitnet::kGroupedLimit;
  const float inv = limit / m;
  int8_t* hi = (int8_t*)planes;
  int8_t* lo = hi + plane;
  if (!(inv < __builtin_inff())) {
    __builtin_memset(planes, 0, (size_t)(2 * plane + 4 * groups));
    *scale = 0;
    return true;
  }
  *scale = m / limit;
  const V16 invs = v_splat(inv);
  for (int64_t i = 0; i < n; i += 16) {
    const bool whole = n - i >= 16;
    vi q[kParts], high[kParts], low[kParts];
    q_of_16(whole ? v_load(x + i) : v_load_part(x + i, n - i), invs, q);
    for (int k = 0; k < kParts; k += 1) {
      high[k] = (q[k] + vi_splat(128)) >> 8;
      low[k] = q[k] - (high[k] << 8);
    }
    // Lanes behind the row are 0, and both planes are padded to 64.
    store_codes(hi + i, high);
    store_codes(lo + i, low);
  }
  for (int64_t i = bitnet::round_up(n, 16); i < plane; i += 1) hi[i] = lo[i] = 0;
  uint8_t* sums = planes + bitnet::planes_sum_at(n);
  for (int64_t g = 0; g < groups; g += 1) {
    int32_t high = 0, low = 0;
    for (int64_t c = g * group; c < (g + 1) * group; c += 1) {
      high += hi[c];
      low += lo[c];
    }
    const int32_t sum = 256 * high + low;
    __builtin_memcpy(sums + 4 * g, &sum, 4);
  }
  return true;
}

void embed_grouped(const uint8_t* w, const uint8_t* scales, bool scale_f16, int64_t C, int64_t G, int64_t row, float* out) {
  const int64_t panel = row / 64, r = row % 64, groups = C / G;
  const uint8_t* at = w + panel * bitnet::panel_bytes(C) + r % 16 * 4;
  const int64_t shift = r / 16 * 2;
  for (int64_t g = 0; g < groups; g += 1) {
    const float scale = grouped_scale(scales, scale_f16, (panel * groups + g) * 64 + r);
    // Every product there is: a code chooses one.
    const float value[4] = {scale * -1.0f, scale * 0.0f, scale, scale * 2.0f};
    for (int64_t c = g * G; c < (g + 1) * G; c += 1) {
      if (c % 64 == 0) __builtin_prefetch(at + (c / 4 + 32) * 64);
      out[c] = value[at[c / 4 * 64 + c % 4] >> shift & 3];
    }
  }
}

}  // namespace
