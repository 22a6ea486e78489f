// See masters.h.
#include "../include/masters.h"

#include <math.h>
#include <string.h>

namespace bitnet {

namespace {

constexpr float kFloor = 1e-5f;

/** Codes (trit + 1) of a row into field `shift` / 2 of its bytes; the first field also clears the others. */
template <bool kFirst>
void code_row(const float* w, float reciprocal, int64_t n, int shift, uint8_t* out) {
  for (int64_t i = 0; i < n; i += 1) {
    const float v = w[i] * reciprocal;
    // Ties, |v| = 0.5, round to even: to 0.
    const uint8_t code = (uint8_t)(1 + (v > 0.5f) - (v < -0.5f));
    out[i] = kFirst ? code : (uint8_t)(out[i] | code << shift);
  }
}

}  // namespace

float masters_to_rowquad(const Kernels& k, const uint8_t* w, Dense dtype, int64_t rows, int64_t columns, float* row,
                         uint8_t* out) {
  const int64_t row_bytes = columns * element_bytes(dtype);
  double sum = 0;
  for (int64_t r = 0; r < rows; r += 1) {
    k.embed(w + r * row_bytes, dtype, columns, row);
    for (int64_t c = 0; c < columns; c += 1) sum += fabs((double)row[c]);
  }
  if (!isfinite((float)sum)) return NAN;
  const float mean = (float)(sum / (double)(rows * columns));
  const float scale = mean > kFloor ? mean : kFloor;
  const float reciprocal = 1.0f / scale;
  const int64_t Q = (rows + 3) / 4;
  for (int64_t r = 0; r < rows; r += 1) {
    const int64_t field = r / Q;
    uint8_t* to = out + (r - field * Q) * columns;
    k.embed(w + r * row_bytes, dtype, columns, row);
    if (field == 0) code_row<true>(row, reciprocal, columns, 0, to);
    else code_row<false>(row, reciprocal, columns, 2 * (int)field, to);
  }
  return scale;
}

}  // namespace bitnet
