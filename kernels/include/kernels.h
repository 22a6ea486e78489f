// What one instruction set offers to the interpreter: a table of functions over rows. Each takes plain pointers,
// allocates nothing and cannot fail; sizes were checked when the program was decoded.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "layouts.h"

namespace bitnet {

enum class Dense : int32_t { f32 = 0, f16 = 1, bf16 = 2 };
constexpr int64_t element_bytes(Dense dtype) { return dtype == Dense::f32 ? 4 : 2; }

/**
 * Kernels read whole 64-byte vectors, up to 63 bytes past a row. That is only a problem near the end of the caller's
 * bytes, so the last rows are read from a padded copy.
 */
template <class Args>
inline __attribute__((always_inline)) const uint8_t* row_at(const Args& a, int64_t row) {
  return row < a.tail_first ? a.w + row * a.C : a.tail + (row - a.tail_first) * a.C;
}
/** The first row whose whole-vector read would leave rows * C bytes. */
constexpr int64_t first_tail_row(int64_t rows, int64_t C) {
  const int64_t over = round_up(C, 64) - C;
  const int64_t unsafe = (over + C - 1) / C;
  return rows > unsafe ? rows - unsafe : 0;
}

/** Ternary product of T rows of codes with byte rows [begin, end) of a rowquad matrix. */
struct TernaryArgs {
  const uint8_t* w;     // rowquad bytes, Q byte rows of C
  const uint8_t* tail;  // byte rows tail_first.. again, in a copy with 64 readable bytes behind it (row_at)
  int64_t tail_first;
  int64_t C, R, Q;
  int64_t begin, end;  // byte rows
  const int8_t* x;     // codes of row 0, rows code_stride(C) apart
  const float* factor;  // [T] weight scale / activation scale, filled by the caller
  int64_t T;
  float* out;  // (T, R)
  uint8_t* scratch;  // ternary_scratch bytes, 64-aligned
  int64_t prefetch;  // bytes ahead
};

/** int8 product: rows [begin, end) of codes (R, C). */
struct Int8Args {
  const uint8_t* w;
  const uint8_t* tail;
  int64_t tail_first;
  const float* row_scale;  // [R]
  int64_t C, R;
  int64_t begin, end;
  const int8_t* x;
  const float* scale;  // [T] activation scale
  int64_t T;
  float* out;  // (T, R)
  int64_t prefetch;
};

/** Group-scaled product: panels [begin, end) of a panel64 matrix with T rows of planes; sums are exact, see layouts.h. */
struct GroupedArgs {
  const uint8_t* w;        // panel64 codes
  const uint8_t* scales;   // [panel][group][64]
  bool scale_f16;          // else f32
  int64_t C, R, G;         // columns, rows, columns of a group: a multiple of 4 that divides C, or C itself
  int64_t begin, end;      // panels
  const uint8_t* x;        // planes of row 0, rows planes_stride(C, G) apart
  const float* scale;      // [T] activation scales
  int64_t T;               // any number
  float* out;              // (T, R)
  uint8_t* scratch;        // grouped_scratch(C, G) bytes, 64-aligned
  int64_t prefetch;        // bytes ahead
};

/** Dense product: rows [begin, end) of table (R, C). */
struct DenseArgs {
  const uint8_t* w;
  Dense dtype;
  int64_t C, R;
  int64_t begin, end;
  const float* x;  // (T, C)
  int64_t T;
  float* out;  // (T, R)
  int64_t prefetch;
};

/** Query vectors that read the same KV head of the same sequence, at most. */
constexpr int kQueries = 16;
struct AttentionArgs {
  const float* q[kQueries];  // [D] each
  float* out[kQueries];      // [D] each
  int64_t first[kQueries];   // position of the first key each sees
  int64_t end[kQueries];     // and behind the last, > first
  int queries;
  float* const* blocks;  // block table of the sequence; blocks without a key that is seen may be null
  int64_t k_at, v_at;    // float offset of this layer's head inside a block
  int64_t D;
  float scale;
  float* scores;  // a row of score_stride floats for each query
  int64_t score_stride;  // at least the positions from the first block's start to the last end, rounded up to 32
};

/**
 * Attention of queries to one KV head; and the same in three steps with the same bits, between which the keys can be shared
 * out among threads: the queries then all see the same keys, and `from` and `to` (positions, multiples of kBlock) say which
 * blocks one call works on. What calls leave for the others lies by block, counted from the first that is seen.
 */
struct AttentionKernels {
  void (*whole)(const AttentionArgs&);
  /** Scores, and the largest of each query: [queries]. */
  void (*scores)(const AttentionArgs&, int64_t from, int64_t to, float* largest);
  /** Scores to weights; their sums, [block][queries], and those of the weighted values, [block][queries][D]. */
  void (*values)(const AttentionArgs&, int64_t from, int64_t to, const float* largest, float* totals, float* sums);
  void (*join)(const AttentionArgs&, const float* totals, const float* sums);
};

/** Rows of one sequence through the gated delta rule: all value dimensions of one head, or some. */
struct DeltaArgs {
  // Of the first row; rows lie `stride` floats apart. q and k are D long, v begins with the first of the dimensions.
  const float* q;
  const float* k;
  const float* v;
  int64_t stride;
  // Of the head in the first row; rows lie `gate_stride` floats apart.
  const float* beta;
  const float* alpha;
  int64_t gate_stride;
  float decay, bias;
  int64_t rows;
  int64_t D;
  int64_t columns;  // value dimensions
  float* state;     // of the first of them, which is a multiple of 16 (layouts.h)
  float* out;       // the same; rows lie `out_stride` floats apart
  int64_t out_stride;
};

constexpr int64_t kMaxTaps = 64;
/** Rows of one sequence through a causal convolution: n neighbouring channels of C. */
struct ConvArgs {
  const float* x;  // (rows, C), from the first of the channels on, as the others
  const float* weight;  // [taps, C]
  float* state;         // [taps - 1, C], oldest first
  float* out;           // (rows, C)
  int64_t rows, C, n;
  int64_t taps;  // at most kMaxTaps
};

/** What only hybrid and mixture graphs need; the same source for every instruction set (hybrid_ops.h). */
struct HybridKernels {
  /**
   * Walsh-Hadamard transform of every `block` (a power of two that divides n) of x, each element multiplied by `before`
   * first or by `after` last; null: neither. out may be x.
   */
  void (*hadamard)(const float* x, const float* before, const float* after, int64_t n, int64_t block, float* out);
  void (*sigmoid)(const float* gate, const float* up, int64_t n, float* out);
  void (*clamped_silu)(const float* gate, const float* up, float limit, int64_t n, float* out);
  /** One head, in place. */
  void (*l2_norm)(float* x, int64_t D, float eps, float scale);
  /** All rows, then moves the state of these channels on. */
  void (*conv)(const ConvArgs&);
  void (*delta)(const DeltaArgs&);
  /** The K of E experts of one token and their weights. `e`: scratch (E,). False when a logit is NaN or infinite. */
  bool (*route)(const float* x, int64_t E, int64_t K, float least, float* e, int32_t* experts, float* weights);
  /** x (n,) += sum over K rows y (K, n), each times its weight. */
  void (*add_experts)(float* x, const float* y, const float* weights, int64_t K, int64_t n);
};

struct Kernels {
  const char* isa;
  /** Rows of a step that are multiplied together at most; larger blocks amortize the decoding of weights. */
  int64_t token_block;
  /** Bytes of scratch a thread needs for ternary products of matrices with C columns. */
  int64_t (*ternary_scratch)(int64_t C);
  void (*ternary)(const TernaryArgs&);
  void (*int8)(const Int8Args&);
  void (*dense)(const DenseArgs&);
  AttentionKernels attention;
  void (*embed)(const uint8_t* row, Dense dtype, int64_t n, float* out);
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  /** False when the row holds a NaN or infinity. */
  bool (*quantize)(const float* x, int64_t n, int8_t* codes, float* scale);
  /** The first `rotary_dim` elements of each head. */
  void (*rope)(float* x, const float* cos, const float* sin, int64_t heads, int64_t head_dim, int64_t rotary_dim);
  /** Writes one position of one head. */
  void (*kv_append)(const float* k, const float* v, int64_t D, int64_t slot, float* k_head, float* v_head);
  void (*relu2)(const float* gate, const float* up, int64_t n, float* out);
  void (*silu)(const float* gate, const float* up, int64_t n, float* out);
  void (*add)(float* x, const float* y, int64_t n);
  void (*count_trits)(const float* x, int64_t n, int32_t* counts);
  /** Sum of bytes, to measure read bandwidth with this instruction set's widest loads. */
  uint64_t (*read_bytes)(const uint8_t* p, int64_t n, int64_t prefetch);
  /** What the multiply-add pipe can do: returns the number of int8 multiply-adds done. */
  int64_t (*peak_macs)(int64_t rounds);
  /** Bytes of scratch a thread needs for group-scaled products. */
  int64_t (*grouped_scratch)(int64_t C, int64_t G);
  /** out = a * sum over groups, in order, of float(sum of q * (code - 1)) * scale; each step rounded, nothing fused. */
  void (*grouped)(const GroupedArgs&);
  /** Planes and sums of one row, and what its q are multiplied with. False when the row holds a NaN or infinity. */
  bool (*quantize16)(const float* x, int64_t n, int64_t group, uint8_t* planes, float* scale);
  /** One row of a panel64 matrix as floats: scale * float(code - 1). */
  void (*embed_grouped)(const uint8_t* w, const uint8_t* scales, bool scale_f16, int64_t C, int64_t G, int64_t row, float* out);
  /**
   * Ids and values (k,) of the largest of n logits, 1 <= k <= n, the largest first, lower ids first among equals. Returns the
   * sum of e^(logit - largest), in multiples of 2^-32; NaN where a logit is NaN or positive infinity.
   */
  double (*top_logits)(const float* x, int64_t n, int32_t k, int32_t* ids, float* values);
  HybridKernels hybrid;
  /** Byte rows that the matrix-matrix kernel of this set decodes together; smaller chunks waste some of them. */
  int64_t tile_rows = 4;
  /** Bytes of codes that a block of rows should hold at most, so that they stay in cache; 0: no such limit. */
  int64_t token_bytes = 0;
};

/** Rows of codes of C columns that are multiplied together; at most token_block. */
inline int64_t token_block_of(const Kernels& k, int64_t C) {
  if (k.token_bytes == 0) return k.token_block;
  const int64_t fit = k.token_bytes / code_stride(C) / 32 * 32;
  return fit < 32 ? 32 : fit < k.token_block ? fit : k.token_block;
}

}  // namespace bitnet
