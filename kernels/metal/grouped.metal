// Group-scaled ternary matrix x int16 activations, to the bit: of each row, every group's integer sum becomes a float, is
// multiplied by the group's scale and added in order, from column 0; the activations' scale comes last.
//
// The weights stay in their form in memory, `panel64` (kernels/include/layouts.h): a panel is 64 rows, and its column block
// (4 columns) is 64 bytes = 16 words. Byte i of word l holds column i of rows l, 16 + l, 32 + l, 48 + l, lowest bits
// first, as code 0..3; the weight is (code - 1) * scale. Nothing is repacked. `scales` is [panel][group][64].
//
// Integer sums are free in order, so they run in the float pipe while they are below 2^24, and then as int.
// Up to three matrices that read the same activations (q, k, v; gate, up) share one dispatch.

struct GroupedArgs {
    uint blocks;          // column blocks of a row
    uint groups;          // of a row
    uint group_blocks;    // column blocks of a group
    uint slices;          // of a group, SLICE_BLOCKS each
    uint tokens;
    uint x_stride4;       // vectors of 4 of an activation row
    uint out_stride0;     // elements of an output row of each matrix
    uint out_stride1;
    uint out_stride2;
    uint rows0;
    uint rows1;
    uint rows2;
    uint panels0;         // of each matrix, in the order the grid walks them
    uint panels1;
    uint halves0;          // 1: the matrix's scales are half, else float
    uint halves1;
    uint halves2;
};

/** The matrix that a panel of the grid belongs to. */
struct GroupedMatrix {
    uint panel;           // within the matrix
    uint rows;
    uint out_stride;
    uint half_scales;
    uint which;
};

METAL_FUNC GroupedMatrix grouped_matrix_of(uint panel, constant GroupedArgs& a) {
    GroupedMatrix m;
    if (panel < a.panels0) {
        m.panel = panel; m.rows = a.rows0; m.out_stride = a.out_stride0; m.half_scales = a.halves0; m.which = 0u;
    } else if (panel < a.panels0 + a.panels1) {
        m.panel = panel - a.panels0;
        m.rows = a.rows1; m.out_stride = a.out_stride1; m.half_scales = a.halves1; m.which = 1u;
    } else {
        m.panel = panel - a.panels0 - a.panels1;
        m.rows = a.rows2; m.out_stride = a.out_stride2; m.half_scales = a.halves2; m.which = 2u;
    }
    return m;
}

METAL_FUNC float scale_at(device const uint* scales, uint at, uint half_scales) {
    if (half_scales == 0u) { return as_type<float>(scales[at]); }
    const half2 both = as_type<half2>(scales[at / 2u]);
    return at % 2u == 0u ? float(both.x) : float(both.y);
}

/** Codes of field s of the four columns of a word. */
METAL_FUNC float4 field_of(uint word, uint s) { return bytes_of((word >> (2u * s)) & 0x03030303u); }

// A slice: 256 columns of a group. A lane sums 64 of them, 64 * 3 * 32639 < 2^24.
#define SLICE_BLOCKS 64u
// Sums of a slice over 64 rows that threadgroup memory holds, times tokens.
#define HELD_SLICES 64u

/** Sums of (code - 1) * x over blocks from .. to - 1 of a panel's 64 rows, for each token, into sums[token][64]. */
template <uint TOKENS>
METAL_FUNC void slice_sums(
    device const uint2* w, device const short4* codes, uint panel, uint token, uint from, uint to,
    constant GroupedArgs& a, threadgroup int* sums, uint lane)
{
    // Lane: words 2 (lane % 8) and the next of every fourth block, so a simdgroup reads 256 contiguous bytes.
    const uint pair = lane & 7u;
    float dots[8 * TOKENS];
    float plain[TOKENS];
    MSL_UNROLL for (uint i = 0u; i < 8u * TOKENS; ++i) { dots[i] = 0.0f; }
    MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) { plain[t] = 0.0f; }
    for (uint block = from + (lane >> 3); block < to; block += 4u) {
        const uint2 q = w[(panel * a.blocks + block) * 8u + pair];
        float4 x[TOKENS];
        MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) {
            // A token past the last repeats it; its result is not stored.
            const short4 four = codes[min(token + t, a.tokens - 1u) * a.x_stride4 + block];
            x[t] = float4(four);
            plain[t] += (x[t].x + x[t].y) + (x[t].z + x[t].w);
        }
        MSL_UNROLL for (uint s = 0u; s < 4u; ++s) {
            const float4 low = field_of(q.x, s);
            const float4 high = field_of(q.y, s);
            MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) {
                dots[8u * t + s] += dot(x[t], low);
                dots[8u * t + 4u + s] += dot(x[t], high);
            }
        }
    }
    // Four lanes hold parts of the same 8 rows: each keeps 2 of them and gives the others away.
    const bool odd = (lane & 8u) != 0u;
    const bool upper = (lane & 16u) != 0u;
    const uint row = (upper ? 32u : 0u) + 2u * pair + (odd ? 1u : 0u);
    MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) {
        int four[4];
        MSL_UNROLL for (uint s = 0u; s < 4u; ++s) {
            const int low = int(dots[8u * t + s] - plain[t]);
            const int high = int(dots[8u * t + 4u + s] - plain[t]);
            four[s] = (odd ? high : low) + simd_shuffle_xor(odd ? low : high, ushort(8));
        }
        const int first = (upper ? four[2] : four[0]) + simd_shuffle_xor(upper ? four[0] : four[2], ushort(16));
        const int second = (upper ? four[3] : four[1]) + simd_shuffle_xor(upper ? four[1] : four[3], ushort(16));
        sums[64u * t + row] = first;
        sums[64u * t + row + 16u] = second;
    }
}

