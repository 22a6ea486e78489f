// What the vector kernels of group-scaled products share: sizes, and the sums of several tokens kept outside registers.
#pragma once

#include "grouped_rows.h"

namespace {

using bitnet::GroupedArgs;

/** Sizes that every panel of a call has in common. */
struct GroupedShape {
  int64_t lines;   // of a panel
  int64_t each;    // lines of a group
  int64_t groups;
  int64_t plane, stride, sums_at;

  BITNET_INLINE explicit GroupedShape(const GroupedArgs& a)
      : lines((a.C + 3) / 4),
        each((a.G + 3) / 4),
        groups(a.C / a.G),
        plane(bitnet::plane_bytes(a.C)),
        stride(bitnet::planes_stride(a.C, a.G)),
        sums_at(bitnet::planes_sum_at(a.C)) {}
};

#if defined(__x86_64__)
/**
 * Asks for codes `ahead` bytes further on, and for those beyond once more into L2: then any near distance does, where one
 * alone left a fifth of the bandwidth to chance (20 GB/s at 2 KB ahead, 23 at 1 KB, 23 to 24 at all with both; of 29).
 */
BITNET_INLINE void expect_codes(const uint8_t* w, int64_t ahead) {
  constexpr int64_t kBeyond = 8192;
  _mm_prefetch((const char*)w + ahead, _MM_HINT_T0);
  _mm_prefetch((const char*)w + (ahead + kBeyond), _MM_HINT_T1);
}
#endif

/** Sum of q of one group. */
BITNET_INLINE int32_t group_sum(const GroupedArgs& a, const GroupedShape& s, int64_t t, int64_t g) {
  int32_t sum;
  __builtin_memcpy(&sum, a.x + t * s.stride + s.sums_at + 4 * g, 4);
  return sum;
}

/** What a piece of a group does with its sums. */
struct Piece {
  const float* scales;  // [64]
  int64_t g;
  bool first, last;     // of its group
};

/** Writes rows of a panel, 16 at a time as far as they exist. */
BITNET_INLINE void store_panel(const GroupedArgs& a, int64_t p, int64_t t, const float* acc) {
  const V16 factor = v_splat(a.scale[t]);
  const int64_t row = p * 64, n = a.R - row < 64 ? a.R - row : 64;
  float* out = a.out + t * a.R + row;
  int64_t r = 0;
  for (; r + 16 <= n; r += 16) v_store(out + r, v_load(acc + r) * factor);
  if (r < n) v_store_part(out + r, v_load(acc + r) * factor, n - r);
}

}  // namespace
