// A step is a list of instructions; src/engine/cuda/instruction.ts writes them, field by field in this order.
#pragma once

#include "device.cuh"

enum Operation : u32 {
  EMBED,
  ROWS,
  TERNARY,
  GROUPED,
  INT8,
  DENSE,
  HEADS,
  ROPE,
  ATTEND,
  SCORES,
  VALUES,
  SELECT,
  COUNT,
  TOP_OF_SHARES,
  ATTEND_ONE,
  ATTEND_ROWS,
  TELL_TOP,
  SPLIT,
  CONV,
  LENGTHS,
  DELTA,
  ROUTE,
  SORT,
  EXPERTS,
  ADD_EXPERTS,
  DENSE_SMALL,
  READY,
  ATTEND_BATCH,
  SEGMENTS,
  ROUND,
  NARROW_ROWS,
  ATTEND_SPLIT,
};

/** What a row is made of: x; x + y, stored; f(x) * y. */
enum Source : u32 { PLAIN, SUM, RELU2, SILU, SIGMOID, CLAMPED };

/** What becomes of a product: stored; added to the output; gate and up joined by the activation `gate`. */
enum Ending : u32 { STORE, ADD, GATE };

enum Type : u32 { F32, F16, BF16, GROUP };

struct Matrix {
  u64 w, scales, out;
  /** `stride`: bytes from row to row, or from quad to quad; `out_stride`: floats. */
  u32 rows, tiles, stride, out_stride;
  u32 quads, half;
  float scale;
  /** Tiles of the matrices before it; ~0 where there is no matrix. */
  u32 first;
};

struct Instruction {
  u32 op, rows, width, x_stride;
  u32 source, norm, keep, quantize;
  float eps, limit, scale;
  u32 status;
  u32 code_stride, group, heads, kv_heads;
  u32 head_dim, layer, window, parts;
  u32 ending, fused, gate, y_stride;
  u32 rotary, splits, out_stride, type;
  /** Of rows: block of the rotation behind the norm, 0 for none; whether it is the inverse; see hybrid.cuh. */
  u32 turn, back, key_heads, choices;
  /** Tiles of a product; of many rows the kind of tiles; of a group-scaled one of one row in how many parts blocks take a panel, groups of a row and of a piece. */
  u32 items, cut, groups, chunk;
  u64 x, y, weight, out;
  u64 codes, scales, cosine, sine;
  u64 scratch, failed, weight2, counters;
  Matrix m[4];
};
static_assert(sizeof(Matrix) == 56, "as instruction.ts writes it");
static_assert(sizeof(Instruction) == 464, "as instruction.ts writes it");
constexpr u32 INSTRUCTION_BYTES = 464;

/** What changes from step to step. Every array lies behind it in the same memory. */
struct Input {
  /** Rows; blocks of the longest row's context. */
  u32 tokens, outputs, table_stride, sequences;
  /** Arrays, in bytes from here. */
  u64 ids, positions, table_rows, output_rows, tables;
  /** Of each sequence (row of the table): where its recurrent states are, and which of the two copies of its convolutions' counts. */
  u64 states;
  template <class T> DEVICE_MEMBER const T* at(u64 offset) const { return (const T*)((const char*)this + offset); }
};
/** An input that is not too long for it comes with the launch. */
constexpr u32 INLINE_BYTES = 2048;
struct InlineInput {
  u64 words[INLINE_BYTES / 8];
};
/** First row of each sequence, and the end of the last. */
DEVICE const u32* sequence_rows(const Input& in) { return in.at<u32>(in.output_rows) + in.outputs; }

/** A block of the KV cache, 64 positions: [layer][keys: kv head][dimension][position], [values: kv head][position][dimension]. */
constexpr u32 POSITIONS = 64;