// A threadgroup takes a panel and TOKENS tokens. Its simdgroups sum slices side by side; then a thread per row and token
// adds what they found, group by group in order. Threads: at least 64 * TOKENS. `panel` counts from the matrix's first
// expert, m.panel within one of them; the results of `token` and those after it go to `out_row` and those after it.
template <uint TOKENS>
METAL_FUNC void grouped_panel(
    device const uint2* w, device const uint* scales, device const short4* codes, device const float* x_scales,
    device float* out, GroupedMatrix m, uint panel, uint token, uint out_row, constant GroupedArgs& a,
    threadgroup int* sums, Place p)
{
    const uint slices = a.groups * a.slices;
    const uint row = p.thread_index & 63u;
    const uint t = p.thread_index >> 6;

    float total = 0.0f;
    int sum = 0;
    for (uint first = 0u; first < slices; first += HELD_SLICES / TOKENS) {
        const uint end = min(first + HELD_SLICES / TOKENS, slices);
        for (uint s = first + p.simdgroup_index; s < end; s += p.simdgroups) {
            const uint g = s / a.slices;
            const uint from = g * a.group_blocks + (s % a.slices) * SLICE_BLOCKS;
            const uint to = min(from + SLICE_BLOCKS, (g + 1u) * a.group_blocks);
            slice_sums<TOKENS>(w, codes, panel, token, from, to, a, sums + (s - first) * TOKENS * 64u, p.lane);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (t < TOKENS) {
            for (uint s = first; s < end; ++s) {
                sum += sums[((s - first) * TOKENS + t) * 64u + row];
                if (s % a.slices == a.slices - 1u) {
                    const float scale = scale_at(scales, (panel * a.groups + s / a.slices) * 64u + row, m.half_scales);
                    total += float(sum) * scale;
                    sum = 0;
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    if (t < TOKENS && token + t < a.tokens && m.panel * 64u + row < m.rows) {
        const float scale = x_scales[token + t];
        out[(out_row + t) * m.out_stride + m.panel * 64u + row] = total * scale;
    }
}

template <uint TOKENS>
METAL_FUNC void grouped_gemv_of(
    device const uint2* w0, device const uint2* w1, device const uint2* w2, device const uint* scales0,
    device const uint* scales1, device const uint* scales2, device const short4* codes, device const float* x_scales,
    device float* out0, device float* out1, device float* out2, constant GroupedArgs& a, threadgroup int* sums,
    uint3 group, Place p)
{
    const GroupedMatrix m = grouped_matrix_of(group.x, a);
    device const uint2* w = m.which == 0u ? w0 : m.which == 1u ? w1 : w2;
    device const uint* scales = m.which == 0u ? scales0 : m.which == 1u ? scales1 : scales2;
    device float* out = m.which == 0u ? out0 : m.which == 1u ? out1 : out2;
    const uint token = group.y * TOKENS;
    grouped_panel<TOKENS>(w, scales, codes, x_scales, out, m, m.panel, token, token, a, sums, p);
}

kernel void grouped_gemv(
    device const uint2*   w0       [[buffer(0)]],
    device const uint2*   w1       [[buffer(1)]],
    device const uint2*   w2       [[buffer(2)]],
    device const uint*    scales0  [[buffer(3)]],
    device const uint*    scales1  [[buffer(4)]],
    device const uint*    scales2  [[buffer(5)]],
    device const short4*  codes    [[buffer(6)]],
    device const float*   x_scales [[buffer(7)]],
    device float*         out0     [[buffer(8)]],
    device float*         out1     [[buffer(9)]],
    device float*         out2     [[buffer(10)]],
    constant GroupedArgs& a        [[buffer(11)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(int, sums, 64 * 64);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    grouped_gemv_of<1>(w0, w1, w2, scales0, scales1, scales2, codes, x_scales, out0, out1, out2, a, sums, group, p);
}

kernel void grouped_gemv_t2(
    device const uint2*   w0       [[buffer(0)]],
    device const uint2*   w1       [[buffer(1)]],
    device const uint2*   w2       [[buffer(2)]],
    device const uint*    scales0  [[buffer(3)]],
    device const uint*    scales1  [[buffer(4)]],
    device const uint*    scales2  [[buffer(5)]],
    device const short4*  codes    [[buffer(6)]],
    device const float*   x_scales [[buffer(7)]],
    device float*         out0     [[buffer(8)]],
    device float*         out1     [[buffer(9)]],
    device float*         out2     [[buffer(10)]],
    constant GroupedArgs& a        [[buffer(11)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(int, sums, 64 * 64);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    grouped_gemv_of<2>(w0, w1, w2, scales0, scales1, scales2, codes, x_scales, out0, out1, out2, a, sums, group, p);
}

kernel void grouped_gemv_t4(
    device const uint2*   w0       [[buffer(0)]],
    device const uint2*   w1       [[buffer(1)]],
    device const uint2*   w2       [[buffer(2)]],
    device const uint*    scales0  [[buffer(3)]],
    device const uint*    scales1  [[buffer(4)]],
    device const uint*    scales2  [[buffer(5)]],
    device const short4*  codes    [[buffer(6)]],
    device const float*   x_scales [[buffer(7)]],
    device float*         out0     [[buffer(8)]],
    device float*         out1     [[buffer(9)]],
    device float*         out2     [[buffer(10)]],
    constant GroupedArgs& a        [[buffer(11)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(int, sums, 64 * 64);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    grouped_gemv_of<4>(w0, w1, w2, scales0, scales1, scales2, codes, x_scales, out0, out1, out2, a, sums, group, p);
}

struct ExpertArgs {
    uint choices;         // of a token
    uint per_choice;      // 1: a row of codes for each choice; 0: one for all choices of the token
    uint experts_stride;  // elements of a row of `experts`
    uint panels2;         // of the third matrix
};

// Choice i of a token takes the matrices of the expert that it names. grid: (panels of one expert, choices of all tokens).
kernel void expert_gemv(
    device const uint2*   w0       [[buffer(0)]],
    device const uint2*   w1       [[buffer(1)]],
    device const uint2*   w2       [[buffer(2)]],
    device const uint*    scales0  [[buffer(3)]],
    device const uint*    scales1  [[buffer(4)]],
    device const uint*    scales2  [[buffer(5)]],
    device const short4*  codes    [[buffer(6)]],
    device const float*   x_scales [[buffer(7)]],
    device const uint*    experts  [[buffer(8)]],
    device float*         out0     [[buffer(9)]],
    device float*         out1     [[buffer(10)]],
    device float*         out2     [[buffer(11)]],
    constant GroupedArgs& a        [[buffer(12)]],
    constant ExpertArgs&  e        [[buffer(13)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(int, sums, 64 * 64);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    const GroupedMatrix m = grouped_matrix_of(group.x, a);
    device const uint2* w = m.which == 0u ? w0 : m.which == 1u ? w1 : w2;
    device const uint* scales = m.which == 0u ? scales0 : m.which == 1u ? scales1 : scales2;
    device float* out = m.which == 0u ? out0 : m.which == 1u ? out1 : out2;
    const uint panels = m.which == 0u ? a.panels0 : m.which == 1u ? a.panels1 : e.panels2;
    const uint token = group.y / e.choices;
    const uint expert = experts[token * e.experts_stride + group.y % e.choices];
    const uint code_row = e.per_choice != 0u ? group.y : token;
    grouped_panel<1>(w, scales, codes, x_scales, out, m, expert * panels + m.panel, code_row, group.y, a, sums, p);
}

// Prefill: a panel x 32 tokens per threadgroup of 4 simdgroups, 32 columns per step, on the 8x8 matrix units. An
// activation is 256 hi + lo, both exact in half (256 hi too), and both products go into one float sum, which stays exact
// for 256 columns: 256 * 2 * (32512 + 128) < 2^24. So every slice is summed by the matrix units, read out through
// threadgroup memory, and added as int; at a group's end the sum is scaled.
#define TILE_TOKENS 32u
#define TILE_BLOCKS 8u
// Rows of the tiles are padded by 16 bytes, or the eight rows of a matrix would fall on the same memory banks.
#define TILE_WIDTH 40u
#define TILE_ROWS 72u

METAL_FUNC half4 weights_of(uchar byte) {
    const int b = int(byte);
    return half4(float4(float((b & 3) - 1), float(((b >> 2) & 3) - 1), float(((b >> 4) & 3) - 1), float((b >> 6) - 1)));
}

/** The low part of a code, -128..127; what remains is a multiple of 256. */
METAL_FUNC float low_of(short code) { return float(((int(code) + 128) & 255) - 128); }

kernel void grouped_gemm(
    device const uint*    w0       [[buffer(0)]],
    device const uint*    w1       [[buffer(1)]],
    device const uint*    w2       [[buffer(2)]],
    device const uint*    scales0  [[buffer(3)]],
    device const uint*    scales1  [[buffer(4)]],
    device const uint*    scales2  [[buffer(5)]],
    device const short4*  codes    [[buffer(6)]],
    device const float*   x_scales [[buffer(7)]],
    device float*         out0     [[buffer(8)]],
    device float*         out1     [[buffer(9)]],
    device float*         out2     [[buffer(10)]],
    constant GroupedArgs& a        [[buffer(11)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]])
{
    THREADGROUP_ARRAY(half, weights, 32 * 72);   // [column][4 * word + field]
    THREADGROUP_ARRAY(half, upper, 32 * 40);     // [token][column]: 256 hi
    THREADGROUP_ARRAY(half, lower, 32 * 40);     // lo
    THREADGROUP_ARRAY(float, results, 4 * 8 * 32);  // [simdgroup][token][4 * word + field]
    const GroupedMatrix m = grouped_matrix_of(group.x, a);
    device const uint* w = m.which == 0u ? w0 : m.which == 1u ? w1 : w2;
    device const uint* scales = m.which == 0u ? scales0 : m.which == 1u ? scales1 : scales2;
    device float* out = m.which == 0u ? out0 : m.which == 1u ? out1 : out2;
    const uint first_token = group.y * TILE_TOKENS;
    // Of the 64 x 32 tile each simdgroup computes 32 rows (8 words) x 16 tokens.
    const uint row_at = (simdgroup_index & 1u) * 32u;
    const uint token_at = (simdgroup_index >> 1) * 16u;
    const uint result_at = simdgroup_index * 256u;
    // Of those, a lane adds up one row's.
    const uint field = lane >> 3;
    const uint word_of_lane = row_at / 4u + (lane & 7u);
    const uint row = 16u * field + word_of_lane;

    float totals[16];
    int sums[16];
    MSL_UNROLL for (uint n = 0u; n < 16u; ++n) {
        totals[n] = 0.0f;
        sums[n] = 0;
    }
    const uint slices = a.groups * a.slices;
    for (uint s = 0u; s < slices; ++s) {
        const uint g = s / a.slices;
        const uint from = g * a.group_blocks + (s % a.slices) * SLICE_BLOCKS;
        const uint to = min(from + SLICE_BLOCKS, (g + 1u) * a.group_blocks);
        simdgroup_float8x8 products[8];  // [tokens / 8][rows / 8]
        MSL_UNROLL for (uint i = 0u; i < 8u; ++i) { products[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f); }
        for (uint first = from; first < to; first += TILE_BLOCKS) {
            {
                const uint block = first + (thread_index >> 4);
                const uint word = thread_index & 15u;
                uint q = 0x55555555u;  // zeros outside the slice
                if (block < to) { q = w[(m.panel * a.blocks + block) * 16u + word]; }
                const uchar4 b = as_type<uchar4>(q);
                const uint at = (thread_index >> 4) * 4u * TILE_ROWS + 4u * word;
                STORE_HALF4(weights + at, weights_of(b.x));
                STORE_HALF4(weights + (at + TILE_ROWS), weights_of(b.y));
                STORE_HALF4(weights + (at + 2u * TILE_ROWS), weights_of(b.z));
                STORE_HALF4(weights + (at + 3u * TILE_ROWS), weights_of(b.w));
            }
            MSL_UNROLL for (uint i = 0u; i < 2u; ++i) {
                const uint token = (thread_index >> 3) + 16u * i;
                const uint block = first + (thread_index & 7u);
                float4 x = float4(0.0f);
                float4 low = float4(0.0f);
                if (first_token + token < a.tokens && block < to) {
                    const short4 four = codes[(first_token + token) * a.x_stride4 + block];
                    x = float4(four);
                    low = float4(low_of(four.x), low_of(four.y), low_of(four.z), low_of(four.w));
                }
                const uint at = token * TILE_WIDTH + 4u * (thread_index & 7u);
                STORE_HALF4(upper + at, half4(x - low));
                STORE_HALF4(lower + at, half4(low));
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
            MSL_UNROLL for (uint k = 0u; k < 4u * TILE_BLOCKS; k += 8u) {
                simdgroup_half8x8 high[2];
                simdgroup_half8x8 low[2];
                simdgroup_half8x8 t[4];
                MSL_UNROLL for (uint i = 0u; i < 2u; ++i) {
                    simdgroup_load(high[i], upper + ((token_at + 8u * i) * TILE_WIDTH + k), TILE_WIDTH);
                    simdgroup_load(low[i], lower + ((token_at + 8u * i) * TILE_WIDTH + k), TILE_WIDTH);
                }
                MSL_UNROLL for (uint j = 0u; j < 4u; ++j) {
                    simdgroup_load(t[j], weights + (k * TILE_ROWS + row_at + 8u * j), TILE_ROWS);
                }
                MSL_UNROLL for (uint i = 0u; i < 2u; ++i) {
                    MSL_UNROLL for (uint j = 0u; j < 4u; ++j) {
                        simdgroup_multiply_accumulate(products[4u * i + j], high[i], t[j], products[4u * i + j]);
                        simdgroup_multiply_accumulate(products[4u * i + j], low[i], t[j], products[4u * i + j]);
                    }
                }
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        float scale = 0.0f;
        const bool whole = s % a.slices == a.slices - 1u;
        if (whole) { scale = scale_at(scales, (m.panel * a.groups + g) * 64u + row, m.half_scales); }
        MSL_UNROLL for (uint i = 0u; i < 2u; ++i) {
            MSL_UNROLL for (uint j = 0u; j < 4u; ++j) {
                simdgroup_store(products[4u * i + j], results + (result_at + 8u * j), 32u);
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);
            MSL_UNROLL for (uint n = 0u; n < 8u; ++n) {
                const float product = results[result_at + n * 32u + (lane & 7u) * 4u + field];
                const int sum = sums[8u * i + n] + int(product);
                if (whole) { totals[8u * i + n] += float(sum) * scale; }
                sums[8u * i + n] = whole ? 0 : sum;
            }
            simdgroup_barrier(mem_flags::mem_threadgroup);
        }
    }
    const uint out_row = m.panel * 64u + row;
    MSL_UNROLL for (uint n = 0u; n < 16u; ++n) {
        const uint token = first_token + token_at + n;
        if (token < a.tokens && out_row < m.rows) {
            const float scale = x_scales[token];
            out[token * m.out_stride + out_row] = totals[n] * scale;
        }
    }
}

struct EmbedGroupedArgs {
    uint width;
    uint blocks;
    uint groups;
    uint group_blocks;
    uint half_scales;
    uint out_stride4;    // the elements past `width` become zero
};

// out[t] = scale * (code - 1) of the token's row. One threadgroup per token, a thread per column block.
kernel void embed_grouped(
    device const uint*  w      [[buffer(0)]],
    device const uint*  scales [[buffer(1)]],
    device const uint*  tokens [[buffer(2)]],
    device float4*      out    [[buffer(3)]],
    constant EmbedGroupedArgs& a [[buffer(4)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const uint id = tokens[group.x];
    const uint panel = id / 64u;
    const uint row = id % 64u;
    for (uint block = thread_index; block < a.out_stride4; block += simdgroups * 32u) {
        float4 v = float4(0.0f);
        if (block < a.blocks) {
            const uint word = w[(panel * a.blocks + block) * 16u + row % 16u];
            const float scale = scale_at(scales, (panel * a.groups + block / a.group_blocks) * 64u + row, a.half_scales);
            v = (field_of(word, row / 16u) - float4(1.0f)) * scale;
            if (4u * block + 1u >= a.width) { v.y = 0.0f; }
            if (4u * block + 2u >= a.width) { v.z = 0.0f; }
            if (4u * block + 3u >= a.width) { v.w = 0.0f; }
        }
        out[group.x * a.out_stride4 + block] = v;
    }
}
