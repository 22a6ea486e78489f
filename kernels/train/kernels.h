// What one instruction set offers to training: functions over a range of items, each item written by one thread alone,
// so that neither the number of threads nor their luck can change a bit. T rows (tokens), R rows / C columns of a
// weight, row-major throughout. Meanings and orders of summation: src/train/ops/*.ts, whose bits these reproduce.
#pragma once

#include <cstdint>

namespace bitnet_train {

/** y (T, R) = codes (T, C) . trits (R, C)^T, times weight_scale / scale[t]. Item: kTokens x kRows of y. */
struct BitForward {
  const int8_t* codes;
  const float* scale;
  const int8_t* trits;
  float weight_scale;
  int64_t T, R, C;
  float* out;
  static constexpr int64_t kTokens = 64, kRows = 64;
  int64_t token_blocks() const { return (T + kTokens - 1) / kTokens; }
  int64_t items() const { return token_blocks() * ((R + kRows - 1) / kRows); }
};

/**
 * dx (T, C) from dy (T, R) and w (R, C): trits times a scale, added to dx; or floats, overwriting it.
 * Item: kTokens rows x 16 columns of dx.
 */
struct BackwardInput {
  const float* dy;
  const int8_t* trits;  // or null
  const float* w;       // when trits is null
  float weight_scale;
  int64_t T, R, C;
  float* dx;
  static constexpr int64_t kTokens = 96, kChunk = 256;
  int64_t panels() const { return (C + 15) / 16; }
  int64_t items() const { return panels() * ((T + kTokens - 1) / kTokens); }
};

/** dw (R, C) += dy (T, R)^T . x (T, C), row after row. Item: kRows x columns of dw. */
struct BackwardWeight {
  const float* dy;
  const float* x;
  int64_t T, R, C;
  float* dw;
  /** Columns of an item, a multiple of 16: more of them spread the cost of packing dy, fewer keep more threads busy. */
  int64_t columns = 128;
  static constexpr int64_t kRows = 48, kChunk = 256;
  void choose_columns(int64_t threads) {
    columns = 512;
    while (columns > 64 && items() < 3 * threads) columns /= 2;
  }
  int64_t column_blocks() const { return (C + columns - 1) / columns; }
  int64_t items() const { return column_blocks() * ((R + kRows - 1) / kRows); }
};

/** out (T, R) = lane sums of x (T, C) . w (R, C)^T. Item: kTokens x kRows of out. */
struct DenseForward {
  const float* x;
  const float* w;
  int64_t T, R, C;
  float* out;
  static constexpr int64_t kTokens = 32, kRows = 48;
  int64_t token_blocks() const { return (T + kTokens - 1) / kTokens; }
  int64_t items() const { return token_blocks() * ((R + kRows - 1) / kRows); }
};

struct Norm {
  const float* x;
  const float* weight;
  float eps;
  int64_t T, C;
  float* r;
  float* out;  // forward
  const float* dy;
  float* dx;
  float* dweight;
};

/** q, out, dout, dq (T, heads, D); k, v, dk, dv (T, kv_heads, D). `scratch`: attention_scratch(longest) floats a thread. */
struct Attention {
  const float *q, *k, *v;
  float* out;
  const float* dout;
  float *dq, *dk, *dv;
  int64_t heads, kv_heads, D;
  float scale;
  static constexpr int64_t kBlock = 16;
};

/** One sequence's rows [start, end). Forward item: rows [begin, end) of one head; backward: one kv head. */
struct AttentionItem {
  int64_t start, begin, end, head;
};

struct AdamW {
  float *p, *m, *v;
  const float* g;
  float beta1, beta2, rest1, rest2, eps, keep, step_size, second_scale, grad_scale;
};

struct Sgd {
  float* p;
  const float* g;
  float lr, keep, grad_scale;
};

enum class Gate : int32_t { relu2 = 0, silu = 1 };

struct Kernels {
  const char* isa;
  /** Rows [begin, end); bad rows (NaN or infinity) are noted in *bad as the smallest index. */
  int64_t (*quantize_rows)(const float* x, int64_t C, int64_t begin, int64_t end, int8_t* codes, float* scale);
  void (*dequantize_rows)(const int8_t* codes, const float* scale, int64_t C, int64_t begin, int64_t end, float* out);
  /** Returns the scale, or a NaN when the sum is not finite. */
  float (*quantize_weights)(const float* w, int64_t n, int8_t* trits);
  void (*bit_forward)(const BitForward&, int64_t item);
  void (*backward_input)(const BackwardInput&, int64_t item);
  void (*backward_weight)(const BackwardWeight&, int64_t item);
  void (*dense_forward)(const DenseForward&, int64_t item);
  void (*norm_forward)(const Norm&, int64_t begin, int64_t end);
  /** Rows [begin, end) of dx; `scratch` holds C floats. */
  void (*norm_backward_rows)(const Norm&, int64_t begin, int64_t end, float* scratch);
  /** Columns [begin, end) of dweight. */
  void (*norm_backward_weight)(const Norm&, int64_t begin, int64_t end);
  /** direction 1: forward; -1: back. */
  void (*rope)(float* x, const int32_t* positions, const float* cos, const float* sin, int64_t heads, int64_t D,
               float direction, int64_t begin, int64_t end);
  int64_t (*attention_scratch)(int64_t longest);
  void (*attention_forward)(const Attention&, const AttentionItem&, float* scratch);
  void (*attention_backward)(const Attention&, const AttentionItem&, float* scratch);
  void (*gate_forward)(Gate, const float* gate, const float* up, int64_t n, float* out);
  void (*gate_backward)(Gate, const float* gate, const float* up, const float* dout, int64_t n, float* dgate, float* dup);
  void (*cross_entropy)(float* logits, const int32_t* targets, float grad_scale, int64_t V, int64_t begin, int64_t end,
                        float* sums, float* margins);
  void (*add)(float* x, const float* y, int64_t n);
  void (*sgd)(const Sgd&, int64_t begin, int64_t end);
  void (*adamw)(const AdamW&, int64_t begin, int64_t end);
  double (*sum_squares)(const float* x, int64_t n);
};

extern const Kernels kScalar, kAvx2, kAvx512, kNeon;

}  // namespace bitnet_train
