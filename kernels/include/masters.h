// Masters of ternary weights, made trits when a checkpoint is read. Native builds only.
#pragma once

#include "kernels.h"

namespace bitnet {

/**
 * Trits of w (rows, columns) by absmean, written as rowquad bytes to out: Q = ceil(rows / 4) byte rows. Returns the
 * scale, or NaN when an element or their sum is not finite in float32, and leaves out unfinished. The steps, and so the
 * bits, of src/quant/absmean.ts: the sum is one of doubles, in order. `row` has room for columns floats.
 */
float masters_to_rowquad(const Kernels&, const uint8_t* w, Dense dtype, int64_t rows, int64_t columns, float* row,
                         uint8_t* out);

}  // namespace bitnet
