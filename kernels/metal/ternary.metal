// Ternary matrix x int8 activations, exact: out[t, r] = float(sum_c trit[r, c] * code[t, c]) * (weight_scale / scale[t]).
//
// The weights stay in the file's own layout, `rowquad`: byte (q, c) holds rows q, q + Q, q + 2Q, q + 3Q of column c,
// lowest bits first, as trit + 1 (Q = ceil(R / 4)). So one 16-byte load is a tile of 4 rows x 16 columns, a simdgroup
// reads 512 contiguous bytes per step, nothing is repacked at load and the file's pages can be the GPU's buffer.
//
//     byte v = t0 + 4 t1 + 16 t2 + 64 t3        f_k = floor(v / 4^k)        t_k = f_k - 4 f_(k+1)
//
// Hence four dot products s_k = sum_c x_c f_k(c) give the four rows: row k is s_k - 4 s_(k+1) - sum_c x_c. All of it
// runs in the float pipe on exact integers: per lane and step |s_k| <= 16 * 128 * 255 < 2^20, rows are formed every step,
// and a row of codes 0..2 stays below 2^24 for up to 65535 columns (the host refuses more). Exact, so in any order.
// Up to three matrices that read the same activations (q, k, v; gate, up) share one dispatch.

struct TernaryArgs {
    uint groups;          // 16-column groups of a row
    uint tokens;
    uint out_stride0;     // elements of an output row of each matrix
    uint out_stride1;
    uint out_stride2;
    uint rows0;
    uint rows1;
    uint rows2;
    uint quads0;          // Q of each matrix; 0 for an absent one
    uint quads1;
    uint quads2;
    uint tiles0;          // tiles of threadgroup size of each matrix, in the order the grid walks them
    uint tiles1;
    float scale0;
    float scale1;
    float scale2;
};

/** The matrix that a tile of the grid belongs to. */
struct Matrix {
    uint tile;            // within the matrix
    uint quads;
    uint rows;
    uint out_stride;
    float scale;
    uint which;
};

METAL_FUNC Matrix matrix_of(uint tile, constant TernaryArgs& a) {
    Matrix m;
    if (tile < a.tiles0) {
        m.tile = tile; m.quads = a.quads0; m.rows = a.rows0; m.out_stride = a.out_stride0; m.scale = a.scale0; m.which = 0u;
    } else if (tile < a.tiles0 + a.tiles1) {
        m.tile = tile - a.tiles0;
        m.quads = a.quads1; m.rows = a.rows1; m.out_stride = a.out_stride1; m.scale = a.scale1; m.which = 1u;
    } else {
        m.tile = tile - a.tiles0 - a.tiles1;
        m.quads = a.quads2; m.rows = a.rows2; m.out_stride = a.out_stride2; m.scale = a.scale2; m.which = 2u;
    }
    return m;
}

/** 16 activations of one token. */
struct Activations {
    float4 x0;
    float4 x1;
    float4 x2;
    float4 x3;
};

METAL_FUNC Activations activations_at(device const half4* codes, uint at) {
    Activations x;
    const half4 a = codes[at];
    const half4 b = codes[at + 1u];
    const half4 c = codes[at + 2u];
    const half4 d = codes[at + 3u];
    x.x0 = float4(a);
    x.x1 = float4(b);
    x.x2 = float4(c);
    x.x3 = float4(d);
    return x;
}

/** f_k of 16 columns: in[0..3] = the columns, each as 4 floats. */
struct Digits {
    float4 f0;
    float4 f1;
    float4 f2;
    float4 f3;
};

