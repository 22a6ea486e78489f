// The group-scaled product in plain C++: what every other instruction set is compared with.
#pragma once

#include "grouped_rows.h"

namespace {

using bitnet::GroupedArgs;

inline __attribute__((unused)) int64_t grouped_scratch_none(int64_t, int64_t) { return 0; }

inline __attribute__((unused)) void grouped_scalar(const GroupedArgs& a) {
  const int64_t stride = bitnet::planes_stride(a.C, a.G), plane = bitnet::plane_bytes(a.C), groups = a.C / a.G;
  for (int64_t p = a.begin; p < a.end; p += 1) {
    const uint8_t* panel = a.w + p * bitnet::panel_bytes(a.C);
    for (int64_t t = 0; t < a.T; t += 1) {
      const int8_t* hi = (const int8_t*)a.x + t * stride;
      const int8_t* lo = hi + plane;
      for (int64_t r = 0; r < 64 && p * 64 + r < a.R; r += 1) {
        float acc = 0;
        for (int64_t g = 0; g < groups; g += 1) {
          int64_t sum = 0;
          for (int64_t c = g * a.G; c < (g + 1) * a.G; c += 1) {
            const int32_t code = panel[c / 4 * 64 + r % 16 * 4 + c % 4] >> (r / 16 * 2) & 3;
            sum += (code - 1) * (256 * hi[c] + lo[c]);
          }
          acc = acc + (float)(int32_t)sum * grouped_scale(a.scales, a.scale_f16, (p * groups + g) * 64 + r);
        }
        a.out[t * a.R + p * 64 + r] = acc * a.scale[t];
      }
    }
  }
}

}  // namespace
