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
// state of the delta rule (one value head, D key and D value dimensions):
//
//     [ceil(D / 16)][D keys][16 values]   16 value dimensions of all keys lie together
//
// tile (decoded ternary weights for matrix-matrix products, scratch only):
//
//     [C / 4][16 rows][4 columns] as uint8 codes 0..2; row l of the tile is byte row q + l % 4, field l / 4.
//   512-bit sets make four tiles of byte rows q..q+15, one for each field: row l of tile f is byte row q + l, field f.
//   The 64 bytes of one step are the B operand of AMX, of VNNI with a broadcast activation, and of sdot by lane.
//
// panel64 (group-scaled ternary weights; made when a file is read):
//   a matrix (R, C) is ceil(R / 64) panels of 64 neighbouring rows. A panel is ceil(C / 4) lines of 64 bytes, one for
//   each 4 columns; byte 4 l + i of line j holds column 4 j + i of four rows of the panel:
//
//     bit   7   6   5   4   3   2   1   0
//         +-------+-------+-------+-------+     code 00 = -1   01 = 0   10 = +1   11 = +2
//         | l+48  | l+32  | l+16  |   l   |     l = 0..15
//         +-------+-------+-------+-------+
//     column 4j of rows (0, 16, 32, 48) = (+1, 0, -1, +2)  ->  11 00 01 10  =  0xc6, the first byte of line j
//
//   Rows and columns past the last hold code 01. A line shifted by 2 s and masked is 16 rows x 4 columns of codes with
//   the rows in the 32-bit lanes: one operand of a dot product with four broadcast activations, and no sum crosses lanes.
//   The scales of a panel: [C / G][64] elements, f16 or f32, one for each row of each group of G columns; 0 past the
//   last row. Source: the row interleave is our own; codes and groups are those of GGUF's Q2_0.
//
// planes (int16 activations q of one row, T of them): q = 256 hi + lo, lo in -128..127, hi in -127..127.
//
//     | width hi | zeros up to P | width lo | zeros up to P | int32 sum of q of each group | unused up to 64 bytes |
//
//   P is the width rounded up to 64.
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

/** Rows of a panel of panel64. */
constexpr int64_t kGroupedRows = 64;
constexpr int64_t panels_of(int64_t rows) { return (rows + kGroupedRows - 1) / kGroupedRows; }
/** Bytes of the codes of one panel. */
constexpr int64_t panel_bytes(int64_t C) { return (C + 3) / 4 * 64; }
/** Bytes of each of the two planes of an int16 row. */
constexpr int64_t plane_bytes(int64_t C) { return round_up(C, kCodePad); }
/** Offset of the sums inside a row of planes. */
constexpr int64_t planes_sum_at(int64_t C) { return 2 * plane_bytes(C); }
/** Bytes between two rows of planes. */
constexpr int64_t planes_stride(int64_t C, int64_t group) { return round_up(planes_sum_at(C) + 4 * (C / group), 64); }
/** The largest |q|, 127 * 257: both planes are then int8. */
constexpr int32_t kGroupedLimit = 32639;

/** Floats of one head's K or V in a block. */
constexpr int64_t k_head_floats(int64_t head_dim) { return kBlock * head_dim; }
constexpr int64_t v_head_floats(int64_t head_dim) { return kBlock * round_up(head_dim, kLanes); }

/** Floats of one head's state of the delta rule. */
constexpr int64_t delta_floats(int64_t D) { return D * round_up(D, kLanes); }

/** The lane of a score that is read as the i-th: the bits of i in reverse order. */
constexpr int64_t k_lane(int64_t i) { return (i & 1) << 3 | (i & 2) << 1 | (i & 4) >> 1 | i >> 3; }

static_assert(kBlock % 32 == 0, "a K block is whole score vectors, two by two");

}  // namespace bitnet
