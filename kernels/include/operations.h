// Written by scripts/operations-header.mjs from src/engine/recorded/operations.ts; a test fails where they differ.
// The operations of a recorded program: code, then one word for each field. Floats travel as their bits.
#pragma once

#include <stdint.h>

namespace bitnet {

constexpr int32_t kHeaderWords = 15;
constexpr int32_t kBufferWords = 4;
constexpr int32_t kWeightWords = 8;

enum class WeightKind : int32_t { ternary = 0, dense = 1, int8 = 2, vector = 3, grouped = 4 };
enum class BufferType : int32_t { f32 = 0, i8 = 1, i16 = 2 };

enum class OpKind : int32_t {
  embed = 0,
  rms_norm = 1,
  quantize = 2,
  ternary_matmul = 3,
  rope = 4,
  kv_append = 5,
  attention = 6,
  gated_activation = 7,
  add = 8,
  select_outputs = 9,
  dense_matmul = 10,
  int8_matmul = 11,
  count_trits = 12,
  embed_grouped = 13,
  rms_norm_heads = 14,
  quantize16 = 15,
  grouped_matmul = 16,
};
constexpr int32_t kOpKinds = 17;

struct OpShape {
  const char* name;
  int32_t words;
  const char* fields;  // b buffer, w weight, i integer, f float
};
constexpr OpShape kOpShapes[kOpKinds] = {
    {"embed", 2, "wb"},
    {"rmsNorm", 4, "bwfb"},
    {"quantize", 3, "bbb"},
    {"ternaryMatmul", 4, "bbwb"},
    {"rope", 3, "bii"},
    {"kvAppend", 3, "ibb"},
    {"attention", 7, "ibbiiif"},
    {"gatedActivation", 4, "ibbb"},
    {"add", 2, "bb"},
    {"selectOutputs", 2, "bb"},
    {"denseMatmul", 3, "bwb"},
    {"int8Matmul", 4, "bbwb"},
    {"countTrits", 2, "bi"},
    {"embedGrouped", 2, "wb"},
    {"rmsNormHeads", 6, "bwfiib"},
    {"quantize16", 3, "bbb"},
    {"groupedMatmul", 4, "bbwb"},
};

namespace op {
struct Embed {
  static constexpr OpKind kind = OpKind::embed;
  int32_t table;
  int32_t out;
};
struct RmsNorm {
  static constexpr OpKind kind = OpKind::rms_norm;
  int32_t x;
  int32_t weight;
  float eps;
  int32_t out;
};
struct Quantize {
  static constexpr OpKind kind = OpKind::quantize;
  int32_t x;
  int32_t codes;
  int32_t scale;
};
struct TernaryMatmul {
  static constexpr OpKind kind = OpKind::ternary_matmul;
  int32_t codes;
  int32_t scale;
  int32_t weight;
  int32_t out;
};
struct Rope {
  static constexpr OpKind kind = OpKind::rope;
  int32_t x;
  int32_t heads;
  int32_t head_dim;
};
struct KvAppend {
  static constexpr OpKind kind = OpKind::kv_append;
  int32_t layer;
  int32_t k;
  int32_t v;
};
struct Attention {
  static constexpr OpKind kind = OpKind::attention;
  int32_t layer;
  int32_t q;
  int32_t out;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;
  float scale;
};
struct GatedActivation {
  static constexpr OpKind kind = OpKind::gated_activation;
  int32_t fn;  // 0 relu2, 1 silu
  int32_t gate;
  int32_t up;
  int32_t out;
};
struct Add {
  static constexpr OpKind kind = OpKind::add;
  int32_t x;
  int32_t y;
};
struct SelectOutputs {
  static constexpr OpKind kind = OpKind::select_outputs;
  int32_t x;
  int32_t out;
};
struct DenseMatmul {
  static constexpr OpKind kind = OpKind::dense_matmul;
  int32_t x;
  int32_t weight;
  int32_t out;
};
struct Int8Matmul {
  static constexpr OpKind kind = OpKind::int8_matmul;
  int32_t codes;
  int32_t scale;
  int32_t weight;
  int32_t out;
};
struct CountTrits {
  static constexpr OpKind kind = OpKind::count_trits;
  int32_t x;
  int32_t index;
};
struct EmbedGrouped {
  static constexpr OpKind kind = OpKind::embed_grouped;
  int32_t table;
  int32_t out;
};
struct RmsNormHeads {
  static constexpr OpKind kind = OpKind::rms_norm_heads;
  int32_t x;
  int32_t weight;
  float eps;
  int32_t heads;
  int32_t head_dim;
  int32_t out;
};
struct Quantize16 {
  static constexpr OpKind kind = OpKind::quantize16;
  int32_t x;
  int32_t codes;
  int32_t scale;
};
struct GroupedMatmul {
  static constexpr OpKind kind = OpKind::grouped_matmul;
  int32_t codes;
  int32_t scale;
  int32_t weight;
  int32_t out;
};
}  // namespace op

}  // namespace bitnet
