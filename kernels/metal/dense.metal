// Output heads: a dense or int8 matrix of many rows (the vocabulary) times few activation rows. A simdgroup takes four
// rows, so that the activations it loads serve four weight streams of 512 contiguous bytes per step each.

struct DenseArgs {
    uint rows;
    uint groups;      // 16-byte groups of a matrix row
    uint tokens;
    uint x_stride4;   // vectors of 4 of an activation row
    uint out_stride;
};

// 16 bytes of weights as floats: 4 (f32) or 8 (f16, bf16) elements.
METAL_FUNC float4 f16_low(uint a, uint b) {
    const half2 p = as_type<half2>(a);
    const half2 q = as_type<half2>(b);
    return float4(float(p.x), float(p.y), float(q.x), float(q.y));
}
METAL_FUNC float4 bf16_low(uint a, uint b) {
    return float4(
        as_type<float>(a << 16), as_type<float>(a & 0xffff0000u), as_type<float>(b << 16), as_type<float>(b & 0xffff0000u));
}

#define DENSE_F32 0
#define DENSE_F16 1
#define DENSE_BF16 2

template <uint TYPE, uint TOKENS>
METAL_FUNC void dense(
    device const uint4* w, device const float4* x, device float* out, constant DenseArgs& a, uint3 group, uint lane,
    uint simdgroup_index, uint simdgroups)
{
    const uint row = (group.x * simdgroups + simdgroup_index) * 4u;
    const uint token = group.y * TOKENS;
    if (row >= a.rows) { return; }
    float sums[4 * TOKENS];
    MSL_UNROLL for (uint i = 0u; i < 4u * TOKENS; ++i) { sums[i] = 0.0f; }
    for (uint g = lane; g < a.groups; g += 32u) {
        float4 low[TOKENS];
        float4 high[TOKENS];
        MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) {
            const uint from = min(token + t, a.tokens - 1u) * a.x_stride4;
            if (TYPE == DENSE_F32) {
                low[t] = x[from + g];
            } else {
                low[t] = x[from + 2u * g];
                high[t] = x[from + 2u * g + 1u];
            }
        }
        MSL_UNROLL for (uint i = 0u; i < 4u; ++i) {
            // A row past the last repeats it; its result is not stored.
            const uint4 q = w[min(row + i, a.rows - 1u) * a.groups + g];
            if (TYPE == DENSE_F32) {
                const float4 v = as_type<float4>(q);
                MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) { sums[i * TOKENS + t] += dot(v, low[t]); }
            } else {
                const float4 u = TYPE == DENSE_F16 ? f16_low(q.x, q.y) : bf16_low(q.x, q.y);
                const float4 v = TYPE == DENSE_F16 ? f16_low(q.z, q.w) : bf16_low(q.z, q.w);
                MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) {
                    sums[i * TOKENS + t] += dot(u, low[t]) + dot(v, high[t]);
                }
            }
        }
    }
    MSL_UNROLL for (uint i = 0u; i < 4u; ++i) {
        MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) {
            const float sum = simd_sum(sums[i * TOKENS + t]);
            if (lane == 0u && row + i < a.rows && token + t < a.tokens) { out[(token + t) * a.out_stride + row + i] = sum; }
        }
    }
}

