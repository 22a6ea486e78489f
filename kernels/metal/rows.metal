// Everything between two matrix products works on one row: residual addition, gate, RMSNorm, absmax quantization. One
// threadgroup takes one row; each thread keeps its part of the row in registers from the first load to the last store,
// so a fused chain reads its inputs once and needs one barrier per reduction.

// float4 registers per thread; 1024 threads then hold a row of 32768 elements.
#define ROW_SLICES 8u

struct RowArgs {
    uint stride4;        // float4 elements of a row of x, y, out and weight
    float width;         // elements that count in the mean
    float eps;
    uint keep;           // also store the normed or gated row to `out`
    uint status_at;      // of this operation's first row in `status`
};

METAL_FUNC void load_row(device const float4* x, thread float4* v, uint stride4, Place p) {
    MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
        const uint i = p.thread_index + k * p.threads;
        v[k] = float4(0.0f);
        if (i < stride4) { v[k] = x[i]; }
    }
}

METAL_FUNC void store_row(device float4* out, thread const float4* v, uint stride4, Place p) {
    MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
        const uint i = p.thread_index + k * p.threads;
        if (i < stride4) { out[i] = v[k]; }
    }
}

/** x += y, kept in v and stored, because the residual stream is read again two products later. */
METAL_FUNC void load_sum(device float4* x, device const float4* y, thread float4* v, uint stride4, Place p) {
    MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
        const uint i = p.thread_index + k * p.threads;
        v[k] = float4(0.0f);
        if (i < stride4) {
            const float4 a = x[i];
            const float4 b = y[i];
            v[k] = a + b;
            x[i] = v[k];
        }
    }
}

/** A NaN stays one, so that the next quantization reports it. */
METAL_FUNC float relu2(float g) { return g <= 0.0f ? 0.0f : g * g; }
METAL_FUNC float silu(float g) { return g / (1.0f + exp(-g)); }

METAL_FUNC void load_relu2(device const float4* gate, device const float4* up, thread float4* v, uint stride4, Place p) {
    MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
        const uint i = p.thread_index + k * p.threads;
        v[k] = float4(0.0f);
        if (i < stride4) {
            const float4 g = gate[i];
            const float4 u = up[i];
            v[k] = float4(relu2(g.x), relu2(g.y), relu2(g.z), relu2(g.w)) * u;
        }
    }
}

METAL_FUNC void load_silu(device const float4* gate, device const float4* up, thread float4* v, uint stride4, Place p) {
    MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
        const uint i = p.thread_index + k * p.threads;
        v[k] = float4(0.0f);
        if (i < stride4) {
            const float4 g = gate[i];
            const float4 u = up[i];
            v[k] = float4(silu(g.x), silu(g.y), silu(g.z), silu(g.w)) * u;
        }
    }
}

/** v = (v * r) * weight, r = 1 / sqrt(mean(v * v) + eps). */
METAL_FUNC void norm_row(
    device const float4* weight, thread float4* v, constant RowArgs& a, threadgroup float* scratch, Place p)
{
    float squares = 0.0f;
    MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) { squares += dot(v[k], v[k]); }
    const float r = 1.0f / sqrt(threadgroup_sum(squares, scratch, p) / a.width + a.eps);
    MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
        const uint i = p.thread_index + k * p.threads;
        if (i < a.stride4) {
            const float4 w = weight[i];
            v[k] = (v[k] * r) * w;
        }
    }
}

METAL_FUNC uint magnitude_bits(float4 v) {
    const uint xy = max(as_type<uint>(fabs(v.x)), as_type<uint>(fabs(v.y)));
    const uint zw = max(as_type<uint>(fabs(v.z)), as_type<uint>(fabs(v.w)));
    return max(xy, zw);
}

// codes = clamp(rint(v * s), -128, 127) as half (exact), s = 127 / max(max |v|, 1e-5); scales[row] = (s, sum of codes):
// the products take the file's raw codes trit + 1, and the sum of the activations comes off once per output.
// The largest magnitude is found on the bits, whose order is that of the numbers with infinity and NaN on top, so the
// same reduction also says whether the row is finite.
METAL_FUNC void quantize_row(
    thread const float4* v, device half4* codes, device float2* scales, device uint* status, constant RowArgs& a, uint row,
    threadgroup float* sums, threadgroup uint* maxima, Place p)
{
    uint bits = 0u;
    MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) { bits = max(bits, magnitude_bits(v[k])); }
    bits = threadgroup_max(bits, maxima, p);
    const float s = 127.0f / max(as_type<float>(bits), 1e-5f);
    float sum = 0.0f;
    MSL_UNROLL for (uint k = 0u; k < ROW_SLICES; ++k) {
        const uint i = p.thread_index + k * p.threads;
        if (i < a.stride4) {
            const float4 q = float4(
                clamp(rint(v[k].x * s), -128.0f, 127.0f), clamp(rint(v[k].y * s), -128.0f, 127.0f),
                clamp(rint(v[k].z * s), -128.0f, 127.0f), clamp(rint(v[k].w * s), -128.0f, 127.0f));
            sum += (q.x + q.y) + (q.z + q.w);
            codes[row * a.stride4 + i] = half4(q);
        }
    }
    sum = threadgroup_sum(sum, sums, p);
    if (p.thread_index == 0u) {
        scales[row] = float2(s, sum);
        status[a.status_at + row] = bits >= 0x7f800000u ? 1u : 0u;
    }
}