// Two ways to the digits; which is faster is for the tuner to find out on the device.
// MASK = false: 4 conversions, 12 multiplications, 12 floors per 16 trits.
METAL_FUNC Digits floor_digits(uint word) {
    Digits d;
    d.f0 = bytes_of(word);
    d.f1 = floor(d.f0 * 0.25f);
    d.f2 = floor(d.f0 * 0.0625f);
    d.f3 = floor(d.f0 * 0.015625f);
    return d;
}
// MASK = true: 16 conversions, 3 bit operations, 12 multiplications (by powers of two, exact).
METAL_FUNC Digits mask_digits(uint word) {
    Digits d;
    d.f0 = bytes_of(word);
    d.f1 = bytes_of(word & 0xfcfcfcfcu) * 0.25f;
    d.f2 = bytes_of(word & 0xf0f0f0f0u) * 0.0625f;
    d.f3 = bytes_of(word & 0xc0c0c0c0u) * 0.015625f;
    return d;
}

METAL_FUNC float4 dots(Digits d, float4 x) {
    return float4(dot(x, d.f0), dot(x, d.f1), dot(x, d.f2), dot(x, d.f3));
}

/** sum_c (trit + 1) * x over 16 columns, for the four rows of the quad. */
template <bool MASK, uint TOKENS>
METAL_FUNC void accumulate(uint4 q, thread const Activations* x, thread float4* rows) {
    const Digits d0 = MASK ? mask_digits(q.x) : floor_digits(q.x);
    const Digits d1 = MASK ? mask_digits(q.y) : floor_digits(q.y);
    const Digits d2 = MASK ? mask_digits(q.z) : floor_digits(q.z);
    const Digits d3 = MASK ? mask_digits(q.w) : floor_digits(q.w);
    MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) {
        const float4 s = (dots(d0, x[t].x0) + dots(d1, x[t].x1)) + (dots(d2, x[t].x2) + dots(d3, x[t].x3));
        rows[t] += float4(s.x - 4.0f * s.y, s.y - 4.0f * s.z, s.z - 4.0f * s.w, s.w);
    }
}

METAL_FUNC float component(float4 v, uint i) { return i == 0u ? v.x : i == 1u ? v.y : i == 2u ? v.z : v.w; }

METAL_FUNC void store_quad(float4 sums, uint quad, uint token, Matrix m, float2 scale, device float* out, uint lane) {
    const uint row = quad + lane * m.quads;
    if (lane < 4u && row < m.rows) {
        out[token * m.out_stride + row] = (component(sums, lane) - scale.y) * (m.scale / scale.x);
    }
}

// Each simdgroup takes QUADS neighbouring quads, each threadgroup `simdgroups` times as many. grid.y counts groups of
// TOKENS tokens: the weights are read once for all of them.
template <bool MASK, uint QUADS, uint TOKENS>
METAL_FUNC void gemv(
    device const uint4* w0, device const uint4* w1, device const uint4* w2, device const half4* codes,
    device const float2* scales, device float* out0, device float* out1, device float* out2, constant TernaryArgs& a,
    uint3 group, uint lane, uint simdgroup_index, uint simdgroups)
{
    const Matrix m = matrix_of(group.x, a);
    device const uint4* w = m.which == 0u ? w0 : m.which == 1u ? w1 : w2;
    device float* out = m.which == 0u ? out0 : m.which == 1u ? out1 : out2;
    const uint quad = (m.tile * simdgroups + simdgroup_index) * QUADS;
    const uint token = group.y * TOKENS;
    if (quad >= m.quads) { return; }

    float4 rows[QUADS * TOKENS];
    MSL_UNROLL for (uint i = 0u; i < QUADS * TOKENS; ++i) { rows[i] = float4(0.0f); }
    for (uint g = lane; g < a.groups; g += 32u) {
        Activations x[TOKENS];
        MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) {
            // A token past the last repeats it; its result is not stored.
            x[t] = activations_at(codes, (min(token + t, a.tokens - 1u) * a.groups + g) * 4u);
        }
        MSL_UNROLL for (uint i = 0u; i < QUADS; ++i) {
            if (quad + i < m.quads) {
                const uint4 q = w[(quad + i) * a.groups + g];
                accumulate<MASK, TOKENS>(q, x, rows + i * TOKENS);
            }
        }
    }
    MSL_UNROLL for (uint i = 0u; i < QUADS; ++i) {
        MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) {
            const float4 sums = simd_sum(rows[i * TOKENS + t]);
            if (quad + i < m.quads && token + t < a.tokens) {
                const float2 scale = scales[token + t];
                store_quad(sums, quad + i, token + t, m, scale, out, lane);
            }
        }
    }
}

