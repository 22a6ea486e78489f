// Every memory layout that more than one file relies on: one diagram each, and the constants that go with it.
//
// rowquad (ternary weights, exactly as packed checkpoints store them; never repacked):
//   a matrix (R, C) is Q = ceil(R / 4) byte rows of C bytes; byte [q, c] holds column c of four matrix rows
//
//     bit   7   6   5   4   3   2   1   0
//         +-------+-------+-------+-------+     code 00 = -1   01 = 0   10 = +1   (11 is refused before it gets here)
//         | q+3Q  | q+2Q  |  q+Q  |   q   |
//         +-------+-------+-------+-------+
//     rows (q, q+Q, q+2Q, q+3Q) = (+1, 0, -1, +1)  ->  10 00 01 10  =  0x86
//
//   So one byte row is one sequential stream that feeds four rows from one load of the activations: what a tiled
//   repack would buy, without the repack, its time and its second copy in memory.
//
// codes (int8 activations of one row, T of them):
//
//     | width codes | zeros up to a multiple of 64 | int32 sum of the codes | unused up to 64 bytes |
//
//   The zeros let kernels read whole vectors past the end: a weight that meets a zero adds nothing.
//
// KV block (kBlock positions of one sequence; for every layer first all K heads, then all V heads):
//
//     K of one head   [kBlock / 16][D, by lane][16 positions]   the 16 lanes of a score vector are 16 keys
//     V of one head   [ceil(D / 16)][kBlock][16 dims]           the 16 lanes of an output vector are 16 dimensions
//
//   A score is summed in 16 lanes (dimensions i, i + 16, ..), two by two; so the dimensions of K lie in the order in
//   which they are read (k_lane): first those of lane 0, then 8, 4, 12, 2, .. One sequential stream of keys.
//
// tile (decoded ternary weights for matrix-matrix products, scratch only):
//
//     [C / 4][16 rows][4 columns] as uint8 codes 0..2; row l of the tile is byte row q + l % 4, field l / 4.
//   512-bit sets make four tiles of byte rows q..q+15, one for each field: row l of tile f is byte row q + l, field f.
//   The 64 bytes of one step are the B operand of AMX, of VNNI with a broadcast activation, and of sdot by lane.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bitnet {

constexpr int kLanes = 16;
constexpr int kBlock = 64;
constexpr int64_t kCodePad = 64;

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/** Bytes between two rows of an int8 buffer. */
constexpr int64_t code_stride(int64_t width) { return round_up(width, kCodePad) + 64; }
/** Offset of the int32 sum inside a row of an int8 buffer. */
constexpr int64_t code_sum_at(int64_t width) { return round_up(width, kCodePad); }

/** Floats of one head's K or V in a block. */
constexpr int64_t k_head_floats(int64_t head_dim) { return kBlock * head_dim; }
constexpr int64_t v_head_floats(int64_t head_dim) { return kBlock * round_up(head_dim, kLanes); }

/** The lane of a score that is read as the i-th: the bits of i in reverse order. */
constexpr int64_t k_lane(int64_t i) { return (i & 1) << 3 | (i & 2) << 1 | (i & 4) >> 1 | i >> 3; }

static_assert(kBlock % 32 == 0, "a K block is whole score vectors, two by two");

}  // namespace bitnet
