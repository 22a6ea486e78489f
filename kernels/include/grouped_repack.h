// From the rows of a file to panel64 (layouts.h), at the speed of memory: done once, when a model is read. Any number of
// threads may each do some panels. Nothing is allocated. The block layouts are GGUF's (ids 42, 142, 143, 41, 35, 34).
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace bitnet {

/** How the codes of one row lie in the source; rows follow each other without padding. */
enum class GroupedSource : int32_t {
  q2_64 = 0,   // blocks of 64: f16 scale, 16 bytes of four codes, lowest bits first (Q2_0)
  q2_128 = 1,  // blocks of 128: f16 scale, 32 such bytes (PQ2_0, and Q2_0 of 34 bytes)
  ptq1 = 2,    // blocks of 128: 26 bytes of base-3 digits, f16 scale (PTQ1_0)
  q1 = 3,      // blocks of 128: f16 scale, 16 bytes of bits; codes 0 and 2 (Q1_0)
  tq2 = 4,     // blocks of 256: 64 bytes of four codes 32 elements apart, f16 scale (TQ2_0)
  tq1 = 5,     // blocks of 256: 52 bytes of base-3 digits, f16 scale (TQ1_0)
  packed = 6,  // four codes a byte, lowest bits first, ceil(C / 4) bytes a row; no scales (MLX packs)
  codes = 7,   // a byte a code, 0..3; no scales
  values = 8,  // an int8 a weight, -1..2; no scales
};

/** Columns that share a scale; 0 where the source has no scales. */
int64_t grouped_source_group(int32_t source);
/** Bytes of a row of C columns; 0 when no row of that source has C columns. */
int64_t grouped_source_row_bytes(int32_t source, int64_t C);

/**
 * Rows [row_begin, row_end) of a matrix (rows, C), row_begin a multiple of 64 and row_end too unless it is `rows`.
 * `panels` and `scales` ([panel][group][64] f16; ignored where the source has none) are those of the whole matrix.
 * Row r is row source_row[r] of `src`, or row r when that is null. False when a scale is NaN or infinity, or a code of
 * `codes` and `values` is none: the output is then not to be used.
 */
bool grouped_repack(int32_t source, const uint8_t* src, int64_t rows, int64_t C, int64_t row_begin, int64_t row_end,
                    uint8_t* panels, uint16_t* scales, const int64_t* source_row);

/**
 * Scales (rows, groups) of `bytes` = 2 (f16) or 4 (f32) bytes each to [panel][group][64]; the rest as above. False when
 * one is NaN or infinity.
 */
bool grouped_repack_scales(const uint8_t* src, int64_t bytes, int64_t rows, int64_t groups, int64_t row_begin,
                           int64_t row_end, uint8_t* scales, const int64_t* source_row);

/**
 * Whether the groups of 64 columns of panels [begin, end) are groups of 128 in disguise: in each row each pair of groups has
 * equal scale bits, or one of the two holds only zeros. C is a multiple of 128. Only when this is so for the whole matrix
 * are its sums those of the same model in a layout of 128.
 */
bool grouped_pairs(const uint8_t* panels, const uint16_t* scales, int64_t C, int64_t begin, int64_t end);
/** The scales of groups of 128 of such panels: the live half's. The codes stay. `joined` does not overlap `scales`. */
void grouped_join_pairs(const uint8_t* panels, const uint16_t* scales, int64_t C, int64_t begin, int64_t end, uint16_t* joined);

}  // namespace bitnet