kernel void quantize_rows(
    device const float4* x      [[buffer(0)]],
    device half4*        codes  [[buffer(1)]],
    device float2*       scales [[buffer(2)]],
    device uint*         status [[buffer(3)]],
    constant RowArgs&    a      [[buffer(4)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, sums, 32);
    THREADGROUP_ARRAY(uint, maxima, 32);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    float4 v[ROW_SLICES];
    load_row(x + group.x * a.stride4, v, a.stride4, p);
    quantize_row(v, codes, scales, status, a, group.x, sums, maxima, p);
}

kernel void norm_rows(
    device const float4* x      [[buffer(0)]],
    device const float4* weight [[buffer(1)]],
    device float4*       out    [[buffer(2)]],
    constant RowArgs&    a      [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, squares, 32);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    float4 v[ROW_SLICES];
    load_row(x + group.x * a.stride4, v, a.stride4, p);
    norm_row(weight, v, a, squares, p);
    store_row(out + group.x * a.stride4, v, a.stride4, p);
}

kernel void norm_quantize(
    device const float4* x      [[buffer(0)]],
    device const float4* weight [[buffer(1)]],
    device float4*       out    [[buffer(2)]],
    device half4*        codes  [[buffer(3)]],
    device float2*       scales [[buffer(4)]],
    device uint*         status [[buffer(5)]],
    constant RowArgs&    a      [[buffer(6)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, squares, 32);
    THREADGROUP_ARRAY(float, sums, 32);
    THREADGROUP_ARRAY(uint, maxima, 32);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    float4 v[ROW_SLICES];
    load_row(x + group.x * a.stride4, v, a.stride4, p);
    norm_row(weight, v, a, squares, p);
    if (a.keep != 0u) { store_row(out + group.x * a.stride4, v, a.stride4, p); }
    quantize_row(v, codes, scales, status, a, group.x, sums, maxima, p);
}

// x += y; then as norm_quantize.
kernel void add_norm_quantize(
    device float4*       x      [[buffer(0)]],
    device const float4* y      [[buffer(1)]],
    device const float4* weight [[buffer(2)]],
    device float4*       out    [[buffer(3)]],
    device half4*        codes  [[buffer(4)]],
    device float2*       scales [[buffer(5)]],
    device uint*         status [[buffer(6)]],
    constant RowArgs&    a      [[buffer(7)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, squares, 32);
    THREADGROUP_ARRAY(float, sums, 32);
    THREADGROUP_ARRAY(uint, maxima, 32);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    float4 v[ROW_SLICES];
    load_sum(x + group.x * a.stride4, y + group.x * a.stride4, v, a.stride4, p);
    norm_row(weight, v, a, squares, p);
    if (a.keep != 0u) { store_row(out + group.x * a.stride4, v, a.stride4, p); }
    quantize_row(v, codes, scales, status, a, group.x, sums, maxima, p);
}

// relu2(gate) * up, RMSNorm, quantization: the middle of a BitNet feed-forward block.
kernel void relu2_norm_quantize(
    device const float4* gate   [[buffer(0)]],
    device const float4* up     [[buffer(1)]],
    device const float4* weight [[buffer(2)]],
    device float4*       out    [[buffer(3)]],
    device half4*        codes  [[buffer(4)]],
    device float2*       scales [[buffer(5)]],
    device uint*         status [[buffer(6)]],
    constant RowArgs&    a      [[buffer(7)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, squares, 32);
    THREADGROUP_ARRAY(float, sums, 32);
    THREADGROUP_ARRAY(uint, maxima, 32);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    float4 v[ROW_SLICES];
    load_relu2(gate + group.x * a.stride4, up + group.x * a.stride4, v, a.stride4, p);
    norm_row(weight, v, a, squares, p);
    if (a.keep != 0u) { store_row(out + group.x * a.stride4, v, a.stride4, p); }
    quantize_row(v, codes, scales, status, a, group.x, sums, maxima, p);
}

// The same with silu, for 1bitLLM graphs.
kernel void silu_norm_quantize(
    device const float4* gate   [[buffer(0)]],
    device const float4* up     [[buffer(1)]],
    device const float4* weight [[buffer(2)]],
    device float4*       out    [[buffer(3)]],
    device half4*        codes  [[buffer(4)]],
    device float2*       scales [[buffer(5)]],
    device uint*         status [[buffer(6)]],
    constant RowArgs&    a      [[buffer(7)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, squares, 32);
    THREADGROUP_ARRAY(float, sums, 32);
    THREADGROUP_ARRAY(uint, maxima, 32);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    float4 v[ROW_SLICES];
    load_silu(gate + group.x * a.stride4, up + group.x * a.stride4, v, a.stride4, p);
    norm_row(weight, v, a, squares, p);
    if (a.keep != 0u) { store_row(out + group.x * a.stride4, v, a.stride4, p); }
    quantize_row(v, codes, scales, status, a, group.x, sums, maxima, p);
}

// Gate and quantization without a sub-norm, for Llama graphs.
kernel void silu_quantize(
    device const float4* gate   [[buffer(0)]],
    device const float4* up     [[buffer(1)]],
    device float4*       out    [[buffer(2)]],
    device half4*        codes  [[buffer(3)]],
    device float2*       scales [[buffer(4)]],
    device uint*         status [[buffer(5)]],
    constant RowArgs&    a      [[buffer(6)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    THREADGROUP_ARRAY(float, sums, 32);
    THREADGROUP_ARRAY(uint, maxima, 32);
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    float4 v[ROW_SLICES];
    load_silu(gate + group.x * a.stride4, up + group.x * a.stride4, v, a.stride4, p);
    if (a.keep != 0u) { store_row(out + group.x * a.stride4, v, a.stride4, p); }
    quantize_row(v, codes, scales, status, a, group.x, sums, maxima, p);
}

// The operations alone, for programs in which no fused form fits.

kernel void add_rows(
    device float4*       x [[buffer(0)]],
    device const float4* y [[buffer(1)]],
    constant RowArgs&    a [[buffer(2)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    float4 v[ROW_SLICES];
    load_sum(x + group.x * a.stride4, y + group.x * a.stride4, v, a.stride4, p);
}

kernel void relu2_rows(
    device const float4* gate [[buffer(0)]],
    device const float4* up   [[buffer(1)]],
    device float4*       out  [[buffer(2)]],
    constant RowArgs&    a    [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    float4 v[ROW_SLICES];
    load_relu2(gate + group.x * a.stride4, up + group.x * a.stride4, v, a.stride4, p);
    store_row(out + group.x * a.stride4, v, a.stride4, p);
}

kernel void silu_rows(
    device const float4* gate [[buffer(0)]],
    device const float4* up   [[buffer(1)]],
    device float4*       out  [[buffer(2)]],
    constant RowArgs&    a    [[buffer(3)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint thread_index [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]],
    uint simdgroup_index [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]])
{
    const Place p = place_of(thread_index, lane, simdgroup_index, simdgroups);
    float4 v[ROW_SLICES];
    load_silu(gate + group.x * a.stride4, up + group.x * a.stride4, v, a.stride4, p);
    store_row(out + group.x * a.stride4, v, a.stride4, p);
}

struct CountArgs {
    uint stride;      // elements of a row of x
    uint width;
    uint counts_at;   // of this operation in a row of counts
    uint counts_stride;
};

// How many elements of a row the absmean rule makes -1, 0 and +1. One simdgroup per row. The mean is summed in the 16
// lanes and the folding order that every backend shares, so the counts of equal rows are equal everywhere.
kernel void count_trits(
    device const float* x      [[buffer(0)]],
    device uint*        counts [[buffer(1)]],
    constant CountArgs& a      [[buffer(2)]],
    uint3 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]])
{
    const uint from = group.x * a.stride;
    float sum = 0.0f;
    if (lane < 16u) {
        for (uint i = lane; i < a.width; i += 16u) {
            const float v = x[from + i];
            sum += fabs(v);
        }
    }
    for (ushort half_lanes = 8; half_lanes > 0; half_lanes /= 2) { sum += simd_shuffle_xor(sum, half_lanes); }
    const float total = simd_shuffle(sum, ushort(0));
    const float s = 1.0f / max(total / float(a.width), 1e-5f);
    uint minus = 0u;
    uint plus = 0u;
    for (uint i = lane; i < a.width; i += 32u) {
        const float v = x[from + i];
        const float scaled = v * s;  // half to even: exactly 0.5 is the trit 0
        minus += scaled < -0.5f ? 1u : 0u;
        plus += scaled > 0.5f ? 1u : 0u;
    }
    minus = simd_sum(minus);
    plus = simd_sum(plus);
    if (lane < 3u) {
        const uint zero = a.width - minus - plus;
        counts[group.x * a.counts_stride + a.counts_at + lane] = lane == 0u ? minus : lane == 1u ? zero : plus;
    }
}