kernel void ternary_gemv(
    device const uint4*   w0     [[buffer(0)]],
    device const uint4*   w1     [[buffer(1)]],
    device const uint4*   w2     [[buffer(2)]],
    device const half4*   codes  [[buffer(3)]],
    device const float2*  scales [[buffer(4)]],
    device float*         out0   [[buffer(5)]],
    device float*         out1   [[buffer(6)]],
    device float*         out2   [[buffer(7)]],
    constant TernaryArgs& a      [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    gemv<false, 1, 1>(w0, w1, w2, codes, scales, out0, out1, out2, a, group, lane, simdgroup_index, simdgroups);
}

kernel void ternary_gemv_q2(
    device const uint4*   w0     [[buffer(0)]],
    device const uint4*   w1     [[buffer(1)]],
    device const uint4*   w2     [[buffer(2)]],
    device const half4*   codes  [[buffer(3)]],
    device const float2*  scales [[buffer(4)]],
    device float*         out0   [[buffer(5)]],
    device float*         out1   [[buffer(6)]],
    device float*         out2   [[buffer(7)]],
    constant TernaryArgs& a      [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    gemv<false, 2, 1>(w0, w1, w2, codes, scales, out0, out1, out2, a, group, lane, simdgroup_index, simdgroups);
}

kernel void ternary_gemv_mask(
    device const uint4*   w0     [[buffer(0)]],
    device const uint4*   w1     [[buffer(1)]],
    device const uint4*   w2     [[buffer(2)]],
    device const half4*   codes  [[buffer(3)]],
    device const float2*  scales [[buffer(4)]],
    device float*         out0   [[buffer(5)]],
    device float*         out1   [[buffer(6)]],
    device float*         out2   [[buffer(7)]],
    constant TernaryArgs& a      [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    gemv<true, 1, 1>(w0, w1, w2, codes, scales, out0, out1, out2, a, group, lane, simdgroup_index, simdgroups);
}

kernel void ternary_gemv_mask_q2(
    device const uint4*   w0     [[buffer(0)]],
    device const uint4*   w1     [[buffer(1)]],
    device const uint4*   w2     [[buffer(2)]],
    device const half4*   codes  [[buffer(3)]],
    device const float2*  scales [[buffer(4)]],
    device float*         out0   [[buffer(5)]],
    device float*         out1   [[buffer(6)]],
    device float*         out2   [[buffer(7)]],
    constant TernaryArgs& a      [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    gemv<true, 2, 1>(w0, w1, w2, codes, scales, out0, out1, out2, a, group, lane, simdgroup_index, simdgroups);
}

// A few tokens at once: several sequences decoded together, or the short end of a prompt.
kernel void ternary_gemv_t2(
    device const uint4*   w0     [[buffer(0)]],
    device const uint4*   w1     [[buffer(1)]],
    device const uint4*   w2     [[buffer(2)]],
    device const half4*   codes  [[buffer(3)]],
    device const float2*  scales [[buffer(4)]],
    device float*         out0   [[buffer(5)]],
    device float*         out1   [[buffer(6)]],
    device float*         out2   [[buffer(7)]],
    constant TernaryArgs& a      [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    gemv<false, 1, 2>(w0, w1, w2, codes, scales, out0, out1, out2, a, group, lane, simdgroup_index, simdgroups);
}

kernel void ternary_gemv_t4(
    device const uint4*   w0     [[buffer(0)]],
    device const uint4*   w1     [[buffer(1)]],
    device const uint4*   w2     [[buffer(2)]],
    device const half4*   codes  [[buffer(3)]],
    device const float2*  scales [[buffer(4)]],
    device float*         out0   [[buffer(5)]],
    device float*         out1   [[buffer(6)]],
    device float*         out2   [[buffer(7)]],
    constant TernaryArgs& a      [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    gemv<false, 1, 4>(w0, w1, w2, codes, scales, out0, out1, out2, a, group, lane, simdgroup_index, simdgroups);
}

// Few rows: one quad per threadgroup, its columns split over the simdgroups, so that a small matrix still fills the GPU.
kernel void ternary_gemv_splitk(
    device const uint4*   w0     [[buffer(0)]],
    device const uint4*   w1     [[buffer(1)]],
    device const uint4*   w2     [[buffer(2)]],
    device const half4*   codes  [[buffer(3)]],
    device const float2*  scales [[buffer(4)]],
    device float*         out0   [[buffer(5)]],
    device float*         out1   [[buffer(6)]],
    device float*         out2   [[buffer(7)]],
    constant TernaryArgs& a      [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float4, parts, 32);
    const Matrix m = matrix_of(group.x, a);
    device const uint4* w = m.which == 0u ? w0 : m.which == 1u ? w1 : w2;
    device float* out = m.which == 0u ? out0 : m.which == 1u ? out1 : out2;
    const uint quad = m.tile;
    const uint token = group.y;

    float4 rows = float4(0.0f);
    for (uint g = simdgroup_index * 32u + lane; g < a.groups; g += simdgroups * 32u) {
        const Activations x = activations_at(codes, (token * a.groups + g) * 4u);
        const uint4 q = w[quad * a.groups + g];
        accumulate<false, 1>(q, &x, &rows);
    }
    rows = simd_sum(rows);
    if (lane == 0u) { parts[simdgroup_index] = rows; }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simdgroup_index == 0u) {
        float4 part = float4(0.0f);
        if (lane < simdgroups) { part = parts[lane]; }
        const float4 sums = simd_sum(part);
        const float2 scale = scales[token];
        store_quad(sums, quad, token, m, scale, out, lane);
    }
}

// Prefill: 64 rows (16 quads) x 32 tokens per threadgroup of 4 simdgroups, 64 columns per step, on the 8x8 matrix units.
// Trits and codes are exact in half, their products and sums exact in the float accumulators.
#define GEMM_QUADS 16u
#define GEMM_TOKENS 32u
#define GEMM_COLUMNS 64u
// Rows of the tiles are padded by 16 bytes, or the eight rows of a matrix would fall on the same memory banks.
#define GEMM_WIDTH 72u

#ifndef STORE_HALF4
#define STORE_HALF4(pointer, value) (*reinterpret_cast<threadgroup half4*>(pointer) = (value))
#endif

METAL_FUNC half4 trits_of(uchar byte) {
    const int b = int(byte);
    return half4(float4(float((b & 3) - 1), float(((b >> 2) & 3) - 1), float(((b >> 4) & 3) - 1), float((b >> 6) - 1)));
}

METAL_FUNC void unpack_word(threadgroup half* tile, uint word) {
    const uchar4 b = as_type<uchar4>(word);
    STORE_HALF4(tile, trits_of(b.x));
    STORE_HALF4(tile + GEMM_WIDTH, trits_of(b.y));
    STORE_HALF4(tile + 2u * GEMM_WIDTH, trits_of(b.z));
    STORE_HALF4(tile + 3u * GEMM_WIDTH, trits_of(b.w));
}

kernel void ternary_gemm(
    device const uint2*   w0     [[buffer(0)]],
    device const uint2*   w1     [[buffer(1)]],
    device const uint2*   w2     [[buffer(2)]],
    device const half4*   codes  [[buffer(3)]],
    device const float2*  scales [[buffer(4)]],
    device float*         out0   [[buffer(5)]],
    device float*         out1   [[buffer(6)]],
    device float*         out2   [[buffer(7)]],
    constant TernaryArgs& a      [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]])
{
    THREADGROUP_ARRAY(half, weights, 64 * 72);      // [column][row], row = 4 * quad + k
    THREADGROUP_ARRAY(half, activations, 32 * 72);  // [token][column]
    THREADGROUP_ARRAY(float, results, 4 * 8 * 32);  // [simdgroup][token][row]
    const Matrix m = matrix_of(group.x, a);
    device const uint2* w = m.which == 0u ? w0 : m.which == 1u ? w1 : w2;
    device float* out = m.which == 0u ? out0 : m.which == 1u ? out1 : out2;
    const uint first_quad = m.tile * GEMM_QUADS;
    const uint first_token = group.y * GEMM_TOKENS;
    // Of the 64 x 32 tile each simdgroup computes 32 rows x 16 tokens.
    const uint row_at = (simdgroup_index & 1u) * 32u;
    const uint token_at = (simdgroup_index >> 1) * 16u;

    // What this thread loads each step: 8 columns of one quad, 16 columns of one token.
    const uint load_quad = first_quad + (thread_index >> 3);
    const uint load_column = (thread_index & 7u) * 8u;
    const uint load_token = first_token + (thread_index >> 2);
    const uint load_code = (thread_index & 3u) * 16u;

    simdgroup_float8x8 sums[8];  // [tokens / 8][rows / 8]
    MSL_UNROLL for (uint i = 0u; i < 8u; ++i) { sums[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f); }

    const uint columns = a.groups * 16u;
    for (uint column = 0u; column < columns; column += GEMM_COLUMNS) {
        uint2 q = uint2(0x55555555u, 0x55555555u);  // trits 0 outside the matrix
        if (load_quad < m.quads && column + load_column < columns) {
            q = w[load_quad * a.groups * 2u + (column + load_column) / 8u];
        }
        const uint tile_at = load_column * GEMM_WIDTH + (thread_index >> 3) * 4u;
        unpack_word(weights + tile_at, q.x);
        unpack_word(weights + (tile_at + 4u * GEMM_WIDTH), q.y);
        MSL_UNROLL for (uint i = 0u; i < 4u; ++i) {
            half4 x = half4(float4(0.0f));
            if (load_token < a.tokens && column + load_code < columns) {
                x = codes[(load_token * columns + column + load_code) / 4u + i];
            }
            STORE_HALF4(activations + ((thread_index >> 2) * GEMM_WIDTH + load_code + 4u * i), x);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        MSL_UNROLL for (uint k = 0u; k < GEMM_COLUMNS; k += 8u) {
            simdgroup_half8x8 x[2];
            simdgroup_half8x8 t[4];
            MSL_UNROLL for (uint i = 0u; i < 2u; ++i) {
                simdgroup_load(x[i], activations + ((token_at + 8u * i) * GEMM_WIDTH + k), GEMM_WIDTH);
            }
            MSL_UNROLL for (uint j = 0u; j < 4u; ++j) {
                simdgroup_load(t[j], weights + (k * GEMM_WIDTH + row_at + 8u * j), GEMM_WIDTH);
            }
            MSL_UNROLL for (uint i = 0u; i < 2u; ++i) {
                MSL_UNROLL for (uint j = 0u; j < 4u; ++j) {
                    simdgroup_multiply_accumulate(sums[4u * i + j], x[i], t[j], sums[4u * i + j]);
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    // Out through threadgroup memory, so that the lanes store runs of 8 neighbouring rows.
    const uint k = lane >> 3;
    const uint quad = first_quad + row_at / 4u + (lane & 7u);
    const uint row = quad + k * m.quads;
    const uint result_at = simdgroup_index * 256u;
    MSL_UNROLL for (uint i = 0u; i < 2u; ++i) {
        MSL_UNROLL for (uint j = 0u; j < 4u; ++j) {
            simdgroup_store(sums[4u * i + j], results + (result_at + 8u * j), 32u);
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
        MSL_UNROLL for (uint n = 0u; n < 8u; ++n) {
            const uint token = first_token + token_at + 8u * i + n;
            const float sum = results[result_at + n * 32u + (lane & 7u) * 4u + k];
            if (quad < m.quads && row < m.rows && token < a.tokens) {
                const float2 scale = scales[token];
                out[token * m.out_stride + row] = sum * (m.scale / scale.x);
            }
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
    }
}
