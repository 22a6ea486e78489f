// Written by scripts/operations-header.mjs from src/engine/recorded/operations.ts; a test fails where they differ.
// The operations of a recorded program: code, then one word for each field. Floats travel as their bits.
#pragma once

#include <stdint.h>

namespace bitnet {

constexpr int32_t kHeaderWords = 17;
constexpr int32_t kBufferWords = 4;
constexpr int32_t kWeightWords = 9;

enum class WeightKind : int32_t { ternary = 0, dense = 1, int8 = 2, vector = 3, grouped = 4 };
enum class BufferType : int32_t { f32 = 0, i8 = 1, i16 = 2, i32 = 3 };

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
  hadamard = 17,
  split_heads = 18,
  causal_conv = 19,
  l2_norm_heads = 20,
  gated_delta = 21,
  route_experts = 22,
  expert_matmul = 23,
  add_experts = 24,
};
constexpr int32_t kOpKinds = 25;

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
    {"gatedActivation", 5, "ifbbb"},
    {"add", 2, "bb"},
    {"selectOutputs", 2, "bb"},
    {"denseMatmul", 3, "bwb"},
    {"int8Matmul", 4, "bbwb"},
    {"countTrits", 2, "bi"},
    {"embedGrouped", 2, "wb"},
    {"rmsNormHeads", 6, "bwfiib"},
    {"quantize16", 3, "bbb"},
    {"groupedMatmul", 4, "bbwb"},
    {"hadamard", 7, "bwiiiib"},
    {"splitHeads", 5, "bbbii"},
    {"causalConv", 5, "ibwib"},
    {"l2NormHeads", 6, "biiiff"},
    {"gatedDelta", 11, "ibbbwwiiiib"},
    {"routeExperts", 4, "bbbf"},
    {"expertMatmul", 5, "bbwbb"},
    {"addExperts", 3, "bbb"},
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
  int32_t fn;  // 0 relu2, 1 silu, 2 sigmoid, 3 clampedSilu
  float limit;
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
struct Hadamard {
  static constexpr OpKind kind = OpKind::hadamard;
  int32_t x;
  int32_t signs;
  int32_t block;
  int32_t direction;  // 0 forward, 1 inverse
  int32_t key_heads;
  int32_t head_dim;
  int32_t out;
};
struct SplitHeads {
  static constexpr OpKind kind = OpKind::split_heads;
  int32_t x;
  int32_t first;
  int32_t second;
  int32_t heads;
  int32_t head_dim;
};
struct CausalConv {
  static constexpr OpKind kind = OpKind::causal_conv;
  int32_t state;
  int32_t x;
  int32_t weight;
  int32_t taps;
  int32_t out;
};
struct L2NormHeads {
  static constexpr OpKind kind = OpKind::l2_norm_heads;
  int32_t x;
  int32_t offset;
  int32_t heads;
  int32_t head_dim;
  float eps;
  float scale;
};
struct GatedDelta {
  static constexpr OpKind kind = OpKind::gated_delta;
  int32_t state;
  int32_t x;
  int32_t beta;
  int32_t alpha;
  int32_t decay;
  int32_t bias;
  int32_t key_heads;
  int32_t value_heads;
  int32_t head_dim;
  int32_t order;  // 0 tiled, 1 grouped
  int32_t out;
};
struct RouteExperts {
  static constexpr OpKind kind = OpKind::route_experts;
  int32_t x;
  int32_t experts;
  int32_t weights;
  float least;
};
struct ExpertMatmul {
  static constexpr OpKind kind = OpKind::expert_matmul;
  int32_t codes;
  int32_t scale;
  int32_t weight;
  int32_t experts;
  int32_t out;
};
struct AddExperts {
  static constexpr OpKind kind = OpKind::add_experts;
  int32_t x;
  int32_t y;
  int32_t weights;
};
}  // namespace op

}  // namespace bitnet