kernel void dense_f32(
    device const uint4*  w   [[buffer(0)]],
    device const float4* x   [[buffer(1)]],
    device float*        out [[buffer(2)]],
    constant DenseArgs&  a   [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    dense<DENSE_F32, 1>(w, x, out, a, group, lane, simdgroup_index, simdgroups);
}

kernel void dense_f32_t4(
    device const uint4*  w   [[buffer(0)]],
    device const float4* x   [[buffer(1)]],
    device float*        out [[buffer(2)]],
    constant DenseArgs&  a   [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    dense<DENSE_F32, 4>(w, x, out, a, group, lane, simdgroup_index, simdgroups);
}

kernel void dense_f16(
    device const uint4*  w   [[buffer(0)]],
    device const float4* x   [[buffer(1)]],
    device float*        out [[buffer(2)]],
    constant DenseArgs&  a   [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    dense<DENSE_F16, 1>(w, x, out, a, group, lane, simdgroup_index, simdgroups);
}

kernel void dense_f16_t4(
    device const uint4*  w   [[buffer(0)]],
    device const float4* x   [[buffer(1)]],
    device float*        out [[buffer(2)]],
    constant DenseArgs&  a   [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    dense<DENSE_F16, 4>(w, x, out, a, group, lane, simdgroup_index, simdgroups);
}

kernel void dense_bf16(
    device const uint4*  w   [[buffer(0)]],
    device const float4* x   [[buffer(1)]],
    device float*        out [[buffer(2)]],
    constant DenseArgs&  a   [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    dense<DENSE_BF16, 1>(w, x, out, a, group, lane, simdgroup_index, simdgroups);
}

kernel void dense_bf16_t4(
    device const uint4*  w   [[buffer(0)]],
    device const float4* x   [[buffer(1)]],
    device float*        out [[buffer(2)]],
    constant DenseArgs&  a   [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    dense<DENSE_BF16, 4>(w, x, out, a, group, lane, simdgroup_index, simdgroups);
}

// int8 head, exact: out[t, r] = float(sum_c w[r, c] * code[t, c]) * (row_scale[r] / scale[t]). A lane's own sum stays
// below 2^24 in float for up to 1024 columns per lane (32768 columns; the host refuses more); the lanes are added as
// integers, because the whole sum may pass 2^24.
template <uint TOKENS>
METAL_FUNC void int8_matmul(
    device const uint4* w, device const float* row_scale, device const half4* codes, device const float2* scales,
    device float* out, constant DenseArgs& a, uint3 group, uint lane, uint simdgroup_index, uint simdgroups)
{
    const uint row = (group.x * simdgroups + simdgroup_index) * 4u;
    const uint token = group.y * TOKENS;
    if (row >= a.rows) { return; }
    float sums[4 * TOKENS];
    MSL_UNROLL for (uint i = 0u; i < 4u * TOKENS; ++i) { sums[i] = 0.0f; }
    for (uint g = lane; g < a.groups; g += 32u) {
        Activations x[TOKENS];
        MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) {
            x[t] = activations_at(codes, min(token + t, a.tokens - 1u) * a.x_stride4 + g * 4u);
        }
        MSL_UNROLL for (uint i = 0u; i < 4u; ++i) {
            const uint4 q = w[min(row + i, a.rows - 1u) * a.groups + g];
            const float4 w0 = signed_bytes_of(q.x);
            const float4 w1 = signed_bytes_of(q.y);
            const float4 w2 = signed_bytes_of(q.z);
            const float4 w3 = signed_bytes_of(q.w);
            MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) {
                sums[i * TOKENS + t] +=
                    (dot(w0, x[t].x0) + dot(w1, x[t].x1)) + (dot(w2, x[t].x2) + dot(w3, x[t].x3));
            }
        }
    }
    MSL_UNROLL for (uint i = 0u; i < 4u; ++i) {
        MSL_UNROLL for (uint t = 0u; t < TOKENS; ++t) {
            const int sum = simd_sum(int(sums[i * TOKENS + t]));
            if (lane == 0u && row + i < a.rows && token + t < a.tokens) {
                const float2 scale = scales[token + t];
                out[(token + t) * a.out_stride + row + i] = float(sum) * (row_scale[row + i] / scale.x);
            }
        }
    }
}

kernel void int8_gemv(
    device const uint4*  w         [[buffer(0)]],
    device const float*  row_scale [[buffer(1)]],
    device const half4*  codes     [[buffer(2)]],
    device const float2* scales    [[buffer(3)]],
    device float*        out       [[buffer(4)]],
    constant DenseArgs&  a         [[buffer(5)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    int8_matmul<1>(w, row_scale, codes, scales, out, a, group, lane, simdgroup_index, simdgroups);
}

kernel void int8_gemv_t4(
    device const uint4*  w         [[buffer(0)]],
    device const float*  row_scale [[buffer(1)]],
    device const half4*  codes     [[buffer(2)]],
    device const float2* scales    [[buffer(3)]],
    device float*        out       [[buffer(4)]],
    constant DenseArgs&  a         [[buffer(5)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    int8_matmul<4>(w, row_scale, codes, scales, out, a, group, lane, simdgroup_index, simdgroups);
}
